"""What removing channels gains: latency in ONNX Runtime of VGG16 and ResNet-20 with half their MACs gone.

``python -m benchmarks.channels [--json FILE]``

The networks are those for 32x32 images, untrained: latency does not depend on accuracy. One thread, single images, the
original and the pruned file in turns; the median ratio over rounds is printed. ResNet-20 is measured twice: once with
every channel that the method may remove, once with the inner channels of its blocks alone (those that no addition ties
together).
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from src.contracts import Compressed, Context, ModelCard
from src.deploy.onnxruntime import OnnxRuntime
from src.methods.prune_channels import PruneChannels
from src.metrics.machine import machine
from src.models.resnet import CifarResNet
from src.models.vgg import Vgg
from src.primitives.costs import Macs
from src.primitives.distributions import Global
from src.primitives.normalizations import ByMean
from src.primitives.scores import Magnitude
from src.training.losses import CrossEntropy

ROUNDS, CALLS = 15, 40
VGG16: dict[str, Any] = {
    "blocks": [[64, 64], [128, 128], [256] * 3, [512] * 3, [512] * 3],
    "dense": 512,
    "dropout": 0.5,
}
EXAMPLE = torch.zeros(1, 3, 32, 32)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    arguments = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(1)
    vgg = Vgg(**VGG16, num_classes=10, in_channels=3, image_size=(32, 32)).eval()
    resnet = CifarResNet(depth=20, num_classes=10, in_channels=3).eval()
    cases = {
        "VGG16": (vgg, []),
        "ResNet-20": (resnet, []),
        "ResNet-20, inner channels": (resnet, ["conv", "blocks.*.conv2", "blocks.*.shortcut.*"]),
    }
    figures = {name: measure(model, ignored) for name, (model, ignored) in cases.items()}
    print(f"{machine()}; half the MACs removed, one image, one thread, medians of {ROUNDS} rounds in turns")
    for name, found in figures.items():
        print(
            f"{name:<28} MACs {found['macs_ratio']:.2f}x  latency {found['latency_ratio']:.2f}x "
            f"({found['ms']:.3f} ms of {found['ms_before']:.3f} ms)"
        )
    if arguments.json:
        arguments.json.write_text(json.dumps({"machine": machine(), **figures}, indent=1) + "\n")


def measure(model: nn.Module, ignored: list[str]) -> dict[str, float]:
    """MACs and latency of the pruned file against the original one, half of whose MACs are removed."""
    method = PruneChannels(
        sparsity=0.5,
        cost=Macs(),
        scores=Magnitude(),
        distribution=Global(),
        normalization=ByMean(),
        round_to=8,
        steps=1,
        ignored=ignored,
        batch_norm_batches=0,
        fine_tune=None,
    )
    context = Context([], CrossEntropy(label_smoothing=0.0), EXAMPLE, 0, _no_training)
    pruned = Compressed.of(method.compress(copy.deepcopy(model), context)).model
    with tempfile.TemporaryDirectory() as folder:
        sessions = [_session(network, Path(folder) / f"{at}.onnx") for at, network in enumerate((model, pruned))]
        times = [[_milliseconds(session) for session in sessions] for _ in range(ROUNDS)]
    return {
        "macs_ratio": Macs()(pruned, EXAMPLE) / Macs()(model, EXAMPLE),
        "latency_ratio": statistics.median(after / before for before, after in times),
        "ms_before": statistics.median(before for before, _ in times),
        "ms": statistics.median(after for _, after in times),
    }


def _session(model: nn.Module, path: Path) -> Any:
    target = OnnxRuntime(provider="CPUExecutionProvider", stored="float32")
    card = ModelCard(tuple("0123456789"), (3, 32, 32), (0.0,) * 3, (1.0,) * 3, "")
    target.export(model, EXAMPLE, path, card, {})
    return target.load(path, threads=1)


def _milliseconds(session: Any) -> float:
    """Median time of a call with one image."""
    image = np.zeros((1, 3, 32, 32), np.float32)
    times = []
    for _ in range(CALLS):
        started = time.perf_counter()
        session(image)
        times.append(1000 * (time.perf_counter() - started))
    return statistics.median(times)


def _no_training(*given: Any, **named: Any) -> None:
    raise AssertionError("nothing is trained here")


if __name__ == "__main__":
    main()
