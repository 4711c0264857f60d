"""The files of an experiment: exported for each target, measured in their runtime, timed in turns."""

from __future__ import annotations

import datetime
import logging
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from src.contracts import (
    Console,
    DataSplits,
    ImageSet,
    InputError,
    Lowered,
    NotExportableError,
    Precision,
    Refused,
    RefusedFileError,
    Row,
    Target,
    first_line,
)
from src.data.batches import TensorBatches, evaluation_batches
from src.experiment.export import few_images, lowered, written
from src.experiment.making import BATCH, Made
from src.experiment.plan import Plan
from src.experiment.watching import decisions
from src.metrics.rows import bits_per_weight, complete, measure, measure_times, measure_untested
from src.metrics.timing import Timing, UntimedError
from src.stages.store import StageStore

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Exported:
    """A file of the run.

    Attributes:
        variant, target: Their names.
        artifact: Name of the file in the run's folder.
        made: The model that it was written from.
        identity: Identity of the export's stage.
        path: Its first part, in the run's folder.
        columns: What was measured of it, all but times and comparisons.
        found: Whether the file was found again.
    """

    variant: str
    target: str
    artifact: str
    made: Made
    identity: str
    path: Path
    columns: Mapping[str, Any]
    found: bool


class FileMaker:
    """Exports models for every target of a plan, measures the files and times them.

    Args:
        plan: Names the targets, the board and how files are timed.
        splits: The data.
        store: Where files and measurements are found again.
        console: Tells a person.
        folder: Folder of the run; the files are copied into it.
    """

    def __init__(self, plan: Plan, splits: DataSplits, *, store: StageStore, console: Console, folder: Path) -> None:
        self.plan, self.splits, self.store = plan, splits, store
        self.console, self.folder = console, folder

    def ship(self, variants: Mapping[str, Made]) -> tuple[list[Row], list[Refused], bool]:
        """Export, measure and time every variant for every target.

        Args:
            variants: Models by variant name, the baseline's first.

        Returns:
            A row for each file, in that order; the variants that a target cannot hold, or whose file its runtime
            refused; whether all was found again.

        Raises:
            InputError: No target can hold and run the last variant.
        """
        files: list[Exported] = []
        refused: list[Refused] = []
        for variant, made in variants.items():
            for target in self.plan.targets:
                try:
                    files.append(self._exported(variant, made, target))
                except NotExportableError as error:
                    refused.append(Refused(variant, target, str(error), isinstance(error, RefusedFileError)))
        rows, timed_before = self._rows(files, refused)
        last = list(variants)[-1]
        if all(row.variant != last for row in rows):
            raise InputError(next(each.reason for each in refused if each.variant == last))
        remarks = [remark for file in files for remark in self._remarks(file)]
        for line in dict.fromkeys(line for made in variants.values() for line in self._decisions(made)):
            remarks.append(
                f"{line} branches on the values of an image; files always take the branch of the first image"
            )
        for remark in dict.fromkeys(remarks):
            self.console.line(remark)
        return rows, refused, timed_before and all(file.found for file in files)

    def measure_candidate(self, made: Made, *, timed: bool) -> dict[str, dict[str, Any]]:
        """Measure a model's file for each target without the test set, as a search's trial needs it.

        Args:
            made: The model.
            timed: Whether latency is measured.

        Returns:
            Columns by target name; what cannot be counted is None.
        """
        columns = {}
        for name, part in self.plan.targets.items():
            target = part.value
            with tempfile.TemporaryDirectory() as folder:
                parts, result = self._write(made, name, Path(folder))
                self.plan.board.check(target, parts)
                session = target.load(parts[0], threads=self.plan.compute.threads)
                measured = measure_untested(target, parts, session, self.splits, self._batches, result)
                if timed:
                    alone = replace(self.plan.clock, largest_batch=1)
                    (timing,) = measure_times([(target, parts[0])], self.splits, self._batches, alone)
                    measured |= timing.columns()
            columns[name] = {**measured, "bits_per_weight": bits_per_weight(made.record["layers"])}
        return columns

    def _exported(self, variant: str, made: Made, target_name: str) -> Exported:
        """A file in the run's folder, found again, or written and measured."""
        target = self.plan.targets[target_name].value
        stage = self.plan.export(target_name, made.identity, self.splits)
        with self.store.hold(stage.identity, self.folder) as folder:
            record = self.store.find(stage.identity)
            found = record is not None
            if record is None:
                parts, columns = self._measured(made, target_name, folder)
                record = {"kind": "export", "spec": stage.spec, "parts": [part.name for part in parts]}
                record["columns"] = columns
                record = self.store.finish(stage.identity, record)
            if variant != "baseline" or not self.plan.steps:
                self.plan.board.check(target, [folder / part for part in record["parts"]])
            artifact = f"{variant}.{target_name}.{target.ending}"
            for part in reversed(record["parts"]):  # the first part, which a runtime is given, lies there last
                self.store.copy(stage.identity, part, (self.folder / artifact).with_suffix(Path(part).suffix))
        path = self.folder / artifact
        return Exported(variant, target_name, artifact, made, stage.identity, path, record["columns"], found)

    def _measured(self, made: Made, target_name: str, folder: Path) -> tuple[tuple[Path, ...], dict[str, Any]]:
        parts, result = self._write(made, target_name, folder)
        try:
            columns = measure(
                self.plan.targets[target_name].value,
                parts,
                made.model,
                result,
                self.splits,
                self._batches,
                bits_per_weight=bits_per_weight(made.record["layers"]),
                identity=made.identity,
                threads=self.plan.compute.threads,
            )
        except OSError:  # says nothing of the file
            raise
        except Exception as error:  # runtimes raise types of their own
            log.exception("%s cannot be measured", target_name)
            raise RefusedFileError(
                f"target.{target_name}: the exported file cannot be measured: {first_line(error)}"
            ) from error
        return parts, columns

    def _write(self, made: Made, target_name: str, folder: Path) -> tuple[tuple[Path, ...], Lowered]:
        """The parts of a file, and what it was written from."""
        result = lowered(made.model, made.method, self.splits)
        target = self.plan.targets[target_name].value
        path = folder / f"model.{target.ending}"
        return written(target_name, target, result, self.splits, path, made.identity), result

    def _rows(self, files: Sequence[Exported], refused: list[Refused]) -> tuple[list[Row], bool]:
        """A complete row for each file, and whether its times were found again; files that fail come to ``refused``."""
        timings, timed_at, found = self._times([file for file in files if not self._target(file).stand_in], refused)
        failed = {(each.variant, each.target) for each in refused}
        rows: list[Row] = []
        bases: dict[str, Row] = {}
        for file in files:
            if (file.variant, file.target) in failed:
                continue
            base = bases.get(file.target)
            row = complete(
                file.columns,
                variant=file.variant,
                target=file.target,
                model=self.plan.model_name,
                seed=self.plan.seed,
                artifact=file.artifact,
                weights_kept=file.made.record["weights_kept"],
                base=base,
                timing=timings.get(file.artifact),
                base_timing=timings.get(base.artifact) if base is not None else None,
                timed_at=timed_at,
            )
            if file.variant == "baseline":
                bases[file.target] = row
            rows.append(row)
        return rows, found

    def _times(self, files: Sequence[Exported], refused: list[Refused]) -> tuple[dict[str, Timing], str | None, bool]:
        """The times of files by artifact, when they were taken, and whether they were found again."""
        if not files:
            return {}, None, True
        stage = self.plan.timing([file.identity for file in files])
        try:
            with self.store.hold(stage.identity, self.folder):
                record = self.store.find(stage.identity)
                found = record is not None
                if record is None:
                    paths = [(self._target(file), file.path) for file in files]
                    taken = measure_times(paths, self.splits, self._batches, self.plan.clock)
                    record = {"kind": "timing", "spec": stage.spec, "timings": [asdict(each) for each in taken]}
                    record["timed_at"] = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
                    self.store.finish(stage.identity, record)
        except UntimedError as error:  # the others are timed again without it
            lost = next(file for file in files if file.path == error.path)
            reason = f"target.{lost.target}: the exported file cannot be timed: {error.reason}"
            refused.append(Refused(lost.variant, lost.target, reason, failed=True))
            return self._times([file for file in files if file is not lost], refused)
        timings = [Timing(**{**taken, "rounds_ms": tuple(taken["rounds_ms"])}) for taken in record["timings"]]
        artifacts = (file.artifact for file in files)
        return dict(zip(artifacts, timings, strict=True)), record["timed_at"], found

    def _decisions(self, made: Made) -> list[str]:
        """The lines of Python that branch on the values of an image."""
        return decisions(made.model, few_images(self.splits)[:1])

    def _remarks(self, file: Exported) -> list[str]:
        """What the board and the target say of a file."""
        target = self._target(file)
        integer = Precision.of(file.columns["precision"]).integer
        return [
            *self.plan.board.remarks(target.precision(integer)),
            *(f"{file.artifact}: {line}" for line in target.remarks(file.path)),
        ]

    def _target(self, file: Exported) -> Target:
        return self.plan.targets[file.target].value

    def _batches(self, images: ImageSet) -> TensorBatches:
        """Batches over a part of the data, in order."""
        return evaluation_batches(self.splits, images, batch_size=BATCH)
