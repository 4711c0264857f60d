"""The one place that knows NNCF: masks held by it, batch norm adapted by it, INT8 quantizers placed by it."""

from __future__ import annotations

import os

os.environ.setdefault("NNCF_CI", "1")  # before its import: no usage statistics are sent
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

from src.contracts import StoredWeight

HOOKS = "__nncf_hooks"


def hold_masks(model: nn.Module, example_input: Tensor) -> nn.Module:
    """Hook an all-true mask on every weight of a convolution or matrix product.

    Args:
        model: Changed in place; its root must not be an ``nn.Sequential``.
        example_input: ``[1, c, h, w]``.
    """
    held = nncf.prune(model, mode=nncf.PruneMode.UNSTRUCTURED_MAGNITUDE_LOCAL, ratio=0.0, examples_inputs=example_input)
    for mask in masks_of(held).values():
        mask.fill_(True)
    return held


def masks_of(model: nn.Module) -> dict[str, Tensor]:
    """The mask buffers by parameter name (bool, of the weight's shape).

    Write into them, and the forward pass multiplies by them. Ask anew each time: moving a model to another device or
    memory format replaces its buffers.
    """
    return {name: cast(Tensor, hook.binary_mask) for name, hook in sorted(get_pruned_modules(model).items())}


def hold_logits(model: nn.Module, example_input: Tensor) -> nn.Module:
    """Hook a learned gate on every weight of a convolution or matrix product (regularization-based pruning).

    Args:
        model: Changed in place; its root must not be an ``nn.Sequential``.
        example_input: ``[1, c, h, w]``.
    """
    return nncf.prune(model, mode=nncf.PruneMode.UNSTRUCTURED_REGULARIZATION_BASED, examples_inputs=example_input)


def logits_of(model: nn.Module) -> dict[str, nn.Parameter]:
    """The gates' logits by parameter name, of the weight's shape; a weight is pruned below 0."""
    return {name: gate.mask for name, gate in sorted(get_gated_modules(model).items())}


def density_penalty(model: nn.Module, strength: float) -> RBLoss:
    """``((density - (1 - target_ratio)) / strength)^2`` when called; ``target_ratio`` may be set at any time."""
    return RBLoss(model, target_ratio=0.0, p=strength)


def weights_of(model: nn.Module, names: Iterable[str]) -> dict[str, Tensor]:
    """Parameters by name."""
    return {name: model.get_parameter(name) for name in names}


def plain_state(model: nn.Module) -> dict[str, Tensor]:
    """The state dict without anything of NNCF's."""
    return {name: value for name, value in model.state_dict().items() if not name.startswith(HOOKS)}


def adapt_batch_norm(model: nn.Module, images: Iterable[Tensor], batches: int) -> None:
    """Move the running statistics of batch normalization towards what ``images`` give, in place."""
    nncf.batch_norm_adaptation(model, nncf.Dataset(list(images)), num_iterations=batches)


def quantize(
    model: nn.Module, images: Iterable[Tensor], *, bias_correction: bool, per_channel: bool, ignored: Sequence[str]
) -> nn.Module:
    """Place symmetric INT8 quantizers (activations per tensor) and calibrate them.

    Args:
        model: Changed in place, in eval mode.
        images: Calibration batches ``[n, c, h, w]``; all are used.
        bias_correction: Correct biases for the mean error on them.
        per_channel: A scale for each output channel of a weight, or one a tensor.
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


def config_of(model: nn.Module) -> dict[str, Any]:
    """Where NNCF hooked what, as JSON can hold it."""
    return cast("dict[str, Any]", nncf.torch.get_config(model))


def restore(model: nn.Module, config: Mapping[str, Any]) -> nn.Module:
    """Hook onto ``model`` what ``config_of`` recorded."""
    return nncf.torch.load_from_config(model, dict(config))


def lower(model: nn.Module, example_input: Tensor) -> nn.Module:
    """A copy whose quantizers are torch's own fake-quantize operators, which exporters know."""
    return cast(nn.Module, nncf.strip(model, do_copy=True, example_input=example_input)).eval()


@torch.no_grad()
def integer_weights(model: nn.Module) -> dict[str, StoredWeight]:
    """The integers that stand for each quantized weight, by parameter name."""
    parameters = dict(model.named_parameters())
    found: dict[str, StoredWeight] = {}
    for name, hook in get_hook_storage(model).named_hooks():
        kind, operation, port = decode_hook_name(name)
        weight = ".".join([*operation.split("/")[:-2], "weight"])  # layer/of/module/conv2d/0
        if kind == "pre_hooks" and port == 1 and weight in parameters:
            step = hook.scale.abs() / hook.level_high
            integers = torch.round(hook(parameters[weight]) / step).to(torch.int32)
            scale = step.detach().flatten().squeeze()
            found[weight] = StoredWeight(
                integers, int(hook.num_bits), scale, torch.zeros_like(scale, dtype=torch.int32)
            )
    return found
