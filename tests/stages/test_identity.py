"""Naming a stage by all that determines it."""

from __future__ import annotations

import ast
import importlib
import re
import shutil
import sys
import textwrap
import uuid
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path

import pytest

from src.stages.identity import _reexports, identity, sources, targets_of

Write = Callable[[str, str], None]


@pytest.fixture
def name() -> str:
    """A top-level name of this test alone: the folder of a module is looked up once in a process."""
    return f"users_{uuid.uuid4().hex}"


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Write]:
    """Write a module of a user, which is importable from outside ``src``."""
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
    """With another value, no stage that anybody has made is found again.

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
def test_a_value_that_json_cannot_hold_is_refused(value: object) -> None:
    with pytest.raises(TypeError):
        identity({"a": value})


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_numbers_that_are_not_finite_are_refused(value: float) -> None:
    with pytest.raises(ValueError, match="JSON"):
        identity({"a": value})


# targets_of ---------------------------------------------------------------------------------------


def test_targets_are_found_at_any_depth() -> None:
    config = {
        "_target_": "a.A",
        "steps": {"one": {"_target_": "b.B", "x": [{"_target_": "c.C"}, 3, ({"_target_": "d.D"},)]}},
        "name": "no.target",
        "odd": {"_target_": None},
    }
    assert targets_of(config) == {"a.A", "b.B", "c.C", "d.D"}


@pytest.mark.parametrize("config", [{}, [], None, 3, "a.A", {"_target_": 3}])
def test_a_config_without_a_target_gives_none(config: object) -> None:
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


def test_the_folder_of_the_code_does_not_count(
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


def test_a_changed_string_that_is_no_docstring_counts(write: Write, name: str) -> None:
    write(f"{name}.py", "def f():\n    '''Doc.'''\n    return 'relu'\n")
    before = sources([name])
    write(f"{name}.py", "def f():\n    '''Doc.'''\n    return 'tanh'\n")
    assert sources([name]) != before


def test_the_imports_of_a_users_module_count(write: Write, name: str) -> None:
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


def test_the_module_that_defines_a_re_exported_class_counts(write: Write, name: str) -> None:
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


# sources: packages that only re-export names -----------------------------------------------------


TRAINING = ["src.training.fit.fit", "src.training.recipe.Recipe", "src.data.batches", "src.methods.prune.Prune"]


@pytest.fixture
def copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of this project's source, which ``sources`` reads in its place."""
    shutil.copytree("src", tmp_path / "src", ignore=shutil.ignore_patterns("__pycache__"))
    original = importlib.import_module("src.stages.identity")._top_folder
    monkeypatch.setattr(
        "src.stages.identity._top_folder", lambda top: tmp_path / "src" if top == "src" else original(top)
    )
    return tmp_path / "src"


def test_a_new_result_column_renames_the_stages_of_measuring_alone(copy: Path) -> None:
    training, measuring = sources(TRAINING), sources(["src.metrics.rows"])
    results = copy / "contracts" / "results.py"
    column = '    joules: float | None = column("energy", unit="J")\n\n    def numbers('
    changed = results.read_text().replace("\n    def numbers(", f"\n{column}", 1)
    assert changed != results.read_text()
    results.write_text(changed)
    assert sources(TRAINING) == training
    assert sources(["src.metrics.rows"]) != measuring


@pytest.mark.parametrize("module", ["methods", "training", "data"])
def test_a_contract_of_training_renames_its_stages(copy: Path, module: str) -> None:
    training = sources(TRAINING)
    path = copy / "contracts" / f"{module}.py"
    path.write_text(path.read_text() + "\nADDED = 1\n")
    assert sources(TRAINING) != training


def test_a_name_that_is_defined_elsewhere_from_now_on_counts(copy: Path) -> None:
    (copy / "contracts" / "other.py").write_text("class Epoch:\n    pass\n")
    (copy / "user.py").write_text("from src.contracts import Epoch, Recipe\nfrom src.contracts.other import Epoch\n")
    before = sources(["src.user"])
    init = copy / "contracts" / "__init__.py"
    init.write_text(init.read_text().replace("    Epoch,\n", "") + "from src.contracts.other import Epoch\n")
    assert sources(["src.user"]) != before


def test_a_package_with_code_of_its_own_counts_as_a_whole(copy: Path) -> None:
    init, results = copy / "contracts" / "__init__.py", copy / "contracts" / "results.py"
    init.write_text(init.read_text() + "\nSEED = 0\n")
    before = sources(TRAINING)
    results.write_text(results.read_text() + "\nADDED = 1\n")
    assert sources(TRAINING) != before


def test_every_name_of_a_package_that_is_imported_as_a_module_counts(copy: Path) -> None:
    (copy / "user.py").write_text("import src.contracts\n")
    before = sources(["src.user"])
    results = copy / "contracts" / "results.py"
    results.write_text(results.read_text() + "\nADDED = 1\n")
    assert sources(["src.user"]) != before


def test_a_users_package_that_only_re_exports_counts_as_a_whole(write: Write, name: str) -> None:
    """Importing it runs all its modules, and a user's may do more than define names."""
    write(f"{name}/__init__.py", "from .net import Net\nfrom .settings import PRECISION\n")
    write(f"{name}/net.py", NET)
    write(f"{name}/settings.py", "import torch\nPRECISION = torch.float32\n")
    before = sources([f"{name}.net.Net"])
    write(f"{name}/settings.py", "import torch\nPRECISION = torch.float32\ntorch.set_default_dtype(torch.float64)\n")
    assert sources([f"{name}.net.Net"]) != before


def test_the_modules_of_packages_that_re_export_only_define_names() -> None:
    """So it does no harm that ``sources`` skips those of them that a stage does not use."""
    packages = [".".join(path.parent.parts) for path in Path("src").rglob("__init__.py")]
    reexported = [module for package in packages for module in (_reexports(package) or {}).values()]
    assert "src.contracts.results" in reexported
    for module in set(reexported):
        body = ast.parse(Path(*module.split(".")).with_suffix(".py").read_text()).body
        effects = [
            ast.unparse(node)
            for node in body
            if isinstance(node, ast.Expr) and not isinstance(node.value, ast.Constant)
        ]
        assert effects == [], module


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
def test_a_package_counts_by_the_version_of_its_distribution(
    write: Write, name: str, package: str, distribution: str
) -> None:
    write(f"{name}.py", f"import {package}\n")
    assert metadata.version(distribution) in sources([name])["versions"].values()


def test_the_standard_library_and_missing_packages_do_not_count(write: Write, name: str) -> None:
    write(f"{name}.py", f"import os, json.decoder\n\ndef f():\n    import {name}_that_is_not_installed\n")
    assert sources([name])["versions"] == {}


def test_the_sources_of_a_method_hold_its_imports_and_no_more() -> None:
    prune, masks = sources(["src.methods.prune.Prune"]), sources(["src.primitives.masks"])
    assert prune["versions"]["nncf"] == metadata.version("nncf")
    assert "nncf" not in masks["versions"]
    assert "mlflow" not in prune["versions"]
