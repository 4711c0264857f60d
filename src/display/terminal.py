"""What a person sees of an experiment: stage lines and a progress bar; everything else goes to the log."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

from src.contracts import DataSplits, Epoch
from src.contracts.formats import duration

CLASSES = 12  # that the first lines of a run name


@contextmanager
def only_ours(log: Path, *, verbose: bool) -> Iterator[TextIO]:
    """Send whatever libraries print, also from C++, to ``log``; yield the terminal.

    File descriptors are redirected, not ``sys.stdout``: a library that keeps the stream beyond this block keeps a good
    one.

    Args:
        log: File that the output is appended to.
        verbose: Leave the libraries' output on the terminal.
    """
    if verbose:
        yield sys.stdout
        return
    sys.stdout.flush()
    sys.stderr.flush()
    saved = [os.dup(1), os.dup(2)]
    sink = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    coded: Any = {"encoding": sys.stdout.encoding, "errors": sys.stdout.errors}
    terminal = os.fdopen(os.dup(saved[0]), "w", buffering=1, **coded)
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
    """The progress of one training on the terminal; a ``TrainingProgress`` that hands each epoch on.

    Args:
        terminal: Where the bar is drawn, if that is a terminal.
        label: Name of the stage.
        on_epoch: Called after each epoch.
    """

    def __init__(self, terminal: TextIO, label: str, on_epoch: Callable[[Epoch], None]) -> None:
        self.terminal, self.label, self.on_epoch = terminal, label, on_epoch
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
        self.terminal.write(f"{self.label}: resumes after epoch {epoch + 1}\n")
        # The epochs of an earlier process say nothing of this one's speed.
        self.bar.initial = self.bar.total * (epoch + 1) // self.epochs

    def step(self, epoch: int, step: int, loss: float) -> None:
        self.bar.n = step
        self.bar.set_description_str(f"{self.label} epoch {epoch + 1}/{self.epochs}", refresh=False)
        self.bar.set_postfix_str(f"loss {loss:.3f}{self.validation}", refresh=True)

    def epoch(self, epoch: Epoch) -> None:
        self.validation = f", validation {100 * epoch.validation_accuracy:.2f} %"
        self.on_epoch(epoch)

    def say(self, line: str) -> None:
        if self.bar is not None:
            self.bar.clear()
        self.terminal.write(f"{self.label}: {line}\n")

    def stop(self) -> None:
        if self.bar is not None:
            self.bar.close()


def contents(splits: DataSplits) -> list[str]:
    """What was read: the images of each split and each class, and the remarks of the data.

    Only the first ``CLASSES`` classes are listed.
    """
    parts = {"train": splits.train, "validation": splits.validation, "test": splits.test}
    counts = [part.labels.bincount(minlength=len(splits.classes)).tolist() for part in parts.values()]
    listed = [
        f"{name} {'+'.join(f'{count:,}' for count in each)}"
        for name, each in zip(splits.classes, zip(*counts, strict=True), strict=True)
    ]
    more = f", and {len(listed) - CLASSES} more" if len(listed) > CLASSES else ""
    sizes = " + ".join(f"{name} {len(part):,}" for name, part in parts.items())
    return [
        f"  {sizes}; {len(listed)} classes: {', '.join(listed[:CLASSES])}{more}",
        *(f"  {remark}" for remark in splits.remarks),
    ]


class Console:
    """The lines of one experiment.

    Args:
        terminal: Where the lines go.
        prefix: Stands before each member's line in a survey, e.g. ``[2/4] ``; empty for a single run.
    """

    def __init__(self, terminal: TextIO, prefix: str) -> None:
        self.terminal, self.prefix = terminal, prefix
        self._outcomes: list[str] = []
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
            for line in contents(splits):
                self.line(line)

    def bar(self, label: str, on_epoch: Callable[[Epoch], None]) -> Bar:
        """A progress bar for one training."""
        return Bar(self.terminal, f"{self.prefix}{label}", on_epoch)

    def stage(self, name: str, identity: str, found: bool, seconds: float, validation: float | None) -> None:
        """Remember whether a stage was made or found again; ``end`` says it."""
        if found:
            self._outcomes.append(f"{name} found again ({identity[:8]})")
        else:
            accuracy = "" if validation is None else f", validation {100 * validation:.2f} %"
            verb = "trained" if name == "baseline" else "compressed"
            self._outcomes.append(f"{name} {verb} in {duration(seconds)}{accuracy}")

    def end(self, seconds: float, found: bool) -> None:
        """Say on one line whether each stage, and the measured files, were made or found again."""
        measured = "files found again" if found else f"exported and measured in {duration(seconds)}"
        self.line(f"{self.prefix}{self._variant:<20} {' - '.join([*self._outcomes, measured])}")


def shown(folder: Path) -> Path:
    """A path as a user in the current folder would write it."""
    return folder.relative_to(Path.cwd()) if folder.is_relative_to(Path.cwd()) else folder
