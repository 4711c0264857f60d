"""What determines each kind of stage, as plain values to hash."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, is_dataclass
from typing import Any

Config = Mapping[str, Any]

# Where the data lies determines nothing; its checksum is a part of its own; calibration images serve later steps.
NOT_DETERMINING = {"root", "sha256", "calibration_images"}


def baseline_spec(
    *,
    data: Config,
    checksum: str,
    model: Config,
    training: Config,
    weights_sha256: str | None,
    compute: Any,
    seed: int,
    made_by: Config,
) -> dict[str, Any]:
    """A network trained from scratch, or one that came with weights (then no training determines it)."""
    return {
        "kind": "baseline",
        "data": {key: value for key, value in data.items() if key not in NOT_DETERMINING},
        "checksum": checksum,
        "model": dict(model),
        "training": None if weights_sha256 else dict(training),
        "weights": weights_sha256,
        "compute": _values(compute),
        "seed": seed,
        "made_by": dict(made_by),
    }


def step_spec(
    *,
    input_identity: str,
    calibration: str,
    method: Config,
    files: Mapping[str, str],
    loss: Config,
    compute: Any,
    seed: int,
    made_by: Config,
) -> dict[str, Any]:
    """One method on what another stage made; that stage's identity stands for data, model and training.

    ``files`` holds the SHA-256 of each file that the method's settings name.
    """
    return {
        "kind": "step",
        "input": input_identity,
        "calibration": calibration,
        "method": dict(method),
        "files": dict(files),
        "loss": dict(loss),
        "compute": _values(compute),
        "seed": seed,
        "made_by": dict(made_by),
    }


def export_spec(
    *, input_identity: str, classes: Sequence[str], target: Config, machine: str, made_by: Config
) -> dict[str, Any]:
    """A file that names its classes, written for a target and measured on this machine."""
    return {
        "kind": "export",
        "input": input_identity,
        "classes": list(classes),
        "target": dict(target),
        "machine": machine,
        "made_by": dict(made_by),
    }


def timing_spec(*, exports: Sequence[str], clock: Any, machine: str, made_by: Config) -> dict[str, Any]:
    """The times of exported files, taken in turns on this machine."""
    return {
        "kind": "timing",
        "exports": list(exports),
        "clock": _values(clock),
        "machine": machine,
        "made_by": dict(made_by),
    }


def _values(compute: Any) -> Any:
    return asdict(compute) if is_dataclass(compute) and not isinstance(compute, type) else compute
