"""Every tracker does the same in every call of the protocol: one scenario, played against each of them."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from src.contracts import (
    DataSplits,
    DeviceRow,
    Epoch,
    InputError,
    Registration,
    Row,
    TrackedRun,
    Tracker,
    TrackingError,
    TrialRecord,
)
from src.tracking.guard import GuardedRun, GuardedSearch, finish_survey
from src.tracking.jsonl import JsonLines
from src.tracking.mlflow import MlflowTracker
from src.tracking.off import Off
from tests.conftest import MakeStore
from tests.tracking.rows import described, row

MODEL = "shapes-small_cnn"


@dataclass
class Shown:
    """What a store shows, in the words of no store in particular.

    Attributes:
        runs: Status of each member's run, by the names of its experiment, its folder and its variant.
        surveys: Status of each survey and search, by folder.
        epochs: Validation accuracies of the baseline's training, by variant.
        accuracies: Accuracy of the run's own file, by variant.
        trials: Status of each trial, by number, and its size.
        versions: The sizes of the registered versions.
        aliases: The version that each alias names.
        device: Model, host's run, board's accuracy of each device row, and whether it is beside the host's run.
    """

    runs: dict[tuple[str, str, str], str] = field(default_factory=dict)
    surveys: dict[str, list[str]] = field(default_factory=dict)
    epochs: dict[str, list[float]] = field(default_factory=dict)
    accuracies: dict[str, float] = field(default_factory=dict)
    trials: dict[int, tuple[str, float | None]] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    aliases: dict[str, str] = field(default_factory=dict)
    device: list[tuple[str, str, float, bool]] = field(default_factory=list)


@dataclass
class Played:
    """The scenario as it was played.

    Attributes:
        tracker: The tracker.
        folder: Folder of everything.
        opened: Each run in the order in which it was opened.
        answers: What the calls returned, by a name for each.
    """

    tracker: Tracker
    folder: Path
    opened: list[TrackedRun] = field(default_factory=list)
    answers: dict[str, Any] = field(default_factory=dict)

    @property
    def shown(self) -> Shown:
        """What the store shows now."""
        return SHOWN[type(self.tracker)](self.tracker)


def built(kind: str, folder: Path, mlflow_store: MakeStore) -> Tracker:
    """A tracker whose store is in ``folder``."""
    if kind == "mlflow":
        return MlflowTracker(uri=mlflow_store(folder), system_metrics=False, tags={"team": "vision"})
    return JsonLines(uri=f"{folder}/runs/tracking.jsonl", tags={"team": "vision"}) if kind == "jsonl" else Off()


@pytest.fixture(scope="module", params=["off", "mlflow", "jsonl"])
def played(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    mlflow_store: MakeStore,
    splits: DataSplits,
) -> Played:
    """A survey, a search with a registered model, and a board's results; each part is given twice."""
    folder = tmp_path_factory.mktemp(request.param)
    played = Played(built(request.param, folder, mlflow_store), folder)
    play_survey(played, splits)
    play_search(played, splits)
    play_board(played)
    return played


def member(
    played: Played, splits: DataSplits, survey: Path, variant: str, rows: list[Row], epochs: list[float]
) -> TrackedRun:
    """Track a member of a survey or search from its start to its end."""
    folder = survey / variant
    run = GuardedRun(played.tracker.start(described(splits, folder, survey, variant)))
    for number, accuracy in enumerate(epochs):
        run.epoch("baseline", Epoch(number, 1.5, 0.5, accuracy, 0.1, 2.0, 1.7e9 + number))
    run.rows(rows, folder)
    run.finish("FINISHED")
    assert run.failure is None
    played.opened.append(run)
    return run


def play_survey(played: Played, splits: DataSplits) -> None:
    survey = played.folder / "survey"
    baseline, pruned = survey / "baseline", survey / "prune"
    for folder in (baseline, pruned):
        folder.mkdir(parents=True)
    before = row(baseline, "baseline", accuracy=0.95)
    rows = [row(pruned, "baseline", accuracy=0.95), row(pruned, "prune", accuracy=0.9)]
    finish_survey(
        played.tracker, survey, "FAILED", played.folder / "artifacts"
    )  # no member has opened a run: nothing is done
    member(played, splits, survey, "baseline", [before], [0.6, 0.8])
    member(played, splits, survey, "prune", rows, [0.6, 0.8])
    member(played, splits, survey, "prune", rows, [])  # the same command again
    failed = played.tracker.start(described(splits, survey / "cluster", survey, "cluster"))
    failed.finish("FAILED")
    (survey / "survey.json").write_text("{}")
    finish_survey(played.tracker, survey, "FINISHED", played.folder / "artifacts")


