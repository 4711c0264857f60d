"""Steps in place: equal to the loop over batches to the bit, with nothing in them that a GPU could not replay."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from src.contracts import Context, DataSplits, ImageSet, Loss, Method, Recipe, StepCallback
from src.data.augmentation import Affine, Flip, InOrder, ShiftedCrop
from src.data.batches import TensorBatches, evaluation_batches, example_image
from src.methods.cluster import Cluster
from src.methods.distill import Distill
from src.methods.prune import Prune
from src.methods.prune_regularized import PruneRegularized
from src.methods.quantize_uniform import QuantizeUniform
from src.primitives.codebooks import Linear
from src.primitives.distributions import Global
from src.primitives.keeping import Keep
from src.primitives.quantizers import Symmetric
from src.primitives.schedules import Cubic
from src.primitives.scores import Taylor
from src.training import fit as fitting
from src.training.captured import WARM_UP, StaticSteps, Watch
from src.training.classifier import Classifier
from src.training.fit import Fitted, fit
from src.training.losses import CrossEntropy, Distillation, taught
from src.training.rates import WarmupCosine
from src.training.recipe import Compute

STEPS = 13  # of an epoch of 54 images
SGD = partial(torch.optim.SGD, lr=0.05, momentum=0.9, nesterov=True, weight_decay=5e-4, fused=True)
ADAM = partial(torch.optim.Adam, lr=2.0**-10, fused=True)
AUGMENTATION = InOrder(steps=[Flip(), ShiftedCrop(pixels=2), Affine(degrees=10, scale=[0.9, 1.1], shift=0.1)])


class Net(nn.Module):
    """A convolution with batch normalization, dropout, a dense layer."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn = nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.dropout, self.fc = nn.Dropout(0.3), nn.Linear(8 * 4 * 4, 10)

    def forward(self, images: Tensor) -> Tensor:
        hidden = nn.functional.max_pool2d(torch.relu(self.bn(self.conv(images))), 4)
        return self.fc(self.dropout(hidden.flatten(1)))


class Listener:
    """Keeps what is said; may interrupt in an epoch."""

    def __init__(self, interrupt_in: int | None = None) -> None:
        self.said: list[str] = []
        self.interrupt_in = interrupt_in

    def say(self, line: str) -> None:
        self.said.append(line)

    def step(self, epoch: int, step: int, loss: float) -> None:
        if epoch == self.interrupt_in:
            raise KeyboardInterrupt

    def start(self, epochs: int, steps: int) -> None: ...

    def resumed(self, epoch: int) -> None: ...

    def epoch(self, epoch: Any) -> None: ...

    def stop(self) -> None: ...


class Clip(StepCallback):
    """Shortens the gradient."""

    capturable = True

    def after_backward(self, model: nn.Module) -> None:
        nn.utils.clip_grad_norm_(model.parameters(), 0.5)


def by_steps(progress: float) -> float:
    """Powers of two, which are the same numbers in float32."""
    return 2.0 ** -int(8 * progress)


def recipe(optimizer: Any = SGD, **changed: Any) -> Recipe:
    rate = WarmupCosine(warmup=0.1) if optimizer is SGD else by_steps
    given: dict[str, Any] = {"loss": CrossEntropy(label_smoothing=0.1), "keep": "last", "rate": rate, "epochs": 3}
    return Recipe(batch_size=4, optimizer=optimizer, **{**given, **changed})


def batches(splits: DataSplits, device: str = "cpu", drop_last: bool = True) -> TensorBatches:
    return TensorBatches(
        splits.train, 4, mean=splits.mean, std=splits.std, augmentation=AUGMENTATION, shuffle_seed=3, device=device,
        drop_last=drop_last,
    )  # fmt: skip


