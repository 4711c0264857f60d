"""What a board measured, put beside the runs of the host in every tracking store, once; written by hand."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from src.command.bundle_records import BUNDLES, FACTS, BundleRecord, HostModel, TrackedRun
from src.command.device_results import import_results
from src.contracts import InputError, TrackingError
from tests.rows import row, variant

RECORDS = Path(__file__).parent.parent / "records" / "d975084"
BUNDLE = "0123456789abcdef"
ROWS = {"pets/baseline.onnxruntime": row(), "pets/cluster.onnxruntime": variant("cluster")}
BOARD = {"python": "3.6.9", "platform": "Linux", "clock_mode": "MAXN", "threads": 1}


def results(**changes: Any) -> dict[str, Any]:
    """``device_results.json`` with a row for each model, and ``changes``."""
    rows = [
        {
            "name": name,
            "accuracy": measured.accuracy,
            "images": 10,
            "size_bytes": measured.size_bytes,
            "latency_ms": {"p50": 1.0, "p95": 1.5, "p99": 2.0},
            "latency_runs": 100,
            "steady": True,
            "temperature_celsius": 50.0,
            "power_watts": None,
            "energy_uj": None,
            "energy_source": None,
            "runtime": "onnxruntime 1.10.0",
        }
        for name, measured in ROWS.items()
    ]
    known = {"format": 1, "bundle": BUNDLE, "board": "a board", **BOARD, "measured_at": "2026-01-02T00:00:00+00:00"}
    return {**known, "runtimes": ["onnxruntime 1.10.0"], "rows": rows, "not_run": [], **changes}


def write_results(folder: Path, content: Mapping[str, Any]) -> Path:
    path = folder / "device_results.json"
    path.write_text(json.dumps(content))
    return path


def remember(artifacts: Path, tracked: Mapping[str, TrackedRun | None]) -> None:
    """Write the bundle's record; ``tracked`` is the run of each model."""
    models = {name: HostModel.from_row(measured, tracked[name]) for name, measured in ROWS.items()}
    BundleRecord(BUNDLE, models).write(artifacts)


class MlflowStore:
    """An MLflow store with a survey's run, and below it the runs that made the models."""

    name = "mlflow"

    def __init__(self, folder: Path) -> None:
        from mlflow import MlflowClient

        self.uri = f"sqlite:///{folder}/mlflow.db"
        self.client = MlflowClient(tracking_uri=self.uri)
        self.experiment = self.client.create_experiment("pets", artifact_location=str(folder / "files"))
        self.survey = self.client.create_run(self.experiment).info.run_id
        self.hosts = {
            name: self.client.create_run(self.experiment, tags={"mlflow.parentRunId": self.survey}).info.run_id
            for name in ROWS
        }

    def logged(self) -> list[dict[str, Any]]:
        """The runs that a board's rows became."""
        runs = self.client.search_runs([self.experiment], "tags.board != ''")
        assert all(run.info.status == "FINISHED" for run in runs)
        return [
            {"parent": run.data.tags["mlflow.parentRunId"], "tags": run.data.tags, "metrics": run.data.metrics}
            for run in runs
        ]


class JsonLinesStore:
    """A file of JSON lines with the same runs."""

    name = "jsonl"

    def __init__(self, folder: Path) -> None:
        self.uri = str(folder / "tracking.jsonl")
        self.survey = "f" * 32
        self.hosts = {name: str(at) * 32 for at, name in enumerate(ROWS)}
        lines = [{"event": "run_started", "run": run, "parent": self.survey} for run in self.hosts.values()]
        Path(self.uri).write_text("".join(f"{json.dumps(line)}\n" for line in lines))

    def logged(self) -> list[dict[str, Any]]:
        """The events that a board's rows became."""
        events = [json.loads(line) for line in Path(self.uri).read_text().splitlines()]
        return [
            {"parent": event["parent"], "metrics": event["metrics"], "tags": self._tags(event)}
            for event in events
            if event["event"] == "device_row"
        ]

    @staticmethod
    def _tags(event: Mapping[str, Any]) -> dict[str, Any]:
        return {**event["tags"], "device_model": event["name"], "host_run": event["host_run"]}


