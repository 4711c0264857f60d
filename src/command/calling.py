"""The engine of the commands for a Python program: objects in; files, rows and the compressed network out."""

from __future__ import annotations

import datetime
import io
import json
import shlex
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from torch import nn

from src.command.composition import build, tracker_of
from src.command.config_checks import SEEDS
from src.command.execution import Executed, Origin, carry_out
from src.command.folders import made_unused
from src.command.given import Data, Given, Network, Steps, Targets, Training
from src.command.named import defaults
from src.contracts import InputError, Row
from src.display.tables import refusals, remarks, table
from src.display.terminal import Console, only_ours
from src.experiment.budget import Budget
from src.experiment.plan import Plan
from src.files.owner import owning
from src.files.writing import write_text
from src.methods.chain import Chain
from src.metrics.board import Board
from src.metrics.timing import Clock
from src.models.build import NetworkSource
from src.stages.store import StageStore
from src.training.recipe import Compute


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How a call of ``compress`` works, beside what it works on.

    Attributes:
        name: Name of the experiment.
        seed: Seed of the weights, the batch order and each method's random draws.
        device, precision, threads, devices: Where and how numbers are computed, as in ``conf/training``.
        clock: How files are timed; None takes ``timing`` of ``conf/config.yaml``.
        board: The board that is to run the files; None refuses nothing.
        artifacts: Folder of the stages.
        folder: Folder of the results; None makes a new one in ``outputs/<name>``.
        tracking: File of ``conf/tracking``: ``mlflow``, ``jsonl`` or ``off``.
        tracking_uri: Address of the tracking store; None takes the file's.
        refresh: Whether stages that were made before are made anew.
        verbose: Whether what libraries and a loop of yours print is shown; else it goes to ``run.log``.
        quiet: Whether nothing is said while it works.
    """

    name: str = "python"
    seed: int = 0
    device: str = "auto"
    precision: str = "auto"
    threads: str | int = "auto"
    devices: int = 1
    clock: Clock | None = None
    board: Board | None = None
    artifacts: str | Path = "artifacts"
    folder: str | Path | None = None
    tracking: str = "mlflow"
    tracking_uri: str | None = None
    refresh: bool = False
    verbose: bool = False
    quiet: bool = False


@dataclass(frozen=True)
class Result:
    """What ``compress`` made.

    Attributes:
        rows: A row for each file, the baseline's first; docs/results.md has their columns.
        model: The compressed network, in eval mode, on the CPU.
        files: The exported files, in the order of ``rows``.
        folder: The folder that holds them, ``results.json`` and ``run.log``.
        budget_missed: A line for each limit of the budget that does not hold; empty if all hold.
        compare: What a person opens or types to compare runs; None if nothing is tracked.
        lines: The result table, and what could be misread in it.
    """

    rows: Sequence[Row]
    model: nn.Module
    files: Sequence[Path]
    folder: Path
    budget_missed: Sequence[str]
    compare: str | None
    lines: Sequence[str]

    def table(self) -> str:
        """The result table, and what could be misread in it, as text."""
        return "\n".join(self.lines)

    @classmethod
    def of(cls, done: Executed, folder: Path) -> Result:
        """The result of what was executed in ``folder``."""
        results = done.results
        notes = [*remarks(results.rows), *refusals([*results.not_exportable, *results.refused]), *results.budget_missed]
        return cls(
            rows=tuple(results.rows),
            model=done.model,
            files=tuple(folder / row.artifact for row in results.rows),
            folder=folder,
            budget_missed=tuple(results.budget_missed),
            compare=done.compare,
            lines=(*table(results.entries, results.refused), *([""] if notes else []), *notes),
        )


def compress(
    model: Network,
    data: Data,
    methods: Steps,
    targets: Targets = ("onnxruntime",),
    train: Training = None,
    budget: Budget | None = None,
    *,
    identity: str | None = None,
    settings: Settings | None = None,
) -> Result:
    """Train a network if that is asked for, compress it, export it, and measure the files.

    It is what ``python -m src.run`` does: a stage that was made before is found again, a call that was cut off resumes
    at the last checkpoint, and validation data alone chooses.

    Args:
        model: The network, or what builds it. Without ``train`` its weights are taken as trained.
        data: Data splits or what loads them, or three parts (training, validation, test), each a loader or a pair of
            tensors ``(images [n, c, h, w], labels [n])``; ``splits`` says more of these, such as their normalization.
        methods: The steps of compression, in order: objects, what ``method`` returns, or names of ``conf/method``.
        targets: Where the files are to run: objects, what ``target`` returns, or names of ``conf/target``.
        train: How the network is trained before it is compressed: a recipe, or a loop of yours, called with the network
            and with batches for training and validation. None if the network is trained already.
        budget: Limits on the files; ``budget_missed`` of the result says which do not hold.
        identity: Your name for what cannot be named otherwise: what a loader yields, a loop, an object that hides its
            settings. Stages that need such a name are kept only under it; change it when they change.
        settings: Seed, device, folders, tracking; None takes the defaults.

    Raises:
        InputError: Something that was given does not fit; nothing was trained for it.
        TrackingError: Nothing answers at the tracking address.
    """
    settings, given = settings or Settings(), Given(identity)
    plan = plan_of(given, settings, (model, data, methods, targets, train))
    tracker = tracker_of(settings.tracking, settings.tracking_uri)
    folder, artifacts = _folder(settings), Path(settings.artifacts)
    origin = Origin(_record(plan, artifacts), settings.tracking, " ".join(["python", *map(shlex.quote, sys.argv)]))
    with ExitStack() as held:
        held.enter_context(owning(folder))
        console = Console(held.enter_context(_terminal(folder / "run.log", settings)), "")
        root = artifacts
        if identity is None and given.unknown:
            console.line(f'Stages are not kept, since nothing names {"; ".join(given.unknown)}: identity="…" does')
            root = Path(held.enter_context(tempfile.TemporaryDirectory()))
        store = StageStore(root, time.time() if settings.refresh else None, console.line)
        write_text(folder / "config.yaml", json.dumps(origin.config, indent=1) + "\n")  # JSON is YAML
        limits = budget or Budget()
        done = carry_out(plan, limits, tracker, origin, folder, store=store, console=console, artifacts=artifacts)
    return Result.of(done, folder)


def plan_of(given: Given, settings: Settings, objects: tuple[Network, Data, Steps, Targets, Training]) -> Plan:
    """The plan of a call, all of it checked."""
    model, data, methods, targets, train = objects
    if isinstance(settings.seed, bool) or not isinstance(settings.seed, int) or not 0 <= settings.seed < SEEDS:
        raise InputError(f"seed must be a whole number from 0 to {SEEDS - 1}, and is {settings.seed!r}")
    steps = given.steps(methods)
    variant = "_".join(steps) or "baseline"
    _checked(Chain, name=variant, steps={name: step.value for name, step in steps.items()})
    network, called = given.network(model)
    recipe, loop = given.training(train)
    compute = {key: getattr(settings, key) for key in ("device", "precision", "threads", "devices")}
    return Plan(
        name=settings.name,
        variant=variant,
        seed=settings.seed,
        data=given.data(data),
        model=network,
        model_name=called,
        weights=network.value.weights if isinstance(network.value, NetworkSource) else None,
        training=recipe,
        compute=_checked(Compute.resolve, **compute),
        steps=steps,
        targets=given.targets(targets),
        clock=settings.clock or build(defaults(), "timing", Clock),
        board=settings.board or build(defaults(), "board"),
        trained=train is None,
        loop=loop,
    )


def _checked(call: Callable[..., Any], **arguments: Any) -> Any:
    try:
        return call(**arguments)
    except ValueError as error:
        raise InputError(str(error)) from error


def _folder(settings: Settings) -> Path:
    """The folder of the results, made if it is not there."""
    if settings.folder is None:
        now = datetime.datetime.now().strftime("%Y-%m-%d_%H-%M-%S")
        return made_unused(Path("outputs") / settings.name / now).absolute()
    folder = Path(settings.folder).expanduser().absolute()
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _record(plan: Plan, artifacts: Path) -> dict[str, Any]:
    """What a run's ``config.yaml`` says."""
    steps: Mapping[str, Any] = {name: dict(step.config) for name, step in plan.steps.items()}
    return {
        "data": dict(plan.data.config),
        "model": dict(plan.model.config),
        "training": dict(plan.training.config if plan.loop is None else plan.loop.config) if plan.trains else None,
        "method": {"name": plan.variant, "steps": steps},
        "target": {name: dict(target.config) for name, target in plan.targets.items()},
        "seed": plan.seed,
        "artifacts": str(artifacts),
    }


@contextmanager
def _terminal(log: Path, settings: Settings) -> Iterator[TextIO]:
    """Where the lines go while libraries print into ``log``; a notebook's output is its own, and no file descriptor."""
    own = None if sys.stdout is sys.__stdout__ else sys.stdout
    with ExitStack() as held:
        terminal = held.enter_context(only_ours(log, verbose=settings.verbose))
        if own is not None and not settings.verbose:
            held.enter_context(redirect_stdout(held.enter_context(log.open("a", encoding="utf-8"))))
        yield io.StringIO() if settings.quiet else own or terminal
