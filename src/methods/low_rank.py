"""Low-rank factorisation: each layer becomes two thin ones."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, cast

import torch
from torch import Tensor, nn

from src.contracts import Compressed, Context, Method, NoEffectError, Recipe
from src.primitives.folding import replace_module
from src.primitives.layers import layer_name, per_layer, refuse_shared, weight_names, without
from src.primitives.outputs import failing, precise_outputs, same_outputs
from src.primitives.ranks import Rank


@dataclass(frozen=True, kw_only=True)
class LowRank(Method):
    """Factorise dense layers and convolutions by truncated singular value decomposition, if that saves weights.

    A dense layer ``W [out, in]`` becomes ``in -> r`` without bias and ``r -> out``. A convolution ``[out, in, kh, kw]``
    is decomposed as the matrix ``[out, in kh kw]``: a convolution ``in -> r`` of the same kernel, stride and padding,
    and one of 1x1 ``r -> out``. Grouped convolutions stay as they are.

    Attributes:
        rank: Chooses a layer's rank from its singular values; or one such object for each pattern of weight names.
        ignored: Patterns of weight names that are left as they are.
        fine_tune: How the factors are trained; None leaves them.

    Paper: Denton et al. 2014, arXiv:1404.0736, section 3; convolutions: Zhang et al. 2015, arXiv:1505.06798,
    section 3.1, without its response reconstruction.
    """

    rank: Rank | Mapping[str, Rank]
    ignored: Sequence[str]
    fine_tune: Recipe | None

    undoes = MappingProxyType(
        {"zeros": "the factors of a sparse matrix are dense", "shared values": "the factors have new values"}
    )

    def compress(self, model: nn.Module, context: Context) -> Compressed:
        """Factorise ``model`` in place.

        Raises:
            NoEffectError: No layer would become smaller.
            ValueError: A pattern matches nothing, two layers share a weight, or the network does not compute with the
                factors what it computes with their products.
        """
        names = without(weight_names(model), self.ignored)
        ranks: dict[str, Rank] = per_layer(self.rank, names, "rank")
        refuse_shared(model, names, "factorising would untie them; add it to ignored")
        layers = {layer_name(name): ranks[name] for name in names}
        left_alone = {name: reason for name in layers if (reason := not_factorised(model.get_submodule(name)))}
        found = {name: factorise(model.get_submodule(name), rank) for name, rank in layers.items()}
        factors = {name: made for name, made in found.items() if made is not None}
        if not factors:
            raise NoEffectError("no layer would get smaller at this rank: nothing was factorised")
        _require_same(model, factors, context.example_input)
        _replace(model, factors)
        if self.fine_tune is not None:
            context.fine_tune(model, self.fine_tune)
        ranks_by_layer = {name: made.rank for name, made in factors.items()}
        return Compressed(model, {"ranks": ranks_by_layer}, left_alone=left_alone)

    def rebuild(self, model: nn.Module, structure: Mapping[str, Any]) -> nn.Module:
        """Replace the recorded layers by factors of the recorded ranks."""
        for name, rank in structure["ranks"].items():
            replace_module(model, name, empty_factors(model.get_submodule(name), rank))
        return model


class Factors(nn.Sequential):
    """Two layers in place of one."""

    @property
    def rank(self) -> int:
        """Number of outputs of the first layer."""
        first: Tensor = self[0].weight  # type: ignore[assignment]
        return first.shape[0]


def not_factorised(layer: nn.Module) -> str | None:
    """Why a layer of this kind cannot be factorised; None if it can."""
    if type(layer) not in (nn.Linear, nn.Conv2d):
        return f"{type(layer).__name__} may compute something else than the layers that would replace it"
    if isinstance(layer, nn.Conv2d) and layer.groups != 1:
        return "its channels are grouped"
    return None


def factorise(layer: nn.Module, rank: Rank) -> Factors | None:
    """Factorise a layer by truncated singular value decomposition.

    Returns:
        The factors; None if they would have no fewer weights, or if the layer is of another kind.
    """
    if not_factorised(layer):
        return None
    assert isinstance(layer, (nn.Linear, nn.Conv2d))
    with torch.no_grad():
        matrix = layer.weight.detach().double().flatten(1)
        left, values, right = torch.linalg.svd(matrix, full_matrices=False)
        r = rank(values)
        if r * sum(matrix.shape) >= matrix.numel():
            return None
        factors = empty_factors(layer, r)
        root = values[:r].sqrt()
        _set_weight(factors[0], root[:, None] * right[:r])
        _set_weight(factors[1], left[:, :r] * root)
        if layer.bias is not None:
            factors[1].bias.copy_(layer.bias)  # type: ignore[operator]
    return factors


def empty_factors(layer: nn.Module, rank: int) -> Factors:
    """Two layers of the shapes that the factors of ``layer`` have at ``rank``; their weights are random."""
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


def _set_weight(layer: nn.Module, matrix: Tensor) -> None:
    layer.weight.copy_(matrix.view_as(layer.weight).float())  # type: ignore[operator, arg-type]


def _replace(model: nn.Module, factors: Mapping[str, Factors]) -> None:
    for name, made in factors.items():
        replace_module(model, name, made)


@torch.no_grad()
def _require_same(model: nn.Module, factors: Mapping[str, Factors], example_input: Tensor) -> None:
    """Raise ValueError if the network with factors differs from the one whose weights are the factors' products.

    They differ if a forward uses the weight of a layer in another way. Layers are compared in float64.
    """
    noise = torch.randn(2, *example_input.shape[1:], generator=torch.Generator().manual_seed(0))
    precise = precise_outputs(model.eval(), noise).dtype
    approximated = copy.deepcopy(model).to(precise)
    for name, made in factors.items():
        first, second = (cast(Tensor, layer.weight).to(precise).flatten(1) for layer in made)
        weight = cast(Tensor, approximated.get_submodule(name).weight)
        weight.copy_((second @ first).view_as(weight))

    def holds(names: Sequence[str]) -> bool:
        replaced = copy.deepcopy(approximated)
        _replace(replaced, {name: copy.deepcopy(factors[name]).to(precise) for name in names})
        try:
            return same_outputs(precise_outputs(replaced, noise), wanted)
        except Exception:  # a user's forward may raise anything
            return False

    wanted = precise_outputs(approximated, noise)
    wrong = failing(list(factors), holds)
    if wrong:
        raise ValueError(
            f"the network uses the weights of {', '.join(wrong)} in another way than layers do, and would not run or "
            f"compute something else with factors; add {', '.join(f'{name}.weight' for name in wrong)} to ignored"
        )
