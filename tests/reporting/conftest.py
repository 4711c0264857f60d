"""A survey on real digits that an earlier version wrote: rows, files, stages, and a member that failed."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

OLD = Path(__file__).parents[1] / "records" / "d975084"


@pytest.fixture
def records(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the records, and the folder that commands run in."""
    shutil.copytree(OLD, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path
