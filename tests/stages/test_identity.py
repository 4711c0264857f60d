"""Naming a stage by all that determines it."""

from __future__ import annotations

import importlib
import re
import sys
import textwrap
import uuid
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path

import pytest

from src.stages.identity import identity, sources, targets_of

Write = Callable[[str, str], None]


@pytest.fixture
def name() -> str:
    """A top-level name no other test has: where a module lies is looked up once a process."""
    return f"users_{uuid.uuid4().hex}"


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Write]:
    """Write a module of the user's by its dotted name, importable from outside ``src``."""
    monkeypatch.syspath_prepend(tmp_path)

    def write(module: str, code: str) -> None:
        path = tmp_path / module
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(code), encoding="utf-8")
        importlib.invalidate_caches()

    yield write
    assert not [loaded for loaded in sys.modules if loaded.startswith("users_")]  # reading imports nothing


NET = '''
    """A net."""
    import torch
    from torch import nn

    WIDTH = 8

    class Net(nn.Module):
        """One layer.

        Long talk.
        """

        def __init__(self, classes):
            """Build it."""
            super().__init__()
            self.fc = nn.Linear(WIDTH, classes)  # the only one

        def forward(self, x):
            return self.fc(x.flatten(1))
'''


# identity -----------------------------------------------------------------------------------------


def test_an_identity_is_sixteen_hexadecimal_digits() -> None:
    assert re.fullmatch("[0-9a-f]{16}", identity({"seed": 0}))


def test_identities_are_frozen() -> None:
    """Another value here means that no stage that anybody has made is found again.

    By hand: ``printf '{"kind":"baseline","model":{"depth":20},"seed":0}' | sha256sum | cut -c1-16``.
    """
    assert identity({"kind": "baseline", "seed": 0, "model": {"depth": 20}}) == "587f2914eef00af6"


def test_the_order_of_keys_does_not_matter() -> None:
    assert identity({"a": 1, "b": {"c": 2, "d": 3}}) == identity({"b": {"d": 3, "c": 2}, "a": 1})


def test_the_order_of_a_list_matters() -> None:
    assert identity({"a": [1, 2]}) != identity({"a": [2, 1]})


@pytest.mark.parametrize("other", [{"a": 2}, {"a": "1"}, {"a": None}, {"a": True}, {"b": 1}, {"a": 1, "b": None}, {}])
def test_another_value_type_or_key_gives_another_identity(other: dict[str, object]) -> None:
    assert identity({"a": 1}) != identity(other)


@pytest.mark.parametrize("value", [{1, 2}, object(), Path("x"), b"x"])
def test_what_json_cannot_hold_is_refused(value: object) -> None:
    with pytest.raises(TypeError):
        identity({"a": value})


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_numbers_that_equal_nothing_are_refused(value: float) -> None:
    with pytest.raises(ValueError, match="JSON"):
        identity({"a": value})


# targets_of ---------------------------------------------------------------------------------------


def test_targets_are_found_however_deep() -> None:
    config = {
        "_target_": "a.A",
        "steps": {"one": {"_target_": "b.B", "x": [{"_target_": "c.C"}, 3, ({"_target_": "d.D"},)]}},
        "name": "no.target",
        "odd": {"_target_": None},
    }
    assert targets_of(config) == {"a.A", "b.B", "c.C", "d.D"}


@pytest.mark.parametrize("config", [{}, [], None, 3, "a.A", {"_target_": 3}])
def test_what_holds_no_target_gives_none(config: object) -> None:
    assert targets_of(config) == set()


# sources: what does not count ---------------------------------------------------------------------


def test_comments_docstrings_and_layout_do_not_count(write: Write, name: str) -> None:
    write(f"{name}.py", NET)
    before = sources([f"{name}.Net"])
    write(
        f"{name}.py",
        """
        # Another header.
        import torch
        from torch import nn
        WIDTH = (8)
        class Net(nn.Module):
            'Other words.'
            def __init__(self,
                         classes):
                super().__init__()


                self.fc = nn.Linear(
                    WIDTH,
                    classes,
                )
            def forward(self, x):
                '''Go.'''
                return self.fc(x.flatten(1))
        """,
    )
    assert sources([f"{name}.Net"]) == before


