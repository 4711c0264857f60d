"""Wraps a network so that it returns one logit for each class, ``[n, classes]``, whatever its own outputs are.

All other parts of the project (losses, methods, exporters, metrics) rely on that; exported files return logits, too.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from src.contracts import InputError

STRENGTHS = (0.1, 1.0, 10.0)  # of noise images; outputs are probabilities if they sum to 1 for each
IMAGES = 2  # at once; batch normalization cannot be trained on one
ROUNDED = 1e-2  # largest difference of a sum of probabilities in half precision from 1
LEAST = 1e-30  # smaller probabilities are set to this, so that logarithms are finite
SCALES = (1.0, 10.0, 100.0)  # of noise images; what stays in 0 to 1 for each may be probabilities
DRAWS = 16  # of other weights, which show whether outputs are in 0 to 1 by chance
Say = Callable[[str], None]


class ChosenOutput(nn.Module):
    """Returns one tensor of a network's outputs.

    In training mode, auxiliary logits are set as the tensor's attribute ``auxiliary``; the training adds their losses.

    Args:
        net: The network.
        evaluated, trained: Keys that lead to the logits in eval and in training mode, outermost first.
        auxiliary: Keys that lead to each of the auxiliary logits in training mode.
        averaged: Keys that lead to each of the logits whose mean the training takes in place of ``trained``.
    """

    def __init__(
        self,
        net: nn.Module,
        evaluated: tuple[str, ...],
        trained: tuple[str, ...],
        auxiliary: tuple[tuple[str, ...], ...],
        averaged: tuple[tuple[str, ...], ...] = (),
    ) -> None:
        super().__init__()
        self.net, self.averaged = net, averaged
        self.evaluated, self.trained, self.auxiliary = evaluated, trained, auxiliary

    def forward(self, images: Tensor) -> Tensor:
        result = self.net(images)
        if self.training and self.averaged:
            return _mean(result, self.averaged)
        logits: Tensor = at(result, self.trained if self.training else self.evaluated)
        if self.training and self.auxiliary:
            logits.auxiliary = tuple(at(result, keys) for keys in self.auxiliary)  # type: ignore[attr-defined]
        return logits


class TwoLogits(nn.Module):
    """``[0, z]`` of a network's only logit ``z``: softmax gives ``sigmoid(z)``, cross entropy the binary one.

    Args:
        net: A network whose output is ``[n, 1]`` or ``[n]``.
    """

    sides: Tensor

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net
        self.register_buffer("sides", torch.tensor([[0.0, 1.0]]), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        return self.net(images).reshape(-1, 1) * self.sides


class LogOfProbabilities(nn.Module):
    """``log p`` of a network that ends in probabilities: softmax gives ``p`` again.

    Args:
        net: A network whose output is ``[n, classes]``, each row a distribution; or one probability, of the second
            class.
        single: Whether there is only the one probability.
        modes: Whether the outputs are probabilities in eval and in training mode; else they are logits.
    """

    def __init__(self, net: nn.Module, single: bool, modes: tuple[bool, bool] = (True, True)) -> None:
        super().__init__()
        self.net, self.single, self.modes = net, single, modes

    def forward(self, images: Tensor) -> Tensor:
        found: Tensor = self.net(images)
        is_probability = self.modes[self.training]
        if self.single:
            found = found.reshape(-1, 1)
            found = torch.cat([1 - found if is_probability else torch.zeros_like(found), found], 1)
        return found.clamp(min=LEAST).log() if is_probability else found


def giving_logits(model: nn.Module, images: Tensor, classes: int, output: str | None, say: Say) -> nn.Module:
    """Wrap ``model``, if needed, so that it returns one logit for each class.

    Args:
        model: The network; its buffers and its mode stay as they are.
        images: ``[2, c, h, w]``, normalized noise.
        classes: Number of classes.
        output: Name, key or index of the output that holds the logits, nested ones joined by dots; None finds it.
        say: Called with a line for each change.

    Raises:
        InputError: No output holds one logit for each class, or several do and none is named.
    """
    evaluated, trained = _called(model.eval(), images), _called(model.train(), images)
    chosen = _chosen(evaluated, classes, output)
    if not isinstance(evaluated, Tensor) or not isinstance(trained, Tensor):
        in_training = _in_training(trained, chosen, classes)
        others = [keys for keys, _ in _logits(trained, classes) if keys != in_training]
        auxiliary = tuple(others) if isinstance(evaluated, Tensor) else ()
        averaged = (
            (in_training, *auxiliary) if auxiliary and _gives_mean(model, images, (in_training, *auxiliary)) else ()
        )
        model = ChosenOutput(model, chosen, in_training, () if averaged else auxiliary, averaged)
        if chosen:
            say(f"the network's output {'.'.join(chosen)} is used as its logits")
        named = ", ".join(".".join(keys) for keys in averaged or auxiliary)
        if averaged:
            say(
                f"the network gives the mean of its training outputs ({named}) in eval mode: their mean is trained, too"
            )
        elif auxiliary:
            then = " and then removed" if _only_auxiliary(model, images) else ""
            say(f"auxiliary logits ({named}) are trained with training.auxiliary_weight{then}")
    return _without_probabilities(model, images, say)


def without_auxiliary(model: nn.Module, images: Tensor) -> None:
    """Remove the modules that only auxiliary logits use from ``model``, in place; all other weights stay."""
    chooser = next((module for module in model.modules() if isinstance(module, ChosenOutput)), None)
    if chooser is None or not chooser.auxiliary:
        return
    only = _only_auxiliary(chooser, images)
    for name in sorted(only):
        if name.rpartition(".")[0] not in only:
            parent, _, last = name.rpartition(".")
            setattr(chooser.net.get_submodule(parent), last, nn.Identity())
    chooser.auxiliary = ()


def _only_auxiliary(chooser: ChosenOutput, images: Tensor) -> set[str]:
    """Names of the modules of the network that run in training mode only."""
    needed, in_training = _run(chooser, images, False), _run(chooser, images, True)
    return {name for name in in_training - needed if not any(inner.startswith(f"{name}.") for inner in needed)}


def _mean(result: Any, places: tuple[tuple[str, ...], ...]) -> Tensor:
    return torch.stack([at(result, keys) for keys in places]).mean(0)


def _gives_mean(model: nn.Module, images: Tensor, places: tuple[tuple[str, ...], ...]) -> bool:
    """Whether the output in eval mode is the mean of the training outputs at ``places``, as of distilled DeiT.

    The layers are in eval mode, and only the modules that hold them in training mode: no dropout, no batch statistics.
    """
    expected = _called(model.eval(), images)
    for module in model.modules():
        module.training = any(True for _ in module.children())
    try:
        found = _called(model, images)
    finally:
        model.train()
    tensors = dict(tensors_of(found))
    return all(keys in tensors for keys in places) and torch.allclose(_mean(found, places), expected, atol=1e-5)


def _run(chooser: ChosenOutput, images: Tensor, training: bool) -> set[str]:
    """Names of the modules of the network that run."""
    ran: set[str] = set()
    hooks = [
        module.register_forward_hook(lambda *_, name=name: ran.add(name))
        for name, module in chooser.net.named_modules()
        if name
    ]
    try:
        _called(chooser.train(training), images)
    finally:
        for hook in hooks:
            hook.remove()
    return ran


def _called(model: nn.Module, images: Tensor) -> Any:
    """Call ``model``; its running statistics and the random state are restored."""
    buffers = {name: value.clone() for name, value in model.named_buffers()}
    try:
        with torch.random.fork_rng(devices=[]):
            return model(images)
    finally:
        with torch.no_grad():
            for name, value in model.named_buffers():
                if name in buffers:
                    value.copy_(buffers[name])


def at(result: Any, keys: tuple[str, ...]) -> Any:
    """The value that ``keys`` lead to in nested dicts, tuples and dataclasses.

    >>> at({"heads": (1, 2)}, ("heads", "1"))
    2
    """
    for key in keys:
        if isinstance(result, Mapping):
            result = next(value for name, value in result.items() if str(name) == key)
        else:
            result = getattr(result, key) if hasattr(result, key) else result[int(key)]
    return result


def tensors_of(result: Any, keys: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Tensor]]:
    """Every tensor of a result with the keys that lead to it."""
    inner: Iterator[tuple[Any, Any]] = iter(())
    if isinstance(result, Tensor):
        yield keys, result
    elif isinstance(result, Mapping):
        inner = iter(result.items())
    elif isinstance(result, tuple) and hasattr(result, "_fields"):
        inner = iter(zip(result._fields, result, strict=True))
    elif isinstance(result, (list, tuple)):
        inner = iter(enumerate(result))
    elif dataclasses.is_dataclass(result):
        inner = iter(vars(result).items())
    for key, value in inner:
        yield from tensors_of(value, (*keys, str(key)))


def _logits(result: Any, classes: int) -> list[tuple[tuple[str, ...], Tensor]]:
    """The tensors of a result that can be logits: ``[n, classes]``; of two classes also ``[n, 1]`` and ``[n]``."""
    shapes = [(IMAGES, classes), *([(IMAGES, 1), (IMAGES,)] if classes == 2 else [])]
    return [(keys, value) for keys, value in tensors_of(result) if value.shape in shapes]


def _chosen(result: Any, classes: int, output: str | None) -> tuple[str, ...]:
    """Keys that lead to the logits."""
    fitting = [keys for keys, _ in _logits(result, classes)]
    if output is not None:
        wanted = tuple(str(output).split("."))
        if wanted not in fitting:
            raise InputError(f"model.output: {output} is no tensor of one logit for each class; {_held(result)}")
        return wanted
    if len(fitting) > 1:
        named = ", ".join(".".join(keys) for keys in fitting)
        raise InputError(f"model.output must say which of the network's outputs are its logits: {named}")
    if not fitting:
        raise InputError(f"model: for one image the network gives {_gives(result)}; it must give {classes} logits")
    return fitting[0]


def _in_training(result: Any, chosen: tuple[str, ...], classes: int) -> tuple[str, ...]:
    """Keys that lead to the same logits in training: the same ones, else ``logits``, else the first."""
    fitting = [keys for keys, _ in _logits(result, classes)]
    if not fitting:
        raise InputError(f"model: in training the network gives {_gives(result)}, none of which can be its logits")
    return next((keys for keys in fitting if keys == chosen or keys[-1:] == ("logits",)), fitting[0])


def _held(result: Any) -> str:
    shapes = (f"{'.'.join(keys) or 'the output'} {(1, *value.shape[1:])}" for keys, value in tensors_of(result))
    return f"the network gives {', '.join(shapes) or type(result).__name__}"


def _gives(result: Any) -> str:
    """Describe the outputs of a network, and the kind of network that has such outputs."""
    found = dict(tensors_of(result))
    if any(keys[-1:] in (("boxes",), ("scores",)) for keys in found):
        return f"{type(result).__name__} of boxes: it detects objects, and this project classifies whole images"
    if len(found) != 1:
        return f"{type(result).__name__} of {_held(result).removeprefix('the network gives ')}"
    (value,) = found.values()
    kind = ": a class for each pixel, as a network for segmentation does" if value.dim() == 4 else ""
    return f"{(1, *value.shape[1:])}{kind}"


def _without_probabilities(model: nn.Module, images: Tensor, say: Say) -> nn.Module:
    """Replace a softmax or sigmoid at the end of ``model``, so that its outputs are logits in both modes."""
    single = _called(model.eval(), images)[0].numel() == 1
    kinds = [_kind(model.train(training), images, single) for training in (False, True)]
    model.eval()
    modes = (kinds[0] == "probabilities", kinds[1] == "probabilities")
    if "sigmoids" in kinds:
        raise InputError(
            "model: the network ends in a sigmoid for each class (values of 0 to 1 whose sum is not 1), and here an "
            "image has one class: let it return the logits before the sigmoid, or end in softmax"
        )
    if not any(modes):
        return TwoLogits(model) if single else model
    expected = _called(model, images)
    for name, module in list(model.named_modules()) if modes[0] and not single else []:
        if name and "softmax" in type(module).__name__.lower() and _is_last(model, name, images, expected):
            say(f"the network ends in softmax ({name}): its files give the logits before it")
            return model
    ending = f"the network ends in {'sigmoid' if single else 'softmax'}{'' if all(modes) else _only(modes)}"
    if modes[0]:
        ending += f": its files give logarithms of the {'two ' if single else ''}probabilities"
    say(ending)
    return LogOfProbabilities(model, single, modes)


def _only(modes: tuple[bool, bool]) -> str:
    return " in eval mode only" if modes[0] else " in training mode only"


def _kind(model: nn.Module, images: Tensor, single: bool) -> str:
    """What the outputs of ``model`` are in its mode: ``logits``, ``probabilities``, or ``sigmoids`` of each class."""
    if not single and all(_are_distributions(_called(model, images * strength)) for strength in STRENGTHS):
        return "probabilities"
    if not all(_are_shares(_called(model, images * scale)) for scale in SCALES) or not _bounded(model, images):
        return "logits"
    return "probabilities" if single else "sigmoids"


def _bounded(model: nn.Module, images: Tensor) -> bool:
    """Whether the outputs are in 0 to 1 for other weights, too; the network's own weights are restored."""
    own = [(value, value.detach().clone()) for value in model.parameters()]
    generator = torch.Generator().manual_seed(0)
    try:
        for draw in range(DRAWS):
            with torch.no_grad():
                for value, before in own:
                    spread = 1.0 if before.dim() < 2 else float(before.float().square().mean().sqrt())
                    noise = torch.randn(before.shape, generator=generator).to(before)
                    value.copy_(before + noise * spread * 10 ** (draw % 3))
                if not _are_shares(_called(model, images)):
                    return False
        return True
    finally:
        with torch.no_grad():
            for value, before in own:
                value.copy_(before)


def _are_shares(outputs: Tensor) -> bool:
    """Whether all outputs that are numbers are in 0 to 1."""
    known = outputs.detach()[~outputs.detach().isnan()]
    return bool(((known >= 0) & (known <= 1)).all())


def _are_distributions(rows: Tensor) -> bool:
    sums = rows.detach().double().sum(1)
    return bool((rows >= 0).all()) and bool(((sums - 1).abs() < ROUNDED).all())


def _is_last(model: nn.Module, name: str, images: Tensor, expected: Tensor) -> bool:
    """Remove the softmax ``name`` from ``model`` if it only turns the logits into ``expected``; say whether it did."""
    parent, _, last = name.rpartition(".")
    holder = model.get_submodule(parent)
    softmax = getattr(holder, last)
    setattr(holder, last, nn.Identity())
    logits = _called(model, images)
    if torch.allclose(logits.softmax(1), expected, atol=1e-6) and not _are_distributions(logits):
        return True
    setattr(holder, last, softmax)
    return False
