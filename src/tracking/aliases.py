"""When an alias of the model registry moves: the rules, on the tags of two versions."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from src.contracts import BY_NAME

Tags = Mapping[str, str]
NOISE = 0.98  # factor of a latency; a smaller difference may be chance


@dataclass(frozen=True)
class Rule:
    """The rule of an alias. Every rule compares only models for the same target.

    Attributes:
        text: The rule in words: what a version must have to take the alias from another one.
        objection: Returns why ``new`` is not better than ``old``, or None if it is.
    """

    text: str
    objection: Callable[[Tags, Tags], str | None]


def objection(alias: str, new: Tags, old: Tags) -> str | None:
    """Return why version ``new`` is not better than ``old`` by the alias's rule; None if it is better.

    Args:
        alias: A key of ``RULES``.
        new: Tags of the version that the alias may move to.
        old: Tags of the version that the alias names now.
    """
    if new.get("target") != old.get("target"):
        return f"it is for target {old.get('target')}, the other for {new.get('target')}"
    return RULES[alias].objection(new, old)


def _not_smaller(new: Tags, old: Tags) -> str | None:
    ours, theirs = ([int(tags[column]) for column in ("size_bytes", "size_gzip_bytes")] for tags in (new, old))
    return None if ours < theirs else f"it has {theirs[0]:,} bytes, the other {ours[0]:,}"


def _not_faster(new: Tags, old: Tags) -> str | None:
    if "latency_ms_p50" not in new or "latency_ms_p50" not in old:
        return "one of them has no latency"
    if new.get("machine") != old.get("machine"):
        return f"it was measured on {old.get('machine')}, the other on {new.get('machine')}"
    ours, theirs = float(new["latency_ms_p50"]), float(old["latency_ms_p50"])
    return None if ours < NOISE * theirs else f"it takes {theirs:.3f} ms, the other {ours:.3f}"


def _no_better_objective(new: Tags, old: Tags) -> str | None:
    if (new.get("objective"), new.get("budget")) != (old.get("objective"), old.get("budget")):
        return f"it is the best in {old.get('objective')} under {old.get('budget')}, another question"
    column = str(new["objective"])
    if column not in new or column not in old or column not in BY_NAME:
        return f"one of them has no {column}"
    sign = BY_NAME[column].sign
    better = sign * float(new[column]) < sign * float(old[column])
    return None if better else f"its {column} is {old[column]}, the other's {new[column]}"


RULES: Mapping[str, Rule] = {
    "smallest": Rule("a smaller file (size_bytes, then size_gzip_bytes)", _not_smaller),
    "fastest": Rule("a latency_ms_p50 smaller by more than 2 %, measured on the same machine", _not_faster),
    "best_within_budget": Rule("a better value of the same objective under the same budget", _no_better_objective),
}
