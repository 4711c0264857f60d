"""How much each layer bears: accuracy on validation data against what is done to that layer alone."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from src.contracts import Context
from src.methods.quantize_int8 import QuantizeInt8
from src.primitives.codebooks import Optimal, fit_codebook, share
from src.primitives.folding import fold_batch_norm
from src.primitives.layers import weight_names
from src.primitives.masks import keep_largest, kept
from src.primitives.quantizers import Symmetric, check_bits
from src.primitives.scores import magnitude_scores

Evaluate = Callable[[nn.Module], float]


@dataclass(frozen=True, kw_only=True)
class Grid:
    """What is tried on each layer.

    Attributes:
        sparsity: Shares of its weights removed by magnitude, each in (0, 1).
        bits: Of its weights, each 1 … 16, symmetric, a scale for each channel.
        clusters: Values its weights share, each at least 2.
        images: Of the validation split, at most; the first so many.
        float_layers: At most so many of the noisiest layers are left in floats, one more at a time, under INT8.
    """

    sparsity: Sequence[float]
    bits: Sequence[int]
    clusters: Sequence[int]
    images: int
    float_layers: int

    def __post_init__(self) -> None:
        if not (self.sparsity or self.bits or self.clusters):
            raise ValueError("sparsity, bits and clusters are empty: there is nothing to try")
        if any(not 0 < value < 1 for value in self.sparsity):
            raise ValueError(f"sparsity must be in (0, 1), and is {list(self.sparsity)}")
        for value in self.bits:
            check_bits(value)
        if any(not value >= 2 for value in self.clusters):
            raise ValueError(f"clusters must be at least 2, and are {list(self.clusters)}")
        if self.images < 1 or self.float_layers < 0:
            raise ValueError("images must be at least 1, and float_layers at least 0")


def sensitivity(
    model: nn.Module, grid: Grid, evaluate: Evaluate, example_input: Tensor, tell: Callable[[str], None]
) -> dict[str, Any]:
    """Change one layer at a time and measure.

    Args:
        model: In eval mode; left as it is. Batch normalization is folded in a copy, as it ships.
        grid: What is tried.
        evaluate: Accuracy on validation data, in [0, 1].
        example_input: ``[1, c, h, w]``.
        tell: Told of each layer when it is done.

    Returns:
        ``{"accuracy", "layers": {weight name: {"parameters", "sparsity", "bits", "clusters"}}}``, the last three of
        what was tried, as a word, to the accuracy: ``{"0.5": 0.98}``.

    Paper: Han et al. 2015, arXiv:1506.02626, section 4.1 and figure 6.
    """
    folded = copy.deepcopy(model).eval()
    fold_batch_norm(folded, example_input)
    layers: dict[str, Any] = {}
    for name in weight_names(folded):
        weight = folded.get_parameter(name)
        original = weight.detach().clone()
        tried: dict[str, dict[str, float]] = {"sparsity": {}, "bits": {}, "clusters": {}}
        for kind, values, change in (
            ("sparsity", grid.sparsity, _sparser),
            ("bits", grid.bits, _rounded),
            ("clusters", grid.clusters, _shared),
        ):
            for value in values:
                with torch.no_grad():
                    weight.copy_(change(original, value))
                tried[kind][str(value)] = evaluate(folded)
        with torch.no_grad():
            weight.copy_(original)
        layers[name] = {"parameters": weight.numel(), **tried}
        tell(name)
    return {"accuracy": evaluate(folded), "layers": layers}


def int8_noise(
    model: nn.Module, grid: Grid, evaluate: Evaluate, context: Context, validation: Iterable[tuple[Tensor, Tensor]]
) -> dict[str, Any]:
    """Where INT8 makes noise, and what leaving the noisiest layers in floats gains.

    Args:
        model: In eval mode; left as it is.
        grid: Says how many layers may be left in floats.
        evaluate: Accuracy on validation data, in [0, 1].
        context: Its calibration images calibrate, and are the first of the two sets that noise is measured on.
        validation: The second.

    Returns:
        ``{"accuracy", "accuracy_int8", "snr_db": {weight name: {"weight", "calibration", "validation"}},
        "left_in_float": [{"layers": […], "accuracy": …}, …], "advice": [names]}``; ratios of signal to noise in
        decibels, of each layer's weights and of its outputs.
    """
    method = QuantizeInt8(bias_correction=False, ignored=[], fine_tune=None)
    quantized = method.compress(copy.deepcopy(model), context)
    plain = copy.deepcopy(model).eval()
    fold_batch_norm(plain, context.example_input)
    names = weight_names(plain)
    stored = method.stored_weights(quantized)
    noise: dict[str, dict[str, float | None]] = {}
    outputs = {
        "calibration": output_snr(plain, quantized, names, context.calibration),
        "validation": output_snr(plain, quantized, names, validation),
    }
    for name in names:
        weight = plain.get_parameter(name).detach()
        values = None
        if name in stored:
            scale = stored[name].scale
            values = stored[name].integers * (scale.view(-1, *[1] * (weight.dim() - 1)) if scale.dim() else scale)
        noise[name] = {
            "weight": None if values is None else snr_db(weight, values),
            **{kind: found[name] for kind, found in outputs.items()},
        }
    accuracy, accuracy_int8 = evaluate(model), evaluate(quantized)
    worst = sorted(names, key=lambda name: noise[name]["validation"] or math.inf)
    left: list[dict[str, Any]] = []
    for count in range(1, min(grid.float_layers, len(names) - 1) + 1):
        kept_float = QuantizeInt8(bias_correction=False, ignored=worst[:count], fine_tune=None)
        mixed = kept_float.compress(copy.deepcopy(model), context)
        left.append({"layers": worst[:count], "accuracy": evaluate(mixed)})
    best = max(left, key=lambda entry: entry["accuracy"], default=None)
    gains = best is not None and best["accuracy"] > accuracy_int8
    return {
        "accuracy": accuracy,
        "accuracy_int8": accuracy_int8,
        "snr_db": noise,
        "left_in_float": left,
        "advice": best["layers"] if gains and best is not None else [],
    }


@torch.no_grad()
def output_snr(
    plain: nn.Module, quantized: nn.Module, names: Sequence[str], batches: Iterable[tuple[Tensor, Tensor]]
) -> dict[str, float]:
    """The ratio of signal to noise of each layer's output over all batches, in decibels."""
    signal = dict.fromkeys(names, 0.0)
    error = dict.fromkeys(names, 0.0)
    seen: list[dict[str, Tensor]] = [{}, {}]
    hooks = [
        network.get_submodule(name.rpartition(".")[0]).register_forward_hook(
            lambda _, inputs, output, name=name, into=into: into.__setitem__(name, output.detach())
        )
        for network, into in zip((plain, quantized), seen, strict=True)
        for name in names
    ]
    try:
        for images, _ in batches:
            plain(images)
            quantized(images)
            for name in names:
                signal[name] += float(seen[0][name].double().square().sum())
                error[name] += float((seen[0][name].double() - seen[1][name].double()).square().sum())
    finally:
        for hook in hooks:
            hook.remove()
    return {name: _decibels(signal[name], error[name]) for name in names}


