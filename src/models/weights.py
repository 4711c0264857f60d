"""Files of weights: written as safetensors, read strictly and without running code from a pickle."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from src.contracts import InputError, first_line
from src.files.writing import replacing


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
    """Read a state dict from a safetensors file, or from one that ``torch.save`` wrote.

    Raises:
        InputError: The file is missing or holds no state dict.
    """
    if not path.is_file():
        raise InputError(f"model.weights: there is no file {path}")
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file

        try:
            return load_file(path)
        except Exception as error:  # safetensors raises many types for a damaged file
            raise InputError(f"model.weights: {path} cannot be read ({first_line(error)})") from error
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # of many types; torch's own text advises to run the code of a pickle
        raise InputError(
            f"model.weights: {path} cannot be read: it is damaged, or holds more than tensors, which could run code; "
            f"write it by torch.save(model.state_dict(), file)"
        ) from error
    for key in ("state_dict", "model"):
        if isinstance(loaded, Mapping) and isinstance(loaded.get(key), Mapping):
            loaded = loaded[key]
    if not isinstance(loaded, Mapping) or not all(isinstance(value, Tensor) for value in loaded.values()):
        raise InputError(f"model.weights: {path} holds no state dict (a tensor for each name)")
    return loaded


def load_weights(model: nn.Module, path: Path) -> None:
    """Load a file of weights into ``model``; the file must hold all of its tensors and no others.

    Raises:
        InputError: Names or shapes differ, or a tensor holds what no network computes with (``wrong_values``); the
            message names the first such tensors.
    """
    weights = dict(read_weights(path))
    own = model.state_dict()
    if not weights.keys() & own.keys() and all(name.startswith("net.") for name in own):
        weights = {f"net.{name}": value for name, value in weights.items()}
    given = {own[name].data_ptr() for name in weights if name in own}
    wrong = [f"{n} is missing" for n, v in own.items() if n not in weights and v.data_ptr() not in given]
    wrong += [f"{n} is unknown to the model" for n in weights if n not in own]
    wrong += [
        f"{n} is {tuple(weights[n].shape)}, not {tuple(own[n].shape)}"
        for n in own
        if n in weights and own[n].shape != weights[n].shape
    ]
    if wrong:
        more = f" and {len(wrong) - 3} more" if len(wrong) > 3 else ""
        raise InputError(f"model.weights: {path} does not fit the model: {'; '.join(wrong[:3])}{more}")
    broken: dict[str, list[str]] = {}
    for name, value in weights.items():
        reason = wrong_values(name, value)
        if reason is not None:
            broken.setdefault(reason, []).append(name)
    if broken:
        reasons = [f"{reason} in {', '.join(names[:3])}" for reason, names in broken.items()]
        raise InputError(f"model.weights: {path} holds {'; '.join(reasons)}")
    model.load_state_dict(weights, strict=False)


def wrong_values(name: str, value: Tensor) -> str | None:
    """What in a tensor of a state dict no network computes with; None if nothing.

    A large weight is no wrong one, as long as the sum of the squares of its tensor is a number in float32 (no value
    above 1.8e19): scores, norms and scales are computed from it. A variance is not negative.
    """
    if value.layout is not torch.strided or value.is_quantized or value.is_meta:
        return "sparse, quantized or absent values"
    if value.is_complex():
        return "complex numbers"
    if not bool(torch.isfinite(value).all()):
        return "NaN or infinite values"
    if not bool(torch.isfinite(value.float().square().sum())):
        return "values so large that their squares overflow float32"
    if name.rpartition(".")[2] == "running_var" and bool((value < 0).any()):
        return "negative variances"
    return None
