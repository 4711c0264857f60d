"""Exported programs that run code when torch reads them: refused by the workbench and by the board's evaluator."""

from __future__ import annotations

import contextlib
import io
import json
import os
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from src.contracts import InputError
from src.deploy.torch_program import TorchProgram
from src.device.exported_program import SIZE, check_program, is_operator_of_tensors
from src.device.runtimes import RefusedError, load
from tests.exported import CARD, cnn, images

GRAPH = "models/model.json"
WEIGHTS = "data/weights/model_weights_config.json"
CONSTANTS = "data/constants/model_constants_config.json"
Members = dict[str, bytes]


def deploy_reader(path: Path) -> None:
    TorchProgram(stored="float32").load(path)


def board_reader(path: Path) -> None:
    load(path, {"name": "torch", "provider": None, "stands_in_for": None}, ["float32"], (3, 8, 8), 1)


def card_reader(path: Path) -> None:
    TorchProgram(stored="float32").read_card(path)


READERS = [deploy_reader, board_reader, card_reader]


@pytest.fixture(scope="module")
def members(tmp_path_factory: pytest.TempPathFactory) -> Members:
    """The members of a good file, without the archive's own folder."""
    path = tmp_path_factory.mktemp("good") / "m.pt2"
    TorchProgram(stored="float32").export(cnn(), images(1), path, CARD, {})
    with zipfile.ZipFile(path) as archive:
        return {name.partition("/")[2]: archive.read(name) for name in archive.namelist()}


def written(folder: Path, members: Members, root: str = "archive/") -> Path:
    path = folder / "m.pt2"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for name, content in members.items():
            archive.writestr(f"{root}{name}", content)
    return path


