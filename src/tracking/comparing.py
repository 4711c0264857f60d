"""What people compare runs by: a handful of parameters with plain names, and the figures that decide."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Mapping
from typing import Any

from src.contracts import Row, RunDescription

STRENGTHS = ("sparsity", "clusters")  # of a method, wherever in its config they stand
# What is typed on a command line and says nothing of the model; the first part of a key, or the whole.
NOT_COMPARED = {
    *("hydra", "tracking", "artifacts", "refresh", "verbose", "experiment", "search", "workers", "worker", "timing"),
    *("data", "model", "method", "target", "seed", "data.root", "space", "sampler"),
}
LONGEST = 250
DECISIVE = (
    *("accuracy", "accuracy_change", "accuracy_validation", "size_bytes", "compression_ratio", "size_gzip_bytes"),
    *("size_packed_bytes", "latency_ms_p50", "speedup", "bits_per_weight"),
)


def compared_settings(run: RunDescription) -> dict[str, str]:
    """The parameters of a run: what it is made of, how strong its method is, and what its user typed.

    Nothing that is null, and nothing that every run has alike as a default: the whole config is kept beside them.
    """
    targets = run.config.get("target")
    found = {
        "data": run.data.name,
        "model": run.model,
        "method": run.variant,
        "target": "+".join(targets) if isinstance(targets, Mapping) else "",
        "seed": str(run.seed),
    }
    for key in STRENGTHS:
        found[key] = ", ".join(dict.fromkeys(_values(run.config.get("method"), key)))
    for key, value in _typed(run.command):
        found.setdefault(key, value)
    return {key: value[:LONGEST] for key, value in found.items() if value}


def sparsity_of(row: Row) -> float | None:
    """The share of zeros among the parameters of a row's file; None if they could not be counted."""
    if not row.parameters or row.nonzero_parameters is None:
        return None
    return 1 - row.nonzero_parameters / row.parameters


def decisive_figures(row: Row) -> dict[str, float]:
    """The figures of a row that its survey or search is known by: all of one file, none the best of several."""
    numbers = row.numbers()
    return {name: float(numbers[name]) for name in DECISIVE if name in numbers}


def _values(config: Any, key: str) -> Iterator[str]:
    """Each number that stands under ``key`` anywhere in a config."""
    for name, value in config.items() if isinstance(config, Mapping) else ():
        if name == key and isinstance(value, (int, float)) and not isinstance(value, bool):
            yield f"{value:g}"
        else:
            yield from _values(value, key)


def _typed(command: str) -> Iterator[tuple[str, str]]:
    """Each setting in a command, but those that are compared by a plain name or say nothing of the model."""
    try:
        words = shlex.split(command)
    except ValueError:
        return
    for word in words:
        setting = re.fullmatch(r"\+{0,2}([A-Za-z_][\w./]*)=(.+)", word, re.DOTALL)
        if setting is None or setting[2] in ("null", "None"):
            continue
        key, first, last = setting[1], setting[1].partition(".")[0], setting[1].rpartition(".")[2]
        whole = key if first in ("data", "model", "method", "target") else first
        if whole not in NOT_COMPARED and last not in STRENGTHS:
            yield key, setting[2]
