"""The one module that knows NNCF: it holds masks and gates, adapts batch norm, and places INT8 quantizers."""

from __future__ import annotations

import os

os.environ.setdefault("NNCF_EXTENSION_LOAD_TIMEOUT", "900")  # it compiles once; a busy machine takes over a minute

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, cast

import nncf
import nncf.torch
import torch
from nncf.quantization.advanced_parameters import QuantizationParameters
from nncf.torch.function_hook.hook_storage import decode_hook_name
from nncf.torch.function_hook.pruning.magnitude.algo import get_pruned_modules
from nncf.torch.function_hook.pruning.rb.algo import get_pruned_modules as get_gated_modules
from nncf.torch.function_hook.pruning.rb.losses import RBLoss
from nncf.torch.function_hook.wrapper import get_hook_storage
from torch import Tensor, nn

from src.contracts import NNCF_HOOKS, StoredWeight

# Masks --------------------------------------------------------------------------------------------


def attach_masks(model: nn.Module, example_input: Tensor) -> nn.Module:
    """Attach a mask, True everywhere, to every weight of a convolution or matrix product.

    The forward pass multiplies the weights by their masks.

    Args:
        model: Changed in place; its root must not be an ``nn.Sequential``.
        example_input: ``[1, c, h, w]``.
    """
    masked = nncf.prune(
        model, mode=nncf.PruneMode.UNSTRUCTURED_MAGNITUDE_LOCAL, ratio=0.0, examples_inputs=example_input
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


def attach_gates(model: nn.Module, example_input: Tensor) -> nn.Module:
    """Attach a learned gate to every weight of a convolution or matrix product (regularization-based pruning).

    Args:
        model: Changed in place; its root must not be an ``nn.Sequential``.
        example_input: ``[1, c, h, w]``.
    """
    return nncf.prune(model, mode=nncf.PruneMode.UNSTRUCTURED_REGULARIZATION_BASED, examples_inputs=example_input)


def logits_of(gated: nn.Module) -> dict[str, nn.Parameter]:
    """The gates' logits by parameter name, of the weight's shape; a gate is closed below 0."""
    return {name: gate.mask for name, gate in sorted(get_gated_modules(gated).items())}


def density_penalty(gated: nn.Module, strength: float) -> RBLoss:
    """A function without arguments: ``((density - (1 - target_ratio)) / strength)^2``.

    Its attribute ``target_ratio``, the wanted sparsity, may be set at any time.
    """
    return RBLoss(gated, target_ratio=0.0, p=strength)


def plain_state(hooked: nn.Module) -> dict[str, Tensor]:
    """The state dict without what NNCF attached."""
    return {name: value for name, value in hooked.state_dict().items() if not name.startswith(NNCF_HOOKS)}


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
    patterns = [f"{re.escape(name.replace('.', '/'))}/.*" for name in ignored]
    return nncf.quantize(
        model,
        nncf.Dataset(batches),
        preset=nncf.QuantizationPreset.PERFORMANCE,
        subset_size=len(batches),
        ignored_scope=nncf.IgnoredScope(patterns=patterns) if patterns else None,
        advanced_parameters=nncf.AdvancedQuantizationParameters(
            disable_bias_correction=not bias_correction, weights_quantization_params=weights
        ),
    )


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
