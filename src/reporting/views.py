"""What the page draws of one data set, as plain values: points, fronts, layers, curves, what changed on images."""

from __future__ import annotations

import base64
import contextlib
import io
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from src.contracts import BY_NAME, DataSplits
from src.reporting.curves import curves
from src.reporting.gathering import Item, Record, Section
from src.reporting.layers import MOST_LAYERS, Change, Histogram, changes, histograms
from src.reporting.pairs import Interval, compared, confusion, flipped, pareto
from src.reporting.predicting import Predictions, image_of

SEARCHED_ACCURACY = "accuracy_validation"
COSTS = ("size_bytes", "size_gzip_bytes", "size_packed_bytes", "latency_ms_p50")
MOST_CLASSES = 20  # of which a confusion matrix can be read
MOST_IMAGES = 12  # of each row, half of them lost, half won
LARGEST_IMAGE = 64  # pixels of the longer side
MOST_BYTES_OF_IMAGES = 1_500_000  # in one section


def fronts(items: Sequence[Item]) -> dict[str, list[int]]:
    """By cost the numbers of the rows that no other beats in accuracy and that cost, cheapest first."""
    found = {}
    for cost in COSTS:
        known = [(at, getattr(item.row, cost), item.row.accuracy) for at, item in enumerate(items)]
        some = [(at, float(value), gain) for at, value, gain in known if value is not None]
        found[cost] = [some[place][0] for place in pareto([(value, gain) for _, value, gain in some])]
    return found


def intervals(section: Section, predicted: Predictions) -> dict[str, Interval]:
    """By item the change of accuracy from its baseline, paired on the test images, where both predictions are known."""
    found = {}
    for item in section.items:
        base = section.baseline_of(item)
        if base is None or predicted.labels is None:
            continue
        before, after = predicted.predicted.get(base.name), predicted.predicted.get(item.name)
        if before is not None and after is not None:
            found[item.name] = compared(predicted.labels, before, after)
    return found


def view(section: Section, predicted: Predictions) -> dict[str, Any]:
    """All that the page draws of a section."""
    images = _Images(predicted.splits)
    return {
        "data": section.data,
        "items": [_point(item) for item in section.items],
        "fronts": fronts(section.items),
        "layers": [_layers(item) for item in section.items],
        "curves": curves(section.items),
        "sensitivity": [_sensitivity(each) for each in section.sensitivity],
        "classes": list(predicted.classes),
        "changes": [_changes(item, section, predicted, images) for item in section.items],
        "images": images.found,
    }


def trials(record: Record) -> dict[str, Any]:
    """The completed trials of a search: ``{"objectives", "chosen", "points": [{"number", "text", "values", …}]}``.

    Args:
        record: ``search.json``; it may be of another version, so that what does not fit is left out.
    """
    objectives = [name for name in record.get("objectives") or () if name in BY_NAME and name != SEARCHED_ACCURACY]
    front = record.get("front")
    points = []
    for trial in record.get("trials") or ():
        values = trial.get("values") if isinstance(trial, dict) else None
        if not isinstance(values, dict) or not isinstance(values.get(SEARCHED_ACCURACY), (int, float)):
            continue
        point = trial.get("point")
        text = ", ".join(f"{key}={_brief(each)}" for key, each in point.items()) if isinstance(point, dict) else ""
        number = trial.get("number")
        known = {key: each for key, each in values.items() if key in BY_NAME and isinstance(each, (int, float))}
        points.append(
            {
                "number": number,
                "text": text,
                "values": known,
                "within": trial.get("within_budget") is True,
                "front": isinstance(front, list) and number in front,
            }
        )
    return {"objectives": objectives or ["size_bytes"], "chosen": record.get("chosen"), "points": points}