def play_search(played: Played, splits: DataSplits) -> None:
    folder = played.folder / "search"
    (folder / "baseline").mkdir(parents=True)
    baseline = row(folder / "baseline", "baseline")
    member(played, splits, folder, "baseline", [baseline], [])
    search = GuardedSearch(played.tracker.search(folder))
    search.trials([trial(0), trial(1)])
    search.trials([trial(0), trial(1), trial(2, failed=True)])
    again = GuardedSearch(played.tracker.search(folder))  # another process of the same command
    again.trials([trial(number) for number in range(4)])
    for number, size in ((0, 1000), (3, 900)):
        (folder / f"trial_{number}").mkdir()
        own = row(folder / f"trial_{number}", f"trial_{number}", size_bytes=size, size_gzip_bytes=size // 2)
        rows = [row(folder / f"trial_{number}", "baseline"), own]
        member(played, splits, folder, f"trial_{number}", rows, [])
        chosen = Registration(
            name=MODEL,
            row=own,
            rows=[own, baseline],
            objective="size_gzip_bytes",
            budget={"accuracy_drop": 0.01},
            command="python -m src.run method=chain",
            git_commit="abc",
            point={"prune.sparsity": 0.5},
        )
        played.answers[f"registered {number}"] = again.register(chosen)
    played.answers["registered again"] = again.register(chosen)
    (folder / "search.json").write_text("{}")
    again.finish("FINISHED", {"trial_seconds": 12.0, "overhead_share": 0.1})
    assert (search.failure, again.failure) == (None, None)


def trial(number: int, *, failed: bool = False) -> TrialRecord:
    values = {} if failed else {"size_bytes": 100.0 + number}
    tags = {"reason": "sparsity is too high"} if failed else {"within_budget": "true"}
    return TrialRecord(number, {"prune": True, "prune.sparsity": 0.5}, values, tags, failed, 1.7e9, 1.7e9 + 5)


def play_board(played: Played) -> None:
    results = played.folder / "device_results.json"
    results.write_text("{}")
    for at, digest in (("first", "d1"), ("again", "d1"), ("another", "d2")):
        played.answers[at] = played.tracker.device_rows(digest, board_rows(played), results)


def board_rows(played: Played) -> list[DeviceRow]:
    return [
        DeviceRow(
            played.opened[at].run_id or "none",
            f"shapes/{name}",
            {"accuracy": accuracy},
            {"variant": name, "target": "onnxruntime", "board": "pi"},
        )
        for at, name, accuracy in ((0, "baseline", 0.94), (1, "prune", 0.89))
    ]


# What a store shows -------------------------------------------------------------------------------


def shown_by_mlflow(tracker: MlflowTracker) -> Shown:
    from mlflow import MlflowClient

    shown, client = Shown(), MlflowClient(tracking_uri=tracker.uri)
    experiments = {experiment.experiment_id: experiment.name for experiment in client.search_experiments()}
    for run in client.search_runs(list(experiments)):
        tags, metrics = run.data.tags, run.data.metrics
        if "trial" in tags:
            shown.trials[int(tags["trial"])] = (run.info.status, metrics.get("size_bytes"))
        elif "device_model" in tags:
            host = client.get_run(tags["host_run"])
            beside = tags["mlflow.parentRunId"] == host.data.tags["mlflow.parentRunId"]
            shown.device.append((tags["device_model"], tags["host_run"], metrics["accuracy"], beside))
        elif "variant" in tags:
            variant = tags["variant"]
            key = (experiments[run.info.experiment_id], Path(tags["folder"]).parent.name, variant)
            assert key not in shown.runs
            shown.runs[key] = run.info.status
            history = client.get_metric_history(run.info.run_id, "training/baseline/validation_accuracy")
            if key[1] == "survey":
                shown.epochs[variant] = [point.value for point in history]
                shown.accuracies |= {variant: metrics["accuracy"]} if "accuracy" in metrics else {}
        else:
            shown.surveys.setdefault(Path(tags["folder"]).name, []).append(run.info.status)
    for version in client.search_model_versions(f"name = '{MODEL}'"):
        shown.versions[str(version.version)] = version.tags["size_bytes"]
    for model in client.search_registered_models():
        shown.aliases |= {alias: str(version) for alias, version in model.aliases.items()}
    return shown


def shown_by_jsonl(tracker: JsonLines) -> Shown:
    shown, runs, surveys = Shown(), {}, {}
    path = Path(tracker.uri)
    for event in map(json.loads, path.read_text().splitlines() if path.exists() else []):
        kind = event["event"]
        if kind == "run_started":
            folder = Path(event["folder"])
            runs[event["run"]] = (event["experiment"], folder.parent.name, event["variant"]), event["parent"]
            assert runs[event["run"]][0] not in shown.runs
            shown.runs[runs[event["run"]][0]] = "RUNNING"
            if folder.parent.name == "survey":
                shown.epochs[event["variant"]] = []
        elif kind == "run_finished":
            shown.runs[runs[event["run"]][0]] = event["status"]
        elif kind == "epoch":
            shown.epochs[runs[event["run"]][0][2]].append(event["validation_accuracy"])
        elif kind == "row" and runs[event["run"]][0][1:] == ("survey", event["row"]["variant"]):
            shown.accuracies[event["row"]["variant"]] = event["row"]["accuracy"]
        elif kind == "survey_started":
            surveys[event["survey"]] = Path(event["folder"]).name, len(surveys)
            shown.surveys.setdefault(Path(event["folder"]).name, []).append("RUNNING")
        elif kind == "survey_finished":
            shown.surveys[surveys[event["survey"]][0]][-1] = event["status"]
        elif kind == "trial":
            assert event["number"] not in shown.trials
            shown.trials[event["number"]] = (event["status"], event["values"].get("size_bytes"))
        elif kind == "registration":
            shown.versions[event["version"]] = event["tags"]["size_bytes"]
        elif kind == "alias_moved":
            shown.aliases[event["alias"]] = event["version"]
        elif kind == "device_row":
            beside = event["parent"] == runs[event["host_run"]][1]
            shown.device.append((event["name"], event["host_run"], event["metrics"]["accuracy"], beside))
    return shown


SHOWN: dict[type, Callable[[Any], Shown]] = {
    MlflowTracker: shown_by_mlflow,
    JsonLines: shown_by_jsonl,
    Off: lambda tracker: Shown(),
}


# The specification --------------------------------------------------------------------------------


def keeps(played: Played) -> bool:
    """Whether the tracker has a store."""
    return played.tracker.uri is not None


def test_a_store_has_an_address_and_says_how_to_compare_runs(played: Played) -> None:
    assert (played.tracker.compare is not None) is keeps(played)
    if keeps(played):
        assert played.tracker.uri in (played.tracker.compare or "")


def test_runs_of_a_survey_have_one_parent_and_end_as_they_were_finished(played: Played) -> None:
    shown = played.shown
    if not keeps(played):
        assert shown == Shown()
        return
    assert {key[2]: status for key, status in shown.runs.items() if key[1] == "survey"} == {
        "baseline": "FINISHED",
        "prune": "FINISHED",
        "cluster": "FAILED",
    }
    assert shown.surveys == {"survey": ["FINISHED"], "search": ["FINISHED"]}


def test_epochs_and_rows_are_logged_with_their_run(played: Played) -> None:
    shown = played.shown
    if keeps(played):
        assert shown.epochs == {"baseline": [0.6, 0.8], "prune": [0.6, 0.8], "cluster": []}
        assert shown.accuracies == {"baseline": 0.95, "prune": 0.9}


def test_a_member_that_runs_again_in_its_folder_resumes_its_run(played: Played) -> None:
    identifiers = [run.run_id for run in played.opened]
    if keeps(played):
        assert identifiers[1] == identifiers[2]
        assert len(set(identifiers)) == len(identifiers) - 1
    else:
        assert set(identifiers) == {None}


def test_each_trial_of_a_search_is_logged_once(played: Played) -> None:
    sizes = {0: ("FINISHED", 100.0), 1: ("FINISHED", 101.0), 2: ("FAILED", None), 3: ("FINISHED", 103.0)}
    assert played.shown.trials == (sizes if keeps(played) else {})


def test_a_registered_model_takes_the_aliases_for_which_it_is_better(played: Played) -> None:
    if not keeps(played):
        assert played.answers["registered 3"] == []
        return
    aliases = ("smallest", "fastest", "best_within_budget")
    moved = "; ".join(f"{alias} moved to version 1" for alias in aliases)
    assert played.answers["registered 0"] == [f"Registered: {MODEL} version 1. {moved}."]
    (line,) = played.answers["registered 3"]
    assert line.startswith(f"Registered: {MODEL} version 2. smallest moved to version 2 from 1; fastest stays at")
    assert line.endswith("best_within_budget moved to version 2 from 1.")
    shown = played.shown
    assert shown.versions == {"1": "1000", "2": "900"}
    assert shown.aliases == {"smallest": "2", "fastest": "1", "best_within_budget": "2"}


def test_the_same_model_is_registered_once(played: Played) -> None:
    if keeps(played):
        (line,) = played.answers["registered again"]
        assert line.startswith(f"Registered: {MODEL} version 2. smallest stands at version 2 already; fastest stays")


def test_a_registered_model_has_a_card(played: Played) -> None:
    card = played.folder / "search" / "model_card.md"
    assert card.exists() is keeps(played)
    if keeps(played):
        text = card.read_text()
        assert text.startswith(f"# {MODEL}: trial_3\n")
        assert 'Choices: {"prune.sparsity": 0.5}' in text
        assert "| onnxruntime | onnxruntime | int8 | 90.00 % | 91.00 % | 900 B | 450 B | 0.500 ms |" in text
        assert "| onnxruntime (baseline) |" in text


def test_an_alias_moves_by_its_rule_alone(played: Played) -> None:
    if not keeps(played):
        with pytest.raises(InputError, match="has no registry of models"):
            played.tracker.promote(MODEL, "1", "smallest")
        return
    assert played.tracker.promote(MODEL, "2", "smallest") == (True, "smallest stands at version 2 already")
    stands, reason = played.tracker.promote(MODEL, "1", "smallest")
    assert not stands
    assert reason.startswith("smallest stays at version 2: it has 900 bytes, the other 1,000; the rule is a smaller")
    with pytest.raises(InputError, match=f"has versions 1, 2 of '{MODEL}', and not 9"):
        played.tracker.promote(MODEL, "9", "smallest")
    with pytest.raises(InputError, match="has no version of 'other', and not 1"):
        played.tracker.promote("other", "1", "smallest")


@pytest.mark.parametrize(
    ("name", "alias", "message"),
    [("a'\"b", "smallest", "has no version of"), (MODEL, "best", "there is no alias best; there are smallest")],
)
def test_a_name_or_alias_that_cannot_be_is_refused(played: Played, name: str, alias: str, message: str) -> None:
    with pytest.raises(InputError, match=message if keeps(played) else "has no registry"):
        played.tracker.promote(name, "1", alias)


def test_results_of_a_board_are_logged_once_beside_the_runs_of_the_host(played: Played) -> None:
    kept = keeps(played)
    assert played.answers["first"] == ((2, 0) if kept else (0, 0))
    assert played.answers["again"] == ((0, 2) if kept else (0, 0))
    assert played.answers["another"] == ((2, 0) if kept else (0, 0))
    baseline, prune = (run.run_id for run in played.opened[:2])
    rows = [("shapes/baseline", baseline, 0.94, True), ("shapes/prune", prune, 0.89, True)]
    assert sorted(played.shown.device) == (sorted([*rows, *rows]) if kept else [])


def test_a_missing_run_of_the_host_leaves_no_row_behind(played: Played, tmp_path: Path) -> None:
    if not keeps(played):
        return
    before = played.shown.device
    rows = [*board_rows(played), DeviceRow("0" * 32, "gone", {}, {"variant": "x", "target": "x", "board": "pi"})]
    with pytest.raises(TrackingError, match="0" * 32):
        played.tracker.device_rows("d3", rows, tmp_path / "results.json")
    assert played.shown.device == before


def test_a_search_that_the_store_does_not_have_fails_and_is_guarded(played: Played, tmp_path: Path) -> None:
    search = GuardedSearch(played.tracker.search(tmp_path))
    search.trials([trial(0)])
    assert (search.failure is not None) is keeps(played)


def test_a_single_run_has_no_survey(played: Played, splits: DataSplits, tmp_path: Path) -> None:
    before = played.shown.surveys
    run = played.tracker.start(described(splits, tmp_path / "runs" / "alone", None, "alone", "single"))
    again = played.tracker.start(described(splits, tmp_path / "runs" / "alone", None, "other", "single"))
    assert (run.run_id != again.run_id) is keeps(played)
    for each in (run, again):
        each.finish("KILLED")
    shown = played.shown
    assert shown.surveys == before
    assert shown.runs.get(("single", "runs", "alone")) == ("KILLED" if keeps(played) else None)


def test_a_forgotten_survey_is_begun_anew(played: Played, splits: DataSplits, tmp_path: Path) -> None:
    survey = tmp_path / "begun"
    for attempt in ("first", "second"):
        run = played.tracker.start(described(splits, survey / attempt, survey, attempt, "begun"))
        run.finish("FINISHED")
        played.tracker.forget(survey)
    assert played.shown.surveys.get("begun") == (["RUNNING", "RUNNING"] if keeps(played) else None)
    played.tracker.forget(survey)  # nothing is left to forget
