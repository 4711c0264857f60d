"""Training and fine-tuning curves: the epochs of each stage, as its record holds them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from src.reporting.gathering import Item

LOSS, ACCURACY = "train_loss", "validation_accuracy"


def curves(items: Sequence[Item]) -> list[dict[str, Any]]:
    """The curve of each stage that trained, once, however many rows come from it.

    Returns:
        ``{"name", "points": [{"epoch", "loss", "accuracy"}]}`` for each stage; ``accuracy`` is that on validation
        data, a share; a value that is not finite is None.
    """
    own = {item.row.identity: item.row.variant for item in items}
    found: dict[str, dict[str, Any]] = {}
    for item in items:
        for identity, record in item.stages.items():
            epochs = [each for each in record.get("epochs") or () if isinstance(each, dict)]
            if not epochs or identity in found:
                continue
            points = [
                {"epoch": at, "loss": _number(each.get(LOSS)), "accuracy": _number(each.get(ACCURACY))}
                for at, each in enumerate(epochs, start=1)
            ]
            name = own.get(identity) or f"{item.row.variant}: {_method(record)}"
            found[identity] = {"name": name, "points": points}
    for name in {curve["name"] for curve in found.values()}:  # of several seeds or networks
        same = [identity for identity, curve in found.items() if curve["name"] == name]
        for identity in same if len(same) > 1 else ():
            found[identity]["name"] = f"{name} {identity[:6]}"
    return list(found.values())


def _method(record: Mapping[str, Any]) -> str:
    """The class that made a stage: ``Prune``."""
    method = record["spec"].get("method")
    target = method.get("_target_") if isinstance(method, dict) else None
    return str(target or "a step").rpartition(".")[2]


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else None
