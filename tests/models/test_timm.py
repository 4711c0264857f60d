"""Networks of timm by name, with published weights if a cache has them."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import nn

from src.contracts import DataSplits, InputContract, InputError
from src.models.build import NetworkSource, build_model
from src.models.timm import timm_network
from src.models.weights import Weights
from tests.plans import plan


def network(name: str, pretrained: bool = False) -> Callable[..., nn.Module]:
    return partial(timm_network, name=name, pretrained=pretrained)


@pytest.mark.parametrize(
    "name", ["mobilenetv3_small_050", "vit_tiny_patch16_224", "swin_tiny_patch4_window7_224", "repvgg_a0"]
)
def test_timms_networks_get_classes_channels_and_size(splits: DataSplits, name: str) -> None:
    assert build_model(network(name), splits, 0).eval()(torch.zeros(2, 3, 16, 16)).shape == (2, 10)
    grey = timm_network(name=name, pretrained=False, num_classes=7, in_channels=1, image_size=(32, 32)).eval()
    assert grey(torch.zeros(2, 1, 32, 32)).shape == (2, 7)


@pytest.mark.parametrize(
    ("name", "pretrained", "message"),
    [
        ("mobilenetv3_smal_050", False, "timm has no network 'mobilenetv3_smal_050'. Did you mean mobilenetv3_small"),
        ("mixer_s32_224", True, "there are no published weights of mixer_s32_224"),
    ],
)
def test_a_name_that_does_not_exist_is_answered_with_the_nearest(
    splits: DataSplits, name: str, pretrained: bool, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        build_model(network(name, pretrained), splits, 0)


# Published weights --------------------------------------------------------------------------------


@pytest.fixture
def caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Empty caches of the hub and of torch."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("torch.hub.get_dir", lambda: str(tmp_path / "torch"))
    return tmp_path


def test_weights_that_no_cache_has_are_never_random_ones(splits: DataSplits, caches: Path) -> None:
    with pytest.raises(InputError, match=r"model\.pretrained: .*this line downloads them: python"):
        build_model(network("resnet18", True), splits, 0)


def in_hub(caches: Path, repository: str, model: nn.Module) -> None:
    """Put the weights of ``model`` where the hub's client would have put them."""
    folder = caches / "hub" / f"models--{repository.replace('/', '--')}"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text("0" * 40)
    (folder / "snapshots" / ("0" * 40)).mkdir(parents=True)
    save_file(model.state_dict(), folder / "snapshots" / ("0" * 40) / "model.safetensors")


def test_timms_weights_come_from_the_hubs_cache_and_the_head_is_new(splits: DataSplits, caches: Path) -> None:
    published = timm.create_model("mobilenetv3_small_050", pretrained=False)
    in_hub(caches, "timm/mobilenetv3_small_050.lamb_in1k", published)
    model = build_model(network("mobilenetv3_small_050", True), splits, 0)
    assert torch.equal(model.conv_stem.weight, published.conv_stem.weight)
    assert model.classifier.weight.shape == (10, published.classifier.in_features)
    assert model.input_contract == InputContract(
        (224, 224), "bicubic", 0.875, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    )


def test_pretrained_weights_bring_the_mean_and_deviation_of_their_pixels(caches: Path) -> None:
    from src.experiment.making import prepare

    in_hub(caches, "timm/mobilenetv3_small_050.lamb_in1k", timm.create_model("mobilenetv3_small_050"))
    chosen = ["model=timm", "model.name=mobilenetv3_small_050", "model.pretrained=true"]
    found = prepare(plan(*chosen))
    assert (found.mean, found.std) == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


# A trainer's checkpoint ---------------------------------------------------------------------------


def test_a_data_parallel_checkpoint_of_a_trainer_loads_into_timms_network(splits: DataSplits, tmp_path: Path) -> None:
    import argparse

    trained = timm.create_model("mobilenetv3_small_050", num_classes=100)
    content = {
        "epoch": 3,
        "arch": "mobilenetv3_small_050",
        "state_dict": nn.DataParallel(trained).half().state_dict(),
        "optimizer": torch.optim.SGD(trained.parameters(), 0.1, momentum=0.9).state_dict(),
        "args": argparse.Namespace(model="mobilenetv3_small_050", lr=0.1),
        "metric": torch.tensor(0.5).numpy()[()],
    }
    torch.save(content, tmp_path / "last.pth.tar")
    said: list[str] = []
    source = NetworkSource(network("mobilenetv3_small_050"), weights=Weights(tmp_path / "last.pth.tar", None, True))
    model = build_model(source, splits, 0, say=said.append)
    assert torch.equal(model.conv_stem.weight, trained.conv_stem.weight.float())
    line, _ = said
    assert line.startswith("last.pth.tar: took state_dict, dropped the prefix 'module.', ")
    assert "head of 100 classes replaced by a new one of 10 (classifier.weight, classifier.bias)" in line


def test_published_weights_of_a_file_are_normalized_as_they_expect(splits: DataSplits, tmp_path: Path) -> None:
    name = "mobilenetv3_small_050"
    save_file(timm.create_model(name, num_classes=10).state_dict(), tmp_path / "w.safetensors")
    for published, lines in ((False, 1), (True, 0)):
        said: list[str] = []
        source = NetworkSource(
            partial(timm_network, name=name, pretrained=False, published_input=published),
            weights=Weights(tmp_path / "w.safetensors"),
        )
        model = build_model(source, splits, 0, say=said.append)
        assert len([line for line in said if "model.published_input=true" in line]) == lines
        contract = InputContract.of(model)
        assert (contract is not None and contract.mean == (0.485, 0.456, 0.406)) == published
