"""The report's pictures as PNG files: fronts, bars, intervals and training curves of each data set."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from src.contracts import BY_NAME
from src.files.writing import replacing
from src.reporting.curves import curves
from src.reporting.gathering import Gathered, Item, Section
from src.reporting.predicting import Predictions
from src.reporting.views import COSTS, fronts, intervals

COLOURS = ("#1b1f24", "#d55e00", "#0072b2", "#009e73", "#cc79a7", "#b58900", "#56b4e9", "#7a5195")  # Okabe and Ito
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
BARS = {"size_bytes": 1000, "accuracy": 0.01, "latency_ms_p50": 1}  # the unit of each axis
UNITS = {"size_bytes": "file, kB", "accuracy": "accuracy, %", "latency_ms_p50": "latency p50, ms"}


def pictures(gathered: Gathered, predicted: Sequence[Predictions], folder: Path) -> list[Path]:
    """Write the pictures into ``folder``; return their files. A picture without anything to draw is left out."""
    written: list[Path] = []
    for section, own in zip(gathered.sections, predicted, strict=True):
        data = re.sub(r"[^\w.-]+", "_", section.data).strip(".") or "data"
        drawings: dict[str, Callable[[Any], bool]] = {
            "fronts": partial(_fronts, section),
            "bars": partial(_bars, section),
            "intervals": partial(_intervals, section, own),
            "training": partial(_training, section),
        }
        for name, draw in drawings.items():
            path = folder / f"{data}_{name}.png"
            path = path if path not in written else folder / f"{data}_{len(written)}_{name}.png"
            if _draw(path, draw):
                written.append(path)
    return written


def _draw(path: Path, draw: Callable[[Any], bool]) -> bool:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 7), layout="constrained", dpi=110)
    FigureCanvasAgg(figure)
    if not draw(figure):
        return False
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as part:
        figure.savefig(part, format="png")
    return True


def _look(item: Item, items: Sequence[Item]) -> dict[str, Any]:
    """Colour by variant, marker by target, as on the page."""
    variants = list(dict.fromkeys(each.name.removesuffix(f" · {each.row.target}") for each in items))
    targets = list(dict.fromkeys(each.row.target for each in items))
    variant = variants.index(item.name.removesuffix(f" · {item.row.target}"))
    marker = MARKERS[targets.index(item.row.target) % len(MARKERS)]
    return {"color": COLOURS[variant % len(COLOURS)], "marker": marker}


def _fronts(section: Section, figure: Any) -> bool:
    items, found = section.items, fronts(section.items)
    known = [cost for cost in COSTS if found[cost]]
    for at, cost in enumerate(known):
        axis = figure.add_subplot(2, -(-len(known) // 2), at + 1)
        factor = 1 if cost == "latency_ms_p50" else 1000
        line = [items[number] for number in found[cost]]
        places = [(getattr(item.row, cost) / factor, 100 * item.row.accuracy) for item in line]
        axis.step(*zip(*places, strict=True), where="post", color="0.55", linestyle="--", linewidth=1)
        for item in items:
            if getattr(item.row, cost) is not None:
                place = (getattr(item.row, cost) / factor, 100 * item.row.accuracy)
                axis.scatter(*place, s=45, zorder=3, label=_literal(item.name), **_look(item, items))
        axis.set_xlabel(f"{BY_NAME[cost].heading}, {'ms' if factor == 1 else 'kB'}")
        axis.set_ylabel("accuracy, %")
        axis.grid(alpha=0.3)
    if known:
        figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=4, fontsize=8)
    return bool(known)


def _bars(section: Section, figure: Any) -> bool:
    known = [key for key in BARS if any(getattr(item.row, key) is not None for item in section.items)]
    names = [_literal(item.name) for item in section.items]
    for at, key in enumerate(known):
        axis = figure.add_subplot(1, len(known), at + 1)
        values = [(getattr(item.row, key) or 0) / BARS[key] for item in section.items]
        bars = axis.barh(range(len(names)), values, color=[_look(i, section.items)["color"] for i in section.items])
        texts = [BY_NAME[key].text([getattr(item.row, key)]) for item in section.items]
        axis.bar_label(bars, texts, padding=3, fontsize=8)
        axis.margins(x=0.25)
        axis.set_yticks(range(len(names)), names if at == 0 else [""] * len(names))
        axis.invert_yaxis()
        axis.set_xlabel(UNITS[key])
    return bool(known)


def _intervals(section: Section, own: Predictions, figure: Any) -> bool:
    known = intervals(section, own)
    axis = figure.add_subplot()
    for at, (name, each) in enumerate(known.items()):
        item = next(item for item in section.items if item.name == name)
        look = _look(item, section.items)
        axis.plot([100 * each.low, 100 * each.high], [at, at], color=look["color"], linewidth=3)
        axis.scatter(100 * each.change, at, zorder=3, s=50, **look)
    axis.axvline(0, color="black", linewidth=0.8)
    axis.set_yticks(range(len(known)), [_literal(name) for name in known])
    axis.invert_yaxis()
    axis.set_xlabel("change of accuracy in points, with its 95 % interval (paired on the test images)")
    axis.grid(alpha=0.3, axis="x")
    return bool(known)


def _training(section: Section, figure: Any) -> bool:
    found = curves(section.items)
    for at, (key, label, factor) in enumerate(
        (("accuracy", "accuracy on validation data, %", 100), ("loss", "training loss", 1))
    ):
        axis = figure.add_subplot(1, 2, at + 1)
        for number, curve in enumerate(found):
            points = [(point["epoch"], factor * point[key]) for point in curve["points"] if point[key] is not None]
            if points:
                axis.plot(
                    *zip(*points, strict=True), marker=".", color=COLOURS[number % 8], label=_literal(curve["name"])
                )
        axis.set_xlabel("epoch")
        axis.set_ylabel(label)
        axis.grid(alpha=0.3)
    if found:
        figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=4, fontsize=8)
    return bool(found)


def _literal(name: str) -> str:
    """A name that matplotlib does not read as mathematics, nor leaves out of a legend."""
    return name.replace("$", r"\$").lstrip("_") or "-"
