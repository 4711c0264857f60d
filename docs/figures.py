"""The picture and the table of README.md from the committed search: ``python docs/figures.py`` writes both again."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
SOURCE = ROOT / "docs" / "measured" / "mnist_budget.json"
PICTURE = ROOT / "docs" / "front.png"
README = ROOT / "README.md"
BEGIN, END = "<!-- results: python docs/figures.py -->", "<!-- end of results -->"
NAMES = {
    "channels.sparsity": "{:.0%} of channels cut",
    "prune.sparsity": "{:.0%} zeros",
    "cluster.clusters": "{} values",
}
BLUE, ORANGE = "#0072B2", "#D55E00"  # of Okabe and Ito, which a colour-blind reader can tell apart


def read() -> dict[str, Any]:
    """The search as it was committed."""
    search: dict[str, Any] = json.loads(SOURCE.read_text(encoding="utf-8"))
    return search


def front(search: dict[str, Any]) -> list[dict[str, Any]]:
    """The trials of the front, the smallest file first."""
    return [trial for number in search["front"] for trial in search["trials"] if trial["number"] == number]


def chain(point: dict[str, Any]) -> str:
    """What a trial did to the network, in words."""
    steps = [text.format(point[key]) for key, text in NAMES.items() if key in point]
    return ", ".join([*steps, *(["INT8"] if point.get("quantize") else [])])


def table(search: dict[str, Any]) -> list[str]:
    """The front as a table in Markdown."""
    lines = ["| what was done | file | gzipped | accuracy (validation) | within 0.3 points |", "|---|---|---|---|---|"]
    for trial in front(search):
        values = trial["values"]
        kept = "yes" if trial["within_budget"] else "no"
        chosen = "**" if trial["number"] == search["chosen"] else ""
        sizes = [f"{values[name] / 1000:,.1f} kB" for name in ("size_bytes", "size_gzip_bytes")]
        accuracy = f"{100 * values['accuracy_validation']:.2f} %"
        cells = [chain(trial["point"]), *sizes, accuracy, kept]
        lines.append("| " + " | ".join(f"{chosen}{cell}{chosen}" for cell in cells) + " |")
    return lines


def readme(search: dict[str, Any]) -> str:
    """README.md with the table as the search has it."""
    text = README.read_text(encoding="utf-8")
    before, after = text.split(BEGIN)[0], text.split(END)[1]
    return "\n".join([before + BEGIN, *table(search), END + after])


def draw(search: dict[str, Any], path: Path) -> None:
    """Draw accuracy against the bytes of every trial, with the front."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axis = pyplot.subplots(figsize=(7.5, 3.6))
    done = [trial["values"] for trial in search["trials"] if trial["values"]]
    axis.scatter(*_points(done), s=14, color="grey", alpha=0.6, label="trials")
    axis.plot(*_points([trial["values"] for trial in front(search)]), "o-", ms=5, color=BLUE, label="front")
    (chosen,) = (trial for trial in front(search) if trial["number"] == search["chosen"])
    axis.scatter(*_points([chosen["values"]]), s=90, color=ORANGE, zorder=3, label="chosen: smallest within the budget")
    baseline = 100 * search["baseline_accuracy_validation"]
    axis.axhline(baseline, color="black", lw=0.8, label=f"float network, {baseline:.2f} %")
    axis.axhline(baseline - 100 * search["budget"]["accuracy_drop"], color="black", lw=0.8, ls=":", label="budget")
    axis.set_xscale("log")
    axis.set_ylim(96, 99.6)
    axis.set_xlabel("bytes of the exported file, gzipped (kB)")
    axis.set_ylabel("validation accuracy (%)")
    axis.grid(alpha=0.3)
    axis.legend(fontsize=7)
    figure.tight_layout()
    figure.savefig(path, dpi=110, metadata={"Software": None})
    pyplot.close(figure)


def _points(values: list[dict[str, float]]) -> tuple[list[float], list[float]]:
    return [each["size_gzip_bytes"] / 1000 for each in values], [100 * each["accuracy_validation"] for each in values]


def main() -> int:
    search = read()
    draw(search, PICTURE)
    README.write_text(readme(search), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
