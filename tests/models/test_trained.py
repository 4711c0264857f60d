"""A network with the weights of a file, e.g. a teacher."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
import torch

from src.contracts import InputError
from src.models.resnet import CifarResNet
from src.models.trained import Trained
from src.models.weights import save_weights

KNOWN = {"num_classes": 10, "in_channels": 3, "image_size": (16, 16)}


def test_a_teacher_has_the_weights_of_its_file_and_is_in_eval_mode(tmp_path: Path) -> None:
    torch.manual_seed(0)
    saved = CifarResNet(depth=8, num_classes=10, in_channels=3)
    save_weights(saved, tmp_path / "weights.safetensors")
    torch.manual_seed(1)
    teacher = Trained(model=partial(CifarResNet, depth=8), weights=str(tmp_path / "weights.safetensors"))(**KNOWN)
    assert not teacher.training
    images = torch.randn(2, 3, 16, 16)
    assert torch.equal(teacher(images), saved.eval()(images))


def test_a_file_that_is_missing_or_does_not_fit_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"weights: there is no file .*none\.safetensors"):
        Trained(model=partial(CifarResNet, depth=8), weights=str(tmp_path / "none.safetensors"))
    save_weights(CifarResNet(depth=14, num_classes=10, in_channels=3), tmp_path / "deep.safetensors")
    teacher = Trained(model=partial(CifarResNet, depth=8), weights=str(tmp_path / "deep.safetensors"))
    with pytest.raises(InputError, match=r"does not fit the model"):
        teacher(**KNOWN)