class Intruder:
    """Makes a folder when it is unpickled."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (self.path,)


def pickled(canary: str) -> bytes:
    out = io.BytesIO()
    torch.save(Intruder(canary), out)
    return out.getvalue()


def changed(members: Members, name: str, change: Callable[[Any], None]) -> Members:
    content = json.loads(members[name])
    change(content)
    return {**members, name: json.dumps(content).encode()}


# Attacks ------------------------------------------------------------------------------------------


def legacy_weights(members: Members, canary: str) -> Members:
    return {**members, "data/weights/model.pt": pickled(canary)}


def legacy_constants(members: Members, canary: str) -> Members:
    return {**members, "data/constants/model.pt": pickled(canary)}


def sample_inputs(members: Members, canary: str) -> Members:
    return {**members, "data/sample_inputs/model.pt": pickled(canary)}


def use_pickle(members: Members, canary: str) -> Members:
    def change(content: Any) -> None:
        next(iter(content["config"].values()))["use_pickle"] = True

    return changed({**members, "data/weights/weight_0": pickled(canary)}, WEIGHTS, change)


def opaque_constant(members: Members, canary: str) -> Members:
    import pickle

    def change(content: Any) -> None:
        about = {"path_name": "opaque_obj_0", "is_param": False, "use_pickle": True, "tensor_meta": None}
        content["config"]["c"] = about

    held = {**members, "data/constants/opaque_obj_0": pickle.dumps(Intruder(canary))}
    return changed(held, CONSTANTS, change)


def older_format(members: Members, canary: str) -> Members:
    kinds = ("state_dict", "constants", "example_inputs")
    return {
        "version": b"8.20",
        "serialized_exported_program.json": members[GRAPH],
        **{f"serialized_{kind}.pt": pickled(canary) for kind in kinds},
    }


def called_function(members: Members, canary: str) -> Members:
    def change(content: Any) -> None:
        node = content["graph_module"]["graph"]["nodes"][0]
        node["target"] = "torch.ops.aten.from_file.default"  # makes the file
        written = [("filename", {"as_string": canary}), ("shared", {"as_bool": True}), ("size", {"as_int": 4})]
        node["inputs"] = [{"name": name, "arg": arg, "kind": 1} for name, arg in written]

    return changed(members, GRAPH, change)


def evaluated_size(members: Members, canary: str) -> Members:
    def change(content: Any) -> None:
        for tensor in content["graph_module"]["graph"]["tensor_values"].values():
            for size in tensor["sizes"]:
                if "as_expr" in size:
                    size["as_expr"]["expr_str"] = f"__import__('os').mkdir({canary!r})"

    return changed(members, GRAPH, change)


def compiled_guard(members: Members, canary: str) -> Members:
    out = io.BytesIO()
    torch.save(((images(2),), {}), out)  # guards are of interest to torch only beside an example
    held = {**members, "data/sample_inputs/model.pt": out.getvalue()}
    return changed(held, GRAPH, lambda content: content.update(guards_code=[f"__import__('os').mkdir({canary!r})"]))


def compiled_name(members: Members, canary: str) -> Members:
    name = f"x=__import__('os').mkdir({canary!r})"
    text = members[GRAPH].decode().replace('"images"', json.dumps(name))
    return {**members, GRAPH: text.encode()}


def imported_module(members: Members, canary: str) -> Members:
    """Names a module of the folder, which is imported for the factory of a ``defaultdict``."""
    folder = Path(canary).parent
    (folder / "intruder.py").write_text(f"import os\nos.mkdir({canary!r})\nfactory = dict\n")
    context = {"default_factory_module": "intruder", "default_factory_name": "factory", "dict_context": "[]"}
    spec = {"type": "collections.defaultdict", "context": context, "children_spec": []}

    def change(content: Any) -> None:
        content["graph_module"]["module_call_graph"][0]["signature"]["in_spec"] = json.dumps([1, spec])

    return changed(members, GRAPH, change)


ATTACKS = [
    legacy_weights,
    legacy_constants,
    sample_inputs,
    use_pickle,
    opaque_constant,
    older_format,
    called_function,
    evaluated_size,
    compiled_guard,
    compiled_name,
    imported_module,
]


@pytest.mark.parametrize("attack", ATTACKS)
def test_a_file_that_makes_torch_run_code_is_refused_by_every_reader(
    tmp_path: Path, members: Members, attack: Any, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    canary = tmp_path / "intruded"
    path = written(tmp_path, attack(members, str(canary)), "" if attack is older_format else "archive/")
    for reader in READERS:
        with pytest.raises((InputError, RefusedError), match="could run code") as caught:
            reader(path)
        assert "\n" not in str(caught.value)
        assert "weights_only" not in str(caught.value)
        assert not canary.exists()
    assert capfd.readouterr().err == ""
    with contextlib.suppress(Exception):  # what comes after the attack may fail
        torch.export.load(path).module()(images(2))
    assert canary.exists(), "the attack does nothing, and so the test shows nothing"
    sys.modules.pop("intruder", None)


def test_no_reader_can_be_talked_into_a_pickle_even_if_a_member_were_missed(
    tmp_path: Path, members: Members, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("src.device.exported_program.check_program", lambda path: None)
    for attack in (legacy_weights, legacy_constants, sample_inputs, use_pickle):
        path = written(tmp_path, attack(members, str(tmp_path / "intruded")))
        for reader in (deploy_reader, board_reader):
            with pytest.raises((InputError, RefusedError)):
                reader(path)
        assert not (tmp_path / "intruded").exists()
    assert "TORCH_FORCE_WEIGHTS_ONLY_LOAD" not in os.environ


# Members ------------------------------------------------------------------------------------------


def test_a_good_file_packed_anew_is_read(tmp_path: Path, members: Members) -> None:
    for reader in READERS:
        reader(written(tmp_path, members))


@pytest.mark.parametrize(
    "name",
    ["data/aotinductor/model/x.so", "data/constants/custom_obj_0", "data/weights/../../x", "extra/../x", "other.pt"],
)
def test_a_member_that_no_network_needs_is_refused_and_named(tmp_path: Path, members: Members, name: str) -> None:
    path = written(tmp_path, {**members, name: b"x"})
    with pytest.raises(InputError, match=rf"it has a member that no network needs \('archive/{name}'\)"):
        deploy_reader(path)


def test_a_member_that_unpacks_to_more_than_the_file_has_is_refused(tmp_path: Path, members: Members) -> None:
    with zipfile.ZipFile(tmp_path / "m.pt2", "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in {**members, "data/weights/weight_0": bytes(10_000_000)}.items():
            archive.writestr(f"archive/{name}", content)
    with pytest.raises(InputError, match="is compressed or encrypted"):
        deploy_reader(tmp_path / "m.pt2")


def test_a_weight_that_claims_more_values_than_the_file_has_bytes_is_refused(tmp_path: Path, members: Members) -> None:
    def change(content: Any) -> None:
        meta = next(iter(content["config"].values()))["tensor_meta"]
        meta["sizes"], meta["strides"] = [{"as_int": 10**12}], [{"as_int": 1}]

    path = written(tmp_path, changed({**members, "data/weights/weight_0": b""}, WEIGHTS, change))
    with pytest.raises(InputError, match="claims more values than the file has bytes"):
        deploy_reader(path)


def test_two_members_of_one_name_are_refused(tmp_path: Path, members: Members) -> None:
    path = written(tmp_path, {**members, "Models/model.json": members[GRAPH]})
    with pytest.raises(InputError, match="two of its members have one name"):
        deploy_reader(path)


# What networks hold -------------------------------------------------------------------------------


class Varied(nn.Module):
    """Looks at its sizes, switches gradients off, and uses operators with words for options."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(192, 3)
        self.register_buffer("shift", torch.ones(3), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        count, channels, height, width = images.shape
        flat = images.reshape(count * channels, height * width).reshape(count, -1)
        with torch.no_grad():
            middle = torch.div(flat.mean(1, keepdim=True), 2, rounding_mode="floor")
        mixed = torch.einsum("bi,ci->bc", flat - middle, self.fc.weight)
        return (
            nn.functional.gelu(mixed, approximate="tanh").to(torch.float32) + self.shift + torch.tensor([1.0, 2.0, 3.0])
        )


def test_a_network_of_many_kinds_of_operators_is_written_and_read(tmp_path: Path) -> None:
    target, path = TorchProgram(stored="float32"), tmp_path / "m.pt2"
    target.export(Varied().eval(), images(1), path, CARD, {})
    check_program(path)
    assert target.load(path)(images(5).numpy()).shape == (5, 3)


def test_every_operator_that_takes_a_word_and_is_allowed_is_known_to_touch_no_file() -> None:
    """A new version of torch with a new operator that takes a text fails here, and is looked at."""
    found = {
        f"torch.ops.{schema.name.replace('::', '.')}.{schema.overload_name or 'default'}": schema
        for schema in torch._C._jit_get_all_schemas()
        if schema.name.startswith("aten::") and any("str" in str(argument.type) for argument in schema.arguments)
    }
    allowed = {name: schema for name, schema in found.items() if is_operator_of_tensors(name)}
    assert {"torch.ops.aten.from_file.default", "torch.ops.aten.save.default"} <= found.keys() - allowed.keys()
    without_tensor = {n for n, s in allowed.items() if not any("Tensor" in str(a.type) for a in s.arguments)}
    without_result = {n.split(".")[3] for n, s in allowed.items() if not s.returns}
    assert without_tensor <= {
        "torch.ops.aten._assert_scalar.default",
        "torch.ops.aten._functional_assert_scalar.default",
    }
    assert without_result == {"_assert_async", "_assert_scalar", "_linalg_check_errors"}


@pytest.mark.parametrize(
    "name",
    [
        *("torch.os.system", "torch.hub.load", "torch.load", "torch.ops.load_library", "_operator.methodcaller"),
        *("torch.ops.aten.from_file.default", "torch.ops.aten.save.default", "torch.ops.aten.relu.overloads"),
        *("torch.ops.aten.__class__.mro", "torch.ops.other.f.default", "math.sin", "#x:y", ""),
    ],
)
def test_what_is_no_operator_of_tensors_is_refused(name: str) -> None:
    assert not is_operator_of_tensors(name)


def test_a_size_is_a_formula_of_symbols() -> None:
    symbol = "Symbol('s34', positive=True, integer=True)"
    for good in (symbol, f"Mul(Integer(2), {symbol})", f"FloorDiv(Add({symbol}, Integer(-1)), Integer(2))"):
        assert SIZE.fullmatch(good)
    for bad in ("__import__('os')", "Symbol('x').f", "Symbol('x', f=g())", "exec('1')", 'Symbol("x")', "Integer.real"):
        assert not SIZE.fullmatch(bad)
