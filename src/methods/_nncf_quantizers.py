"""INT8 quantizers that NNCF places: trained in torch's own operators, recorded, and lowered for the exporters."""

from __future__ import annotations

import copy
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, cast

import nncf
import nncf.torch
import torch
from nncf.common.graph import NNCFGraph, NNCFNode
from nncf.common.graph.patterns import IgnoredPatternNames
from nncf.common.quantization.structs import QuantizationScheme, QuantizerConfig
from nncf.quantization.advanced_parameters import OverflowFix, QuantizationParameters
from nncf.torch.function_hook.nncf_graph.nncf_graph_builder import build_nncf_graph
from nncf.torch.function_hook.wrapper import get_hook_storage, wrap_model
from nncf.torch.quantization import extensions, reference
from nncf.torch.quantization.ignored_patterns import PT_IGNORED_PATTERNS
from nncf.torch.quantization.layers import AsymmetricQuantizer, BaseQuantizer, PTQuantizerSpec, SymmetricQuantizer
from nncf.torch.quantization.quantize_functions import TuneRange
from nncf.torch.quantization.reference import ReferenceQuantizedFunctions
from nncf.torch.quantization.strip import convert_to_torch_fakequantizer
from torch import Tensor, nn
from torch.ao.quantization import FakeQuantize

from src.contracts import StoredWeight
from src.primitives.rounding import Rounding

# NNCF compiles C++ at the first call of a quantizer of its own (in bias correction), and what it has beside that by
# torch.compile; these are torch's operators, one after the other.
extensions.QuantizedFunctionsCPU._loaded_namespace = ReferenceQuantizedFunctions
extensions.QuantizedFunctionsCUDA._loaded_namespace = ReferenceQuantizedFunctions
for _function in (reference.torch_forward, reference.torch_backward):
    _function._compiled_func = _function._func

LEFT_BY_NNCF = (IgnoredPatternNames.SE_BLOCK, IgnoredPatternNames.MULTIHEAD_ATTENTION_OUTPUT)
QUANTIZING = ("symmetric_quantize", "asymmetric_quantize")
CLAMPS = ("relu", "relu_", "relu6", "hardtanh", "hardtanh_", "dropout")  # fused with a quantizer after them
# They change no value, and NNCF puts a quantizer before them rather than after them.
MOVES = (
    *("permute", "transpose", "reshape", "view", "flatten", "squeeze", "unsqueeze", "contiguous"),
    *("__getitem__", "unbind", "chunk", "split", "roll", "clone"),
)
WEIGHTED = {
    "convolution": ("conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d"),
    "product": ("linear", "matmul", "__matmul__", "bmm", "mm", "addmm", "baddbmm"),
}
NORMALIZATIONS = ["layer_norm", "group_norm", "instance_norm", "rms_norm"]  # every runtime computes them in floats

# Training -----------------------------------------------------------------------------------------


class _Symmetric(SymmetricQuantizer):
    """NNCF's symmetric quantizer in torch's own operators; levels are read from the device once, not in each pass.

    Attributes:
        skipped: Whether it lets values pass; ``without_output_quantizers`` sets it.
    """

    levels_now: tuple[int, int]
    skipped = False

    def set_levels(self) -> None:
        super().set_levels()
        self.levels_now = self.level_low, self.level_high

    def forward(self, x: Tensor) -> Tensor:
        if self.skipped or not x.is_floating_point():  # positions and masks are counted in integers
            return x
        low, high = self.levels_now
        reach = self.scale.float().abs() + self.eps
        return cast(Tensor, Rounding.apply(x, reach.detach() * (low / high), reach, low, high))


class _Asymmetric(AsymmetricQuantizer):
    """NNCF's asymmetric quantizer in torch's own operators."""

    levels_now: tuple[int, int]

    def set_levels(self) -> None:
        super().set_levels()
        self.levels_now = self.level_low, self.level_high

    def forward(self, x: Tensor) -> Tensor:
        low, high = self.levels_now
        reach = self.input_range.float().abs() + self.eps
        lowest, reach = TuneRange.apply(self.input_low.float(), reach, high - low + 1)
        return cast(Tensor, Rounding.apply(x, lowest, reach, low, high))


