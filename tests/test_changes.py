"""Ten everyday changes touch only the files that docs/architecture.md names, and what they make runs."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
TOPS = ("src", "conf", "tests", "docs")
Change = Callable[[Path], None]


def new(path: Path, text: str) -> None:
    """Write a file that was not there."""
    assert not path.exists()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def added(path: Path, text: str) -> None:
    """Add ``text`` at the end of a file."""
    path.write_text(path.read_text() + "\n\n" + text)


def replaced(path: Path, before: str, after: str) -> None:
    """Replace the one place in a file that holds ``before``."""
    text = path.read_text()
    assert text.count(before) == 1, (path, before)
    path.write_text(text.replace(before, after))


def a_score(copy: Path) -> None:
    added(
        copy / "src/primitives/scores.py",
        '''class Square:
    """The square of each weight."""

    def __call__(self, model: nn.Module, names: Sequence[str], context: Context) -> dict[str, Tensor]:
        return {name: model.get_parameter(name).detach() ** 2 for name in names}
''',
    )


def a_schedule(copy: Path) -> None:
    added(
        copy / "src/primitives/schedules.py",
        '''class Linear(_Gradual):
    """The same amount at each update."""

    def __call__(self, progress: float, sparsity: float) -> float:
        return sparsity * self.at_last_update(progress)
''',
    )


def a_method(copy: Path) -> None:
    new(
        copy / "src/methods/rounded.py",
        '''"""Weights rounded to a grid."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from src.contracts import Compressed, Context, Method
from src.primitives.layers import weight_names


@dataclass(frozen=True, kw_only=True)
class Rounded(Method):
    """Round each weight to a multiple of ``step``."""

    step: float

    @torch.no_grad()
    def compress(self, model: nn.Module, context: Context) -> Compressed:
        for name in weight_names(model):
            weight = model.get_parameter(name)
            weight.copy_((weight / self.step).round() * self.step)
        return Compressed(model)
''',
    )
    new(copy / "conf/method/rounded.yaml", "# Round\n_target_: src.methods.rounded.Rounded\nstep: 0.0625\n")
    new(
        copy / "tests/methods/test_rounded.py",
        """import torch
from torch import nn

from src.methods.rounded import Rounded


def test_weights_are_multiples_of_the_step() -> None:
    net = Rounded(step=0.5).compress(nn.Sequential(nn.Linear(4, 3)), None).model
    assert torch.equal(net[0].weight * 2, (net[0].weight * 2).round())
""",
    )


def a_target(copy: Path) -> None:
    new(
        copy / "src/deploy/reference.py",
        '''"""ONNX's own reference evaluator, in Python."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from src.contracts import Runtime, Session
from src.deploy.onnxruntime import OnnxRuntime


class Reference(OnnxRuntime):
    """The same files, computed by the reference evaluator."""

    @property
    def runtime(self) -> Runtime:
        return Runtime("onnx_reference")

    def load(self, path: Path, threads: int = 1) -> Session:
        from onnx.reference import ReferenceEvaluator

        evaluator = ReferenceEvaluator(str(path))

        def run(images: np.ndarray) -> np.ndarray:
            return evaluator.run(None, {"image": images})[0]

        return run
''',
    )
    new(
        copy / "conf/target/reference.yaml",
        "# Reference\nreference:\n  _target_: src.deploy.reference.Reference\n  provider: CPUExecutionProvider\n"
        "  stored: float32\n",
    )


def a_data_set(copy: Path) -> None:
    new(
        copy / "src/data/stripes.py",
        '''"""Stripes that run down or across."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from src.contracts import ImageSet
from src.data.images import ImageData


class Stripes(ImageData):
    """Drawn stripes of 1x8x8."""

    name = "stripes"

    def read(self) -> tuple[ImageSet, ImageSet, Sequence[str]]:
        generator = torch.Generator().manual_seed(0)
        parts = []
        for count in (400, 100):
            labels = torch.arange(count) % 2
            down = (torch.arange(8) % 2 * 200).expand(8, 8)
            images = torch.where(labels.view(-1, 1, 1).bool(), down, down.T)[:, None]
            noise = torch.randint(0, 55, images.shape, generator=generator)
            parts.append(ImageSet((images + noise).to(torch.uint8), labels))
        return parts[0], parts[1], ("across", "down")
