"""How commands end."""

from __future__ import annotations

import subprocess
import sys

import pytest

from src.command.exits import DONE, UNREAD


@pytest.mark.parametrize("command", ["run", "search", "sensitivity", "pack"])
def test_a_reader_that_leaves_gets_no_complaint(command: str) -> None:
    called = [sys.executable, "-m", f"src.{command}", "--help"]
    with subprocess.Popen(called, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()  # as head does, which has read enough
        assert process.stderr.read() == ""
        assert process.wait() in (DONE, UNREAD)
