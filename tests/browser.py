"""A real browser without a window: what a page becomes in it, and what its console says."""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome")


@dataclass(frozen=True)
class Shown:
    """A page after its scripts have run.

    Attributes:
        dom: The document as text.
        console: What the page said on the console, errors included.
    """

    dom: str
    console: list[str]


def browser() -> str:
    """Path of the browser; skips the test if there is none."""
    found = next((path for name in NAMES if (path := shutil.which(name))), None)
    if found is None:
        pytest.skip(f"none of {', '.join(NAMES)} is installed")
    return found


def shown(page: Path, width: int = 1280) -> Shown:
    """Open a page, let its timers run, and return what it became."""
    options = ["--headless", "--no-sandbox", "--disable-gpu", f"--window-size={width},2000", "--enable-logging=stderr"]
    options += [f"--user-data-dir={page.parent / 'browser'}", "--virtual-time-budget=4000", "--dump-dom"]
    done = subprocess.run([browser(), *options, page.as_uri()], capture_output=True, text=True, timeout=120)
    return Shown(done.stdout, re.findall(r"CONSOLE:\d+\] (.*)", done.stderr))
