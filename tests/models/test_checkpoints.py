"""Checkpoints as other trainers write them: prefixes, nesting, moving averages, foreign classes, hostile pickles."""

from __future__ import annotations

import argparse
import datetime
import os
import pickle
import zipfile
from collections import OrderedDict, defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from torch import Tensor, nn

from src.contracts import InputError
from src.models.checkpoints import read_checkpoint
from src.models.weights import Weights, load_weights

State = dict[str, Any]


def net(seed: int, classes: int = 3) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(8, classes))


def under(prefix: str, state: State) -> State:
    return {prefix + name: value for name, value in state.items()}


def equal(model: nn.Module, other: nn.Module) -> bool:
    return all(torch.equal(value, other.state_dict()[name]) for name, value in model.state_dict().items())


def loaded(tmp_path: Path, content: Any, **settings: Any) -> tuple[nn.Module, str]:
    """A fresh network with the weights of a file that holds ``content``, and what was said."""
    torch.save(content, tmp_path / "last.pth.tar")
    model = net(1)
    return model, load_weights(model, Weights(tmp_path / "last.pth.tar", **settings))


@pytest.mark.parametrize(
    ("prefix", "said"),
    [
        ("module.", "module."),
        ("model.", "model."),
        ("net.", "net."),
        ("encoder.backbone.", "encoder.backbone."),
        ("_orig_mod.", "_orig_mod."),
        ("module._orig_mod.", "module._orig_mod."),
        ("_orig_mod.module.", "module._orig_mod."),
    ],
)
def test_a_prefix_of_all_names_is_dropped_and_said(tmp_path: Path, prefix: str, said: str) -> None:
    model, line = loaded(tmp_path, under(prefix, net(0).state_dict()))
    assert equal(model, net(0))
    assert line == f"last.pth.tar: dropped the prefix '{said}', 9 of 9 tensors fit"


def test_the_prefix_of_other_weights_in_the_file_is_not_said(tmp_path: Path) -> None:
    content = {"model": net(0).state_dict(), "model_ema": under("_orig_mod.", net(2).state_dict())}
    model, line = loaded(tmp_path, content)
    assert equal(model, net(0))
    assert line.startswith("last.pth.tar: took model, 9 of 9 tensors fit")
    assert "dropped the prefix '_orig_mod.'" in loaded(tmp_path, content, key="model_ema")[1]


@pytest.mark.parametrize("keys", [["state_dict"], ["model_state_dict"], ["model"], ["net"], ["ema"], ["a", "b"]])
def test_nested_weights_are_found_and_said(tmp_path: Path, keys: list[str]) -> None:
    content: Any = net(0).state_dict()
    for key in reversed(keys):
        content = {key: content, "epoch": 3, "lr": 0.1}
    model, line = loaded(tmp_path, content)
    assert equal(model, net(0))
    assert line == f"last.pth.tar: took {'.'.join(keys)}, 9 of 9 tensors fit"


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_what_trainers_write_beside_the_weights_is_read_over(tmp_path: Path, zipped: bool) -> None:
    """torchvision's, timm's and Lightning's trainers write such files; the format of before 1.6 is read as well."""
    model = nn.DataParallel(net(0))
    optimizer = torch.optim.Adam(model.parameters())
    content = {
        "state_dict": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "args": argparse.Namespace(lr=0.1, out=Path("x")),
        "config": OmegaConf.create({"a": [1, 2]}),
        "best": np.float64(0.9),
        "curve": np.arange(3),
        "when": datetime.datetime(2026, 1, 1),
        "counts": defaultdict(list, a=[1]),
    }
    torch.save(content, tmp_path / "w.pt", _use_new_zipfile_serialization=zipped)
    other = net(1)
    line = load_weights(other, tmp_path / "w.pt")
    assert equal(other, net(0))
    assert line == "w.pt: took state_dict, dropped the prefix 'module.', 9 of 9 tensors fit"


def test_losses_and_metrics_beside_a_lightning_model_are_left(tmp_path: Path) -> None:
    state = {**under("model.", net(0).state_dict()), "loss.weight": torch.ones(3), "metric.total": torch.ones(1)}
    model, _ = loaded(tmp_path, {"state_dict": state, "epoch": 1})
    assert equal(model, net(0))


