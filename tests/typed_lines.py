"""Runs the mistyped lines of docs/troubleshooting.md in one process, and says of each what it got."""

from __future__ import annotations

import contextlib
import importlib
import io
import json
import os
import shlex
import sys
from pathlib import Path

DOCUMENT = Path(__file__).parent.parent / "docs" / "troubleshooting.md"
PROMPT = "$ python -m src."


def documented() -> list[tuple[str, str]]:
    """Each line of the section "What you typed", without ``python -m src.``, and what it gets (``…``: some text)."""
    section = DOCUMENT.read_text(encoding="utf-8").split("## What you typed")[1].split("\n## ")[0]
    lines = section.splitlines()
    pairs = zip(lines, lines[1:], strict=False)
    return [(line.removeprefix(PROMPT), after) for line, after in pairs if line.startswith(PROMPT)]


def said_by(line: str) -> dict[str, object]:
    """Run a line as its door does, and return its exit code, what it printed, and whether torch is imported now."""
    door, *arguments = shlex.split(line)
    sys.argv = [f"src/{door}.py", *arguments]
    os.environ.pop("HYDRA_FULL_ERROR", None)
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code: object = importlib.import_module(f"src.{door}").main()
        except SystemExit as stop:  # argparse
            code = stop.code
        except BaseException as error:  # a traceback, for a user
            code = repr(error)
    return {"code": code, "out": out.getvalue(), "err": err.getvalue(), "torch": "torch" in sys.modules}


if __name__ == "__main__":
    chosen = sys.stdin.read().splitlines()
    print(json.dumps([said_by(line) for line in chosen]))
