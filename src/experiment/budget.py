"""What must hold, measured on the exported file; accuracy on validation data."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from src.contracts import COLUMNS, Column, Refused, Row

LIMITED: dict[str, Column] = {column.limit.key: column for column in COLUMNS if column.limit is not None}
ACCURACY_DROP = "accuracy_drop"  # the one limit that compares with the baseline


class Budget:
    """Limits on the columns of a row; ``COLUMNS`` declares which columns have one.

    Args:
        limits: By key: ``accuracy_drop`` is the largest loss against the baseline's file of the same target, a share
            (0.005 is half a point); ``size_bytes``, ``size_gzip_bytes``, ``size_packed_bytes``, ``latency_ms``,
            ``energy_uj`` are the largest values of the file. None sets no limit.

    Raises:
        ValueError: A limit is no number, or not more than 0.
        TypeError: There is no limit of that name.
    """

    def __init__(self, **limits: float | None) -> None:
        for key, value in limits.items():
            if key not in LIMITED:
                raise TypeError(f"Budget.__init__() got an unexpected keyword argument '{key}'")
            if value is None:
                continue
            if isinstance(value, bool) or not isinstance(value, (int, float)):
                raise ValueError(f"{key} must be a number, and is {value!r}")
            if key != ACCURACY_DROP and value <= 0:
                raise ValueError(f"{key} must be more than 0, and is {value}")
        self.limits: dict[str, float] = {key: value for key, value in limits.items() if value is not None}

    @property
    def accuracy_drop(self) -> float | None:
        return self.limits.get(ACCURACY_DROP)

    @property
    def columns(self) -> dict[str, float]:
        """The limits on the values of columns, by column name; without the accuracy, whose limit is on its drop."""
        return {LIMITED[key].name: value for key, value in self.limits.items() if key != ACCURACY_DROP}

    def misses(self, rows: Sequence[Row], refused: Sequence[Refused] = ()) -> list[str]:
        """One line for each row and limit that does not hold; the baseline is not judged beside a variant.

        Args:
            rows: Rows of a run.
            refused: Variants without a file; each misses whatever limit there is.
        """
        if not self.limits:
            return []
        baselines = {row.target: row for row in rows if row.variant == "baseline"}
        judged = [row for row in rows if row.variant != "baseline"] or list(rows)
        lines = [f"{each.variant} on {each.target}: there is no file" for each in refused if each.variant != "baseline"]
        for row in judged:
            lines += [f"{row.variant} on {row.target}: {miss}" for miss in self._missed(row, baselines.get(row.target))]
        return lines

    def _missed(self, row: Row, base: Row | None) -> list[str]:
        found = []
        for key, allowed in self.limits.items():
            limit = LIMITED[key].limit
            assert limit is not None
            value: Any = getattr(row, LIMITED[key].name)
            if key == ACCURACY_DROP:
                value = None if base is None else round(base.accuracy_validation - row.accuracy_validation, 9)
            if value is None:
                found.append(limit.unknown.format(value, allowed))
            elif value > allowed:
                found.append(limit.missed.format(value, allowed))
        return found