def test_a_foreign_mapping_holds_weights_as_a_dict_does(tmp_path: Path) -> None:
    model, _ = loaded(tmp_path, defaultdict(dict, model=OrderedDict(net(0).state_dict())))
    assert equal(model, net(0))


def test_half_precision_is_widened(tmp_path: Path) -> None:
    model, line = loaded(tmp_path, net(0).half().state_dict())
    assert all(value.dtype != torch.float16 for value in model.state_dict().values())
    assert line == "last.pth.tar: 8 tensors of half precision widened to float32, 9 of 9 tensors fit"


def test_parameters_that_need_gradients_are_read(tmp_path: Path) -> None:
    given = net(0)
    model, line = loaded(tmp_path, {**dict(given.named_parameters()), **dict(given.named_buffers())})
    assert (equal(model, given), line) == (True, "")


def test_counters_of_batches_may_be_missing_as_before_torch_0_4_1(tmp_path: Path) -> None:
    state = {name: value for name, value in net(0).state_dict().items() if "num_batches" not in name}
    assert equal(loaded(tmp_path, state)[0], net(0))


# Weights and their moving average -----------------------------------------------------------------


def averaged() -> State:
    average = {"n_averaged": torch.tensor(3), **under("module.", net(2).state_dict())}
    return {"model_ema": average, "model": net(0).state_dict(), "args": argparse.Namespace()}


def test_of_weights_and_their_average_the_weights_are_taken_and_the_other_is_named(tmp_path: Path) -> None:
    model, line = loaded(tmp_path, averaged())
    assert equal(model, net(0))
    assert line == (
        "last.pth.tar: took model, 9 of 9 tensors fit, "
        "its moving average can be taken by model.weights_key=model_ema.module"
    )


@pytest.mark.parametrize("key", ["model_ema", "model_ema.module"])
def test_the_key_takes_the_average(tmp_path: Path, key: str) -> None:
    model, line = loaded(tmp_path, averaged(), key=key)
    assert equal(model, net(2))
    assert line == "last.pth.tar: took model_ema, dropped the prefix 'module.', 9 of 9 tensors fit"


def test_an_average_among_the_names_of_one_dict_is_told_from_the_weights(tmp_path: Path) -> None:
    state = {**under("ema_model.", net(2).state_dict()), **under("model.", net(0).state_dict())}
    model, line = loaded(tmp_path, {"state_dict": state})
    assert equal(model, net(0))
    assert line.endswith("model.weights_key=state_dict.ema_model")


def test_a_key_that_is_not_there_is_answered_with_those_that_are(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"model\.weights_key: .* has nothing at ema; it holds model, model_ema$"):
        loaded(tmp_path, averaged(), key="ema")


# Heads --------------------------------------------------------------------------------------------


def test_a_head_of_another_size_is_named_with_what_replaces_it(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"its head has 7 classes and the data 3; model\.replace_head=true"):
        loaded(tmp_path, net(0, classes=7).state_dict())


def test_a_replaced_head_is_the_networks_own_and_all_else_the_files(tmp_path: Path) -> None:
    given = net(0, classes=7)
    model, line = loaded(tmp_path, given.state_dict(), replace_head=True)
    assert torch.equal(model[0].weight, given[0].weight)
    assert torch.equal(model[3].weight, net(1)[3].weight)
    assert line == ("last.pth.tar: head of 7 classes replaced by a new one of 3 (3.weight, 3.bias), 7 of 9 tensors fit")


def test_a_wider_layer_inside_is_no_head(tmp_path: Path) -> None:
    torch.manual_seed(0)
    wider = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(16, 3))
    with pytest.raises(InputError, match=r"does not fit the model: 0\.weight is"):
        loaded(tmp_path, wider.state_dict(), replace_head=True)


# Nothing is run -----------------------------------------------------------------------------------


