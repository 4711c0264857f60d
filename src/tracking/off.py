"""No tracking: the results are in the run's folder alone."""

from __future__ import annotations

from src.contracts import Tracker


class Off(Tracker):
    """A tracker that keeps nothing."""
