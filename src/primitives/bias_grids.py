"""The grids of biases in a fake-quantized network: integer kernels add a bias to sums of products of integers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

WEIGHTED = ("conv1d", "conv2d", "conv3d", "linear")
KEEPING = (  # operators whose output is on the grid of their input
    *("permute", "transpose", "reshape", "view", "flatten", "squeeze", "unsqueeze", "contiguous", "clone"),
    *("__getitem__", "unbind", "chunk", "split", "roll", "pad", "relu", "relu_", "hardtanh", "dropout", "max_pool2d"),
)
JOINING = ("cat", "concat", "concatenate")
LIMIT = 2**31  # of the integers that stand for a bias


class _Grids(TorchFunctionMode):
    """Follows the scales of quantized tensors to the biases of the layers that read them."""

    def __init__(self) -> None:
        super().__init__()
        self.known: dict[int, tuple[Tensor, Tensor]] = {}  # by id: the tensor, which stays alive, and its scale
        self.biases: dict[int, Tensor] = {}  # by id: the step of a bias, [] or [out]

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        named = kwargs or {}
        result, name = func(*args, **named), getattr(func, "__name__", "")
        first = self._grid(args[0] if args else named.get("input"), name)
        if name.startswith("fake_quantize_per"):
            self.known[id(result)] = result, torch.as_tensor(args[1])
        elif name in (*KEEPING, *JOINING) and first is not None and first.numel() == 1:
            for each in result if isinstance(result, (tuple, list)) else [result]:
                self.known[id(each)] = each, first
        elif name in WEIGHTED and first is not None:
            weight = self.known.get(id(args[1] if len(args) > 1 else named.get("weight")))
            bias = args[2] if len(args) > 2 else named.get("bias")
            if weight is not None and bias is not None and first.numel() == 1:
                self.biases[id(bias)] = first.squeeze() * weight[1].squeeze()
        return result

    def _grid(self, read: Any, name: str) -> Tensor | None:
        """The scale of what an operator reads first: of a tensor, or of all tensors that ``cat`` joins."""
        joined = list(read) if name in JOINING and read is not None else [read]
        scales = [self.known[id(each)][1] for each in joined if id(each) in self.known]
        same = len(scales) == len(joined) > 0 and all(torch.equal(scale, scales[0]) for scale in scales)
        return scales[0] if same else None


@torch.no_grad()
def rounded_biases(model: nn.Module, example_input: Tensor) -> dict[str, Tensor]:
    """Round each bias to the steps in which an integer kernel adds it: scale of the input times scale of the weight.

    A bias that lies beyond 32 bits in these steps is left out.

    Args:
        model: A network with torch's fake quantizers; it is left as it was.
        example_input: One image, ``[1, c, h, w]``.

    Returns:
        The rounded biases by parameter name.

    Paper: Jacob et al. 2018, arXiv:1712.05877, section 2.4.

    >>> class Layer(nn.Linear):
    ...     def forward(self, image):
    ...         image = torch.fake_quantize_per_tensor_affine(image, 0.5, 0, -128, 127)
    ...         weight = torch.fake_quantize_per_tensor_affine(self.weight, 0.25, 0, -128, 127)
    ...         return nn.functional.linear(image, weight, self.bias)
    >>> layer = Layer(1, 1)
    >>> layer.bias.data = torch.tensor([0.3])
    >>> rounded_biases(layer, torch.ones(1, 1))  # in steps of 0.5 x 0.25
    {'bias': tensor([0.2500])}
    """
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    with _Grids() as grids:
        model(example_input)
    found = {}
    for key, step in grids.biases.items():
        if key not in names:
            continue
        bias = model.get_parameter(names[key])
        integers = torch.round(bias.double() / step.double())
        if integers.abs().max() < LIMIT:
            found[names[key]] = integers.float() * step
    return found
