"""What the processor that runs the tests can compute; the same test is as strict as the processor allows."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from src.training.recipe import cpu_has_bf16


def saturates() -> bool:
    """Whether runtimes add pairs of products u8 x s8 in 16 bits, which overflow: x86 without VNNI instructions."""
    capabilities = torch.cpu.get_capabilities()
    vnni = any(capabilities.get(name, False) for name in ("avx512_vnni", "avx_vnni", "amx_int8"))
    return capabilities.get("architecture") == "x86_64" and not vnni


BF16, SATURATES = cpu_has_bf16(), saturates()


def exact_logits(path: Path, images: np.ndarray) -> np.ndarray:
    """What ONNX Runtime computes of a file with kernels that do not overflow: the file's own answer, anywhere."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.add_session_config_entry("session.x64quantprecision", "1")
    logits: np.ndarray = onnxruntime.InferenceSession(str(path), options).run(None, {"image": images})[0]
    return logits
