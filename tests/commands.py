"""Running the commands in this process, as a user types them."""

from __future__ import annotations

import importlib
import re
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest


@dataclass(frozen=True)
class Said:
    """What a command came to: its exit code and what it printed."""

    code: int
    out: str
    err: str


class Commands:
    """Calls ``python -m src.<command> …`` with its stores in a temporary folder."""

    def __init__(self, folder: Path, capture: pytest.CaptureFixture[str], patch: pytest.MonkeyPatch) -> None:
        self.folder, self.capture, self.patch = folder, capture, patch
        self.artifacts = folder / "artifacts"
        self.count = 0

    def call(self, command: str, *arguments: str) -> Said:
        module = importlib.import_module(f"src.{command}")
        self.patch.setattr(sys, "argv", [f"src/{command}.py", *arguments])
        self.patch.delenv("HYDRA_FULL_ERROR", raising=False)
        self.capture.readouterr()
        try:
            code = module.main()
        except SystemExit as stop:  # argparse
            code = int(stop.code or 0)
        out, err = self.capture.readouterr()
        # What torch logs goes past the file descriptors that the command turns, since pytest replaced sys.stderr.
        return Said(code, out, re.sub(r"^W\d{4} .*\n", "", err, flags=re.MULTILINE))

    def run(self, *overrides: str, tracking: str = "tracking=off") -> tuple[Said, Path]:
        """``src.run`` with a fresh output folder, which is returned."""
        self.count += 1
        out = self.folder / "outputs" / str(self.count)
        where = [f"hydra.run.dir={out}", f"hydra.sweep.dir={out}", f"artifacts={self.artifacts}", tracking]
        return self.call("run", *overrides, *where, "training.threads=1"), out
