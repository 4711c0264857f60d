"""The Python interface: a program's own network, data and loop through the engine of the commands."""

from __future__ import annotations

import functools
from pathlib import Path

import pytest
import torch
import yaml
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from src import api
from src.api import Budget, Clock, InputError, Result, Settings, compress, dataset, method, network, recipe, splits
from src.command.bundling import bundle
from src.command.calling import plan_of
from src.command.composition import build_plan, composed
from src.command.exits import CONF
from src.command.given import Given
from src.experiment.described import UndescribedError, config_of, network_config
from src.experiment.making import prepare
from src.methods.prune import Prune
from src.primitives.distributions import Global
from src.primitives.schedules import OneShot
from src.primitives.scores import Magnitude

CLOCK = Clock(threads=1, seconds=0.01, rounds=1, largest_batch=1)
PRUNE = Prune(
    sparsity=0.5,
    scores=Magnitude(),
    distribution=Global(),
    schedule=OneShot(),
    ignored=(),
    batch_norm_batches=0,
    fine_tune=None,
)


class Net(nn.Module):
    """A network of the user's own."""

    def __init__(self, width: int = 4) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(1, width, 3)
        self.dense = nn.Linear(width, 2)

    def forward(self, images: Tensor) -> Tensor:
        result: Tensor = self.dense(self.convolution(images).relu().mean((2, 3)))
        return result


def part(seed: int, count: int = 40) -> tuple[Tensor, Tensor]:
    """Dark images of class 0 and bright ones of class 1, ``[n, 1, 8, 8]`` uint8."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % 2
    images = torch.randint(0, 100, (count, 1, 8, 8), generator=generator) + 150 * labels.view(-1, 1, 1, 1)
    return images.to(torch.uint8), labels


PARTS = (part(0), part(1), part(2))


def call(folder: Path, name: str, **more: object) -> Result:
    settings = Settings(
        artifacts=folder / "artifacts", folder=folder / name, tracking="off", clock=CLOCK, threads=1, device="cpu"
    )
    given: dict[str, object] = {"data": PARTS, "methods": [PRUNE], "settings": settings} | more
    torch.manual_seed(0)
    return compress(more.pop("model", None) or Net(), **{k: v for k, v in given.items() if k != "model"})  # type: ignore[arg-type]


class Loop:
    """A training of the user's own that counts its calls."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, model: nn.Module, train: object, validation: object) -> None:
        self.calls += 1
        optimizer = torch.optim.Adam(model.parameters(), 0.05)
        for _ in range(30):
            for images, labels in train:  # type: ignore[attr-defined]
                loss = nn.functional.cross_entropy(model(images), labels)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()


def test_a_network_and_a_loop_of_ones_own_are_trained_pruned_exported_and_found_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    loop = Loop()
    budget = Budget(accuracy_drop=0.9, size_bytes=10)
    result = call(tmp_path, "first", train=loop, identity="loop 1", budget=budget)
    assert [(row.variant, row.target) for row in result.rows] == [("baseline", "onnxruntime"), ("prune", "onnxruntime")]
    assert result.rows[0].accuracy == 1.0
    assert [file.is_file() for file in result.files] == [True, True]
    weights = [w for w in result.model.parameters() if w.dim() > 1]
    assert sum(int((w == 0).sum()) for w in weights) == sum(w.numel() for w in weights) // 2
    assert [miss.partition(":")[0] for miss in result.budget_missed] == ["prune on onnxruntime"]
    assert result.table().splitlines()[1].startswith("baseline")
    call(tmp_path, "second", train=loop, identity="loop 1")
    assert loop.calls == 1
    assert "found again" in capsys.readouterr().out
    call(tmp_path, "third", train=loop, identity="loop 2")
    assert loop.calls == 2


def test_nothing_is_kept_of_a_loop_without_a_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    loop = Loop()
    result = call(tmp_path, "first", train=loop)
    assert 'identity="…"' in capsys.readouterr().out
    assert result.files[1].is_file()
    assert not list((tmp_path / "artifacts").glob("*/stage.json"))


def test_a_trained_network_is_the_baseline_as_it_is_and_found_again_by_its_weights(tmp_path: Path) -> None:
    first = call(tmp_path, "first")
    again = call(tmp_path, "second")
    assert [row.identity for row in again.rows] == [row.identity for row in first.rows]
    assert again.rows[0].measured_at == first.rows[0].measured_at
    torch.manual_seed(1)
    other = call(tmp_path, "third", model=Net())
    assert other.rows[0].identity != first.rows[0].identity


def test_the_stages_are_those_of_the_command() -> None:
    tiny = {"train_images": 60, "test_images": 20, "side": 16}
    methods = [method("prune_magnitude", training="digits", sparsity=0.7)]
    objects = (network("small_cnn"), dataset("shapes", **tiny), methods, ["onnxruntime"], recipe("digits", epochs=3))
    own = plan_of(Given(None), Settings(device="cpu", threads=1), objects)
    typed = [f"data.{key}={value}" for key, value in tiny.items()]
    words = ["model=small_cnn", "data=shapes", *typed, "method=prune_magnitude", "method.sparsity=0.7"]
    words += ["training=digits", "training.epochs=3", "training.threads=1", "training.device=cpu"]
    words += ["method.fine_tune.epochs=10"]  # from the recipe's file, which has 30
    command = build_plan(*composed(words))
    data = prepare(command)
    assert [each.identity for each in own.stages(data)] == [each.identity for each in command.stages(data)]
    assert own.export("onnxruntime", "x", data).identity == command.export("onnxruntime", "x", data).identity


