"""Checkpoints that are written while the training goes on."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning.plugins import TorchCheckpointIO
from torch import Tensor
from torch.utils._pytree import tree_map_only

from src.files.writing import replacing


class CheckpointsBeside(TorchCheckpointIO):
    """Writes checkpoints in a thread: on a GPU an epoch can take less time than writing its checkpoint.

    A state is copied on its device when it is saved, and then written whole or not at all. If several are saved before
    the one in work is written, the newest of them is written next and the others never: each is a moment from which the
    same training goes on.
    """

    def __init__(self) -> None:
        super().__init__()
        self._change = threading.Condition()
        self._next: tuple[Any, Path, Any] | None = None
        self._writing = False
        self._error: BaseException | None = None

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Copy the state and return; raises what went wrong with an earlier one."""
        state = tree_map_only(Tensor, lambda tensor: tensor.detach().clone(), checkpoint)
        copied = torch.cuda.current_stream().record_event() if torch.cuda.is_initialized() else None
        with self._change:
            self._raise()
            self._next = state, Path(path), copied
            if not self._writing:
                self._writing = True
                threading.Thread(target=self._write, name="checkpoints", daemon=True).start()

    def finish(self) -> None:
        """Wait until the newest state is written; raises what went wrong."""
        with self._change:
            self._change.wait_for(lambda: not self._writing)
            self._raise()

    def teardown(self) -> None:
        """Wait until nothing is being written."""
        with self._change:
            self._change.wait_for(lambda: not self._writing)

    def _write(self) -> None:
        """Write what is next until nothing is."""
        while True:
            with self._change:
                if self._next is None:
                    self._writing = False
                    self._change.notify_all()
                    return
                (state, path, copied), self._next = self._next, None
            try:
                self._write_one(state, path, copied)
            except BaseException as error:  # raised where the training saves next, or ends
                self._error = error

    def _write_one(self, state: Any, path: Path, copied: Any) -> None:
        if copied is not None:
            copied.synchronize()
            with torch.cuda.stream(torch.cuda.Stream()):
                state = tree_map_only(Tensor, lambda tensor: tensor.cpu(), state)
        with replacing(path) as part:
            torch.save(state, part)

    def _raise(self) -> None:
        if self._error is not None:
            error, self._error = self._error, None
            raise error