''',
    )
    text = (copy / "conf/data/digits.yaml").read_text()
    text = text.replace("src.data.digits.Digits", "src.data.stripes.Stripes")
    text = re.sub(r"sha256: \w+", "sha256: null", re.sub(r"test_share: .*\n", "", text))
    new(copy / "conf/data/stripes.yaml", text)


def a_column(copy: Path) -> None:
    replaced(
        copy / "src/contracts/results.py",
        "    macs: int | None = column(",
        '    bytes_per_parameter: float | None = column("bytes of a weight", heading="b/p", direction="lower", '
        "searched=True)\n    macs: int | None = column(",
    )
    replaced(
        copy / "docs/results.md",
        "| macs |",
        "| bytes_per_parameter |  | lower | bytes of a weight |\n| macs |",
    )
    replaced(
        copy / "src/metrics/rows.py",
        '        "size_gzip_bytes": size_gzip_bytes(parts),\n',
        '        "size_gzip_bytes": size_gzip_bytes(parts),\n'
        '        "bytes_per_parameter": size_bytes(parts) / counts["parameters"] if counts["parameters"] else None,\n',
    )


def a_tracker(copy: Path) -> None:
    new(
        copy / "src/tracking/notes.py",
        '''"""A text file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from src.contracts import Row, RunDescription, TrackedRun, Tracker


class NotedRun(TrackedRun):
    """A line for each row."""

    run_id = "noted"

    def __init__(self, file: Path) -> None:
        self.file = file

    def rows(self, rows: Sequence[Row], folder: Path) -> None:
        with self.file.open("a") as file:
            file.writelines(f"{row.variant} {row.target} {row.accuracy}\\n" for row in rows)


class Notes(Tracker):
    """Notes in ``uri``."""

    def __init__(self, *, uri: str) -> None:
        self.uri = uri

    def start(self, run: RunDescription) -> TrackedRun:
        return NotedRun(Path(self.uri))
''',
    )
    new(copy / "conf/tracking/notes.yaml", "# Notes\n_target_: src.tracking.notes.Notes\nuri: notes.txt\n")


def a_sampler(copy: Path) -> None:
    new(copy / "conf/sampler/quasi.yaml", "# Evenly spread\n_target_: optuna.samplers.QMCSampler\n_partial_: true\n")


def the_tables_format(copy: Path) -> None:
    replaced(
        copy / "src/display/tables.py",
        "    return aligned(lines, left=sum(column.name in WORDS for column in shown))\n",
        '    return [f"| {' + "' | '.join(line)" + '} |" for line in lines]\n',
    )


def the_hash(copy: Path) -> None:
    replaced(
        copy / "src/stages/identity.py",
        "    return hashlib.sha256(text.encode()).hexdigest()[:16]",
        '    return "b" + hashlib.blake2b(text.encode()).hexdigest()[:15]',
    )
    by_hand = hashlib.blake2b(b'{"kind":"baseline","model":{"depth":20},"seed":0}').hexdigest()
    replaced(copy / "tests/stages/test_identity.py", "587f2914eef00af6", f"b{by_hand[:15]}")
    replaced(copy / "tests/command/test_old_records.py", '["spec"]) == stage.name', '["spec"]) != stage.name')
    call(copy, "tests.experiment.test_plan")  # writes tests/experiment/frozen_identities.json anew


NAMES = {
    "a method": "rounded",
    "a target": "reference",
    "a data set": "stripes",
    "a tracker": "notes",
    "a sampler": "quasi",
}
CHANGES: dict[str, Change] = {
    "a score": a_score,
    "a schedule": a_schedule,
    "a method": a_method,
    "a target": a_target,
    "a data set": a_data_set,
    "a column": a_column,
    "a tracker": a_tracker,
    "a sampler": a_sampler,
    "the table's format": the_tables_format,
    "the hash": the_hash,
}


def named_by_the_docs() -> dict[str, list[str]]:
    """The files that docs/architecture.md names for each change, NAME standing for the name of the new thing."""
    text = (ROOT / "docs" / "architecture.md").read_text()
    rows = re.findall(r"^\| (an? [\w ]+|the [\w' ]+) \| (`.*`) \|$", text, re.MULTILINE)
    return {change: re.findall(r"`([^`]+)`", files.replace("NAME", NAMES.get(change, ""))) for change, files in rows}


def digests(folder: Path) -> dict[str, str]:
    """Every source file and page below ``folder`` and its checksum."""
    files = (path for top in TOPS for path in (folder / top).rglob("*") if path.is_file())
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in files
        if path.suffix in (".py", ".yaml", ".json", ".md")
    }


@pytest.fixture(scope="module")
def changed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the project with all ten changes, each of which touched only the files that the docs name."""
    copy = tmp_path_factory.mktemp("changed") / "project"
    for top in TOPS:
        shutil.copytree(ROOT / top, copy / top, ignore=shutil.ignore_patterns("__pycache__"))
    named = named_by_the_docs()
    assert list(named) == list(CHANGES)
    for name, change in CHANGES.items():
        before = digests(copy)
        change(copy)
        after = digests(copy)
        touched = {file for file in after if after[file] != before.get(file)}
        assert touched == set(named[name]), f"{name}: docs/architecture.md names other files than it touches"
    return copy