def test_a_docstring_alone_counts_as_nothing(write: Write, name: str) -> None:
    write(f"{name}.py", "class Loss(Exception):\n    '''Words.'''\n")
    before = sources([name])
    write(f"{name}.py", "class Loss(Exception):\n    pass\n")
    assert sources([name]) == before


def test_the_order_and_number_of_targets_do_not_count(write: Write, name: str) -> None:
    write(f"{name}.py", NET)
    both = [f"{name}.Net", "src.primitives.masks"]
    assert sources(both) == sources([*reversed(both), f"{name}.Net", f"{name}.WIDTH"])


def test_a_module_that_nobody_imports_does_not_count(write: Write, name: str) -> None:
    write(f"{name}/net.py", NET)
    write(f"{name}/__init__.py", "")
    before = sources([f"{name}.net.Net"])
    write(f"{name}/other.py", "X = 1\n")
    assert sources([f"{name}.net.Net"]) == before


def test_where_the_code_lies_does_not_count(
    write: Write, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(f"{name}.py", NET)
    before = sources([f"{name}.Net"])
    assert str(tmp_path) not in str(before)
    monkeypatch.chdir(tmp_path)
    assert sources([f"{name}.Net"]) == before


# sources: what counts -----------------------------------------------------------------------------


def test_a_changed_constant_counts(write: Write, name: str) -> None:
    write(f"{name}.py", NET)
    before = sources([f"{name}.Net"])
    write(f"{name}.py", NET.replace("WIDTH = 8", "WIDTH = 9"))
    assert sources([f"{name}.Net"])["code"] != before["code"]


def test_a_changed_text_that_is_no_docstring_counts(write: Write, name: str) -> None:
    write(f"{name}.py", "def f():\n    '''Doc.'''\n    return 'relu'\n")
    before = sources([name])
    write(f"{name}.py", "def f():\n    '''Doc.'''\n    return 'tanh'\n")
    assert sources([name]) != before


def test_what_a_users_module_imports_counts(write: Write, name: str) -> None:
    helper = f"{name}_layers"
    write(f"{name}.py", f"import {helper}\n\ndef net():\n    return {helper}.WIDTH\n")
    write(f"{helper}.py", "WIDTH = 8\n")
    before = sources([f"{name}.net"])
    write(f"{helper}.py", "WIDTH = 9\n")
    assert sources([f"{name}.net"]) != before


@pytest.mark.parametrize(
    "line",
    [
        "from {name} import part",
        "from {name}.part import X",
        "from . import part",
        "from .part import X",
        "import {name}.part",
        "from .part import *",
        "import {name}.part as other",
    ],
)
@pytest.mark.parametrize("where", ["", "def f():\n    ", "if True:\n    ", "class A:\n    def f(self):\n        "])
def test_every_way_of_importing_a_neighbour_counts(write: Write, name: str, line: str, where: str) -> None:
    if "*" in line and where:
        where = "try:\n    "  # a star is allowed at the top level alone
    ending = "\nfinally:\n    pass\n" if where.startswith("try") else "\n"
    write(f"{name}/__init__.py", "")
    write(f"{name}/net.py", where + line.format(name=name) + ending)
    write(f"{name}/part.py", "X = 1\n")
    before = sources([f"{name}.net"])
    write(f"{name}/part.py", "X = 2\n")
    assert sources([f"{name}.net"]) != before


def test_imports_from_the_package_above_count(write: Write, name: str) -> None:
    write(f"{name}/__init__.py", "")
    write(f"{name}/nets/__init__.py", "")
    write(f"{name}/nets/deep.py", "from ..layers import X\n")
    write(f"{name}/layers.py", "X = 1\n")
    before = sources([f"{name}.nets.deep"])
    write(f"{name}/layers.py", "X = 2\n")
    assert sources([f"{name}.nets.deep"]) != before


def test_a_class_that_a_package_passes_on_counts_where_it_is_written(write: Write, name: str) -> None:
    write(f"{name}/__init__.py", "from .net import Net\n")
    write(f"{name}/net.py", NET)
    before = sources([f"{name}.Net"])
    write(f"{name}/net.py", NET.replace("WIDTH = 8", "WIDTH = 9"))
    assert sources([f"{name}.Net"]) != before


def test_a_folder_without_an_init_file_is_a_package_too(write: Write, name: str) -> None:
    write(f"{name}/net.py", "from . import part\n")
    write(f"{name}/part.py", "X = 1\n")
    before = sources([f"{name}.net.Net"])
    write(f"{name}/part.py", "X = 2\n")
    assert sources([f"{name}.net.Net"]) != before


def test_a_package_runs_before_its_module_and_counts(write: Write, name: str) -> None:
    """Importing ``a.net`` runs ``a/__init__.py``, which can set what the net is made of."""
    write(f"{name}/__init__.py", "import torch\ntorch.set_default_dtype(torch.float32)\n")
    write(f"{name}/net.py", NET)
    before = sources([f"{name}.net.Net"])
    write(f"{name}/__init__.py", "import torch\ntorch.set_default_dtype(torch.float64)\n")
    assert sources([f"{name}.net.Net"]) != before


def test_modules_that_import_each_other_are_read_once(write: Write, name: str) -> None:
    write(f"{name}/__init__.py", "")
    write(f"{name}/a.py", "from . import b\n")
    write(f"{name}/b.py", "from . import a\nX = 1\n")
    before = sources([f"{name}.a"])
    write(f"{name}/b.py", "from . import a\nX = 2\n")
    assert sources([f"{name}.a"]) != before


def test_a_users_module_that_imports_this_project_counts_both(write: Write, name: str) -> None:
    write(f"{name}.py", "from src.data.images import ImageData\n\nclass Leaves(ImageData):\n    pass\n")
    here, there = sources(["src.data.images"]), sources([f"{name}.Leaves"])
    assert there["code"] != here["code"]
    assert there["versions"]["torch"] == metadata.version("torch")


# sources: installed packages ----------------------------------------------------------------------


def test_installed_packages_count_by_version(write: Write, name: str) -> None:
    write(f"{name}.py", "import torch\nfrom numpy import array\n\ndef f():\n    import torchvision.models\n")
    assert sources([name])["versions"] == {
        package: metadata.version(package) for package in ("numpy", "torch", "torchvision")
    }


def test_a_target_of_an_installed_package_counts_by_version() -> None:
    found = sources(["torchvision.models.resnet18"])
    assert found["versions"] == {"torchvision": metadata.version("torchvision")}
    assert found["code"] == sources(["torch.optim.SGD"])["code"]  # no code of ours


@pytest.mark.parametrize(
    ("package", "distribution"),
    [
        ("sklearn", "scikit-learn"),
        ("PIL", "pillow"),
        ("yaml", "pyyaml"),
        ("pytorch_lightning", "pytorch-lightning"),
        ("hydra", "hydra-core"),
        ("dateutil", "python-dateutil"),
    ],
)
def test_a_package_counts_whatever_its_distribution_is_called(
    write: Write, name: str, package: str, distribution: str
) -> None:
    write(f"{name}.py", f"import {package}\n")
    assert metadata.version(distribution) in sources([name])["versions"].values()


def test_the_standard_library_and_what_is_not_there_do_not_count(write: Write, name: str) -> None:
    write(f"{name}.py", f"import os, json.decoder\n\ndef f():\n    import {name}_that_is_not_installed\n")
    assert sources([name])["versions"] == {}


def test_the_sources_of_a_method_hold_what_it_imports_and_no_more() -> None:
    prune, masks = sources(["src.methods.prune.Prune"]), sources(["src.primitives.masks"])
    assert prune["versions"]["nncf"] == metadata.version("nncf")
    assert "nncf" not in masks["versions"]
    assert "mlflow" not in prune["versions"]