@pytest.fixture(scope="module")
def mlflow_store(tmp_path_factory: pytest.TempPathFactory) -> MlflowStore:
    return MlflowStore(tmp_path_factory.mktemp("mlflow"))


@pytest.fixture(scope="module")
def jsonl_store(tmp_path_factory: pytest.TempPathFactory) -> JsonLinesStore:
    return JsonLinesStore(tmp_path_factory.mktemp("jsonl"))


@pytest.fixture(params=["mlflow_store", "jsonl_store"])
def store(request: pytest.FixtureRequest) -> Any:
    return request.getfixturevalue(request.param)


def test_each_row_is_a_run_beside_the_hosts_run_once(store: Any, tmp_path: Path) -> None:
    remember(tmp_path, {name: TrackedRun(store.name, store.uri, run) for name, run in store.hosts.items()})
    content = results()
    file = write_results(tmp_path, content)
    before = len(store.logged())
    (line,) = import_results(file, tmp_path)
    assert line == f"2 rows of a board are now in {store.uri} beside the host's"
    assert len(store.logged()) == before + 2
    name = "pets/cluster.onnxruntime"
    logged = next(each for each in store.logged() if each["tags"]["device_model"] == name)
    measured = next(each for each in content["rows"] if each["name"] == name)
    assert logged["metrics"]["accuracy"] == measured["accuracy"]
    assert logged["metrics"]["latency_ms_p99"] == measured["latency_ms"]["p99"]
    assert logged["parent"] == store.survey
    assert logged["tags"]["host_run"] == store.hosts[name]
    tags = {"variant": "cluster", "precision": "float32", "seed": "0", "board": "a board", "clock_mode": "MAXN"}
    assert {tag: logged["tags"][tag] for tag in tags} == tags
    (line,) = import_results(file, tmp_path)
    assert line.endswith(", 2 were there already")
    assert len(store.logged()) == before + 2


def test_a_host_run_that_is_gone_leaves_nothing_behind(store: Any, tmp_path: Path) -> None:
    runs = {name: TrackedRun(store.name, store.uri, run) for name, run in store.hosts.items()}
    remember(tmp_path, {**runs, "pets/cluster.onnxruntime": TrackedRun(store.name, store.uri, "e" * 32)})
    before = store.logged()
    with pytest.raises(TrackingError, match="e" * 32):
        list(import_results(write_results(tmp_path, results(measured_at="2000-01-01T00:00:00+00:00")), tmp_path))
    assert store.logged() == before


def test_rows_whose_runs_were_not_tracked_are_named(tmp_path: Path) -> None:
    store = JsonLinesStore(tmp_path)
    tracked, untracked = ROWS
    remember(tmp_path, {tracked: TrackedRun("jsonl", store.uri, store.hosts[tracked]), untracked: None})
    first, second = import_results(write_results(tmp_path, results()), tmp_path)
    assert first.startswith("1 rows of a board are now in ")
    assert second == f"Not imported, since their runs were not tracked: {untracked}"


def test_a_bundle_without_a_tracked_run_is_refused(tmp_path: Path) -> None:
    remember(tmp_path, dict.fromkeys(ROWS))
    with pytest.raises(InputError, match="were not tracked: there is nowhere to put results"):
        list(import_results(write_results(tmp_path, results()), tmp_path))


def test_results_of_d975084_are_imported_by_the_record_of_their_bundle(
    mlflow_store: MlflowStore, tmp_path: Path
) -> None:
    content = json.loads((RECORDS / "device_results.json").read_text())
    record = json.loads((RECORDS / "artifacts" / BUNDLES / f"{content['bundle']}.json").read_text())
    for model in record["models"].values():
        assert set(model["tracking"]) == {"uri", "run"}
        model["tracking"] = {"uri": mlflow_store.uri, "run": next(iter(mlflow_store.hosts.values()))}
    (tmp_path / BUNDLES).mkdir()
    (tmp_path / BUNDLES / f"{content['bundle']}.json").write_text(json.dumps(record))
    (line,) = import_results(RECORDS / "device_results.json", tmp_path)
    assert line.startswith("2 rows of ")
    logged = {each["tags"]["device_model"]: each for each in mlflow_store.logged()}
    for measured in content["rows"]:
        name = measured["name"]
        assert logged[name]["metrics"]["accuracy"] == measured["accuracy"]
        assert logged[name]["tags"]["precision"] == record["models"][name]["row"]["precision"]


