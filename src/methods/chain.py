"""Several methods, one after the other; no method is the baseline."""

from __future__ import annotations

import re
from collections.abc import Mapping

from src.contracts import Method, as_method


class Chain:
    """Steps in the order of their keys; each is a stage of its own.

    Args:
        name: Name of the chain in result rows.
        steps: Methods by step name; no step leaves the baseline as it is.

    Raises:
        ValueError: The name is missing or no file can have it, a step is no method, or a step follows one after which
            no step can come.
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
        self.name = name
        self.steps = {step: _checked(step, method) for step, method in steps.items()}
        _require_order(self.steps)


def _checked(step: str, method: Method | Chain) -> Method:
    """A step as a method; a user's object needs only ``compress``."""
    if isinstance(method, Chain):
        inner = ", ".join(method.steps) or "no step"
        raise ValueError(f"steps.{step} is itself a chain ({inner}): list its steps here in its place")
    try:
        return as_method(method)
    except TypeError as error:
        raise ValueError(f"steps.{step} is {error}") from error


def _require_order(steps: Mapping[str, Method]) -> None:
    """Raise ValueError, with an order that works, if a step follows one that ends a chain."""
    names = list(steps)
    for place, step in enumerate(names[:-1]):
        reason = steps[step].ends_chain
        if reason is None:
            continue
        refused = f"steps.{names[place + 1]} cannot follow steps.{step}: {reason}"
        ending = [name for name in names if steps[name].ends_chain]
        if len(ending) > 1:
            raise ValueError(f"{refused}. Only one of {', '.join(ending)} can be used, as the last step")
        order = [*names[:place], *names[place + 1 :], step]
        raise ValueError(f"{refused}. This order works: {', '.join(order)}")


def undone(steps: Mapping[str, Method]) -> list[str]:
    """List which steps cannot keep what an earlier step makes, with the reason; one line each."""
    lines = []
    for place, (later, method) in enumerate(steps.items()):
        for earlier, before in list(steps.items())[:place]:
            lines += [
                f"{later} undoes the {property_} of {earlier}: {method.undoes[property_]}"
                for property_ in before.makes
                if property_ in method.undoes
            ]
    return lines
