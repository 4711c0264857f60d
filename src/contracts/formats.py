"""How a number is written for a person: bytes, shares, durations, one value or the mean and spread of several."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Number:
    """A number as text; of several the mean, ``±`` and the standard deviation.

    Attributes:
        template: A format for the number alone, e.g. ``{:.2f}``.
        scale: The number is multiplied by it first.
        suffix: The unit behind it.
        spread: Whether the standard deviation of several is written.
    """

    template: str
    scale: float = 1.0
    suffix: str = ""
    spread: bool = True

    def __call__(self, values: Sequence[Any]) -> str:
        """The text of one value or several; at least one."""
        scaled = [self.scale * value for value in values]
        text = self.template.format(statistics.mean(scaled))
        if len(scaled) > 1 and self.spread:
            text += f" ± {self.template.replace('+', '').format(statistics.stdev(scaled))}"
        return text + self.suffix


@dataclass(frozen=True)
class Bytes:
    """A number of bytes as people read it; of several the mean."""

    def __call__(self, values: Sequence[Any]) -> str:
        """The text of one value or several; at least one."""
        return size(statistics.mean(values))


@dataclass(frozen=True)
class Verdict:
    """One word if every value reaches a threshold, another if one does not.

    Attributes:
        least: The threshold.
        reached, missed: The words.
    """

    least: float
    reached: str
    missed: str

    def __call__(self, values: Sequence[Any]) -> str:
        """The word for one value or several."""
        return self.reached if all(value >= self.least for value in values) else self.missed


@dataclass(frozen=True)
class Words:
    """Text as it is; of several the first."""

    def __call__(self, values: Sequence[Any]) -> str:
        """The text of the first value; at least one."""
        return str(values[0])


def size(count: float) -> str:
    """Bytes as people read them, in powers of 1000: ``641 kB``.

    >>> size(1_131_118), size(58_170), size(980)
    ('1.13 MB', '58.17 kB', '980 B')
    """
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= factor:
            return f"{count / factor:.2f} {unit}" if count < 100 * factor else f"{count / factor:.0f} {unit}"
    return f"{count:.0f} B"


def duration(seconds: float) -> str:
    """Seconds as people read them.

    >>> duration(0.81), duration(12), duration(185)
    ('0.8 s', '12 s', '3 min 5 s')
    """
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{int(seconds // 60)} min {int(seconds % 60)} s"