class Calls:
    """Calls ``function`` when it is unpickled, and ``BUILD``s a state on what comes back."""

    def __init__(self, function: Any, *arguments: Any, state: Any = None) -> None:
        self.result = (function, arguments) if state is None else (function, arguments, state)

    def __reduce__(self) -> tuple[Any, ...]:
        return self.result


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_a_pickle_that_runs_code_runs_nothing(tmp_path: Path, zipped: bool) -> None:
    made = str(tmp_path / "intruded")
    hostile = [
        Calls(os.mkdir, made),
        Calls(os.system, f"mkdir {made}"),
        Calls(eval, f"__import__('os').mkdir({made!r})"),
        Calls(pickle.loads, pickle.dumps(Calls(os.mkdir, made))),
        Calls(torch.storage._load_from_bytes, pickle.dumps(Calls(os.mkdir, made))),
        Calls(torch._utils._rebuild_parameter, Calls(os.mkdir, made), True, OrderedDict()),
    ]
    torch.save({**net(0).state_dict(), "more": hostile}, tmp_path / "w.pt", _use_new_zipfile_serialization=zipped)
    model = net(1)
    load_weights(model, tmp_path / "w.pt")
    assert equal(model, net(0))
    assert [path.name for path in tmp_path.iterdir()] == ["w.pt"]


def test_a_class_that_is_given_a_state_stays_as_it_is(tmp_path: Path) -> None:
    """``BUILD`` sets attributes; on what reading shares with others it must not."""
    before = torch._utils._rebuild_tensor_v2.__defaults__
    build = b"\x80\x02}(X\x01\x00\x00\x00wctorch._utils\n_rebuild_tensor_v2\nN}X\x0c\x00\x00\x00__defaults__)s\x86bu."
    with zipfile.ZipFile(tmp_path / "w.pt", "w") as archive:
        archive.writestr("w/data.pkl", build)
        archive.writestr("w/version", "3\n")
        archive.writestr("w/byteorder", "little")
    with pytest.raises(InputError, match=r"w\.pt"):
        read_checkpoint(tmp_path / "w.pt")
    assert torch._utils._rebuild_tensor_v2.__defaults__ == before


@pytest.mark.parametrize("content", [net(0), {"model": net(0), "epoch": 3}], ids=["alone", "in_a_dict"])
def test_a_whole_network_is_refused_with_the_lines_that_make_a_state_dict_of_it(tmp_path: Path, content: Any) -> None:
    with pytest.raises(InputError, match="holds a whole pickled network") as caught:
        loaded(tmp_path, content)
    message = str(caught.value)
    assert "\n" not in message
    warned = "runs whatever code the file holds: only if you trust where it comes from"
    assert 0 < message.index(warned) < message.index("net = torch.load")
    first = message[message.index("net = torch.load") :].split("; ")[0].removeprefix("net = ")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)
        network = eval(first, {"torch": torch})
    model, _ = loaded(tmp_path, network.state_dict())
    assert equal(model, net(0))


@pytest.mark.parametrize("function", [os.system, eval, getattr])
def test_nobody_is_told_to_run_what_passes_for_a_network(tmp_path: Path, function: Any) -> None:
    made = tmp_path / "intruded"
    state: State = {"_modules": {}, "_parameters": {}, "_buffers": {}}
    torch.save({"model": Calls(function, f"mkdir {made}", state=state)}, tmp_path / "w.pt")
    with pytest.raises(InputError, match=r"w\.pt holds what passes for a network and is none") as caught:
        read_checkpoint(tmp_path / "w.pt")
    assert "weights_only" not in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not made.exists()


def test_a_torchscript_archive_is_refused_with_the_line_that_saves_its_weights(tmp_path: Path) -> None:
    torch.jit.trace(net(0).eval(), torch.zeros(1, 1, 4, 4)).save(str(tmp_path / "w.pt"))
    with pytest.raises(InputError, match=r"TorchScript archive.*torch\.jit\.load\('w\.pt'\)\.state_dict\(\)"):
        read_checkpoint(tmp_path / "w.pt")


def test_tensors_share_memory_as_they_did_and_need_no_gradient(tmp_path: Path) -> None:
    base = torch.arange(6.0)
    torch.save({"a": base, "b": base[2:].view(2, 2), "c": nn.Parameter(torch.ones(2))}, tmp_path / "w.pt")
    found: dict[str, Tensor] = {name: each.value for name, each in read_checkpoint(tmp_path / "w.pt").items()}
    assert found["b"].tolist() == [[2, 3], [4, 5]]
    assert found["b"].untyped_storage().data_ptr() == found["a"].untyped_storage().data_ptr()
    assert not found["c"].requires_grad