def test_a_record_without_a_schema_is_of_mlflow(tmp_path: Path) -> None:
    old = {"seed": 3, "precision": "float32, float16 stored", "runtime": "onnxruntime", "accuracy": 0.9}
    facts = {name: old.get(name, name) for name in FACTS}
    models = {
        "a": {"row": {**old, **facts}, "tracking": {"uri": "sqlite:///mlflow.db", "run": "0" * 32}},
        "b": {"row": {**old, **facts}, "tracking": None},
    }
    (tmp_path / BUNDLES).mkdir()
    (tmp_path / BUNDLES / f"{BUNDLE}.json").write_text(json.dumps({"id": BUNDLE, "models": models}))
    found = BundleRecord.find(tmp_path, BUNDLE)
    assert found is not None
    assert found.models["a"].tracked == TrackedRun("mlflow", "sqlite:///mlflow.db", "0" * 32)
    assert found.models["b"].tracked is None
    assert found.models["a"].facts["precision"] == "float32, float16 stored"
    assert found.models["a"].facts["seed"] == "3"


def test_a_record_is_read_as_it_was_written(tmp_path: Path) -> None:
    models = {
        name: HostModel.from_row(measured, TrackedRun("jsonl", "t.jsonl", "0")) for name, measured in ROWS.items()
    }
    BundleRecord(BUNDLE, models).write(tmp_path)
    assert BundleRecord.find(tmp_path, BUNDLE) == BundleRecord(BUNDLE, models)
    assert BundleRecord.find(tmp_path, "another") is None


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ([], "is damaged: it holds no object"),
        ({"models": []}, "is damaged: it names no models"),
        ({"models": {"a": {"row": {}}}}, "is damaged: KeyError"),
        ({"schema": 99, "models": {}}, "is of schema 99"),
    ],
)
def test_a_damaged_record_is_refused(tmp_path: Path, record: object, message: str) -> None:
    (tmp_path / BUNDLES).mkdir()
    (tmp_path / BUNDLES / f"{BUNDLE}.json").write_text(json.dumps(record))
    with pytest.raises(InputError, match=message):
        BundleRecord.find(tmp_path, BUNDLE)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda content: content.clear(), "holds no results of a board"),
        (lambda content: content.update(format=99), "holds no results of a board"),
        (lambda content: content.update(rows=[1]), "holds no results of a board"),
        (lambda content: content["rows"][0].update(name=["a"]), "holds no results of a board"),
        (lambda content: content.update(rows=[]), "has no row"),
        (lambda content: content["rows"][0].update(name="another"), "has no model for: another"),
        (lambda content: content["rows"][0].pop("latency_ms"), "is not as a bundle writes it: KeyError 'latency_ms'"),
        (lambda content: content["rows"][0].update(accuracy=1.5), "accuracy is no number"),
        (lambda content: content.update(bundle="../../x"), "is not known in"),
        (lambda content: content.update(bundle="fedcba9876543210"), "is not known in"),
    ],
)
def test_damaged_results_are_refused(tmp_path: Path, spoil: Callable[[dict[str, Any]], None], message: str) -> None:
    remember(tmp_path, dict.fromkeys(ROWS, TrackedRun("jsonl", str(tmp_path / "tracking.jsonl"), "0")))
    content = results()
    spoil(content)
    with pytest.raises(InputError, match=message) as refused:
        list(import_results(write_results(tmp_path, content), tmp_path))
    assert "\n" not in str(refused.value)
    assert not (tmp_path / "tracking.jsonl").exists()


def test_no_results_at_all_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="There is no file"):
        list(import_results(tmp_path / "nowhere.json", tmp_path))
    (tmp_path / "results.json").write_text("no results")
    with pytest.raises(InputError, match="holds no results of a board"):
        list(import_results(tmp_path / "results.json", tmp_path))
