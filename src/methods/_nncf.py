"""The one module that knows NNCF: it holds masks and gates, adapts batch norm, and places INT8 quantizers."""

from __future__ import annotations

import os

os.environ.setdefault("NNCF_EXTENSION_LOAD_TIMEOUT", "900")  # it compiles once; a busy machine takes over a minute

import copy
import functools
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, cast

import nncf
import nncf.torch
import torch
from nncf.quantization.advanced_parameters import QuantizationParameters
from nncf.torch.function_hook.hook_storage import decode_hook_name
from nncf.torch.function_hook.nncf_graph.nncf_graph_builder import build_nncf_graph
from nncf.torch.function_hook.pruning.magnitude.algo import apply_magnitude_pruning, get_pruned_modules
from nncf.torch.function_hook.pruning.rb.algo import apply_regularization_based_pruning
from nncf.torch.function_hook.pruning.rb.algo import get_pruned_modules as get_gated_modules
from nncf.torch.function_hook.wrapper import get_hook_storage, wrap_model
from nncf.torch.quantization.layers import SymmetricQuantizer
from torch import Tensor, nn

from src.contracts import NNCF_HOOKS, StoredWeight

# Masks --------------------------------------------------------------------------------------------


def attach_masks(model: nn.Module, names: Collection[str]) -> nn.Module:
    """Attach a mask, True everywhere, to the parameters ``names``, by which each use of them is multiplied.

    Args:
        model: Changed in place; its root must not be an ``nn.Sequential``.
        names: Names of parameters.
    """
    masked = apply_magnitude_pruning(
        wrap_model(model), set(names), mode=nncf.PruneMode.UNSTRUCTURED_MAGNITUDE_LOCAL, ratio=0.0
    )
    for mask in masks_of(masked).values():
        mask.fill_(True)
    return masked


def masks_of(masked: nn.Module) -> dict[str, Tensor]:
    """The mask buffers by parameter name (bool, of the weight's shape).

    Do not store them: moving a model to another device or memory format replaces its buffers.
    """
    return {name: cast(Tensor, hook.binary_mask) for name, hook in sorted(get_pruned_modules(masked).items())}


def set_masks(masked: nn.Module, masks: Mapping[str, Tensor]) -> None:
    """Write ``masks`` (bool, by parameter name) into the mask buffers; other buffers stay."""
    buffers = masks_of(masked)
    for name, mask in masks.items():
        buffers[name].copy_(mask)


@torch.no_grad()
def bake_masks(masked: nn.Module, plain: nn.Module) -> nn.Module:
    """Give ``plain`` the weights of ``masked`` multiplied by their masks, in place, on the device of ``masked``.

    Args:
        masked: A network with masks.
        plain: The same network without masks; changed in place.
    """
    plain.to(next(masked.parameters()).device).load_state_dict(plain_state(masked))
    for name, mask in masks_of(masked).items():
        plain.get_parameter(name).mul_(mask)
    return plain


# Gates --------------------------------------------------------------------------------------------


def attach_gates(model: nn.Module, names: Collection[str]) -> nn.Module:
    """Attach a learned gate to each number of the parameters ``names`` (regularization-based pruning).

    Args:
        model: Changed in place; its root must not be an ``nn.Sequential``.
        names: Names of parameters.
    """
    return apply_regularization_based_pruning(wrap_model(model), set(names))


def logits_of(gated: nn.Module) -> dict[str, nn.Parameter]:
    """The gates' logits by parameter name, of the weight's shape; a gate is closed below 0."""
    return {name: gate.mask for name, gate in sorted(get_gated_modules(gated).items())}


class DensityPenalty:
    """``((density - wanted density) / strength)^2`` of gates, as NNCF's ``RBLoss``, but without reading it on the host.

    Args:
        gated: A network with gates.
        strength: Divisor, more than 0.
    """

    def __init__(self, gated: nn.Module, strength: float) -> None:
        self.gated, self.strength = gated, strength
        self.density = torch.ones(())

    def aim(self, sparsity: float) -> None:
        """Want this sparsity, in [0, 1), from now on."""
        self.density.fill_(1 - sparsity)

    def __call__(self) -> Tensor:
        """The penalty now, ``[]``."""
        kept = [gate.loss() for gate in get_gated_modules(self.gated).values()]
        total = functools.reduce(torch.add, [each.sum() for each in kept])
        self.density = self.density.to(total.device)
        weights = sum(each.numel() for each in kept)
        return ((total / weights - self.density) / self.strength).pow(2)


def plain_state(hooked: nn.Module) -> dict[str, Tensor]:
    """The state dict without what NNCF attached; the versions of layers stay in it: some load no other."""
    state = hooked.state_dict()
    for name in [name for name in state if name.startswith(NNCF_HOOKS)]:
        del state[name]
    return state


# Batch normalization ------------------------------------------------------------------------------


def adapt_batch_norm(model: nn.Module, calibration: Iterable[tuple[Tensor, Tensor]], batches: int) -> None:
    """Move the running statistics of batch normalization towards those of the calibration images, in place.

    Args:
        model: Changed in place.
        calibration: Batches ``(images, labels)``.
        batches: Number of batches that are used.
    """
    nncf.batch_norm_adaptation(model, nncf.Dataset([images for images, _ in calibration]), num_iterations=batches)


# Quantizers ---------------------------------------------------------------------------------------


