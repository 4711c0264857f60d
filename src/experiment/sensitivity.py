"""How much each layer bears: the accuracy on validation data if that layer alone is changed."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from src.contracts import Console, Context, TrackedRun, first_line
from src.data.batches import calibration_batches, evaluation_batches, example_image
from src.display.tables import aligned
from src.experiment.making import BATCH, StageMaker, prepare
from src.experiment.plan import Plan
from src.files.records import write_record
from src.files.writing import replacing
from src.methods.quantize_int8 import QuantizeInt8
from src.metrics.accuracy import torch_accuracy
from src.primitives.codebooks import Optimal, fit_codebook, share
from src.primitives.folding import fold_batch_norm
from src.primitives.layers import weight_names
from src.primitives.masks import keep_largest, kept
from src.primitives.operands import operator_weights
from src.primitives.quantizers import Symmetric, check_bits
from src.primitives.scores import magnitude_scores
from src.primitives.sensitivity import read_sensitivity
from src.stages.store import StageStore

Evaluate = Callable[[nn.Module], float]
OnLayer = Callable[[str, Mapping[str, Any]], None]
SHORT = {"sparsity": "s", "bits": "b", "clusters": "k"}  # in the table's headings


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """What is tried on each layer.

    Attributes:
        sparsity: Shares of the layer's weights that are removed by magnitude, each in (0, 1).
        bits: Bit widths of the layer's weights, each 1 … 16, symmetric, a scale for each channel.
        clusters: Numbers of values that the layer's weights share, each at least 2.
        images: Largest number of validation images; the first ones are taken.
        float_layers: Largest number of the noisiest layers that are left in floats under INT8, one more at a time.
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


def read_analysis(file: str) -> Mapping[str, Any]:
    """The record that ``analyse`` wrote into ``file``; raises ValueError if it cannot be read as one."""
    return read_sensitivity(file)


def analyse(plan: Plan, sweep: Sweep, *, store: StageStore, console: Console, folder: Path) -> None:
    """Make or find the baseline, analyse it, write ``sensitivity.json`` and ``sensitivity.png``, and say the result.

    Args:
        plan: Without steps.
        sweep: What is tried on each layer.
        store: Where the baseline lives.
        console: Tells a person.
        folder: Where the two files are written.
    """
    splits = prepare(plan)
    console.begin(plan.name, plan.variant, plan.model_name, splits, plan.seed)
    maker = StageMaker(plan, splits, store=store, tracked=TrackedRun(), console=console, folder=folder)
    baseline = maker.make()[0]
    images = splits.validation.select(torch.arange(min(sweep.images, len(splits.validation))))

    def batches() -> Iterable[tuple[Tensor, Tensor]]:
        return evaluation_batches(splits, images, batch_size=BATCH)

    def evaluate(model: nn.Module) -> float:
        return torch_accuracy(model, batches(), len(splits.classes)).overall

    def no_training(*given: Any, **named: Any) -> None:
        raise AssertionError("a sensitivity analysis trains nothing")

    about = {"identity": baseline.identity, "model": plan.model_name, "data": splits.name, "images": len(images)}

    def write(record: Mapping[str, Any], int8: Mapping[str, Any] | None) -> None:
        write_record(folder / "sensitivity.json", {**about, **record, "int8": int8})

    def on_layer(name: str, record: Mapping[str, Any]) -> None:
        write(record, None)  # so that a later failure does not cost it
        console.line(f"{name} done")

    example = example_image(splits)
    record = sensitivity(baseline.model, sweep, evaluate, example, on_layer)
    draw(record, folder / "sensitivity.png", f"{plan.model_name} on {splits.name}")
    context = Context(calibration_batches(splits), plan.training.value.loss, example, plan.seed, no_training)
    int8 = _int8_or_reason(baseline.model, sweep, evaluate, context, batches())
    write(record, int8)
    for line in ["", *table(record), "", *int8_lines(int8), f"Written: {folder}"]:
        console.line(line)


def _int8_or_reason(*measured: Any) -> dict[str, Any]:
    """``int8_noise``; the reason, as ``{"refused": …}``, if this network cannot be quantized."""
    try:
        return int8_noise(*measured)
    except Exception as error:  # NNCF raises errors of any type
        return {"refused": first_line(error)}


def sensitivity(
    model: nn.Module, sweep: Sweep, evaluate: Evaluate, example_input: Tensor, on_layer: OnLayer
) -> dict[str, Any]:
    """Change one layer at a time and measure.

    Args:
        model: In eval mode; left as it is. Batch normalization is folded in a copy, as it ships.
        sweep: What is tried.
        evaluate: Accuracy on validation data, in [0, 1].
        example_input: ``[1, c, h, w]``.
        on_layer: Called with the name of each layer when it is done, and with the record up to it.

    Returns:
        ``{"accuracy", "layers": {weight name: {"parameters", "sparsity", "bits", "clusters"}}}``; the last three map
        each value that was tried, as text, to the accuracy: ``{"0.5": 0.98}``.

    Paper: Han et al. 2015, arXiv:1506.02626, section 4.1 and figure 6.
    """
    folded = copy.deepcopy(model).eval()
    fold_batch_norm(folded, example_input)
    accuracy = evaluate(folded)
    layers: dict[str, Any] = {}
    for name in operator_weights(folded, example_input):
        weight = folded.get_parameter(name)
        original = weight.detach().clone()
        tried: dict[str, dict[str, float]] = {"sparsity": {}, "bits": {}, "clusters": {}}
        for kind, values, change in (
            ("sparsity", sweep.sparsity, _sparser),
            ("bits", sweep.bits, _rounded),
            ("clusters", sweep.clusters, _shared),
        ):
            for value in values:
                with torch.no_grad():
                    weight.copy_(change(original, value))
                tried[kind][str(value)] = evaluate(folded)
        with torch.no_grad():
            weight.copy_(original)
        layers[name] = {"parameters": weight.numel(), **tried}
        on_layer(name, {"accuracy": accuracy, "layers": layers})
    return {"accuracy": accuracy, "layers": layers}