def call(copy: Path, *arguments: str) -> str:
    """Run a command in the copy; return what it printed."""
    environment = {**os.environ, "PYTHONPATH": str(copy), "HYDRA_FULL_ERROR": "1"}
    done = subprocess.run(
        [sys.executable, "-m", *arguments], cwd=copy, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


SMALL = [
    "data=stripes", "model=small_cnn", "model.blocks=[[4],[8]]", "model.dense=16", "training=digits",
    "training.epochs=2", "training.batch_size=50", "training.threads=1", "timing.seconds=0.02", "timing.rounds=2",
    "timing.largest_batch=2",
]  # fmt: skip
CHAIN = [
    "method=chain", "method.name=pair", "+method@method.steps.prune=prune_magnitude",
    "method.steps.prune.scores._target_=src.primitives.scores.Square",
    "method.steps.prune.schedule._target_=src.primitives.schedules.Linear", "method.steps.prune.fine_tune.epochs=2",
    "+method@method.steps.round=rounded",
]  # fmt: skip

OF_THE_HASH = [
    "tests/stages/test_identity.py", "tests/stages/test_specs.py", "tests/experiment/test_plan.py",
    "tests/command/test_old_records.py::test_stages_are_listed_and_their_specs_have_the_identities_that_they_had",
]  # fmt: skip


@pytest.mark.slow
def test_a_run_with_nine_of_the_changes(changed: Path) -> None:
    out = call(
        changed, "src.run", *SMALL, *CHAIN, "target=[onnxruntime,reference]", "tracking=notes", "hydra.run.dir=out"
    )
    result = json.loads((changed / "out" / "results.json").read_text())
    rows = result["rows"]
    assert [(row["variant"], row["target"]) for row in rows] == [
        ("baseline", "onnxruntime"), ("baseline", "reference"), ("pair", "onnxruntime"), ("pair", "reference"),
    ]  # fmt: skip
    assert {row["data"] for row in rows} == {"stripes"}  # the data set
    assert rows[3]["runtime"]["name"] == "onnx_reference"  # the target
    assert rows[3]["accuracy"] == rows[2]["accuracy"]
    assert all(row["bytes_per_parameter"] == row["size_bytes"] / row["parameters"] for row in rows)  # the column
    assert json.loads((changed / "out" / "metrics.json").read_text())["pair"]["reference"]["bytes_per_parameter"] > 0
    table = [line for line in out.splitlines() if line.startswith("| ")]  # the table's format
    assert len(table) == 5
    assert table[0].endswith(" | b/p |")
    assert result["identity"].startswith("b")  # the hash
    assert result["tracking_run"] == "noted"  # the tracker
    notes = (changed / "notes.txt").read_text().splitlines()
    assert notes == [f"{row['variant']} {row['target']} {row['accuracy']}" for row in rows]
    record = json.loads((changed / "artifacts" / result["identity"] / "stage.json").read_text())
    assert "Rounded" in record["spec"]["method"]["_target_"]  # the method
    layers = record["layers"]
    zeros = sum(layer["sparsity"] * layer["parameters"] for layer in layers)
    assert zeros >= 0.79 * sum(layer["parameters"] for layer in layers)  # the score and the schedule
    columns = "tests/display/test_tables.py::test_the_docs_list_every_column_as_it_is_declared"
    tests = ["tests/methods/test_rounded.py", columns, *OF_THE_HASH]
    assert " passed" in call(changed, "pytest", "-q", "-p", "no:cacheprovider", *tests)


@pytest.mark.slow
def test_a_search_with_the_new_sampler_and_the_new_column(changed: Path) -> None:
    call(
        changed, "src.search", "+search=digits_budget", *SMALL, "sampler@search.sampler=quasi", "search.trials=2",
        "search.finalists=1", "search.lengths=[1.0]", "search.objectives=[bytes_per_parameter]",
        "budget.accuracy_drop=0.9", "~space.quantize", "~space.channels", "~space.prune", "tracking=off",
        "hydra.run.dir=found",
    )  # fmt: skip
    found = json.loads((changed / "found" / "search.json").read_text())
    assert found["objectives"] == ["bytes_per_parameter"]
    assert [trial["number"] for trial in found["trials"]] == [0, 1]
    assert all(trial["values"]["bytes_per_parameter"] > 0 for trial in found["trials"])
