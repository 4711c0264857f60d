"""Several methods, one after the other; none is the baseline."""

from __future__ import annotations

import re
from collections.abc import Mapping

from src.contracts import Method


class Chain:
    """Steps in the order of their keys; each is a stage of its own.

    Args:
        name: What result rows call it.
        steps: Methods by step name; empty leaves the baseline as it is.

    Raises:
        ValueError: It has no usable name, a step is no method, or one follows one whose result nothing can change.
    """

    name: str
    steps: dict[str, Method]

    def __init__(self, *, name: str | None, steps: Mapping[str, Method]) -> None:
        if not name:
            raise ValueError("name is missing: a chain's rows are called by it (method.name=…)")
        if not re.fullmatch(r"[\w.-]+", name):
            raise ValueError(
                f"name must be of letters, digits, '_', '-' and '.', as files are called by it; it is {name!r}"
            )
        if steps and name == "baseline":
            raise ValueError("name must not be baseline: that is what the network before all steps is called")
        for step, method in steps.items():
            if isinstance(method, Chain):
                inner = ", ".join(method.steps) or "no step"
                raise ValueError(f"steps.{step} is itself a chain ({inner}): list its steps here in its place")
            if not isinstance(method, Method):
                raise ValueError(f"steps.{step} is a {type(method).__name__}, which has no compress(model, context)")
        names = list(steps)
        for at, step in enumerate(names[:-1]):
            reason = getattr(steps[step], "ends_chain", None)
            if reason is not None:
                order = [*names[:at], *names[at + 1 :], step]
                ending = [name for name in names if getattr(steps[name], "ends_chain", None)]
                if len(ending) > 1:
                    raise ValueError(
                        f"steps.{names[at + 1]} cannot follow steps.{step}: {reason}. Only one of {', '.join(ending)} "
                        f"can be there, as the last step"
                    )
                raise ValueError(
                    f"steps.{names[at + 1]} cannot follow steps.{step}: {reason}. This order works: {', '.join(order)}"
                )
        self.name = name
        self.steps = dict(steps)


def undone(steps: Mapping[str, Method]) -> list[str]:
    """One line for each step that cannot keep what an earlier one makes."""
    lines = []
    for at, (later, method) in enumerate(steps.items()):
        reasons: Mapping[str, str] = getattr(method, "undoes", {})
        for earlier, before in list(steps.items())[:at]:
            lines += [
                f"{later} undoes the {what} of {earlier}: {reasons[what]}"
                for what in getattr(before, "makes", ())
                if what in reasons
            ]
    return lines