def int8_noise(
    model: nn.Module, sweep: Sweep, evaluate: Evaluate, context: Context, validation: Iterable[tuple[Tensor, Tensor]]
) -> dict[str, Any]:
    """Measure the noise that INT8 makes in each layer, and the accuracy gained if the noisiest layers stay in floats.

    Args:
        model: In eval mode; left as it is.
        sweep: Says how many layers may be left in floats.
        evaluate: Accuracy on validation data, in [0, 1].
        context: Its calibration images calibrate INT8; noise is measured on them and on ``validation``.
        validation: Batches of validation images.

    Returns:
        ``{"accuracy", "accuracy_int8", "snr_db": {weight name: {"weight", "calibration", "validation"}},
        "left_in_float": [{"layers": […], "accuracy": …}, …], "advice": [names]}``; ratios of signal to noise in
        decibels, of each layer's weights and of its outputs.
    """
    method = QuantizeInt8(bias_correction=False, ignored=[], fine_tune=None, reduce_range=False)
    quantized = method.compress(copy.deepcopy(model), context).model
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
        noise[name] = {
            "weight": snr_db(weight, stored[name].values()) if name in stored else None,
            **{kind: found[name] for kind, found in outputs.items()},
        }
    accuracy, accuracy_int8 = evaluate(model), evaluate(quantized)
    worst = sorted(names, key=lambda name: noise[name]["validation"] or math.inf)
    left: list[dict[str, Any]] = []
    for count in range(1, min(sweep.float_layers, len(names) - 1) + 1):
        kept_float = QuantizeInt8(bias_correction=False, ignored=worst[:count], fine_tune=None, reduce_range=False)
        mixed = kept_float.compress(copy.deepcopy(model), context).model
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
    """The signal-to-noise ratio of each layer's output over all batches, in decibels."""
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
    """A line a layer: the lost accuracy in points for each value that was tried."""
    base = record["accuracy"]
    first = next(iter(record["layers"].values()))
    columns = [(kind, value) for kind in SHORT for value in first[kind]]
    lines = [["layer", "weights", *(f"{SHORT[kind]}={value}" for kind, value in columns)]]
    for name, layer in record["layers"].items():
        lost = [f"{100 * (layer[kind][value] - base):+.2f}" for kind, value in columns]
        lines.append([name, f"{layer['parameters']:,}", *lost])
    return aligned(lines, left=1)


def int8_lines(int8: Mapping[str, Any]) -> list[str]:
    """What INT8 does, in words."""
    if "refused" in int8:
        return [f"INT8 cannot be measured on this network: {int8['refused']}"]
    lines = [f"INT8: {100 * int8['accuracy_int8']:.2f} % of validation images, float {100 * int8['accuracy']:.2f} %"]
    worst = sorted(int8["snr_db"].items(), key=lambda item: item[1]["validation"])[:3]
    for name, noise in worst:
        weight = "float" if noise["weight"] is None else f"{noise['weight']:.1f} dB"
        lines.append(
            f"  {name}: weights {weight}, outputs {noise['calibration']:.1f} dB on calibration and "
            f"{noise['validation']:.1f} dB on validation images"
        )
    for entry in int8["left_in_float"]:
        lines.append(f"  {', '.join(entry['layers'])} left in float: {100 * entry['accuracy']:.2f} %")
    advice = ",".join(int8["advice"])
    lines.append(f"Advice: method.ignored=[{advice}]" if advice else "Advice: no layer need stay in float.")
    return lines


def draw(record: Mapping[str, Any], path: Path, title: str) -> None:
    """Three panels, a line a layer."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    kinds = [kind for kind in SHORT if next(iter(record["layers"].values()))[kind]]
    figure, axes = pyplot.subplots(1, len(kinds), figsize=(5 * len(kinds), 4), sharey=True, squeeze=False)
    for axis, kind in zip(axes[0], kinds, strict=True):
        for name, layer in record["layers"].items():
            points = sorted((float(value), 100 * accuracy) for value, accuracy in layer[kind].items())
            axis.plot(*zip(*points, strict=True), marker="o", markersize=3, label=name)
        axis.axhline(100 * record["accuracy"], color="black", linewidth=0.8, linestyle=":")
        axis.set_xlabel(f"{kind} of this layer alone")
        if kind == "clusters":
            axis.set_xscale("log", base=2)
        axis.grid(alpha=0.3)
    axes[0][0].set_ylabel("validation accuracy, %")
    if len(record["layers"]) <= 20:
        axes[0][-1].legend(fontsize=7)
    figure.suptitle(title)
    figure.tight_layout()
    with replacing(path) as part:
        figure.savefig(part, dpi=120, format="png")
    pyplot.close(figure)