@pytest.mark.parametrize("name", ["prune_magnitude", "prune_channels", "cluster", "low_rank", "quantize_int8"])
def test_a_method_made_by_its_class_has_the_identity_of_the_same_config(name: str) -> None:
    made = method(name)
    assert config_of(made.value) == made.config


def test_a_loader_goes_on_augmenting_and_gives_the_same_epochs_again() -> None:
    noise = DataLoader(TensorDataset(*part(0)), batch_size=10, shuffle=True, collate_fn=noisy)
    data = splits(noise, part(1), part(2))
    assert data.loader is not None
    batches = data.loader(7, "cpu")
    epochs = []
    for epoch in (0, 1, 0):
        batches.set_epoch(epoch)
        epochs.append(torch.cat([images for images, _ in batches]))
    assert len(batches) == 4
    assert torch.equal(epochs[0], epochs[2])
    assert not torch.equal(epochs[0], epochs[1])


def noisy(pairs: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    images = torch.stack([image for image, _ in pairs]).float() / 255
    return images + 0.1 * torch.rand(images.shape), torch.stack([label for _, label in pairs])


def test_a_recipe_trains_on_a_loader(tmp_path: Path) -> None:
    noise = DataLoader(TensorDataset(*part(0)), batch_size=10, shuffle=True, collate_fn=noisy)
    dense = nn.Sequential(nn.Flatten(), nn.Linear(64, 2))
    result = call(
        tmp_path, "run", model=dense, data=(noise, part(1), part(2)), train=recipe(epochs=12), identity="noise"
    )
    assert result.rows[0].accuracy > 0.9
    assert result.rows[0].weights_kept.startswith("best, epoch")


def test_normalized_images_become_the_pixels_that_they_were() -> None:
    images, labels = part(0)
    normalized = (images.float() / 255 - 0.3) / 0.2
    data = splits((normalized, labels), part(1), part(2), mean=[0.3], std=[0.2])
    assert torch.equal(data.train.images, images)
    assert data.mean == (0.3,)
    unsaid = splits((normalized, labels), part(1), part(2))
    assert torch.allclose(unsaid.train.images / 255, normalized, atol=1e-5)
    assert any("mean and std" in line for line in unsaid.remarks)


def test_a_network_is_named_by_weights_settings_and_code() -> None:
    torch.manual_seed(0)
    first = Net()
    changed = Net()
    changed.load_state_dict(first.state_dict())
    assert network_config(first) == network_config(changed)
    changed.convolution.stride = (2, 2)
    assert network_config(first) != network_config(changed)
    with pytest.raises(UndescribedError):
        config_of(lambda: None)


@pytest.mark.parametrize(
    ("wrong", "line"),
    [
        ({"methods": ["prune_magnitud"]}, "There is no method 'prune_magnitud'. Did you mean prune_magnitude"),
        ({"methods": [Net()]}, "step net is a Net, which has no compress"),
        ({"methods": ["quantize_int8", PRUNE]}, "steps.prune cannot follow steps.quantize_int8"),
        ({"targets": []}, "targets is empty"),
        ({"data": PARTS[:2]}, "data must be three parts"),
        ({"data": (part(0), (part(1)[0], part(1)[1] - 1), part(2))}, "labels must be in"),
        ({"data": (part(0), [], part(2))}, "validation yields no batch"),
        ({"train": 3}, "train is a int"),
    ],
)
def test_what_does_not_fit_is_said_in_a_line(wrong: dict[str, object], line: str, tmp_path: Path) -> None:
    with pytest.raises(InputError) as refused:
        call(tmp_path, "run", **wrong)
    assert str(refused.value).startswith(line)
    assert "\n" not in str(refused.value)


def test_settings_are_checked_with_their_keys() -> None:
    with pytest.raises(InputError, match=r"Nothing reads 'method.sparsty'. Did you mean sparsity"):
        method("prune_magnitude", sparsty=0.5)


def test_the_names_of_the_interface_make_objects_of_the_classes_with_the_values_of_conf() -> None:
    made = {name: found for name, found in vars(api).items() if isinstance(found, functools.partial)}
    assert set(made) <= set(api.__all__)
    for name, named in made.items():
        found = named()
        assert type(found.value).__name__.lower() == name.lower()
        assert found.config == named.func(*named.args).config
    assert api.Prune(sparsity=0.9).value.sparsity == 0.9
    for group, function in (("method", method), ("target", api.target)):
        classes = {yaml.safe_load(path.read_text()).get("_target_", "") for path in (CONF / group).glob("*.yaml")}
        ours = {each.rpartition(".")[2].lower() for each in classes if each.startswith("src.")} - {"chain"}
        assert ours <= {name.lower() for name, each in made.items() if each.func is function}


def test_files_of_a_program_are_bundled_if_a_command_can_load_their_data(tmp_path: Path) -> None:
    loaded = call(tmp_path, "named", data=api.dataset("digits"), model=api.network("small_cnn"))
    made = bundle([loaded.folder], tmp_path / "board.pyz", "20", tmp_path / "artifacts")
    assert (made.models, made.samples[0].name) == (2, "digits")
    tensors = call(tmp_path, "tensors")
    with pytest.raises(InputError, match=r"loaders or tensors of a program.* data=dataset\(NAME\)"):
        bundle([tensors.folder], tmp_path / "other.pyz", "20", tmp_path / "artifacts")
    assert not (tmp_path / "other.pyz").exists()
