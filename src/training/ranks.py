"""One training by several processes: each takes its share of every batch, and all hold the same weights.

The process of the command is rank 0 and starts the others for each training, with a copy of all that the training
needs. It alone writes, shows and tracks. Gradients are averaged before the callbacks of a method see them, so that
masks, centroids and whatever else follows from weights and gradients is the same in every process.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytorch_lightning as pl
import torch
import torch.distributed as dist
from lightning_fabric.plugins.environments.lightning import LightningEnvironment, find_free_network_port
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.strategies import DDPStrategy
from pytorch_lightning.utilities import rank_zero_only
from torch import Tensor, nn

from src.contracts import Epoch, EpochBatches, InputError, TrainingProgress, first_line
from src.training.recipe import Compute

# What is printed goes to the standard error: the standard output says alone that the process is ready.
OTHER = "import os; out = os.dup(1); os.dup2(2, 1); from src.training.ranks import main; main(out)"
VISIBLE = "CUDA_VISIBLE_DEVICES"
READY = b"+"  # what a process writes when it has got the training
END_SECONDS = 60.0  # a process that has nothing left to do has this long to end


def count() -> int:
    """How many processes train together; 1 outside of such a training."""
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    """Which of them this one is; 0 writes, shows and tracks."""
    return dist.get_rank() if dist.is_initialized() else 0


def average_gradients(model: nn.Module) -> None:
    """Replace each gradient by its mean over the processes; the same bits in each of them."""
    gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    if count() > 1 and gradients:
        _together(gradients, lambda flat: (dist.all_reduce(flat), flat.div_(count())))


def share_buffers(model: nn.Module) -> None:
    """Give every process the floating-point buffers of rank 0, e.g. statistics of a batch normalization."""
    buffers = [buffer for buffer in model.buffers() if buffer.is_floating_point()]
    if count() > 1 and buffers:
        _together(buffers, lambda flat: dist.broadcast(flat, 0))


def total(tensor: Tensor) -> None:
    """Replace ``tensor`` by its sum over the processes."""
    if count() > 1:
        dist.all_reduce(tensor)


def _together(tensors: Sequence[Tensor], change: Any) -> None:
    """Change tensors in place, those of one type in one message."""
    for kind in dict.fromkeys(tensor.dtype for tensor in tensors):
        same = [tensor for tensor in tensors if tensor.dtype == kind]
        flat = torch.cat([tensor.detach().reshape(-1) for tensor in same])
        change(flat)
        for tensor, part in zip(same, flat.split([tensor.numel() for tensor in same]), strict=True):
            tensor.detach().copy_(part.view(tensor.shape))


class Share:
    """The batches of a training, of which each process keeps every n-th image.

    Every process makes the whole batch, so that order and augmentation are those of a training by one process. A batch
    that cannot be divided evenly is refused: the mean of the gradients would not be that of the batch.

    Args:
        batches: The whole batches.
        part, parts: Which share, from 0, of how many.
    """

    def __init__(self, batches: EpochBatches, part: int, parts: int) -> None:
        self.batches, self.part, self.parts = batches, part, parts

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch that the next iteration gives."""
        self.batches.set_epoch(epoch)

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for images, labels in self.batches:
            if len(images) % self.parts:
                raise InputError(
                    f"a batch of {len(images)} images cannot be divided among training.devices={self.parts}; a loader "
                    f"leaves out a last, smaller batch by drop_last=True"
                )
            yield images[self.part :: self.parts].contiguous(), labels[self.part :: self.parts]


class Place(LightningEnvironment):
    """Where a process stands among those of a training, by what it was given and not by environment variables.

    Args:
        rank: Its number, from 0.
        port: Port of rank 0 on this machine.
    """

    def __init__(self, rank: int, port: int) -> None:
        super().__init__()
        self._rank, self._main_port = rank, port

    @property
    def creates_processes_externally(self) -> bool:
        """Lightning starts no process."""
        return True

    @property
    def main_address(self) -> str:
        """This machine."""
        return "127.0.0.1"

    def local_rank(self) -> int:
        return self._rank

    def node_rank(self) -> int:
        return 0


