"""Checkpoints beside the training: whole, of the moment they were saved at, the newest one in the end."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest
import torch

from src.training import checkpoints
from src.training.checkpoints import CheckpointsBeside


def load(path: Path) -> Any:
    return torch.load(path, weights_only=True)


def test_a_state_is_that_of_the_moment_it_was_saved_at(tmp_path: Path) -> None:
    writer, weights = CheckpointsBeside(), torch.zeros(1000)
    writer.save_checkpoint({"epoch": 3, "weights": {"w": weights}, "epochs": [{"loss": 0.5}]}, tmp_path / "c.ckpt")
    weights.fill_(7)
    writer.finish()
    assert load(tmp_path / "c.ckpt")["epoch"] == 3
    assert torch.equal(load(tmp_path / "c.ckpt")["weights"]["w"], torch.zeros(1000))
    assert [path.name for path in tmp_path.iterdir()] == ["c.ckpt"]


def test_of_states_that_wait_only_the_newest_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written, go_on, save = [], threading.Event(), torch.save

    def slow(state: Any, path: Path) -> None:
        go_on.wait(20)
        written.append(state["epoch"])
        save(state, path)

    monkeypatch.setattr(checkpoints.torch, "save", slow)
    writer = CheckpointsBeside()
    for epoch in range(5):
        writer.save_checkpoint({"epoch": epoch}, tmp_path / "c.ckpt")
    go_on.set()
    writer.finish()
    assert written[-1] == 4
    assert len(written) <= 2
    assert load(tmp_path / "c.ckpt")["epoch"] == 4


def test_an_error_of_writing_is_raised_by_the_training_and_the_old_file_stays(tmp_path: Path) -> None:
    writer = CheckpointsBeside()
    writer.save_checkpoint({"epoch": 0}, tmp_path / "c.ckpt")
    writer.finish()
    writer.save_checkpoint({"epoch": lambda: None}, tmp_path / "c.ckpt")  # cannot be pickled
    with pytest.raises(Exception, match=r"pickle|local"):
        writer.finish()
    assert load(tmp_path / "c.ckpt")["epoch"] == 0
    writer.finish()  # said once