def quantize(
    model: nn.Module, images: Iterable[Tensor], *, bias_correction: bool, per_channel: bool, ignored: Sequence[str]
) -> nn.Module:
    """Place symmetric INT8 quantizers (activations per tensor) and calibrate them.

    Args:
        model: Changed in place, in eval mode.
        images: Calibration batches ``[n, c, h, w]``; all are used.
        bias_correction: Correct biases for the mean error on them.
        per_channel: Use a scale for each output channel of a weight, or else one for each tensor.
        ignored: Names of modules that stay floats.
    """
    batches = list(images)
    weights = QuantizationParameters(per_channel=per_channel)
    operators = _operators_of(model, batches[0], ignored)
    return nncf.quantize(
        model,
        nncf.Dataset(batches),
        preset=nncf.QuantizationPreset.PERFORMANCE,
        subset_size=len(batches),
        ignored_scope=nncf.IgnoredScope(names=operators) if operators else None,
        advanced_parameters=nncf.AdvancedQuantizationParameters(
            disable_bias_correction=not bias_correction, weights_quantization_params=weights
        ),
    )


def _operators_of(model: nn.Module, images: Tensor, layers: Collection[str]) -> list[str]:
    """The names that NNCF gives to the operators that take a parameter of ``layers``.

    NNCF calls an operator by the modules that are called around it, and a list of modules is not called; parameters it
    knows by identity.
    """
    if not layers:
        return []
    graph = build_nncf_graph(wrap_model(copy.deepcopy(model)), images)
    names = []
    for node in graph.get_all_nodes():
        parents = {before.node_name for before in graph.get_previous_nodes(node)}
        if any(f"{layer}.weight" in parents for layer in layers):
            names.append(node.node_name)
    return sorted(names)


class _Rounding(torch.autograd.Function):
    """NNCF's symmetric quantizer and its gradients (nncf/torch/quantization/reference.py), computed in float32."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, scale: Tensor, low: int, high: int) -> Tensor:
        ctx.save_for_backward(values, scale)
        ctx.limits = low, high
        step = scale / high
        return ((values.float() / step).round().clamp(low, high) * step).to(values.dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        (values, scale), (low, high) = ctx.saved_tensors, ctx.limits
        wide, gradient, lowest = values.float(), gradients[0].float(), scale * (low / high)
        step = scale / high
        above, below = wide > scale, wide < lowest
        rounded = (wide / step).round().clamp(low, high) * step
        inside = torch.where(above | below, 0.0, 1.0)
        share = torch.where(above, 1.0, torch.where(below, low / high, (rounded - wide) / (scale - lowest)))
        return (gradient * inside).to(values.dtype), (gradient * share).sum_to_size(scale.shape), None, None


class _OnDevice(SymmetricQuantizer):
    """NNCF's symmetric quantizer in torch's own operators, its settings read from the device once.

    NNCF's own reads six numbers on the host in each forward pass, and its CUDA extension takes a minute to compile.
    """

    def forward(self, x: Tensor) -> Tensor:
        if not x.is_cuda:
            return super().forward(x)
        limits = getattr(self, "limits", None)
        if limits is None:
            self.limits = limits = self.level_low, self.level_high
        return _Rounding.apply(x, self.scale.float().abs() + self.eps, *limits)


@contextmanager
def on_device(hooked: nn.Module) -> Iterator[None]:
    """Let the enabled quantizers of a network that is trained on a GPU read nothing on the host, within the block."""
    changed = [m for _, m in get_hook_storage(hooked).named_hooks() if type(m) is SymmetricQuantizer]
    changed = [quantizer for quantizer in changed if quantizer.is_enabled_quantization()]
    for quantizer in changed:
        quantizer.__class__ = _OnDevice
    try:
        yield
    finally:
        for quantizer in changed:
            quantizer.__class__ = SymmetricQuantizer
            quantizer.__dict__.pop("limits", None)


def config_of(hooked: nn.Module) -> dict[str, Any]:
    """Record what NNCF attached, and where, as JSON can hold it."""
    return cast("dict[str, Any]", nncf.torch.get_config(hooked))


def restore(model: nn.Module, config: Mapping[str, Any]) -> nn.Module:
    """Attach to ``model`` what ``config_of`` recorded."""
    return nncf.torch.load_from_config(model, dict(config))


def lower(hooked: nn.Module, example_input: Tensor) -> nn.Module:
    """Copy the network with torch's own fake-quantize operators, which exporters know, in place of NNCF's."""
    return cast(nn.Module, nncf.strip(hooked, do_copy=True, example_input=example_input)).eval()


@torch.no_grad()
def integer_weights(hooked: nn.Module) -> dict[str, StoredWeight]:
    """The integers of each quantized weight, by parameter name."""
    parameters = dict(hooked.named_parameters())
    found: dict[str, StoredWeight] = {}
    for name, hook in get_hook_storage(hooked).named_hooks():
        kind, operation, port = decode_hook_name(name)
        weight = ".".join([*operation.split("/")[:-2], "weight"])  # layer/of/module/conv2d/0
        if kind == "pre_hooks" and port == 1 and weight in parameters:
            step = hook.scale.abs() / hook.level_high
            integers = torch.round(hook(parameters[weight]) / step).to(torch.int32)
            scale = step.detach().flatten().squeeze()
            zero_point = torch.zeros_like(scale, dtype=torch.int32)
            found[weight] = StoredWeight(integers, int(hook.num_bits), scale, zero_point)
    return found