OURS: Mapping[type[BaseQuantizer], type[BaseQuantizer]] = {
    SymmetricQuantizer: _Symmetric,
    AsymmetricQuantizer: _Asymmetric,
}
THEIRS = {ours.__name__: theirs for theirs, ours in OURS.items()}


def _use_ours(hooked: nn.Module) -> nn.Module:
    """Give every quantizer of the network the class that needs no compiled extension, in place."""
    for _, quantizer in get_hook_storage(hooked).named_hooks():
        if type(quantizer) in OURS:
            quantizer.__class__ = OURS[type(quantizer)]
            quantizer.set_levels()
    return hooked


# Placing ------------------------------------------------------------------------------------------


def quantize(
    model: nn.Module,
    images: Iterable[Tensor],
    *,
    bias_correction: bool,
    per_channel: bool,
    reduce_range: bool,
    ignored: Collection[str],
) -> nn.Module:
    """Place symmetric INT8 quantizers (activations per tensor) and calibrate them.

    Args:
        model: Changed in place, in eval mode.
        images: Calibration batches ``[n, c, h, w]``; all are used.
        bias_correction: Correct biases for the mean error on them.
        per_channel: Use a scale for each output channel of a weight where NNCF can, or else one for each tensor.
        reduce_range: Keep every weight in -64 … 64, or else those of the first layers alone.
        ignored: Names of parameters whose operators stay floats.
    """
    device = next(model.parameters()).device
    batches = [batch.to(device) for batch in images]
    scope = nncf.IgnoredScope(names=_operators_of(model, batches[0], ignored), types=NORMALIZATIONS, validate=False)
    with _everything():
        quantized = nncf.quantize(
            model,
            nncf.Dataset(batches),
            preset=nncf.QuantizationPreset.PERFORMANCE,
            subset_size=len(batches),
            ignored_scope=scope,
            advanced_parameters=nncf.AdvancedQuantizationParameters(
                disable_bias_correction=not bias_correction,
                overflow_fix=OverflowFix.ENABLE if reduce_range else OverflowFix.FIRST_LAYER,
                # NNCF would give a depthwise convolution's input a scale for each channel, which no runtime has
                activations_quantization_params=QuantizationParameters(per_channel=False),
                weights_quantization_params=None if per_channel else QuantizationParameters(per_channel=False),
            ),
        )
    _quantize_outputs(quantized, batches)
    return _use_ours(quantized)


