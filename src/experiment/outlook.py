"""What an experiment would do: what is found again, what is trained and for how long, the disk, the smallest bytes."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from src.contracts import DataSplits, Lowered, NotExportableError
from src.contracts.formats import duration, size
from src.experiment.export import lowered, written
from src.experiment.making import RECIPE
from src.experiment.plan import Plan
from src.experiment.rehearsal import rehearse
from src.metrics.size import size_bytes, size_gzip_bytes, size_packed_bytes
from src.models.build import build_model
from src.stages.identity import targets_of
from src.stages.specs import Stage
from src.stages.store import StageStore

Records = Mapping[str, Mapping[str, Any]]  # of finished stages, by identity
SAME_TRAINING = ("data", "model", "compute")  # equal of two baselines whose epochs take as long
CHECKPOINT = 3  # weights, the best ones and the optimizer's momentum


@dataclass(frozen=True)
class Ahead:
    """A stage that a run needs.

    Attributes:
        name: Name of the stage.
        identity: Its identity.
        found: Whether it is found again.
        trains: Whether making it trains a network.
        seconds: How long that trains, from earlier runs in the same store; None if there was none.
    """

    name: str
    identity: str
    found: bool
    trains: bool
    seconds: float | None

    def line(self) -> str:
        """The stage for a person."""
        if self.found:
            return f"{self.name}: found again ({self.identity[:8]})"
        if not self.trains:
            return f"{self.name}: made, without training"
        took = "how long is not known yet" if self.seconds is None else f"about {duration(self.seconds)}"
        return f"{self.name}: trained, {took}"


@dataclass(frozen=True)
class Outlook:
    """What a run would do.

    Attributes:
        stages: The baseline and each step, then the files.
        disk_bytes: Bytes that it needs on disk at most, about.
        smallest: By target the bytes of the last variant's file: as it is, gzipped and packed.
        found_sizes: Whether these were measured by an earlier run; else untrained weights stand for trained ones.
    """

    stages: Sequence[Ahead]
    disk_bytes: int
    smallest: Mapping[str, Mapping[str, int | None]]
    found_sizes: bool

    def lines(self) -> Iterator[str]:
        """The outlook for a person."""
        yield from (f"  {stage.line()}" for stage in self.stages)
        training = [stage for stage in self.stages if stage.trains and not stage.found]
        known = [stage.seconds for stage in training if stage.seconds is not None]
        if training:
            rest = "" if len(known) == len(training) else ", and what is not known yet"
            yield f"  Training: {f'about {duration(sum(known))}{rest}' if known else 'not known yet'}"
        yield f"  Disk: about {size(self.disk_bytes)}" if self.disk_bytes else "  Disk: nothing new but copies of files"
        how = "as measured before" if self.found_sizes else "about, from untrained weights"
        for target, sizes in self.smallest.items():
            named = [f"{name} {size(count)}" for name, count in sizes.items() if count is not None]
            yield f"  Smallest on {target}: {', '.join(named)} ({how})"


def outlook(plan: Plan, splits: DataSplits, store: StageStore) -> Outlook:
    """Look ahead: nothing is trained and nothing is kept.

    Raises:
        InputError: The run would be refused.
    """
    records = {stage.identity: stage.record for stage in store.stages() if stage.record is not None}
    stages = plan.stages(splits)
    ahead = [_ahead(plan, stage, store, records) for stage in stages]
    first, last = stages[0].identity, stages[-1].identity
    found = {
        (identity, name): store.find(plan.export(name, identity, splits).identity)
        for identity in dict.fromkeys((first, last))
        for name in plan.targets
    }
    sizes = {key: _measured(record) for key, record in found.items() if record is not None}
    if len(sizes) < len(found):
        estimated = _estimated(plan, splits, rehearse(plan, splits))
        model = build_model(plan.model.value, splits, plan.seed)
        untrained = _estimated(plan, splits, lowered(model, None, splits)) if first != last else estimated
        guessed = {(first, name): untrained[name] for name in plan.targets}
        guessed |= {(last, name): estimated[name] for name in plan.targets}
        sizes = guessed | sizes
    missing = [key for key, record in found.items() if record is None]
    ahead.append(Ahead(f"files ({len(found)})", last, not missing, False, None))
    weights = sum(each.nbytes for each in build_model(plan.model.value, splits, plan.seed).state_dict().values())
    new = [stage for stage in ahead[:-1] if not stage.found]
    disk = weights * (len(new) + CHECKPOINT * any(stage.trains for stage in new))
    disk += sum(2 * (sizes[key]["file"] or 0) for key in missing)  # in the store, and in the run's folder
    smallest = {name: sizes[last, name] for name in plan.targets}
    return Outlook(ahead, disk, smallest, all(found[last, name] is not None for name in plan.targets))


def _ahead(plan: Plan, stage: Stage, store: StageStore, records: Records) -> Ahead:
    found = store.find(stage.identity) is not None
    if stage.name == "baseline":
        trains, seconds = plan.trains, _baseline_seconds(plan, stage, records)
    else:
        trains = RECIPE in targets_of(stage.spec["method"])
        seconds = _step_seconds(stage, records, plan)
    return Ahead(stage.name, stage.identity, found, trains, seconds if trains else None)


def _baseline_seconds(plan: Plan, stage: Stage, records: Records) -> float | None:
    """From the mean epoch of baselines of the same data, network and machine settings."""
    epochs = [
        epoch["seconds"]
        for record in records.values()
        if record["spec"]["kind"] == "baseline" and _same_training(record["spec"], stage.spec)
        for epoch in record["epochs"]
    ]
    return sum(epochs) / len(epochs) * plan.training.value.epochs if epochs else None


def _step_seconds(stage: Stage, records: Records, plan: Plan) -> float | None:
    """From the last step of the same method on a network of the same kind, by the number of its epochs."""
    method = stage.spec["method"]
    for record in records.values():
        spec = record["spec"]
        if spec["kind"] != "step" or spec["method"].get("_target_") != method.get("_target_") or not record["epochs"]:
            continue
        root = _root(spec, records)
        if root is None or root["model"] != dict(plan.model.config) or spec["compute"] != stage.spec["compute"]:
            continue
        then, now = (each.get("fine_tune") or {} for each in (spec["method"], method))
        share = now["epochs"] / then["epochs"] if {"epochs"} <= then.keys() & now.keys() else 1.0
        return float(sum(epoch["seconds"] for epoch in record["epochs"])) * share
    return None


def _root(spec: Mapping[str, Any], records: Records) -> Mapping[str, Any] | None:
    """The spec of the baseline that a step's network came from; None if it is gone."""
    while spec["kind"] == "step":
        before = records.get(spec["input"])
        if before is None:
            return None
        spec = before["spec"]
    return spec


def _same_training(first: Mapping[str, Any], second: Mapping[str, Any]) -> bool:
    return all(first[key] == second[key] for key in SAME_TRAINING)


def _measured(record: Mapping[str, Any] | None) -> dict[str, int | None]:
    columns = record["columns"] if record is not None else {}
    names = {"file": "size_bytes", "gzipped": "size_gzip_bytes", "packed": "size_packed_bytes"}
    return {name: columns.get(column) for name, column in names.items()}


def _estimated(plan: Plan, splits: DataSplits, result: Lowered) -> dict[str, dict[str, int | None]]:
    """The bytes of a network's file for each target that can hold it."""
    found: dict[str, dict[str, int | None]] = {}
    packed = size_packed_bytes(result)
    for name, part in plan.targets.items():
        with tempfile.TemporaryDirectory() as folder:
            try:
                parts = written(name, part.value, result, splits, Path(folder) / f"model.{part.value.ending}", "")
                found[name] = {"file": size_bytes(parts), "gzipped": size_gzip_bytes(parts), "packed": packed}
            except NotExportableError:
                found[name] = {"file": None, "gzipped": None, "packed": None}
    return found
