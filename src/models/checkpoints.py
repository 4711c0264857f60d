"""Reading the tensors of any checkpoint without running its code: other objects become inert placeholders."""

from __future__ import annotations

import pickle
import tarfile
import warnings
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from src.contracts import InputError, first_line

DEEPEST = 8  # levels of nesting that are looked into
# Packages that hold no network; no package at all is what the result of a call has.
NO_NETWORKS = (
    *("", "builtins", "__builtin__", "os", "posix", "nt", "sys", "subprocess", "shutil", "socket", "pty", "runpy"),
    *("importlib", "ctypes", "webbrowser", "pickle", "_pickle", "operator", "functools", "timeit"),
)


@dataclass(frozen=True)
class Found:
    """A tensor of a checkpoint.

    Attributes:
        value: The tensor, detached.
        place: Keys of the dict that holds it, joined by dots: ``state_dict``; empty for the outermost.
    """

    value: Tensor
    place: str


def read_checkpoint(path: Path) -> dict[str, Found]:
    """Read every tensor of a file by its full name: the keys that lead to it, joined by dots.

    Args:
        path: A safetensors file, or a file that ``torch.save`` wrote in any of its formats since 2017.

    Raises:
        InputError: The file is missing or damaged, or holds no named tensor.
    """
    if not path.is_file():
        raise InputError(f"model.weights: there is no file {path}")
    content = _read(path)
    tensors: dict[str, Found] = {}
    modules: list[tuple[str, Inert]] = []
    for at, value in _leaves(content, ()):
        if isinstance(value, Tensor) and at:
            tensors[".".join(at)] = Found(value.detach(), ".".join(at[:-1]))
        elif isinstance(value, Inert):
            modules.append(("".join(f"[{key!r}]" for key in at), value))
    if not tensors and modules:
        raise InputError(f"model.weights: {path} {_of_whole_network(path.name, *modules[0])}")
    if not tensors:
        raise InputError(f"model.weights: {path} holds no state dict (a tensor for each name)")
    return tensors


def _of_whole_network(name: str, keys: str, network: Inert) -> str:
    """What is said of a file that holds ``network``, a whole one, under ``keys``."""
    kind = type(network).__name__
    if network.package in NO_NETWORKS:
        return (
            f"holds what passes for a network and is none ({network.package or 'a call'}: {kind}); loading it "
            f"otherwise may run code that does harm, and nothing of it was run here"
        )
    lines = f"net = torch.load({name!r}, weights_only=False){keys}; torch.save(net.state_dict(), 'weights.pt')"
    return (
        f"holds a whole pickled network ({kind}), which only its own code can read. Reading it so runs whatever code "
        f"the file holds: only if you trust where it comes from, and with that code installed, two lines turn it into "
        f"a state dict: {lines}"
    )


def _read(path: Path) -> Any:
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        if _is_torchscript(path):
            raise InputError(
                f"model.weights: {path} is a TorchScript archive, which holds code and weights; this line writes only "
                f"its weights: torch.save(torch.jit.load({path.name!r}).state_dict(), 'weights.pt')"
            )
        if not zipfile.is_zipfile(path) and tarfile.is_tarfile(path):
            raise ValueError("it has the format of torch before 0.1.10: read it and save it with a later version")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # in the legacy format torch warns that a placeholder has no source code
            return torch.load(path, map_location="cpu", pickle_module=InertPickle, weights_only=False)
    except InputError:
        raise
    except Exception as error:  # safetensors, torch and hostile pickles raise many types
        raise InputError(f"model.weights: {path} cannot be read ({first_line(error)})") from error


def _is_torchscript(path: Path) -> bool:
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(name.endswith("/constants.pkl") for name in archive.namelist())