class Ranks(DDPStrategy):
    """Lightning's ``ddp`` without its wrapper around the module, for one Lightning step is an epoch of many steps.

    Gradients are averaged by ``average_gradients``, in each step. The processes are there already, and each sees one
    device alone.

    Args:
        ranks: Number of processes.
        place: Where this process stands among them.
    """

    def __init__(self, ranks: int, place: Place) -> None:
        super().__init__(cluster_environment=place)
        self.ranks = ranks

    @property
    def num_processes(self) -> int:
        """Number of processes."""
        return self.ranks

    @property
    def root_device(self) -> torch.device:
        """The device of this process."""
        assert self.parallel_devices is not None
        return self.parallel_devices[0]

    def _configure_launcher(self) -> None:
        """Launch nothing; Lightning's launcher would also set the number of threads."""
        self._launcher = None

    def configure_ddp(self) -> None:
        """Wrap nothing."""


class SameWeights(Callback):
    """Refuses a training whose processes ended with different weights."""

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        values = [value.detach().double() for value in pl_module.state_dict().values()]
        mine = torch.stack([torch.stack([value.sum(), value.square().sum()]) for value in values])
        first = mine.clone()
        dist.broadcast(first, 0)
        different = torch.tensor(int(not torch.equal(first.nan_to_num(), mine.nan_to_num())), device=mine.device)
        dist.all_reduce(different)
        if different:
            raise InputError("the processes of the training have different weights: a callback draws from no seed")


@contextmanager
def started(compute: Compute, training: Callable[..., object]) -> Iterator[Place]:
    """Start all processes of a training but this one, which is rank 0; they end with the block, and with this process.

    Args:
        compute: Where it is computed; its devices are the number of processes.
        training: Is called with ``progress`` and ``place`` in each of the others.

    Yields:
        The place of this process.

    Raises:
        InputError: The arguments cannot be sent to another process, or one of the processes failed.
    """
    import cloudpickle

    port = find_free_network_port()
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(each for each in sys.path if each)}
    gpus = [each for each in os.environ.get(VISIBLE, "").split(",") if each]
    others: list[subprocess.Popen[bytes]] = []
    try:
        for number in range(1, compute.devices):
            command = [sys.executable, "-c", OTHER, str(number), str(port)]
            own = {**environment, VISIBLE: gpus[number] if number < len(gpus) else str(number)}
            pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
            others.append(subprocess.Popen(command, env=own, start_new_session=True, **pipes))
        for process in others:
            assert process.stdin is not None
            assert process.stdout is not None
            try:
                cloudpickle.dump((compute, training), process.stdin)
                process.stdin.flush()
            except BrokenPipeError:
                pass  # it ended, and is not ready
            except Exception as error:  # of many types, from whatever cannot be pickled
                raise InputError(
                    f"training.devices={compute.devices}: the training cannot be sent to another process "
                    f"({first_line(error)})"
                ) from error
            if process.stdout.read(1) != READY:
                raise InputError("a process of the training ended before it began; what it said stands above")
        try:
            yield Place(0, port)
        except RuntimeError as error:
            if _is_of_connection(error):
                raise InputError(
                    f"a process of the training ended ({first_line(error)}); the same command goes on at the last epoch"
                ) from error
            raise
        leave()  # a process may wait for this one to leave
        for process in others:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(END_SECONDS)
    finally:
        for process in others:
            process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    pipe.close()
        leave()


def _is_of_connection(error: RuntimeError) -> bool:
    """Whether gloo or NCCL says that the other side is gone."""
    return isinstance(error, dist.DistError) or "gloo" in str(error)


def leave() -> None:
    """Leave the group of processes; the next training makes a new one."""
    if dist.is_initialized():
        dist.destroy_process_group()
    rank_zero_only.rank = 0  # type: ignore[attr-defined]


class _Silent(TrainingProgress):
    """Shows nothing, in a process that is not rank 0."""

    def start(self, epochs: int, steps: int) -> None: ...
    def resumed(self, epoch: int) -> None: ...
    def step(self, epoch: int, step: int, loss: float) -> None: ...
    def epoch(self, epoch: Epoch) -> None: ...
    def say(self, line: str) -> None: ...
    def stop(self) -> None: ...


def _end_with_rank_0() -> None:
    while os.read(0, 1):  # until its other end is closed, by whatever ends that process
        pass
    os._exit(1)


def main(out: int) -> None:
    """Train as the rank that the command line says; what to train comes from the standard input.

    Args:
        out: File descriptor on which rank 0 waits until the training is read.
    """
    import cloudpickle

    from src.training.fit import use_compute

    compute, training = cloudpickle.load(sys.stdin.buffer)
    threading.Thread(target=_end_with_rank_0, daemon=True).start()
    os.write(out, READY)
    use_compute(compute)
    training(progress=_Silent(), place=Place(int(sys.argv[1]), int(sys.argv[2])))
    leave()
