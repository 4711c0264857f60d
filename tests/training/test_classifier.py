"""What the LightningModule adds to a loss."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from src.contracts import Recipe
from src.training.classifier import Classifier
from src.training.losses import CrossEntropy


class Two(nn.Module):
    """Two dense layers on one pixel; the second's logits are auxiliary."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = nn.Linear(2, 3), nn.Linear(2, 3)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.first(images.flatten(1))
        logits.auxiliary = (self.second(images.flatten(1)),)  # type: ignore[attr-defined]
        return logits


class Quiet:
    """Wants to know nothing."""

    def step(self, *_: Any) -> None:
        """Nothing."""


class Batches:
    """One batch."""

    def __init__(self, images: Tensor, labels: Tensor) -> None:
        self.batch = (images, labels)

    def __len__(self) -> int:
        return 1

    def __iter__(self) -> Any:
        return iter([self.batch])


@pytest.mark.parametrize("weight", [0.0, 0.4])
def test_the_loss_of_auxiliary_logits_is_added_with_its_weight(weight: float) -> None:
    images, labels = torch.randn(4, 2, 1, 1, generator=torch.Generator().manual_seed(1)), torch.tensor([0, 1, 2, 0])
    model, loss = Two(), CrossEntropy(label_smoothing=0.0)
    recipe = Recipe(
        epochs=1,
        batch_size=4,
        optimizer=partial(torch.optim.SGD, lr=1.0),
        rate=lambda _: 1.0,
        loss=loss,
        keep="last",
        auxiliary_weight=weight,
    )
    module = Classifier(model, recipe, loss, "float32", [], Quiet())  # type: ignore[arg-type]
    optimizer = module.configure_optimizers()
    module.optimizers = lambda **_: optimizer  # type: ignore[method-assign, assignment, return-value]
    module._current_fx_name = None
    expected = Two()
    logits = expected(images)
    (cross_entropy(logits, labels) + weight * cross_entropy(logits.auxiliary[0], labels)).backward()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Classifier, "current_epoch", 0)
        module.training_step(Batches(images, labels), 0)
    for name, parameter in expected.named_parameters():
        step = parameter - (parameter.grad if parameter.grad is not None else 0)
        torch.testing.assert_close(model.get_parameter(name), step)


def test_a_weight_below_zero_is_refused() -> None:
    with pytest.raises(ValueError, match="auxiliary_weight must be at least 0, and is -1"):
        Recipe(
            epochs=1,
            batch_size=1,
            optimizer=partial(torch.optim.SGD, lr=1.0),
            rate=lambda _: 1.0,
            loss=CrossEntropy(label_smoothing=0.0),
            keep="last",
            auxiliary_weight=-1,
        )
