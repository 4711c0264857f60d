"""What a person sees: stage lines, a progress bar, the table; everything else goes to the log."""

from __future__ import annotations

import os
import statistics
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

from src.contracts import LEAST_AGREEMENT, DataSplits, Epoch

Rows = Sequence[Mapping[str, Any]]


@contextmanager
def only_ours(log: Path, *, verbose: bool) -> Iterator[TextIO]:
    """Send whatever libraries print, also from C++, to ``log``; yield the terminal.

    File descriptors are turned, not ``sys.stdout``: a library that keeps the stream beyond this block keeps a good one.

    Args:
        log: Appended to.
        verbose: Leave the libraries' output on the terminal.
    """
    if verbose:
        yield sys.stdout
        return
    sys.stdout.flush()
    sys.stderr.flush()
    saved = [os.dup(1), os.dup(2)]
    sink = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    terminal = os.fdopen(os.dup(saved[0]), "w", buffering=1)
    try:
        os.dup2(sink, 1)
        os.dup2(sink, 2)
        yield terminal
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        for number, descriptor in enumerate(saved, start=1):
            os.dup2(descriptor, number)
            os.close(descriptor)
        os.close(sink)
        terminal.close()


class Bar:
    """The progress of one training on the terminal; a ``TrainingProgress`` that also tells a listener of epochs."""

    def __init__(self, terminal: TextIO, label: str, tell_epoch: Any) -> None:
        self.terminal, self.label, self.tell_epoch = terminal, label, tell_epoch
        self.bar: Any = None
        self.epochs = 0
        self.validation = ""

    def start(self, epochs: int, steps: int) -> None:
        from tqdm import tqdm

        self.epochs = epochs
        self.bar = tqdm(
            total=steps,
            file=self.terminal,
            disable=not self.terminal.isatty(),
            leave=False,
            dynamic_ncols=True,
            desc=self.label,
            bar_format="{desc} {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} steps, {remaining} left{postfix}",
        )

    def resumed(self, epoch: int) -> None:
        self.bar.clear()
        self.terminal.write(f"{self.label}: goes on after epoch {epoch + 1}\n")
        self.bar.initial = self.bar.total * (epoch + 1) // self.epochs  # what was done before counts for no speed

    def step(self, epoch: int, step: int, loss: float) -> None:
        self.bar.n = step
        self.bar.set_description_str(f"{self.label} epoch {epoch + 1}/{self.epochs}", refresh=False)
        self.bar.set_postfix_str(f"loss {loss:.3f}{self.validation}", refresh=True)

    def epoch(self, epoch: Epoch) -> None:
        self.validation = f", validation {100 * epoch.validation_accuracy:.2f} %"
        self.tell_epoch(epoch)

    def stop(self) -> None:
        if self.bar is not None:
            self.bar.close()


class Report:
    """The lines of one experiment.

    Args:
        terminal: Where they go.
        prefix: Before each member's line in a survey, e.g. ``[2/4] ``.
    """

    def __init__(self, terminal: TextIO, prefix: str) -> None:
        self.terminal, self.prefix = terminal, prefix
        self._said: list[str] = []
        self._variant = ""

    def line(self, text: str) -> None:
        """Write one line."""
        self.terminal.write(text + "\n")

    def begin(self, experiment: str, variant: str, model: str, splits: DataSplits, seed: int) -> None:
        """Say what is about to be done (a survey says it once, in its first member)."""
        self._variant = variant
        count = len(splits.train) + len(splits.validation) + len(splits.test)
        channels, height, width = splits.image_shape
        if self.prefix in ("", "[1/1] ") or self.prefix.startswith("[1/"):
            self.line(
                f"{experiment}: {model} on {splits.name} ({count:,} images of {channels}x{height}x{width}), seed {seed}"
            )

    def bar(self, label: str, tell_epoch: Any) -> Bar:
        """A progress bar for one training."""
        return Bar(self.terminal, f"{self.prefix}{label}", tell_epoch)

    def stage(self, name: str, identity: str, found: bool, seconds: float, validation: float | None) -> None:
        """Remember what became of a stage; ``end`` says it."""
        if found:
            self._said.append(f"{name} found again ({identity[:8]})")
        else:
            accuracy = "" if validation is None else f", validation {100 * validation:.2f} %"
            verb = "trained" if name == "baseline" else "compressed"
            self._said.append(f"{name} {verb} in {duration(seconds)}{accuracy}")

    def end(self, seconds: float, found: bool) -> None:
        """Say on one line what became of all stages and of measuring."""
        measured = "files found again" if found else f"exported and measured in {duration(seconds)}"
        self.line(f"{self.prefix}{self._variant:<20} {' - '.join([*self._said, measured])}")


