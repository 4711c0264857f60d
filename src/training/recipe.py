"""What a training is made of, as values."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from src.contracts import Loss

KEEP = ("best", "last")
DEVICES = ("auto", "cpu", "cuda")
PRECISIONS = ("auto", "bf16", "float32")
WORKERS = "DNNC_WORKERS"  # in the environment: how many processes share this machine's cores


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How weights are trained.

    Attributes:
        epochs: At least 1.
        batch_size: At least 1.
        optimizer: Called with the parameters; a partial of a ``torch.optim`` class.
        rate: Factor of the learning rate at a share of all steps.
        loss: What is minimised.
        keep: ``best`` keeps the weights of the epoch best on validation data, ``last`` the last.
    """

    epochs: int
    batch_size: int
    optimizer: Callable[..., Any]
    rate: Callable[[float], float]
    loss: Loss
    keep: str

    def __post_init__(self) -> None:
        if self.epochs < 1:
            raise ValueError(f"epochs must be at least 1, and is {self.epochs}")
        if self.batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, and is {self.batch_size}")
        import torch

        try:
            self.optimizer([torch.zeros(1, requires_grad=True)])
        except (TypeError, ValueError) as error:
            raise ValueError(f"optimizer: {error}") from error
        if self.keep not in KEEP:
            raise ValueError(f"keep must be one of {', '.join(KEEP)}, and is {self.keep}")


@dataclass(frozen=True)
class Compute:
    """Where and how numbers are computed; part of a stage's identity, since results depend on it.

    Attributes:
        device: ``cpu`` or ``cuda``.
        precision: ``bf16`` (autocast) or ``float32``.
        threads: Of one process on the CPU.
    """

    device: str
    precision: str
    threads: int

    @classmethod
    def resolve(cls, device: str, precision: str, threads: str | int) -> Compute:
        """Replace each ``auto``: a GPU where there is one, bf16 where it is native, all usable cores.

        Raises:
            ValueError: An unknown word, or a device or precision that this machine lacks.
        """
        import torch

        if device not in DEVICES:
            raise ValueError(f"device must be one of {', '.join(DEVICES)}, and is {device}")
        if precision not in PRECISIONS:
            raise ValueError(f"precision must be one of {', '.join(PRECISIONS)}, and is {precision}")
        if threads != "auto" and (not isinstance(threads, int) or threads < 1):
            raise ValueError(f"threads must be auto or a number from 1, and is {threads}")
        gpu = torch.cuda.is_available()
        if device == "cuda" and not gpu:
            raise ValueError("device is cuda, and this machine has no usable GPU")
        device = "cuda" if gpu and device != "cpu" else "cpu"
        if precision == "auto":
            native = torch.cuda.is_bf16_supported(False) if device == "cuda" else cpu_has_bf16()
            precision = "bf16" if native else "float32"
        return cls(device, precision, usable_cores() if threads == "auto" else int(threads))


def usable_cores() -> int:
    """Processor cores for this process: those it may use, dealt out among the workers that run at once."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, cores // int(os.environ.get(WORKERS, "1")))


def cpu_has_bf16() -> bool:
    """Whether the processor multiplies bfloat16 natively."""
    import torch

    capabilities = torch.cpu.get_capabilities()
    return any(capabilities.get(name, False) for name in ("avx512_bf16", "amx_bf16", "bf16", "sve_bf16"))