class _Range(nn.Module):
    """Measures the output of an operator: its largest absolute value in each batch, and its sign."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.largest: list[Tensor] = []
        self.signed = False

    def forward(self, values: Tensor) -> Tensor:
        self.largest.append(values.abs().max())
        self.signed = self.signed or bool((values < 0).any())
        return values


@torch.no_grad()
def _quantize_outputs(hooked: nn.Module, batches: Sequence[Tensor]) -> None:
    """Place a quantizer on each output of a convolution or product that NNCF leaves in floats, in place.

    NNCF leaves it where OpenVINO fuses the next operation (hard swish, SiLU, GELU) and on the logits. The integer
    kernels of other runtimes need a scale there; ``output_of`` on the quantizer says for which operator it is.
    """
    storage = get_hook_storage(hooked)
    found = _float_outputs(build_nncf_graph(hooked, batches[0]))
    ranges = {name: _Range(kind) for name, kind in found.items()}
    handles = [storage.register_post_function_hook(name, 0, each) for name, each in ranges.items()]
    for batch in batches:
        hooked(batch)
    for handle in handles:
        handle.remove()
    for name, measured in ranges.items():
        settings = QuantizerConfig(num_bits=8, mode=QuantizationScheme.SYMMETRIC, per_channel=False)
        fixed = {"narrow_range": False, "half_range": False, "logarithm_scale": False, "is_quantized_on_export": False}
        quantizer = SymmetricQuantizer(PTQuantizerSpec.from_config(settings, scale_shape=(1,), **fixed))
        quantizer.signed = measured.signed
        largest = torch.stack(measured.largest)
        reach = largest.max() if measured.kind == "product" else largest.mean()  # two logits that are cut off are equal
        quantizer.scale = nn.Parameter(reach.clamp(min=1e-6).view(1))
        quantizer.output_of = measured.kind
        storage.register_post_function_hook(name, 0, quantizer.to(batches[0].device))


def _float_outputs(graph: NNCFGraph) -> dict[str, str]:
    """Operators that take integers and whose output is read before it is quantized: ``convolution`` or ``product``."""

    def quantized(node: NNCFNode) -> bool:
        after = graph.get_next_nodes(node)
        through = [each for each in after if each.node_type in CLAMPS]
        return bool(after) and all(
            each.node_type in QUANTIZING or (each in through and quantized(each)) for each in after
        )

    def integer(node: NNCFNode) -> bool:
        if node.node_type in (*MOVES, "dropout"):
            before = graph.get_previous_nodes(node)
            return bool(before) and integer(before[0])
        return node.node_type in QUANTIZING

    found = {}
    for node in graph.get_all_nodes():
        kind = next((kind for kind, names in WEIGHTED.items() if node.node_type in names), None)
        operands = [edge.from_node for edge in graph.get_input_edges(node) if edge.input_port_id in (0, 1)]
        takes_integers = bool(operands) and all(map(integer, operands))
        if kind is not None and takes_integers and not quantized(node):
            found[node.node_name] = kind
    return found


@contextmanager
def _everything() -> Iterator[None]:
    """Let NNCF also place quantizers in squeeze-and-excitation and attention, which it leaves in floats by itself."""
    patterns = PT_IGNORED_PATTERNS.registry_dict
    kept = {name: patterns.pop(name) for name in LEFT_BY_NNCF if name in patterns}
    try:
        yield
    finally:
        patterns.update(kept)


def _operators_of(model: nn.Module, images: Tensor, parameters: Collection[str]) -> list[str]:
    """The names that NNCF gives to the operators that use one of ``parameters`` as it is, or computed from it.

    NNCF calls an operator by the modules that are called around it, and a list of modules is not called; parameters it
    knows by identity.
    """
    if not parameters:
        return []
    wrapped = wrap_model(copy.deepcopy(model))
    wanted = {id(wrapped.get_parameter(name)) for name in parameters}
    named = dict(wrapped.named_parameters(remove_duplicate=False))
    graph = build_nncf_graph(wrapped, images)
    constant: set[str] = set()  # nodes whose result does not depend on the image
    using: set[str] = set()  # those of them that are computed from a wanted parameter
    names = []
    for node in graph.topological_sort():
        before = [each.node_name for each in graph.get_previous_nodes(node)]
        parameter = named.get(node.node_name)
        if node.node_type == "nncf_model_const" or (before and all(each in constant for each in before)):
            constant.add(node.node_name)
            if id(parameter) in wanted or any(each in using for each in before):
                using.add(node.node_name)
        elif any(each in using for each in before):
            names.append(node.node_name)
    return sorted(names)


def _quantizers(hooked: nn.Module) -> Iterator[tuple[str, BaseQuantizer]]:
    """Each place of a quantizer; one that several places share comes several times."""
    for name, hook in get_hook_storage(hooked).named_hooks(remove_duplicate=False):
        if isinstance(hook, BaseQuantizer):
            yield name, hook


def output_quantizers(hooked: nn.Module) -> dict[str, str]:
    """For what operator each quantizer of an output is that NNCF left in floats, by the quantizer's place."""
    kinds = {place: quantizer.__dict__.get("output_of") for place, quantizer in _quantizers(hooked)}
    return {place: kind for place, kind in kinds.items() if kind is not None}


@torch.no_grad()
def mark_weights(hooked: nn.Module, example_input: Tensor) -> dict[str, str]:
    """Note on each weight quantizer the name of its parameter; return these names by the quantizer's place.

    One forward pass tells: what the quantizer is given is the parameter itself.
    """
    names = {id(parameter): name for name, parameter in hooked.named_parameters()}
    found: dict[str, str] = {}
    handles = []
    for place, quantizer in _quantizers(hooked):

        def note(module: nn.Module, inputs: tuple[Tensor, ...], place: str = place) -> None:
            if id(inputs[0]) in names:
                found[place] = names[id(inputs[0])]
                module.weight_name = found[place]  # type: ignore[assignment]

        handles.append(quantizer.register_forward_pre_hook(note))
    try:
        hooked(example_input.to(next(hooked.parameters()).device))
    finally:
        for handle in handles:
            handle.remove()
    return found


