"""Layer-wise relevance propagation: how much of the true label's logit flows through each weight."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_flatten, tree_unflatten
from zennit.core import BasicHook, ParamMod, zero_wrap

from src.contracts import Context
from src.primitives.folding import fold_batch_norm
from src.primitives.scores import batches_on_device

# Functions of torch by name, called as a module, a function, a method or in place.
CONVOLUTIONS = {f"conv{kind}{n}d" for kind in ("", "_transpose") for n in (1, 2, 3)}
DENSE = {"linear"}
ADDITIONS = {"add", "sub", "subtract", "rsub", "sum", "mean"}
ADDITIONS |= {f"{kind}avg_pool{n}d" for kind in ("", "adaptive_") for n in (1, 2, 3)}
PRODUCTS = {"mul", "multiply", "matmul", "mm", "bmm", "einsum"}
PASSING = {"relu", "relu6", "hardtanh", "leaky_relu", "prelu", "elu", "selu", "celu", "gelu", "silu", "mish"}
PASSING |= {"hardswish", "hardsigmoid", "sigmoid", "tanh", "softplus", "clamp", "clip", "neg", "pow", "square"}
ATTENTION = {"scaled_dot_product_attention", "multi_head_attention_forward"}
PASSING |= {"div", "divide", "true_divide", "batch_norm", "instance_norm", "group_norm", "layer_norm"}


@dataclass(frozen=True, kw_only=True)
class Relevance:
    """Score each weight by the relevance that flows through it, summed over images and positions.

    Relevance starts as the true label's logit and is propagated from layer to layer, back to the image. A weight gets
    ``R_ij = x_i w_ij / z_j * R_j`` of output unit j's relevance (of the positive contributions only, under z-plus).
    So the weights into a unit sum to the unit's relevance, less the bias's share, and those into a channel sum to the
    relevance by which Yeom et al. rank filters. Scores are signed, as theirs are: weights that speak against the label
    go first.

    Attributes:
        dense: zennit rule for matrix products, e.g. ``Epsilon``.
        convolution: zennit rule for convolutions, e.g. ``ZPlus``.
        addition: zennit rule for sums of activations (residual additions, averages), e.g. ``Norm``.
        images: Number of calibration images that are used, from the first on, at least 1.

    Paper: Yeom et al. 2021, arXiv:1912.08881, section 3; rules: Bach et al. 2015, doi:10.1371/journal.pone.0130140.
    Deviation: weights in place of filters.
    """

    dense: BasicHook
    convolution: BasicHook
    addition: BasicHook
    images: int

    def __post_init__(self) -> None:
        if self.images < 1:
            raise ValueError(f"images must be at least 1, and is {self.images}")

    @property
    def rules(self) -> dict[str, BasicHook]:
        """The rule of each function of torch, by name."""
        return {
            **dict.fromkeys(DENSE, self.dense),
            **dict.fromkeys(CONVOLUTIONS, self.convolution),
            **dict.fromkeys(ADDITIONS | PRODUCTS, self.addition),
        }

    def __call__(self, model: nn.Module, names: Sequence[str], context: Context) -> dict[str, Tensor]:
        device = model.get_parameter(names[0]).device
        folded = copy.deepcopy(model).cpu().eval()
        fold_batch_norm(folded, context.example_input.cpu())
        folded.to(device).requires_grad_(False)
        weights = [folded.get_parameter(name).requires_grad_() for name in names]
        totals = [torch.zeros_like(weight, requires_grad=False) for weight in weights]
        left = self.images
        for images, labels in batches_on_device(model, context):
            scores = self.batch_scores(folded, weights, images[:left], labels[:left])
            for total, score in zip(totals, scores, strict=True):
                total += score
            left -= len(images)
            if left <= 0:
                break
        return dict(zip(names, totals, strict=True))

    def batch_scores(self, model: nn.Module, weights: Sequence[Tensor], images: Tensor, labels: Tensor) -> list[Tensor]:
        """The scores of one batch; arguments as in ``propagate``."""
        return self.propagate(model, weights, images, labels)[1:]

    def propagate(self, model: nn.Module, weights: Sequence[Tensor], images: Tensor, labels: Tensor) -> list[Tensor]:
        """Propagate relevance from the labels' logits to the images.

        Args:
            model: In eval mode; no parameter except ``weights`` requires a gradient.
            weights: Parameters of ``model``.
            images: ``[n, c, h, w]``.
            labels: ``[n]``.

        Returns:
            The relevance of ``images``, then that of each of ``weights``, in their shapes.
        """
        leaf = images.detach().requires_grad_()
        with torch.enable_grad(), _Rules(self.rules):
            logits = model(leaf.clone())  # a clone, because a network may change its input in place
            start = logits.gather(1, labels.unsqueeze(1))
        return list(torch.autograd.grad(start, [leaf, *weights], start.detach(), materialize_grads=True))


@dataclass(frozen=True, kw_only=True)
class RelevanceMagnitude(Relevance):
    """Score each weight by the absolute value of its relevance in each image, summed over images.

    A network needs relevance of both signs. On digits, a dense network at sparsity 0.5 that was not trained further
    kept an accuracy of 0.92 with absolute values and 0.62 with signs. ResNet-8 at sparsity 0.9, reached gradually and
    fine-tuned, kept 0.96 with absolute values and the gamma rule in convolutions, and 0.39 with z-plus, under which no
    weight that inhibits has relevance.

    Attributes:
        dense: zennit rule for matrix products, e.g. ``Epsilon``.
        convolution: zennit rule for convolutions, e.g. ``Gamma``.
        addition: zennit rule for sums of activations (residual additions, averages), e.g. ``Norm``.
        images: Number of calibration images that are used, from the first on, at least 1.

    Paper: as ``Relevance``. Deviation: absolute values.
    """

    def batch_scores(self, model: nn.Module, weights: Sequence[Tensor], images: Tensor, labels: Tensor) -> list[Tensor]:
        """The scores of one batch, image by image; arguments as in ``propagate``."""
        totals = [torch.zeros_like(weight, requires_grad=False) for weight in weights]
        for image, label in zip(images.split(1), labels.split(1), strict=True):
            for total, relevance in zip(totals, self.propagate(model, weights, image, label)[1:], strict=True):
                total += relevance.abs()
        return totals


class _Rules(TorchFunctionMode):
    """While active, the backward pass propagates relevance in place of gradients.

    Each call of a function has a backward pass of its own, so layers that are used twice, shared weights and functional
    layers are handled correctly. A function that is not named above keeps its gradient: that propagates all relevance
    if values are moved or selected (concatenation, flattening, padding, max pooling). It would be wrong for attention,
    which is refused.
    """

    def __init__(self, rules: dict[str, BasicHook]) -> None:
        super().__init__()
        self.rules = rules

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        leaves, structure = tree_flatten((args, kwargs or {}))
        places = [index for index, leaf in enumerate(leaves) if isinstance(leaf, Tensor)]
        tensors = [leaves[index] for index in places]
        name = getattr(func, "__name__", "").strip("_")
        if name == "log_softmax":
            return tensors[0]  # at the end of a network; relevance starts at the logits before it
        if name in ATTENTION or (name == "softmax" and tensors[0].dim() > 2):
            raise ValueError("relevance cannot be propagated through attention; choose other scores")
        if name not in self.rules.keys() | PASSING or not any(tensor.requires_grad for tensor in tensors):
            return func(*args, **(kwargs or {}))
        in_place = func.__name__.endswith("_") or (kwargs or {}).get("inplace", False)

        def compute(*given: Tensor) -> Tensor:
            """Call the function with other tensors in the same places."""
            filled = list(leaves)
            for index, tensor in zip(places, given, strict=True):
                filled[index] = tensor.clone() if in_place else tensor
            positional, named = tree_unflatten(filled, structure)
            return func(*positional, **named)

        inputs = [tensors[0].clone() if in_place else tensors[0], *tensors[1:]]
        if name in PASSING:
            output = _PassOn.apply(compute, *inputs)
        else:
            activations = sum(tensor.requires_grad and not _is_parameter(tensor) for tensor in tensors)
            output = _ShareByRule.apply(compute, self.rules[name], 0 if name in ADDITIONS else activations, *inputs)
        return tensors[0].copy_(output) if in_place else output


def _is_parameter(tensor: Tensor) -> bool:
    """Whether it is a parameter, or a view of one (transposed, reshaped)."""
    return tensor.is_leaf or (tensor._base is not None and tensor._base.is_leaf)


class _PassOn(torch.autograd.Function):
    """Gives all relevance to the first tensor: activation functions, normalization, division."""

    @staticmethod
    def forward(ctx: Any, compute: Callable[..., Tensor], *tensors: Tensor) -> Tensor:
        ctx.others = len(tensors) - 1
        return compute(*tensors)

    @staticmethod
    def backward(ctx: Any, relevance: Tensor) -> Any:
        return (None, relevance, *[None] * ctx.others)


class _ShareByRule(torch.autograd.Function):
    """Shares relevance among the inputs by a zennit rule; weights get shares as activations do.

    The rule says how input, weight and bias are changed, what the relevance is divided by, and how contributions are
    combined. ``factors`` is the number of activations that are multiplied with each other, which share the relevance
    equally; 0 for additions.
    """

    @staticmethod
    def forward(ctx: Any, compute: Callable[..., Tensor], rule: BasicHook, factors: int, *tensors: Tensor) -> Tensor:
        ctx.compute, ctx.rule, ctx.factors = compute, rule, factors
        ctx.save_for_backward(*tensors)
        return compute(*tensors)

    @staticmethod
    def backward(ctx: Any, relevance: Tensor) -> Any:
        rule = ctx.rule
        needed = [index for index, need in enumerate(ctx.needs_input_grad[3:]) if need]
        inputs, outputs = [], []  # one entry for each variant that the rule looks at, e.g. positive and negative inputs
        for modify_input, modify_parameter, modify_output in zip(
            rule.input_modifiers, map(ParamMod.ensure, rule.param_modifiers), rule.output_modifiers, strict=True
        ):
            first, *others = ctx.saved_tensors
            parameter = zero_wrap(modify_parameter.zero_params)(modify_parameter.modifier)
            tensors = [modify_input(first), *map(parameter, others, ["weight", "bias", *[""] * len(others)])]
            tensors = [tensor.detach() for tensor in tensors]
            inputs.append([tensors[index].requires_grad_() for index in needed])
            with torch.enable_grad():
                outputs.append(modify_output(ctx.compute(*tensors)))
        shares = rule.gradient_mapper(relevance / max(ctx.factors, 1), outputs)
        gradients = []
        for output, variant, share in zip(outputs, inputs, [shares] if len(outputs) == 1 else shares, strict=True):
            # Saves time if no relevance flows, e.g. if a rule looks at negative inputs, and a ReLU comes before.
            idle = not share.any() or (ctx.factors and not variant[0].any())
            nothing = [torch.zeros_like(tensor) for tensor in variant]
            gradients.append(nothing if idle else torch.autograd.grad(output, variant, share))
        relevances: list[Tensor | None] = [None] * len(ctx.saved_tensors)
        for index, *variants_and_gradients in zip(
            needed, zip(*inputs, strict=True), zip(*gradients, strict=True), strict=True
        ):
            relevances[index] = rule.reducer(*variants_and_gradients)
        return (None, None, None, *relevances)
