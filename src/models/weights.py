"""Files of weights: written as safetensors, read from checkpoints of any training code without running it."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from src.contracts import InputError
from src.files.writing import replacing
from src.models.checkpoints import Found, read_checkpoint
from src.models.plain import with_plain_weights

COMPILED = re.compile(r"\b(_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")  # may stand anywhere
AVERAGED = re.compile(r"(^|[._])(ema|swa|averaged?|teacher)([._]|$)", re.IGNORECASE)
FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
HEADS = 6  # tensors at most: weight and bias of a head and of two auxiliary ones
NOT_NEEDED = ".num_batches_tracked"  # checkpoints of torch before 0.4.1 lack these counters


@dataclass(frozen=True)
class Weights:
    """A file of weights, and which of its tensors are loaded.

    Attributes:
        path: The file.
        key: Key of the weights in the file, e.g. ``state_dict_ema``; None loads those that fit the network.
        replace_head: Whether a head for another number of classes is left out; the network keeps its own initial head.
    """

    path: Path
    key: str | None = None
    replace_head: bool = False


class MisfitError(InputError):
    """The names or shapes of a file's tensors are not those of the network."""


def save_weights(model: nn.Module, path: Path) -> None:
    """Write the state dict in place of ``path``; a tensor that several names share is written once."""
    from safetensors.torch import save_file

    seen: set[tuple[int, tuple[int, ...]]] = set()
    tensors: dict[str, Tensor] = {}
    for name, value in model.state_dict().items():
        place = (value.data_ptr(), tuple(value.shape))
        if value.numel() and place in seen:
            continue
        seen.add(place)
        tensors[name] = value.detach().cpu().contiguous().clone()
    with replacing(path) as part:
        save_file(tensors, part)


def read_weights(path: Path) -> Mapping[str, Tensor]:
    """Read all tensors of a file by their full names.

    Raises:
        InputError: The file is missing, cannot be read, or holds no named tensor.
    """
    return {name: found.value for name, found in read_checkpoint(path).items()}


def load_weights(model: nn.Module, weights: Weights | Path) -> str:
    """Load a file of weights into ``model``; the file must hold all of its tensors.

    The weights may lie in nested dicts (``state_dict``, ``model``, …), and their names may have prefixes (``module.``,
    ``_orig_mod.``, …). Normalized and masked weights are computed if the network has plain ones (``plain.py``). If
    several sets of weights fit, one that is no moving average is loaded.

    Returns:
        A line that says which tensors were loaded and how they were changed; empty if the file is a plain state dict.

    Raises:
        MisfitError: Names or shapes differ; the message names the first such tensors.
        InputError: The file cannot be read, or a tensor holds what no network computes with (``wrong_values``).
    """
    weights = Weights(weights) if isinstance(weights, Path) else weights
    found = read_checkpoint(weights.path)
    own = model.state_dict()
    tensors, computed = with_plain_weights({COMPILED.sub("", name): each for name, each in found.items()}, own)
    place, others = _place(tensors, own, weights)
    chosen = {name: tensors[place.name(name)].value for name in own if place.name(name) in tensors}
    wrong = [f"{name} is missing" for name in _missing(own, chosen)]
    wrong += [f"{name} is unknown to the model" for name in place.unknown(tensors, own)]
    if not wrong:
        chosen, head, wrong = _fitted(chosen, own, weights)
    if wrong:
        more = f" and {len(wrong) - 3} more" if len(wrong) > 3 else ""
        fit = sum(name in chosen and chosen[name].shape == value.shape for name, value in own.items())
        advice = "" if any("replace_head" in line for line in wrong) else f"; {_advice(fit, len(own))}"
        raise MisfitError(f"model.weights: {weights.path} does not fit the model: {'; '.join(wrong[:3])}{more}{advice}")
    broken: dict[str, list[str]] = {}
    for name, value in chosen.items():
        reason = wrong_values(name, value, own[name])
        if reason is not None:
            broken.setdefault(reason, []).append(name)
    if broken:
        reasons = [f"{reason} in {', '.join(names[:3])}" for reason, names in broken.items()]
        raise InputError(f"model.weights: {weights.path} holds {'; '.join(reasons)}")
    own.update(
        chosen
    )  # into the network's own state, which names the versions of its layers: some refuse to load without
    model.load_state_dict(own)
    holder = place.holder(tensors, own)
    prefix = place.front.removeprefix(holder).removeprefix(".")
    prefix += "".join(sorted(_wrappers(found, {place.name(name) for name in chosen})))
    said = [f"took {holder}"] if holder else []
    said += [f"dropped the prefix '{prefix}'"] if prefix else []
    said += [f"put '{place.dropped}' before the names"] if place.dropped else []
    halves = sum(value.dtype in (torch.float16, torch.bfloat16) for value in chosen.values())
    said += [f"{halves} tensors of half precision widened to float32"] if halves else []
    said += [f"computed {computed} weights that the file holds normalized or masked"] if computed else []
    said += [head] if head else []
    said += [f"{len(chosen)} of {len(own)} tensors fit"] if said else []
    if others:
        averaged = "its moving average" if AVERAGED.search(others[0]) else "other weights that fit"
        said.append(f"{averaged} can be taken by model.weights_key={others[0]}")
    return f"{weights.path.name}: {', '.join(said)}" if said else ""


