"""A search on a local Ray cluster, one of whose workers is killed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow  # Ray starts for half a minute
def test_a_killed_worker_of_ray_loses_no_trial(tmp_path: Path) -> None:
    """The benchmark exits with 1 unless every trial is finished once, and logged once."""
    pytest.importorskip("ray")
    found = tmp_path / "found.json"
    fast = ["+search=digits_budget", "training.epochs=1", "search.lengths=[1.0]"]
    ended = subprocess.run(
        [sys.executable, "-m", "benchmarks.kills", "--ray", "2", "--trials", "6", "--json", str(found), *fast],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    record = json.loads(found.read_text())
    assert (record["exit"], record["finished"], record["workers"]) == (0, 6, 2)
    assert record["finished_before_the_kill"] < 6