def train(
    splits: DataSplits,
    model: nn.Module,
    folder: Path,
    chosen: Recipe,
    *,
    callbacks: Sequence[StepCallback] = (),
    loss: Loss | None = None,
    device: str = "cpu",
    drop_last: bool = True,
    listener: Any = None,
) -> Fitted:
    return fit(
        model,
        batches(splits, device, drop_last),
        evaluation_batches(splits, splits.validation, batch_size=4, device=device),
        chosen,
        Compute(device, "float32" if device == "cpu" else "bf16", 1),
        seed=7,
        checkpoint=folder / "training.ckpt",
        progress=listener or Listener(),
        callbacks=callbacks,
        loss=loss,
    )


def net() -> nn.Module:
    torch.manual_seed(0)
    return Net()


def both(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, run: Callable[[Path], Any]) -> tuple[Any, Any]:
    """What ``run`` gives with the loop over batches, and with steps in place; the latter must have been used."""
    found, used = [], []
    take_step = StaticSteps.take_step
    monkeypatch.setattr(StaticSteps, "take_step", lambda self, *size: used.append(take_step(self, *size)))
    for devices in ((), ("cpu",)):
        monkeypatch.setattr(Classifier, "STATIC", devices)
        (tmp_path / str(len(devices))).mkdir()
        found.append(run(tmp_path / str(len(devices))))
        assert bool(used) == bool(devices)
    return found[0], found[1]


def assert_equal(one: nn.Module, other: nn.Module) -> None:
    before, states = net().state_dict(), (one.state_dict(), other.state_dict())
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())
    assert not torch.equal(before["fc.weight"], states[0]["fc.weight"])


@pytest.mark.parametrize("drop_last", [True, False], ids=["full", "a smaller last batch"])
@pytest.mark.parametrize("optimizer", [SGD, ADAM], ids=["sgd", "adam"])
def test_steps_in_place_end_at_the_weights_of_the_loop(
    splits: DataSplits, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, optimizer: Any, drop_last: bool
) -> None:
    models: list[nn.Module] = []

    def run(folder: Path) -> Fitted:
        models.append(net())
        pattern = models[-1].get_parameter("fc.weight")
        with torch.no_grad():
            pattern.mul_(pattern.abs() > 0.02)
        callbacks = [Clip(), Keep(models[-1])]
        return train(splits, models[-1], folder, recipe(optimizer), callbacks=callbacks, drop_last=drop_last)

    loop, static = both(monkeypatch, tmp_path, run)
    assert_equal(*models)
    for a, b in zip(loop.epochs, static.epochs, strict=True):
        assert (a.train_loss, a.train_accuracy, a.validation_accuracy) == (
            b.train_loss,
            b.train_accuracy,
            b.validation_accuracy,
        )
        assert b.learning_rate == pytest.approx(a.learning_rate)


def methods() -> dict[str, Method]:
    schedule = Cubic(begin=0.0, end=0.6, updates=5)
    taught_recipe = recipe(
        loss=Distillation(
            temperature=2.0, weight=0.5, label_smoothing=0.0, teachers=[], hints=["conv"], hint_weight=1.0
        )
    )
    return {
        "prune": Prune(
            sparsity=0.6, scores=Taylor(), distribution=Global(), schedule=schedule, ignored=[], batch_norm_batches=0,
            fine_tune=recipe(),
        ),
        "prune_regularized": PruneRegularized(
            sparsity=0.5, schedule=schedule, strength=0.05, swing=20.0, ignored=[], fine_tune=recipe()
        ),
        "cluster": Cluster(clusters=8, bits=None, start=Linear(), iterations=5, ignored=[], fine_tune=recipe(ADAM)),
        "quantize": QuantizeUniform(
            bits=3, activation_bits=4, grid=Symmetric(per_channel=True, candidates=4), ignored=[],
            fine_tune=recipe(ADAM),
        ),
        "distill": Distill(fine_tune=taught_recipe),
    }  # fmt: skip