def weight_of(quantizer: nn.Module) -> str | None:
    """Name of the parameter that a quantizer reads, as ``mark_weights`` noted it; None for an activation's."""
    return cast("str | None", quantizer.__dict__.get("weight_name"))


# Records ------------------------------------------------------------------------------------------


def config_of(hooked: nn.Module) -> dict[str, Any]:
    """Record what NNCF attached, and where, as JSON can hold it."""
    config = cast("dict[str, Any]", nncf.torch.get_config(hooked))
    for entry in config["compression_state"]:
        theirs = THEIRS.get(entry["module_cls_name"])
        if theirs is not None:
            entry |= {"module_cls_name": theirs.__name__, "module_path": theirs.__module__}
    return config


def restore(
    model: nn.Module, config: Mapping[str, Any], weights: Mapping[str, str], outputs: Mapping[str, str]
) -> nn.Module:
    """Attach to ``model`` what ``config_of``, ``mark_weights`` and ``output_quantizers`` recorded."""
    restored = _use_ours(nncf.torch.load_from_config(model, dict(config)))
    quantizers = dict(_quantizers(restored))
    for place, name in weights.items():
        quantizers[place].weight_name = name
    for place, kind in outputs.items():
        quantizers[place].output_of = kind
    return restored


# Lowering -----------------------------------------------------------------------------------------


class _LoweredQuantizer(FakeQuantize):
    """torch's fake quantizer with its settings fixed: without the branches on tensors that exporters cannot follow."""

    limits: tuple[int, int]

    def forward(self, X: Tensor) -> Tensor:  # noqa: N803
        if self.skipped or not X.is_floating_point():
            return X
        if self.is_per_channel:
            return torch.fake_quantize_per_channel_affine(X, self.scale, self.zero_point, self.ch_axis, *self.limits)
        return torch.fake_quantize_per_tensor_affine(X, self.scale, self.zero_point, *self.limits)

    @classmethod
    def of(cls, quantizer: BaseQuantizer) -> FakeQuantize:
        """The same grid as that of NNCF's ``quantizer``."""
        lowered = convert_to_torch_fakequantizer(quantizer)
        lowered.__class__ = cls
        lowered.limits = lowered.quant_min, lowered.quant_max
        lowered.skipped = False
        lowered.output_of = quantizer.__dict__.get("output_of")
        return lowered


@torch.no_grad()
def lower(hooked: nn.Module) -> nn.Module:
    """Copy the network with torch's own fake-quantize operators, which exporters know, in place of NNCF's.

    NNCF's own ``strip`` replaces a quantizer that several places share in one of them alone.
    """
    lowered = copy.deepcopy(hooked).eval()
    storage = get_hook_storage(lowered)
    for place, quantizer in list(_quantizers(lowered)):
        name = weight_of(quantizer)
        if name is not None:
            parameter = lowered.get_parameter(name)
            parameter.copy_(quantizer(parameter))  # a weight's grid is -127 … 127, and an operator's -128 … 127
        storage.set_submodule(place, _LoweredQuantizer.of(quantizer))
    return lowered


@torch.no_grad()
def integer_weights(hooked: nn.Module) -> dict[str, StoredWeight]:
    """The integers of each quantized weight, by parameter name."""
    found: dict[str, StoredWeight] = {}
    for _, quantizer in _quantizers(hooked):
        name = weight_of(quantizer)
        if name is None:
            continue
        values = hooked.get_parameter(name)
        _, _, scale, zero_point = quantizer.get_parameters_for_torch_fq()
        scale, zero_point = scale.detach().flatten(), zero_point.flatten().to(torch.int32)
        axis = max(range(len(quantizer.scale_shape)), key=lambda at: quantizer.scale_shape[at])
        if scale.numel() > 1 and axis:
            continue  # a file's weights have scales along their first axis
        along = (-1, *[1] * (values.dim() - 1)) if scale.numel() > 1 else (1,)
        integers = torch.round(quantizer(values) / scale.view(along) + zero_point.view(along)).to(torch.int32)
        found[name] = StoredWeight(integers, int(quantizer.num_bits), scale.squeeze(), zero_point.squeeze())
    return found
