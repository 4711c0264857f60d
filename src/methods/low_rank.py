"""Low-rank factorisation: each layer as two thin ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from src.contracts import Context, NoEffectError
from src.primitives.folding import replace_module
from src.primitives.layers import per_layer, refuse_shared, weight_names, without
from src.primitives.ranks import Rank


class LowRank:
    """Factorise dense layers and convolutions by truncated singular value decomposition, where that saves weights.

    A dense layer ``W [out, in]`` becomes ``in -> r`` without bias and ``r -> out``. A convolution ``[out, in, kh, kw]``
    is decomposed as the matrix ``[out, in kh kw]``: a convolution ``in -> r`` of the same kernel, stride and padding,
    and one of 1x1 ``r -> out``. Grouped convolutions stay as they are.

    Args:
        rank: Chooses a layer's rank from its singular values; or one for each pattern of weight names.
        ignored: Patterns of weight names that are left as they are.
        fine_tune: How the factors are trained; None leaves them.

    Paper: Denton et al. 2014, arXiv:1404.0736, section 3; convolutions: Zhang et al. 2015, arXiv:1505.06798,
    section 3.1, without its response reconstruction.
    """

    undoes: ClassVar = {
        "zeros": "the factors of a sparse matrix are dense",
        "shared values": "the factors have new values",
    }

    def __init__(self, *, rank: Rank | Mapping[str, Rank], ignored: Sequence[str], fine_tune: Any) -> None:
        self.rank, self.ignored, self.fine_tune = rank, list(ignored), fine_tune
        self._ranks: dict[str, int] = {}

    def compress(self, model: nn.Module, context: Context) -> nn.Module:
        """Factorise; raises NoEffectError where no layer would get smaller."""
        names = without(weight_names(model), self.ignored)
        ranks = per_layer(self.rank, names, "rank")
        refuse_shared(model, names, "factorising would untie them; add it to ignored")
        self._ranks = {}
        for name in names:
            layer = name.rpartition(".")[0]
            factors = factorise(model.get_submodule(layer), ranks[name])
            if factors is not None:
                replace_module(model, layer, factors)
                self._ranks[layer] = factors.rank
        if not self._ranks:
            raise NoEffectError("no layer would get smaller at this rank: nothing was factorised")
        try:
            with torch.no_grad():
                model.eval()(context.example_input)
        except Exception as error:  # a forward that reaches for a factorised layer's weight may raise anything
            raise ValueError(f"the factorised network does not run ({error}); add that layer to ignored") from error
        if self.fine_tune is not None:
            context.fine_tune(model, self.fine_tune)
        return model

    def structure(self, model: nn.Module) -> dict[str, Any]:
        """The rank of each layer that this step factorised."""
        return {"ranks": dict(self._ranks)}

    def rebuild(self, model: nn.Module, structure: Mapping[str, Any]) -> nn.Module:
        """Put factors of the recorded ranks where they were."""
        self._ranks = dict(structure["ranks"])
        for name, rank in structure["ranks"].items():
            replace_module(model, name, empty_factors(model.get_submodule(name), rank))
        return model


class Factors(nn.Sequential):
    """Two layers in place of one."""

    @property
    def rank(self) -> int:
        first: Tensor = self[0].weight  # type: ignore[assignment]
        return first.shape[0]


def factorise(layer: nn.Module, rank: Rank) -> Factors | None:
    """The factors of a layer; None where they would have no fewer weights, or where it is no layer to factorise."""
    if not isinstance(layer, (nn.Linear, nn.Conv2d)) or getattr(layer, "groups", 1) != 1:
        return None
    with torch.no_grad():
        matrix = layer.weight.detach().double().flatten(1)
        left, values, right = torch.linalg.svd(matrix, full_matrices=False)
        r = rank(values)
        if r * sum(matrix.shape) >= matrix.numel():
            return None
        factors = empty_factors(layer, r)
        root = values[:r].sqrt()
        _fill(factors[0], root[:, None] * right[:r])
        _fill(factors[1], left[:, :r] * root)
        if layer.bias is not None:
            factors[1].bias.copy_(layer.bias)  # type: ignore[operator]
    return factors


def empty_factors(layer: nn.Module, rank: int) -> Factors:
    """Layers of the right shapes."""
    biased = layer.bias is not None
    if isinstance(layer, nn.Linear):
        return Factors(nn.Linear(layer.in_features, rank, bias=False), nn.Linear(rank, layer.out_features, bias=biased))
    assert isinstance(layer, nn.Conv2d)
    first = nn.Conv2d(
        layer.in_channels,
        rank,
        layer.kernel_size,  # type: ignore[arg-type]
        layer.stride,  # type: ignore[arg-type]
        layer.padding,  # type: ignore[arg-type]
        layer.dilation,  # type: ignore[arg-type]
        bias=False,
        padding_mode=layer.padding_mode,
    )
    return Factors(first, nn.Conv2d(rank, layer.out_channels, 1, bias=biased))


def _fill(layer: nn.Module, matrix: Tensor) -> None:
    layer.weight.copy_(matrix.view_as(layer.weight).float())  # type: ignore[operator, arg-type]
