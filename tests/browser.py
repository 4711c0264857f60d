"""A page in a real browser without a window: what it becomes, and what its console says."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.devtools import BROWSERS, SECONDS, browser, opened

# The report has run, and every figure that is wide enough to be seen is drawn.
DRAWN = """document.readyState === "complete" && document.documentElement.dataset.drawn === "yes" &&
  [...document.querySelectorAll("figure.plot > div")].every((box) => box.clientWidth < 40 || box.firstElementChild)"""


@dataclass(frozen=True)
class Shown:
    """A page after its scripts have run.

    Attributes:
        dom: The document as text.
        answer: What the page answered to the expression that it was asked; None if it was asked nothing.
        console: What the page said on the console, errors included.
    """

    dom: str
    answer: Any
    console: list[str]


def shown(page: Path, width: int = 1280, asked: str = "null") -> Shown:
    """Open a page, wait until its figures are drawn, ask it for the value of an expression, and return what it became.

    The waiting is in real time and for the drawing itself: a browser's virtual time runs ahead of a busy processor. The
    test is skipped if no browser is installed.
    """
    program, said = browser(), page.parent / "browser.log"
    if program is None:
        pytest.skip(f"none of {', '.join(BROWSERS)} is installed")
    with opened(program, said) as tools:
        tools.open(page.as_uri(), width, 2000)
        until = time.monotonic() + SECONDS
        while not tools.value(DRAWN):
            assert time.monotonic() < until, f"{page} is not drawn after {SECONDS} s"
            time.sleep(0.05)
        answer = tools.value(asked)
        dom = tools.value("document.documentElement.outerHTML")
    return Shown(dom, answer, re.findall(r"CONSOLE:\d+\] (.*)", said.read_text()))