def _advice(fit: int, count: int) -> str:
    """What to do about a file of which ``fit`` of the network's ``count`` tensors have the name and shape."""
    near = "give the settings of the network that it was saved from (model.name, model.…, the images' size)"
    return f"{fit} of {count} tensors fit: {near if fit else 'it is the file of another network'}"


def _wrappers(found: Iterable[str], chosen: set[str]) -> set[str]:
    """What torch's wrappers put into the full names of the chosen tensors."""
    return {match.group() for name in found if COMPILED.sub("", name) in chosen for match in COMPILED.finditer(name)}


@dataclass(frozen=True)
class _Place:
    """The position of the weights among the tensors of a file.

    Attributes:
        front: Prefix of each name in the file, e.g. ``state_dict.module.``.
        dropped: Prefix that only the network's own names have: ``net.``, or empty.
    """

    front: str
    dropped: str

    def name(self, own: str) -> str:
        """The full name in the file of the tensor that the network calls ``own``."""
        return self.front + own.removeprefix(self.dropped)

    def holder(self, tensors: Mapping[str, Found], own: Iterable[str]) -> str:
        """The dict that holds the weights, by the keys that lead to it."""
        return next((tensors[self.name(name)].place for name in own if self.name(name) in tensors), "")

    def unknown(self, tensors: Mapping[str, Found], own: Iterable[str]) -> list[str]:
        """Names of that dict, with the same prefix, that the network does not have."""
        known, holder = {self.name(name) for name in own}, self.holder(tensors, own)
        return [
            name.removeprefix(self.front)
            for name, found in tensors.items()
            if name.startswith(self.front) and name not in known and found.place == holder
        ]


def _place(tensors: Mapping[str, Found], own: Mapping[str, Tensor], weights: Weights) -> tuple[_Place, Sequence[str]]:
    """The position of the weights, and the prefixes of other weights that fit as well."""
    wanted = weights.key
    if wanted is not None and not any(name.startswith(f"{wanted}.") for name in tensors):
        places = sorted({found.place for found in tensors.values()} - {""})
        held = f"it holds {', '.join(places)}" if places else "all of its tensors lie at the top"
        raise InputError(f"model.weights_key: {weights.path} has nothing at {wanted}; {held}")
    best: tuple[int, _Place] = (0, _Place("" if wanted is None else f"{wanted}.", ""))
    for dropped in ("", "net.") if all(name.startswith("net.") for name in own) else ("",):
        counts = _fronts(tensors, {name.removeprefix(dropped) for name in own})
        fronts = [front for front in counts if wanted is None or f"{front}.".startswith(f"{wanted}.")]
        complete = [front for front in fronts if _holds_all(tensors, own, _Place(front, dropped))]
        if complete:
            ordered = sorted(complete, key=lambda front: bool(AVERAGED.search(front)))
            return _Place(ordered[0], dropped), [front.rstrip(".") for front in ordered[1:]]
        best = max([best, *((counts[front], _Place(front, dropped)) for front in fronts)], key=lambda pair: pair[0])
    return best[1], []