def compress(splits: DataSplits, method: Method, folder: Path, device: str = "cpu", listener: Any = None) -> nn.Module:
    """The method's network, its training done as an experiment does it."""
    before, example = net().eval(), example_image(splits)

    def fine_tune(model: nn.Module, chosen: Recipe, callbacks: Sequence[StepCallback] = (), loss: Any = None) -> None:
        with taught(loss or chosen.loss, model, before, example) as bound:
            every = [*callbacks, Keep(model)]
            train(splits, model, folder, chosen, callbacks=every, loss=bound, device=device, listener=listener)

    calibration = evaluation_batches(splits, splits.calibration, batch_size=6)
    context = Context(calibration, CrossEntropy(label_smoothing=0.0), example, 0, fine_tune)
    made = method.compress(copy.deepcopy(before), context)
    return made if isinstance(made, nn.Module) else made.model


@pytest.mark.parametrize("name", list(methods()))
def test_methods_train_in_place_as_in_the_loop_and_nothing_in_their_step_is_refused(
    splits: DataSplits, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    loop, static = both(monkeypatch, tmp_path, lambda folder: compress(splits, methods()[name], folder))
    for key, value in loop.state_dict().items():
        assert torch.equal(value, static.state_dict()[key]), key
    seen: list[str | None] = []
    run = StaticSteps.take_step

    def watched(self: StaticSteps, *size: int) -> None:
        with Watch() as watch:
            run(self, *size)
        seen.append(watch.reason)

    monkeypatch.setattr(StaticSteps, "take_step", watched)
    (tmp_path / "watched").mkdir()
    compress(splits, methods()[name], tmp_path / "watched")
    assert len(seen) == 3 * STEPS
    assert set(seen[WARM_UP - 1 :]) == {None}


REFUSED: dict[str, tuple[Callable[[Tensor], Any], str]] = {
    "item": (lambda t: t.sum().item(), "a number is read on the host"),
    "float": (lambda t: float(t.sum()), "a number is read on the host"),
    "branch": (lambda t: t if t.sum() > 0 else -t, "on the host|depends on data"),
    "equal": (lambda t: torch.equal(t, t), "a branch depends on data"),
    "nonzero": (lambda t: t.nonzero(), "a shape depends on data"),
    "mask": (lambda t: t[t > 0], "a shape depends on data"),
    "unique": (lambda t: torch.unique(t), "a shape depends on data"),
    "new": (lambda t: t + torch.tensor([1.0, 2.0]), "numbers of the host"),
    "assigned": (lambda t: t.__setitem__(0, 5.0), "numbers of the host"),
}


@pytest.mark.parametrize("name", list(REFUSED))
def test_what_a_graph_cannot_hold_is_noticed_and_its_place_named(name: str) -> None:
    operation, says = REFUSED[name]
    with Watch() as watch:
        operation(torch.ones(2))
    assert watch.reason is not None
    with pytest.raises(AssertionError, match=says):
        raise AssertionError(watch.reason)
    assert "test_captured.py, line" in watch.reason


def test_what_a_graph_can_hold_is_not_refused() -> None:
    with Watch() as watch:
        values = torch.zeros(3)
        values[:1].fill_(1)
        values += 2.5
        torch.where(values > 0, values, 0.0).masked_fill_(values > 1, 0.0)
        torch.rand(3, generator=torch.Generator())
    assert watch.reason is None


class Counting(StepCallback):
    """Counts on the host, and does not say that it can be captured."""

    def __init__(self) -> None:
        self.calls = 0

    def after_backward(self, model: nn.Module) -> None:
        self.calls += 1


def test_what_cannot_be_in_place_runs_in_the_loop_and_the_reason_is_said_once(
    splits: DataSplits, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Classifier, "STATIC", ("cpu",))
    for callbacks, optimizer, says in (
        ([Counting()], SGD, "Counting does not say that it can be"),
        ([], partial(torch.optim.Adagrad, lr=0.1), "Adagrad has no form that can be"),
    ):
        listener, model = Listener(), net()
        folder = tmp_path / says[:4]
        folder.mkdir()
        train(splits, model, folder, recipe(optimizer), callbacks=callbacks, listener=listener)
        (line,) = listener.said
        assert says in line
        if callbacks:
            assert callbacks[0].calls == 3 * STEPS


def test_an_interrupted_training_in_place_ends_at_the_same_weights(
    splits: DataSplits, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Classifier, "STATIC", ("cpu",))
    whole, broken, resumed = net(), net(), net()
    for folder in ("whole", "broken"):
        (tmp_path / folder).mkdir()
    train(splits, whole, tmp_path / "whole", recipe())
    with pytest.raises(KeyboardInterrupt):
        train(splits, broken, tmp_path / "broken", recipe(), listener=Listener(interrupt_in=2))
    assert train(splits, resumed, tmp_path / "broken", recipe()).resumed_epoch == 1
    assert_equal(whole, resumed)


def test_batches_in_place_are_those_of_the_iteration(splits: DataSplits) -> None:
    of = batches(splits, drop_last=False)
    for epoch in (2, 0):
        of.set_epoch(epoch)
        expected = list(of)
        of.begin()
        for images, labels in expected:
            found = of.take(len(labels))
            assert torch.equal(found[0], images)
            assert torch.equal(found[1], labels)
    assert (of.rest, len(of), ImageSet(*expected[-1]).labels.shape) == (2, STEPS + 1, (2,))
    assert fitting.fit is fit


# On a GPU ------------------------------------------------------------------------------------------

on_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")


@on_gpu
@pytest.mark.parametrize("name", ["none", *methods()])
def test_replayed_steps_end_at_the_weights_of_those_that_are_not(
    splits: DataSplits, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    found, replays = [], []
    for graphs in (True, False):
        (tmp_path / str(graphs)).mkdir()
        with monkeypatch.context() as patch:
            if not graphs:
                patch.setattr("src.training.captured.WARM_UP", 10**9)
            run = StaticSteps.run

            def counted(self: StaticSteps, of: Any, epoch: int, run: Any = run) -> None:
                run(self, of, epoch)
                replays.append(self.replayed.replays)

            patch.setattr(StaticSteps, "run", counted)
            listener = Listener()
            if name == "none":
                found.append(net())
                train(splits, found[-1], tmp_path / str(graphs), recipe(), device="cuda", listener=listener)
            else:
                found.append(compress(splits, methods()[name], tmp_path / str(graphs), "cuda", listener))
            assert listener.said == []
    assert replays[2] == 3 * STEPS - WARM_UP
    assert replays[5] == 0
    for key, value in found[0].state_dict().items():
        assert torch.equal(value, found[1].state_dict()[key]), key


class Waiting(StepCallback):
    """Says that it can be captured, and waits for the device."""

    capturable = True

    def after_backward(self, model: nn.Module) -> None:
        torch.cuda.synchronize()


@on_gpu
def test_a_capture_that_fails_is_said_and_the_training_goes_on(splits: DataSplits, tmp_path: Path) -> None:
    listener, plain, waiting = Listener(), net(), net()
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
    train(splits, plain, tmp_path / "a", recipe(), device="cuda")
    train(splits, waiting, tmp_path / "b", recipe(), callbacks=[Waiting()], device="cuda", listener=listener)
    assert len(listener.said) == 1
    assert "cannot be captured" in listener.said[0]
    assert_equal(plain, waiting)


@on_gpu
def test_an_interrupted_training_on_a_gpu_ends_at_the_same_weights(splits: DataSplits, tmp_path: Path) -> None:
    whole, broken, resumed = net(), net(), net()
    for folder in ("whole", "broken"):
        (tmp_path / folder).mkdir()
    train(splits, whole, tmp_path / "whole", recipe(), device="cuda")
    with pytest.raises(KeyboardInterrupt):
        train(splits, broken, tmp_path / "broken", recipe(), device="cuda", listener=Listener(interrupt_in=2))
    assert train(splits, resumed, tmp_path / "broken", recipe(), device="cuda").resumed_epoch is not None
    assert_equal(whole, resumed)