def snr_db(values: Tensor, approximated: Tensor) -> float:
    """``10 log10(sum v^2 / sum (v - a)^2)``."""
    error = (values.double() - approximated.double()).square().sum()
    return _decibels(float(values.double().square().sum()), float(error))


def _decibels(signal: float, error: float) -> float:
    return 10 * math.log10(max(signal, 1e-30) / max(error, 1e-30))


def _sparser(weight: Tensor, sparsity: float) -> Tensor:
    return weight * keep_largest(magnitude_scores(weight), kept(weight.numel(), sparsity))


def _rounded(weight: Tensor, bits: float) -> Tensor:
    return Symmetric(per_channel=True, candidates=80)(weight, int(bits)).quantize(weight)


def _shared(weight: Tensor, clusters: float) -> Tensor:
    zero = weight == 0
    left = max(1, int(clusters) - bool(zero.any()))
    codebook = fit_codebook(weight[~zero], left, Optimal(bins=512), iterations=300, seed=0)
    return share(weight, codebook).masked_fill_(zero, 0.0)


def table(record: Mapping[str, Any]) -> list[str]:
    """A line a layer: the lost accuracy in points for each value tried."""
    base = record["accuracy"]
    first = next(iter(record["layers"].values()))
    columns = [(kind, value) for kind in ("sparsity", "bits", "clusters") for value in first[kind]]
    heads = ["layer", "weights", *(f"{_short(kind)}{value}" for kind, value in columns)]
    lines = [heads]
    for name, layer in record["layers"].items():
        lost = [f"{100 * (layer[kind][value] - base):+.2f}" for kind, value in columns]
        lines.append([name, f"{layer['parameters']:,}", *lost])
    widths = [max(len(line[at]) for line in lines) for at in range(len(heads))]
    return [
        "  ".join(
            cell.ljust(width) if at == 0 else cell.rjust(width)
            for at, (cell, width) in enumerate(zip(line, widths, strict=True))
        )
        for line in lines
    ]


def _short(kind: str) -> str:
    return {"sparsity": "s=", "bits": "b=", "clusters": "k="}[kind]