def _brief(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _point(item: Item) -> dict[str, Any]:
    row = item.row
    numbers = {key: getattr(row, key) for key in (*COSTS, "accuracy", "accuracy_change")}
    return {"name": item.name, "variant": item.name.removesuffix(f" · {row.target}"), "target": row.target, **numbers}


def _layers(item: Item) -> list[dict[str, Any]]:
    found = changes(item)
    largest = sorted(found, key=lambda change: -_parameters(change))[:MOST_LAYERS]
    drawn = histograms(item, [change.name for change in largest])
    return [
        {
            "name": change.name,
            "before": None if change.before is None else asdict(change.before),
            "after": None if change.after is None else asdict(change.after),
            "removed": change.removed_channels,
            "weights": [_bars(each) for each in drawn.get(change.name, ())],
        }
        for change in found
    ]


def _parameters(change: Change) -> int:
    layer = change.before or change.after
    size = 1
    for each in layer.shape if layer is not None else ():
        size *= each
    return size


def _bars(histogram: Histogram | None) -> dict[str, Any] | None:
    if histogram is None:
        return None
    at = list(histogram.at) if histogram.values else [histogram.at[0], histogram.at[-1]]
    return {"at": at, "counts": list(histogram.counts), "zeros": histogram.zeros, "values": histogram.values}


def _sensitivity(record: Any) -> dict[str, Any]:
    """What an analysis found: ``{"accuracy", "images", "points": [{"layer", "kind", "at", "accuracy"}]}``."""
    points = []
    layers = record.get("layers")
    for layer, tried in layers.items() if isinstance(layers, dict) else ():
        for kind in ("sparsity", "bits", "clusters"):
            values = tried.get(kind) if isinstance(tried, dict) else None
            for at, accuracy in values.items() if isinstance(values, dict) else ():
                with contextlib.suppress(ValueError):
                    points.append({"layer": str(layer), "kind": kind, "at": float(at), "accuracy": float(accuracy)})
    return {"accuracy": record.get("accuracy"), "images": record.get("images"), "points": points}


def _changes(item: Item, section: Section, predicted: Predictions, images: _Images) -> dict[str, Any] | None:
    """What a row loses and wins against its baseline: by class, by pair of classes, and on single images."""
    base = section.baseline_of(item)
    if base is None:
        return None
    found: dict[str, Any] = {"baseline": base.name, "classes": _by_class(item, base)}
    before, after = predicted.predicted.get(base.name), predicted.predicted.get(item.name)
    labels = predicted.labels
    if labels is None or before is None or after is None:
        return found
    count = len(predicted.classes)
    if count <= MOST_CLASSES:
        found["confusion"] = (confusion(labels, after, count) - confusion(labels, before, count)).tolist()
    lost, won = flipped(labels, before, after)
    found |= {"lost": len(lost), "won": len(won), "interval": asdict(compared(labels, before, after))}
    half = MOST_IMAGES // 2
    chosen = [*lost[: max(half, MOST_IMAGES - len(won))], *won[: max(half, MOST_IMAGES - len(lost))]]
    found["flipped"] = [
        {"image": at, "label": int(labels[at]), "before": int(before[at]), "after": int(after[at])}
        for at in chosen
        if images.has(at)
    ]
    return found


def _by_class(item: Item, base: Item) -> list[dict[str, Any]]:
    """The change of each class's accuracy, as the two rows have it."""
    before, after = base.row.accuracy_per_class, item.row.accuracy_per_class
    pairs = [(name, before.get(name), after.get(name)) for name in before]
    return [{"class": name, "change": a - b} for name, b, a in pairs if a is not None and b is not None]


class _Images:
    """Test images as pictures in the page, each once, within a limit of bytes.

    Args:
        splits: The data; None if it is not here.
    """

    def __init__(self, splits: DataSplits | None) -> None:
        self.splits = splits
        self.found: dict[int, str] = {}
        self._bytes = 0

    def has(self, number: int) -> bool:
        """Take an image into the page, if there is room; return whether it is there."""
        if number not in self.found and self.splits is not None and self._bytes < MOST_BYTES_OF_IMAGES:
            address = _picture(self.splits, number)
            self._bytes += len(address)
            self.found[number] = address
        return number in self.found


def _picture(splits: DataSplits, number: int) -> str:
    """A test image as an address that holds it: PNG, made smaller if it is large."""
    from PIL import Image

    pixels = image_of(splits, number).permute(1, 2, 0).numpy()
    picture = Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels)
    small = max(picture.size) <= LARGEST_IMAGE
    if not small:
        picture.thumbnail((LARGEST_IMAGE, LARGEST_IMAGE))
    content = io.BytesIO()
    if small:
        picture.save(content, "PNG", optimize=True)
        return "data:image/png;base64," + base64.b64encode(content.getvalue()).decode()
    picture.save(content, "JPEG", quality=85)
    return "data:image/jpeg;base64," + base64.b64encode(content.getvalue()).decode()
