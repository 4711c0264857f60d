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
LEAST = 1e-30  # smaller probabilities are set to this, so that logarithms are finite
VIEWS = ("View", "Reshape", "Squeeze", "Unsqueeze", "Alias", "Select", "Clone")
Say = Callable[[str], None]


class ChosenOutput(nn.Module):
    """Returns one tensor of a network's outputs.

    In training mode, auxiliary logits are set as the tensor's attribute ``auxiliary``; the training adds their losses.

    Args:
        net: The network.
        evaluated, trained: Keys that lead to the logits in eval and in training mode, outermost first.
        auxiliary: Keys that lead to each of the auxiliary logits in training mode.
    """

    def __init__(
        self,
        net: nn.Module,
        evaluated: tuple[str, ...],
        trained: tuple[str, ...],
        auxiliary: tuple[tuple[str, ...], ...],
    ) -> None:
        super().__init__()
        self.net = net
        self.evaluated, self.trained, self.auxiliary = evaluated, trained, auxiliary

    def forward(self, images: Tensor) -> Tensor:
        result = self.net(images)
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
    """

    def __init__(self, net: nn.Module, single: bool) -> None:
        super().__init__()
        self.net, self.single = net, single

    def forward(self, images: Tensor) -> Tensor:
        probabilities = self.net(images)
        if self.single:
            probabilities = probabilities.reshape(-1, 1)
            probabilities = torch.cat([1 - probabilities, probabilities], 1)
        return probabilities.clamp(min=LEAST).log()


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
        model = ChosenOutput(model, chosen, in_training, auxiliary)
        if chosen:
            say(f"the network's output {'.'.join(chosen)} is used as its logits")
        if auxiliary:
            named = ", ".join(".".join(keys) for keys in auxiliary)
            say(f"auxiliary logits ({named}) are trained with training.auxiliary_weight and then removed")
    return _without_probabilities(model, images, classes, say)


def without_auxiliary(model: nn.Module, images: Tensor) -> None:
    """Remove the modules that only auxiliary logits use from ``model``, in place; all other weights stay."""
    chooser = next((module for module in model.modules() if isinstance(module, ChosenOutput)), None)
    if chooser is None or not chooser.auxiliary:
        return
    needed, in_training = _run(chooser, images, False), _run(chooser, images, True)
    only = {name for name in in_training - needed if not any(inner.startswith(f"{name}.") for inner in needed)}
    for name in sorted(only):
        if name.rpartition(".")[0] not in only:
            parent, _, last = name.rpartition(".")
            setattr(chooser.net.get_submodule(parent), last, nn.Identity())
    chooser.auxiliary = ()


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


def _without_probabilities(model: nn.Module, images: Tensor, classes: int, say: Say) -> nn.Module:
    """Replace a softmax or sigmoid at the end of ``model``, so that its outputs are logits."""
    model.eval()
    found = [_called(model, images * strength) for strength in STRENGTHS]
    if found[0].dim() == 1 or found[0].shape[1] == 1:
        if not _ends_in_sigmoid(found[0]):
            return TwoLogits(model)
        say("the network ends in sigmoid: its files give logarithms of the two probabilities")
        return LogOfProbabilities(model, single=True)
    if not all(_are_distributions(rows) for rows in found):
        return model
    for name, module in list(model.named_modules()):
        if name and "softmax" in type(module).__name__.lower() and _is_last(model, name, images, found[1]):
            say(f"the network ends in softmax ({name}): its files give the logits before it")
            return model
    say("the network ends in softmax: its files give logarithms of the probabilities")
    return LogOfProbabilities(model, single=False)


def _are_distributions(rows: Tensor) -> bool:
    sums = rows.detach().double().sum(1)
    return bool((rows >= 0).all()) and bool(((sums - 1).abs() < 1e-4).all())


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


def _ends_in_sigmoid(output: Tensor) -> bool:
    """Whether the last operation that is not a view was a sigmoid."""
    node = output.grad_fn
    while node is not None and type(node).__name__.startswith(VIEWS):
        node = node.next_functions[0][0] if node.next_functions else None
    return node is not None and type(node).__name__.startswith("Sigmoid")