def _leaves(value: Any, at: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:
    """The tensors and the pickled modules below ``value``, each with the keys that lead to it."""
    if isinstance(value, Tensor) or (isinstance(value, Inert) and value.is_module()):
        yield at, value
    elif len(at) < DEEPEST and isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _leaves(inner, (*at, str(key)))
    elif len(at) < DEEPEST and isinstance(value, (list, tuple)):
        for key, inner in enumerate(value):
            yield from _leaves(inner, (*at, str(key)))


class Inert(dict):
    """A placeholder for an object of an unknown class: it accepts what a pickle gives it and does nothing.

    It is a dict, so that the items of an unknown mapping (``defaultdict``, ``EasyDict``) are still found.
    """

    package = ""  # of the class that this stands for: the first of its module's names

    def __new__(cls, *_: Any, **__: Any) -> Inert:
        return super().__new__(cls)

    def __init__(self, *_: Any, **__: Any) -> None:
        super().__init__()
        self.state: Any = None

    def __call__(self, *_: Any, **__: Any) -> Inert:
        return Inert()

    def __hash__(self) -> int:  # type: ignore[override]
        return id(self)

    def __setstate__(self, *state: Any) -> None:
        """Keep the state that the pickle gives; a hostile pickle can call it on the class, which does nothing."""
        if isinstance(self, Inert) and state:
            self.state = state[0]

    def append(self, _: Any) -> None:
        """A pickle calls this on a list of an unknown class."""

    def extend(self, _: Any) -> None:
        """A pickle calls this on a list of an unknown class."""

    def add(self, _: Any) -> None:
        """A pickle calls this on a set of an unknown class."""

    def is_module(self) -> bool:
        """Whether this stands for a ``torch.nn.Module``."""
        state = self.__dict__.get("state")
        return isinstance(state, Mapping) and "_modules" in state and "_parameters" in state


def _tensor_makers() -> dict[str, Any]:
    """The functions and classes that a pickle may name: those that rebuild tensors, and plain values.

    The functions are made anew for each file, so that a pickle that sets attributes of them reaches no other.
    """
    from torch import _utils

    def wrapped(function: Callable[..., Any]) -> Callable[..., Any]:
        return lambda *arguments: function(*arguments)

    def of_type(rebuild: Any, _: Any, arguments: Any, __: Any) -> Any:
        return rebuild(*arguments)  # ``rebuild`` is of this table or inert, as everything that a pickle can name

    def parameter(data: Any, *_: Any) -> Any:
        return data

    return {
        "torch._utils._rebuild_tensor": wrapped(_utils._rebuild_tensor),
        "torch._utils._rebuild_tensor_v2": wrapped(_utils._rebuild_tensor_v2),
        "torch._utils._rebuild_tensor_v3": wrapped(_utils._rebuild_tensor_v3),
        "torch._utils._rebuild_parameter": parameter,
        "torch._utils._rebuild_parameter_with_state": parameter,
        "torch._tensor._rebuild_from_type_v2": of_type,
        # Names the bytes of 8-bit floats, and of others that have no storage class; it is never built.
        "torch.storage.UntypedStorage": type("UntypedStorage", (Inert,), {"dtype": torch.uint8}),
        "torch.Size": torch.Size,
        "collections.OrderedDict": OrderedDict,
        **{str(dtype): dtype for dtype in vars(torch).values() if isinstance(dtype, torch.dtype)},
    }


class InertUnpickler(pickle.Unpickler):
    """Unpickles tensors and plain values; every other class or function becomes an inert class."""

    def __init__(self, *arguments: Any, **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        self._makers = _tensor_makers()
        self._stand_ins: dict[str, type[Inert]] = {}

    def find_class(self, module: str, name: str) -> Any:
        """The allowed function or class of that name, else a subclass of ``Inert``; nothing is imported."""
        full = f"{module}.{name}"
        if full in self._makers:
            return self._makers[full]
        named = {"__module__": "inert", "package": module.partition(".")[0]}
        return self._stand_ins.setdefault(full, type(name.rpartition(".")[2] or "_", (Inert,), named))


class InertPickle:
    """Takes the place of the module ``pickle`` in ``torch.load``."""

    Unpickler = InertUnpickler

    @staticmethod
    def load(file: Any, **settings: Any) -> Any:
        """The next object of the file."""
        return InertUnpickler(file, **settings).load()
