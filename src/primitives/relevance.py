"""Layer-wise relevance propagation: how much of the true label's logit flows through each weight."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_flatten, tree_unflatten
from zennit.core import BasicHook, ParamMod, zero_wrap

from src.contracts import Context
from src.primitives.folding import fold_batch_norm
from src.primitives.scores import batches_on_device

# Functions of torch by name, whether called as a module, a function, a method or in place.
CONVOLUTIONS = {f"conv{kind}{n}d" for kind in ("", "_transpose") for n in (1, 2, 3)}
DENSE = {"linear"}
ADDITIONS = {"add", "sub", "subtract", "rsub", "sum", "mean"}
ADDITIONS |= {f"{kind}avg_pool{n}d" for kind in ("", "adaptive_") for n in (1, 2, 3)}
PRODUCTS = {"mul", "multiply", "matmul", "mm", "bmm", "einsum"}
PASSING = {"relu", "relu6", "hardtanh", "leaky_relu", "prelu", "elu", "selu", "celu", "gelu", "silu", "mish"}
PASSING |= {"hardswish", "hardsigmoid", "sigmoid", "tanh", "softplus", "clamp", "clip", "neg", "pow", "square"}
PASSING |= {"div", "divide", "true_divide", "batch_norm", "instance_norm", "group_norm", "layer_norm"}


class Relevance:
    """Score each weight by the relevance that flows through it, summed over images and positions.

    Relevance starts as the true label's logit and is handed down from layer to layer: a weight gets
    ``R_ij = x_i w_ij / z_j * R_j`` of output unit j's relevance (of the positive contributions only, under z-plus).
    So the weights into a unit sum to the unit's relevance, but for the bias's share, and those into a channel to the
    relevance by which Yeom et al. rank filters. It is signed, as theirs is: what argues against the label goes first.

    Args:
        dense, convolution, addition: A rule each for matrix products, for convolutions, and for sums of activations
            (residual additions, averages), as zennit's ``Epsilon``, ``ZPlus``, ``Norm`` declare them.
        images: The first so many calibration images are used, at least 1.

    Paper: Yeom et al. 2021, arXiv:1912.08881, section 3; rules: Bach et al. 2015, doi:10.1371/journal.pone.0130140.
    Deviation: weights in place of filters.
    """

    def __init__(self, *, dense: BasicHook, convolution: BasicHook, addition: BasicHook, images: int) -> None:
        if images < 1:
            raise ValueError(f"images must be at least 1, and is {images}")
        self.images = images
        self.rules = {
            **dict.fromkeys(DENSE, dense),
            **dict.fromkeys(CONVOLUTIONS, convolution),
            **dict.fromkeys(ADDITIONS | PRODUCTS, addition),
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
            for total, scores in zip(totals, self.of_batch(folded, weights, images[:left], labels[:left]), strict=True):
                total += scores
            left -= len(images)
            if left <= 0:
                break
        return dict(zip(names, totals, strict=True))

    def of_batch(self, model: nn.Module, weights: Sequence[Tensor], images: Tensor, labels: Tensor) -> list[Tensor]:
        """What a batch adds to the scores; arguments as of ``flow``."""
        return self.flow(model, weights, images, labels)[1:]

    def flow(self, model: nn.Module, weights: Sequence[Tensor], images: Tensor, labels: Tensor) -> list[Tensor]:
        """The relevance of ``images``, then that of each of ``weights``.

        Args:
            model: In eval mode; no parameter but ``weights`` requires a gradient.
            weights: Parameters of ``model``.
            images, labels: ``[n, c, h, w]`` and ``[n]``.
        """
        leaf = images.detach().requires_grad_()
        with torch.enable_grad(), _Rules(self.rules):
            logits = model(leaf.clone())  # a clone, because a network may change its input in place
            started = logits.gather(1, labels.unsqueeze(1))
        return list(torch.autograd.grad(started, [leaf, *weights], started.detach(), materialize_grads=True))


class RelevanceMagnitude(Relevance):
    """Score each weight by the absolute value of its relevance in each image, summed over images.

    Relevance of both signs holds a network together. On digits a dense net at sparsity 0.5, not trained further, kept
    0.92 accuracy with absolute values and 0.62 with signs; ResNet-8 at 0.9, gradual and fine-tuned, kept 0.96 with
    absolute values and the gamma rule in convolutions, and 0.39 with z-plus, under which no weight that inhibits has
    relevance.

    Args:
        dense, convolution, addition, images: As of ``Relevance``.

    Paper: as ``Relevance``. Deviation: absolute values.
    """

    def of_batch(self, model: nn.Module, weights: Sequence[Tensor], images: Tensor, labels: Tensor) -> list[Tensor]:
        """What a batch adds to the scores, image by image; arguments as of ``flow``."""
        totals = [torch.zeros_like(weight, requires_grad=False) for weight in weights]
        for image, label in zip(images.split(1), labels.split(1), strict=True):
            for total, relevance in zip(totals, self.flow(model, weights, image, label)[1:], strict=True):
                total += relevance.abs()
        return totals


class _Rules(TorchFunctionMode):
    """While active, what torch computes hands relevance down in place of a gradient.

    Every call stands for itself, so that layers used twice, shared weights and functional layers are right. What is
    not named above keeps its gradient: that hands on all relevance where values are moved or chosen (concatenation,
    flattening, padding, max pooling), and is no relevance in attention, which is not covered.
    """

    def __init__(self, rules: dict[str, BasicHook]) -> None:
        super().__init__()
        self.rules = rules

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        leaves, structure = tree_flatten((args, kwargs or {}))
        at = [index for index, leaf in enumerate(leaves) if isinstance(leaf, Tensor)]
        tensors = [leaves[index] for index in at]
        name = getattr(func, "__name__", "").strip("_")
        if name == "log_softmax":
            return tensors[0]  # at the end of a network; relevance starts at the logits before it
        if name not in self.rules.keys() | PASSING or not any(tensor.requires_grad for tensor in tensors):
            return func(*args, **(kwargs or {}))
        in_place = func.__name__.endswith("_") or (kwargs or {}).get("inplace", False)

        def compute(*given: Tensor) -> Tensor:
            filled = list(leaves)
            for index, tensor in zip(at, given, strict=True):
                filled[index] = tensor.clone() if in_place else tensor
            called, named = tree_unflatten(filled, structure)
            return func(*called, **named)

        inputs = [tensors[0].clone() if in_place else tensors[0], *tensors[1:]]
        if name in PASSING:
            output = _Pass.apply(compute, *inputs)
        else:
            activations = sum(tensor.requires_grad and not _is_parameter(tensor) for tensor in tensors)
            output = _Share.apply(compute, self.rules[name], 0 if name in ADDITIONS else activations, *inputs)
        return tensors[0].copy_(output) if in_place else output


def _is_parameter(tensor: Tensor) -> bool:
    return tensor.is_leaf or (tensor._base is not None and tensor._base.is_leaf)  # transposed, reshaped


class _Pass(torch.autograd.Function):
    """Hands all relevance to the first tensor: activation functions, normalization, division."""

    @staticmethod
    def forward(ctx: Any, compute: Callable[..., Tensor], *tensors: Tensor) -> Tensor:
        ctx.others = len(tensors) - 1
        return compute(*tensors)

    @staticmethod
    def backward(ctx: Any, relevance: Tensor) -> Any:
        return (None, relevance, *[None] * ctx.others)


class _Share(torch.autograd.Function):
    """Hands relevance down by a zennit rule, to weights as to activations.

    The rule's slots say how input, weight and bias change, what divides the relevance, and how contributions are put
    together. ``factors`` activations that are multiplied by each other part the relevance equally; 0 for additions.
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
        changed, outputs = [], []
        for of_input, of_parameter, of_output in zip(
            rule.input_modifiers, map(ParamMod.ensure, rule.param_modifiers), rule.output_modifiers, strict=True
        ):
            first, *others = ctx.saved_tensors
            parameter = zero_wrap(of_parameter.zero_params)(of_parameter.modifier)
            tensors = [of_input(first), *map(parameter, others, ["weight", "bias", *[""] * len(others)])]
            tensors = [tensor.detach() for tensor in tensors]
            changed.append([tensors[index].requires_grad_() for index in needed])
            with torch.enable_grad():
                outputs.append(of_output(ctx.compute(*tensors)))
        shares = rule.gradient_mapper(relevance / max(ctx.factors, 1), outputs)
        gradients = []
        for output, inputs, share in zip(outputs, changed, [shares] if len(outputs) == 1 else shares, strict=True):
            # Saves the time where nothing flows, as where a rule looks at the negative inputs behind a ReLU.
            idle = not share.any() or (ctx.factors and not inputs[0].any())
            nothing = [torch.zeros_like(tensor) for tensor in inputs]
            gradients.append(nothing if idle else torch.autograd.grad(output, inputs, share))
        handed: list[Tensor | None] = [None] * len(ctx.saved_tensors)
        for index, *versions_and_slopes in zip(
            needed, zip(*changed, strict=True), zip(*gradients, strict=True), strict=True
        ):
            handed[index] = rule.reducer(*versions_and_slopes)
        return (None, None, None, *handed)