def duration(seconds: float) -> str:
    """``0.8 s``, ``12 s``, ``3 min 5 s``."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{int(seconds // 60)} min {int(seconds % 60)} s"


def size(count: float) -> str:
    """Bytes as people read them, powers of 1000."""
    for unit, factor in (("MB", 1e6), ("kB", 1e3)):
        if count >= factor:
            return f"{count / factor:.2f} {unit}" if count < 100 * factor else f"{count / factor:.0f} {unit}"
    return f"{count:.0f} B"


def shown(folder: Path) -> Path:
    """A path as a user of this folder would write it."""
    return folder.relative_to(Path.cwd()) if folder.is_relative_to(Path.cwd()) else folder


def table(rows: Rows) -> list[str]:
    """The result table, one line a (variant, target); over several seeds mean and standard deviation.

    Args:
        rows: As in ``results.json`` or ``survey.json``.
    """
    groups: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    several_models = len({(row["data"], row["model"]) for row in rows}) > 1
    for row in rows:
        label = row["variant"] + (f" {row['model']}/{row['data']}" if several_models else "")
        settings = [s for s in row.get("settings", []) if not s.startswith(("model=", "data="))]
        label += f" ({', '.join(settings)})" if settings else ""
        groups.setdefault((label, row["target"]), []).append(row)
    heads = ["variant", "target", "precision", "bits", "accuracy", "change", "file", "ratio", "gzipped"]
    heads += ["latency p50", "faster", "file does"]
    lines = [heads]
    for (label, target), members in groups.items():
        base = [_baseline_of(row, rows) for row in members]
        changes = [row["accuracy"] - b["accuracy"] for row, b in zip(members, base, strict=True) if b]
        is_base = members[0]["variant"] == "baseline"
        lines.append(
            [
                label + (f" x{len(members)}" if len(members) > 1 else ""),
                target,
                members[0]["precision"],
                f"{statistics.mean(row['bits_per_weight'] for row in members):.3g}",
                _mean([100 * row["accuracy"] for row in members], "{:.2f}") + " %",
                "-" if is_base or not changes else _mean([100 * change for change in changes], "{:+.2f}"),
                size(statistics.mean(row["size_bytes"] for row in members)),
                _mean([row["compression_ratio"] for row in members if row["compression_ratio"]], "{:.1f}") + "x",
                size(statistics.mean(row["size_gzip_bytes"] for row in members)),
                _times(members),
                _faster(members),
                "agree" if all(map(_agrees, members)) else "WRONG",
            ]
        )
    return aligned(lines, left=3)


def aligned(lines: Sequence[Sequence[str]], *, left: int) -> list[str]:
    """Cells in columns; the first ``left`` columns begin at their left, the others end at their right."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return [
        "  ".join(
            cell.ljust(w) if at < left else cell.rjust(w) for at, (cell, w) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    ]


def _agrees(row: Mapping[str, Any]) -> bool:
    return bool(row["agreement"] >= LEAST_AGREEMENT)


def _times(members: Rows) -> str:
    found = [row["latency_ms_p50"] for row in members if row["latency_ms_p50"] is not None]
    return f"{_mean(found, '{:.3f}')} ms" if found else "-"


def _faster(members: Rows) -> str:
    """The speedup over the baseline's file, with its 95 % confidence interval or over seeds its deviation."""
    found = [row for row in members if row["speedup"] is not None]
    if members[0]["variant"] == "baseline" or not found:
        return "-"
    if len(found) > 1:
        return _mean([row["speedup"] for row in found], "{:.2f}") + "x"
    row = found[0]
    return f"{row['speedup']:.2f}x ({row['speedup_low']:.2f} to {row['speedup_high']:.2f})"


def refusals(refused: Rows) -> list[str]:
    """A line for each variant that a target cannot hold."""
    return list(dict.fromkeys(f"Not exportable: {each['variant']}: {each['reason']}" for each in refused))


def remarks(rows: Rows) -> list[str]:
    """What a reader of the table could otherwise misread."""
    said = []
    for row in rows:
        if not _agrees(row):
            where = f"; {row['departs_at']} departs first" if row["departs_at"] else ""
            said.append(
                f"{row['artifact']} predicts what the torch model does for {row['agreement']:.1%} of images{where}. "
                "Trust the file's accuracy, and mind that the export changed the network."
            )
        base = _baseline_of(row, rows)
        if base is None or row["variant"] == "baseline":
            continue
        sparse = (row["nonzero_parameters"] or 0) < 0.9 * (row["parameters"] or 0)
        if sparse and not row["precision"].startswith("int") and row["size_bytes"] > 0.95 * base["size_bytes"]:
            said.append(
                "Pruned float weights make a file no smaller until it is compressed (see gzipped); channels or INT8 do."
            )
        if row["precision"].startswith("int8") and (row["latency_ms_p50"] or 0) > 1.1 * (base["latency_ms_p50"] or 0):
            said.append(
                f"INT8 is slower than float here ({row['variant']} on {row['target']}): "
                "this network or processor gains nothing."
            )
    missing = {f"{c} on {row['target']}: {why}" for row in rows for c, why in row["unavailable"].items()}
    return list(dict.fromkeys(said)) + [f"Not measured: {line}." for line in sorted(missing)]


def _baseline_of(row: Mapping[str, Any], rows: Rows) -> Mapping[str, Any] | None:
    same = ("target", "data", "model", "seed")
    for other in rows:
        if other["variant"] == "baseline" and all(other.get(key) == row.get(key) for key in same):
            return other
    return None


def _mean(values: Sequence[float], form: str) -> str:
    if not values:
        return "?"
    text = form.format(statistics.mean(values))
    return text if len(values) < 2 else f"{text} ± {form.replace('+', '').format(statistics.stdev(values))}"


def clock() -> float:
    """Seconds for measuring durations."""
    return time.perf_counter()
