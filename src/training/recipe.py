"""What a training is made of, and where and how its numbers are computed."""

from __future__ import annotations

import os
from dataclasses import dataclass

from src.contracts import Recipe

__all__ = ["WORKERS", "Compute", "Recipe", "cpu_has_bf16", "usable_cores"]

DEVICES = ("auto", "cpu", "cuda")
PRECISIONS = ("auto", "bf16", "float32")
STRATEGIES = ("auto", "ddp")  # of Lightning's; auto is ddp where there are several devices
WORKERS = "DNNC_WORKERS"  # environment variable: number of processes that share this machine's cores


@dataclass(frozen=True)
class Compute:
    """Where and how numbers are computed; part of a stage's identity, since results depend on it.

    Attributes:
        device: ``cpu`` or ``cuda``.
        precision: ``bf16`` (autocast) or ``float32``.
        threads: Number of CPU threads of one process.
        devices: Number of processes of one training, each on a device of its own; each takes its share of every batch.
    """

    device: str
    precision: str
    threads: int
    devices: int = 1

    @staticmethod
    def check(device: str, precision: str, threads: str | int, devices: int = 1, strategy: str = "auto") -> None:
        """Check the words before torch is imported.

        Raises:
            ValueError: A word is unknown.
        """
        if device not in DEVICES:
            raise ValueError(f"device must be one of {', '.join(DEVICES)}, and is {device}")
        if precision not in PRECISIONS:
            raise ValueError(f"precision must be one of {', '.join(PRECISIONS)}, and is {precision}")
        if threads != "auto" and (isinstance(threads, bool) or not isinstance(threads, int) or threads < 1):
            raise ValueError(f"threads must be auto or a number from 1, and is {threads}")
        if isinstance(devices, bool) or not isinstance(devices, int) or devices < 1:
            raise ValueError(f"devices must be a number from 1, and is {devices}")
        if strategy not in STRATEGIES:
            raise ValueError(
                f"strategy must be one of {', '.join(STRATEGIES)}, and is {strategy}: methods change whole weights in "
                f"every process, so that none may be divided among them"
            )

    @classmethod
    def resolve(
        cls, device: str, precision: str, threads: str | int, devices: int = 1, strategy: str = "auto"
    ) -> Compute:
        """Replace each ``auto``: a GPU if there is one, bf16 if the device computes in it natively, all usable cores.

        Raises:
            ValueError: A word is unknown, or this machine lacks the device.
        """
        cls.check(device, precision, threads, devices, strategy)
        import torch

        gpu = torch.cuda.is_available()
        if device == "cuda" and not gpu:
            raise ValueError("device is cuda, and this machine has no usable GPU")
        device = "cuda" if gpu and device != "cpu" else "cpu"
        if precision == "auto":
            native = torch.cuda.is_bf16_supported(False) if device == "cuda" else cpu_has_bf16()
            precision = "bf16" if native else "float32"
        if device == "cuda" and devices > torch.cuda.device_count():
            raise ValueError(f"devices is {devices}, and this machine has {torch.cuda.device_count()} usable GPUs")
        own = usable_cores() if device == "cuda" else max(1, usable_cores() // devices)
        return cls(device, precision, own if threads == "auto" else int(threads), devices)


def usable_cores() -> int:
    """Number of cores for this process: those that it may use, shared among the processes that run at once."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, cores // int(os.environ.get(WORKERS, "1")))


def cpu_has_bf16() -> bool:
    """Whether the processor multiplies bfloat16 natively."""
    import torch

    capabilities = torch.cpu.get_capabilities()
    return any(capabilities.get(name, False) for name in ("avx512_bf16", "amx_bf16", "bf16", "sve_bf16"))
