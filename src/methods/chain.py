"""Several methods, one after the other; none is the baseline."""

from __future__ import annotations

from collections.abc import Mapping

from src.contracts import Method


class Chain:
    """Steps in the order of their keys; each is a stage of its own.

    Args:
        name: What result rows call it.
        steps: Methods by step name; empty leaves the baseline as it is.

    Raises:
        ValueError: It has no name, or a step follows one whose result nothing can change.
    """

    def __init__(self, *, name: str | None, steps: Mapping[str, Method]) -> None:
        if not name:
            raise ValueError("name is missing: a chain's rows are called by it (method.name=…)")
        names = list(steps)
        for at, step in enumerate(names[:-1]):
            reason = getattr(steps[step], "ends_chain", None)
            if reason is not None:
                order = [*names[:at], *names[at + 1 :], step]
                raise ValueError(
                    f"steps.{names[at + 1]} cannot follow steps.{step}: {reason}. This order works: {', '.join(order)}"
                )
        self.name = name
        self.steps = dict(steps)