def _fronts(tensors: Iterable[str], names: set[str]) -> Counter[str]:
    """The prefixes that names of ``tensors`` have before any of ``names``, and how many names have each."""
    counts: Counter[str] = Counter()
    for full in tensors:
        at = 0
        while True:
            if full[at:] in names:
                counts[full[:at]] += 1
            at = full.find(".", at) + 1
            if at == 0:
                break
    return counts


def _holds_all(tensors: Mapping[str, Found], own: Mapping[str, Tensor], place: _Place) -> bool:
    return not _missing(own, {name for name in own if place.name(name) in tensors})


def _missing(own: Mapping[str, Tensor], given: Iterable[str]) -> list[str]:
    """Names of the network's tensors that are not given, and share no memory with a tensor that is."""
    given = set(given)
    memory = {own[name].data_ptr() for name in given}
    return [
        name
        for name, value in own.items()
        if name not in given and value.data_ptr() not in memory and not name.endswith(NOT_NEEDED)
    ]


def _fitted(
    chosen: dict[str, Tensor], own: Mapping[str, Tensor], weights: Weights
) -> tuple[dict[str, Tensor], str, list[str]]:
    """The tensors whose shapes fit; a line about the head; and a line for each tensor that does not fit."""
    misfits = [name for name, value in chosen.items() if own[name].shape != value.shape]
    if not misfits:
        return chosen, "", []
    sizes = {(value.shape[:1], own[name].shape[:1]) for name in misfits if (value := chosen[name]).dim()}
    is_head = len(sizes) == 1 and all(own[n].dim() and own[n].shape[1:] == chosen[n].shape[1:] for n in misfits)
    if is_head and len(misfits) <= HEADS:
        ((there,), (here,)) = next(iter(sizes))
        named = ", ".join(misfits)
        if weights.replace_head:
            rest = {name: value for name, value in chosen.items() if name not in misfits}
            return rest, f"head of {there} classes replaced by a new one of {here} ({named})", []
        more = f"its head has {there} classes and the data {here}; model.replace_head=true makes a new one and trains"
        return chosen, "", [f"{name} is {_shapes(chosen[name], own[name])}" for name in misfits[:2]] + [more]
    return chosen, "", [f"{name} is {_shapes(chosen[name], own[name])}" for name in misfits]


def _shapes(found: Tensor, wanted: Tensor) -> str:
    return f"{tuple(found.shape)}, not {tuple(wanted.shape)}"


def wrong_values(name: str, value: Tensor, own: Tensor) -> str | None:
    """Name the values of a tensor that no network can compute with; None if there are none.

    A large weight is allowed as long as the sum of the squares of its tensor is a number in float32 (no value
    above 1.8e19): scores, norms and scales are computed from it. A variance and a count are not negative.

    Args:
        name: Name of the tensor in the network.
        value: The tensor of the file.
        own: The network's own tensor of that name.
    """
    if value.layout is not torch.strided or value.is_quantized or value.is_meta:
        return "sparse, quantized or absent values"
    if value.is_complex():
        return "complex numbers"
    kind = str(value.dtype).removeprefix("torch.")
    if value.is_floating_point() and value.dtype not in FLOATS:
        return f"{kind} values, which mean nothing without their scales,"
    if own.is_floating_point() and not value.is_floating_point():
        return f"{kind} values in place of floats, which mean nothing without their scale,"
    if not value.is_floating_point():
        negative = name.endswith(NOT_NEEDED) and bool((value.to(torch.int64) < 0).any())
        return "negative counts" if negative else None
    if not bool(torch.isfinite(value).all()):
        return "NaN or infinite values"
    if not bool(torch.isfinite(value.float().square().sum())):
        return "values so large that their squares overflow float32"
    if name.rpartition(".")[2] == "running_var" and bool((value < 0).any()):
        return "negative variances"
    return "negative counts" if name.endswith(NOT_NEEDED) and bool((value < 0).any()) else None
