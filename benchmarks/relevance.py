"""Which criterion finds the channels that a trained network can lose, if nothing is trained afterwards.

``python -m benchmarks.relevance --weights FILE [--json FILE] [--picture FILE]``

10 % to 60 % of the channels of the CIFAR-10 CNN are removed by relevance, Taylor, magnitude and at random. Scores come
from 10 training images of each class, drawn with three seeds; accuracy is on the 10,000 test images, and batch
normalization is left as it is. In one series every layer loses the same share (layerwise); in the other all layers
compete (global, each layer's scores divided by their norm, except relevance, which is comparable without). Yeom et al.
2021 recommend relevance for this regime.
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
from pathlib import Path
from typing import Any

import torch
from torch import nn
from zennit.rules import Epsilon, Norm, ZPlus

from src.contracts import Compressed, Context, DataSplits, ImageSet
from src.data.batches import evaluation_batches, example_image
from src.data.torchvision_sets import TorchvisionData
from src.methods.prune_channels import PruneChannels
from src.metrics.accuracy import torch_accuracy
from src.metrics.machine import machine
from src.models.small_cnn import SmallCNN
from src.models.weights import load_weights
from src.primitives.costs import Channels
from src.primitives.distributions import Global, Layerwise
from src.primitives.normalizations import ByNorm
from src.primitives.relevance import Relevance
from src.primitives.scores import Magnitude, Random, Taylor
from src.training.losses import CrossEntropy

SHARES, SEEDS, IMAGES_PER_CLASS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6), (0, 1, 2), 10
RULES = {"dense": Epsilon(1e-6), "convolution": ZPlus(1e-6), "addition": Norm(1e-6)}
SCORES: dict[str, Any] = {
    "relevance": Relevance(images=1000, **RULES),
    "taylor": Taylor(),
    "magnitude": Magnitude(),
    "random": Random(),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--weights", type=Path, required=True, help="weights of the trained CIFAR-10 CNN")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    parser.add_argument("--picture", type=Path, help="draw the curves into this file")
    parser.add_argument("--images", type=int, default=10_000, help="number of test images; fewer for a quick look")
    arguments = parser.parse_args()
    splits = data()
    model = SmallCNN(
        blocks=[[32, 32], [64, 64]], dense=256, padding=1, batch_norm=True, dropout=0.3, num_classes=10, in_channels=3,
        image_size=(32, 32),
    )  # fmt: skip
    load_weights(model, arguments.weights)
    test = splits.test.select(torch.arange(min(arguments.images, len(splits.test))))
    unpruned = torch_accuracy(model.eval(), evaluation_batches(splits, test, batch_size=500), 10).overall
    curves: dict[str, dict[str, list[list[float]]]] = {}
    for scope in ("layerwise", "global"):
        for name in SCORES:
            curves.setdefault(scope, {})[name] = [
                [accuracy(model, splits, test, scope, name, share, seed) for seed in SEEDS] for share in SHARES
            ]
            means = "  ".join(f"{100 * statistics.mean(seeds):5.1f}" for seeds in curves[scope][name])
            print(f"{scope:<10} {name:<10} {means}", flush=True)
    removed = ", ".join(f"{share:.0%}" for share in SHARES)
    print(f"{machine()}; unpruned network {100 * unpruned:.2f} %; columns: {removed} removed")
    record = {"machine": machine(), "whole": unpruned, "shares": SHARES, "seeds": SEEDS, "accuracy": curves}
    if arguments.json:
        arguments.json.write_text(json.dumps(record, indent=1) + "\n")
    if arguments.picture:
        draw(record, arguments.picture)


def data() -> DataSplits:
    """CIFAR-10, without augmentation."""
    return TorchvisionData(
        dataset="CIFAR10", root="data", sha256=None, validation_share=0.1, calibration_images=100, split_seed=0,
        mean=[0.4914, 0.4822, 0.4465], std=[0.2470, 0.2435, 0.2616], augmentation=None,
    ).load()  # fmt: skip


def balanced(images: ImageSet, seed: int) -> ImageSet:
    """``IMAGES_PER_CLASS`` images of every class, drawn at random."""
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))
    picked = [order[images.labels[order] == label][:IMAGES_PER_CLASS] for label in range(10)]
    return images.select(torch.cat(picked))


def accuracy(
    model: nn.Module, splits: DataSplits, test: ImageSet, scope: str, name: str, share: float, seed: int
) -> float:
    """Accuracy on test images after the channels are removed, without any training."""
    method = PruneChannels(
        sparsity=share,
        cost=Channels(),
        scores=SCORES[name],
        distribution=Layerwise() if scope == "layerwise" else Global(),
        normalization=None if scope == "layerwise" or name == "relevance" else ByNorm(),
        round_to=1,
        steps=1,
        ignored=[],
        batch_norm_batches=0,
        fine_tune=None,
    )
    scored = evaluation_batches(splits, balanced(splits.train, seed), batch_size=50)
    context = Context(scored, CrossEntropy(label_smoothing=0.0), example_image(splits), seed, _no_training)
    pruned = Compressed.of(method.compress(copy.deepcopy(model), context)).model
    return torch_accuracy(pruned, evaluation_batches(splits, test, batch_size=500), 10).overall


def draw(record: dict[str, Any], path: Path) -> None:
    """Draw mean and range over seeds, one panel for each scope."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, len(record["accuracy"]), figsize=(11, 4), sharey=True)
    shares = [100 * share for share in record["shares"]]
    for axis, (scope, curves) in zip(axes, record["accuracy"].items(), strict=True):
        for name, points in curves.items():
            axis.plot(shares, [100 * statistics.mean(seeds) for seeds in points], marker="o", markersize=3, label=name)
            axis.fill_between(shares, *([100 * edge(s) for s in points] for edge in (min, max)), alpha=0.15)
        axis.axhline(100 * record["whole"], color="black", linewidth=0.8, linestyle=":")
        axis.set_title(f"{scope}, not fine-tuned")
        axis.set_xlabel("channels removed, %")
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("test accuracy of the CIFAR-10 CNN, %")
    axes[0].legend()
    figure.tight_layout()
    figure.savefig(path, dpi=120)


def _no_training(*given: Any, **named: Any) -> None:
    raise AssertionError("nothing is trained here")


if __name__ == "__main__":
    main()
