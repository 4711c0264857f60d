"""What a board measured, put beside the runs of the host in every tracking store, once; written by hand."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from src.command.bundle_records import BUNDLES, FACTS, BundleRecord, HostModel, TrackedRun
from src.command.device_figures import check_results
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
    models = {
        name: HostModel.from_row(measured, tracked[name], measured.size_bytes, 10) for name, measured in ROWS.items()
    }
    BundleRecord(BUNDLE, models).write(artifacts)


ROW = dict.fromkeys(FACTS, "a fact")


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
    (line,) = import_results(file, tmp_path, store.uri)
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
    (line,) = import_results(file, tmp_path, store.uri)
    assert line.endswith(", 2 were there already")
    assert len(store.logged()) == before + 2


def test_a_host_run_that_is_gone_leaves_nothing_behind(store: Any, tmp_path: Path) -> None:
    runs = {name: TrackedRun(store.name, store.uri, run) for name, run in store.hosts.items()}
    remember(tmp_path, {**runs, "pets/cluster.onnxruntime": TrackedRun(store.name, store.uri, "e" * 32)})
    before = store.logged()
    file = write_results(tmp_path, results(measured_at="2000-01-01T00:00:00+00:00"))
    with pytest.raises(TrackingError, match="e" * 32):
        list(import_results(file, tmp_path, store.uri))
    assert store.logged() == before


def test_rows_whose_runs_were_not_tracked_are_named(tmp_path: Path) -> None:
    store = JsonLinesStore(tmp_path)
    tracked, untracked = ROWS
    remember(tmp_path, {tracked: TrackedRun("jsonl", store.uri, store.hosts[tracked]), untracked: None})
    first, second = import_results(write_results(tmp_path, results()), tmp_path, store.uri)
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
    (line,) = import_results(RECORDS / "device_results.json", tmp_path, mlflow_store.uri)
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
        name: HostModel.from_row(measured, TrackedRun("jsonl", "t.jsonl", "0"), measured.size_bytes, 10)
        for name, measured in ROWS.items()
    }
    BundleRecord(BUNDLE, models).write(tmp_path)
    assert BundleRecord.find(tmp_path, BUNDLE) == BundleRecord(BUNDLE, models)
    assert BundleRecord.find(tmp_path, "another") is None


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ([], "is damaged: it holds no object"),
        ({"models": []}, "is damaged: models is a list of 0, and must be an object"),
        ({"models": {"a": {"row": {}}}}, "is damaged: a.row has no variant"),
        ({"models": {"a": {"row": ROW, "tracking": []}}}, "a.tracking is a list of 0, and must be null or an object"),
        (
            {"models": {"a": {"row": ROW, "tracking": {"uri": 1, "run": "0"}}}},
            "a.tracking.uri is 1, and must be a text",
        ),
        ({"models": {"a": {"row": ROW, "tracking": None, "images": "7"}}}, 'a.images is "7", and must be null or a'),
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
        (lambda content: content.update(format=True), "holds no results of a board"),
        (lambda content: content.update(rows=[1]), "rows[0] is 1, and must be an object"),
        (lambda content: content["rows"][0].update(name=["a"]), "rows[0].name is a list of 1, and must be a text"),
        (lambda content: content.update(rows=[]), "has no row"),
        (lambda content: content["rows"][0].update(name="another"), "has no model for: another"),
        (lambda content: content["rows"][0].pop("latency_ms"), "rows[pets/baseline.onnxruntime] has no latency_ms"),
        (
            lambda content: content["rows"].append(content["rows"][0]),
            "rows[pets/baseline.onnxruntime] is there 2 times",
        ),
        (
            lambda content: content["rows"].append(
                {**content["rows"][0], "accuracy": 0.1, "runtime": "onnxruntime 1.9"}
            ),
            "rows[pets/baseline.onnxruntime] is there 2 times, and a bundle writes one row a model",
        ),
        (lambda content: content.pop("measured_at"), "it has no measured_at"),
        (lambda content: content.update(measured_at="yesterday"), 'measured_at is "yesterday", and must be a time'),
        (lambda content: content.update(measured_at="2026-13-02T00:00:00+00:00"), "and must be a time such as 2026-"),
        (lambda content: content.update(measured_at="0001-01-01T00:00:00+00:00"), "not in the future"),
        (lambda content: content.update(measured_at="0001-01-01T00:00:00+23:59"), "not in the future"),
        (lambda content: content.update(measured_at="9999-01-01T00:00:00+00:00"), "not in the future"),
        (lambda content: content.update(measured_at="2026-01-02T00:00:00"), "and must be a time such as 2026-"),
        (lambda content: content.update(threads=2**53), "and must be a whole number from 1 to 4,096"),
        (lambda content: content.update(board="a\u202eb"), 'board is "a\\u202eb", and must be a text of one line'),
        (lambda content: content.update(threads=0), "threads is 0, and must be a whole number from 1"),
        (lambda content: content.update(threads="1"), 'threads is "1", and must be a whole number from 1'),
        (lambda content: content.update(board=None), "board is null, and must be a text of one line"),
        (lambda content: content.update(bundle="../../x"), "is not known in"),
        (lambda content: content.update(bundle="fedcba9876543210"), "is not known in"),
    ],
)
def test_damaged_results_are_refused(tmp_path: Path, spoil: Callable[[dict[str, Any]], None], message: str) -> None:
    remember(tmp_path, dict.fromkeys(ROWS, TrackedRun("jsonl", str(tmp_path / "tracking.jsonl"), "0")))
    content = results()
    spoil(content)
    assert message in refusal(tmp_path, content)


def refusal(folder: Path, content: Mapping[str, Any]) -> str:
    """The line that refuses results; nothing of them is imported."""
    with pytest.raises(InputError) as refused:
        list(import_results(write_results(folder, content), folder))
    assert "\n" not in str(refused.value)
    assert not (folder / "tracking.jsonl").exists()
    return str(refused.value)


NAN, INFINITE = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("column", "values", "possible"),
    [
        ("accuracy", [-0.1, 1.1, True, "0.9", None, NAN, 10**400], "a number from 0 to 1"),
        ("accuracy", [0.95, 0.123], "a whole number of its 10 images"),
        ("images", [0, -1, 10.0, True, "10", None], "a whole number from 1"),
        ("images", [20, 1000], "the bundle holds 10 test images for this model"),
        ("size_bytes", [0, 1e6, True, "1000000"], "a whole number from 1"),
        ("size_bytes", [999_999, 1_000_001], "the bundle's file has 1000000 bytes"),
        ("latency_ms.p50", [0, -1.0, 1e-6, True, "1.0", None, NAN, INFINITE, 3.6e6], "a number from 0.001 to 600,000"),
        ("latency_ms.p50", [1.6], "must not fall from p50 to p95 to p99"),
        ("latency_ms.p99", [1.4], "must not fall from p50 to p95 to p99"),
        ("latency_ms", [1.0, [1.0, 1.5, 2.0], None], "an object"),
        ("latency_runs", [0, -5, 2.5, True, None], "a whole number from 1"),
        ("steady", [1, "yes", None], "true or false"),
        ("temperature_celsius", [-300, 5000.0, True, "50"], "null or a number from 0.0 to 150.0"),
        ("power_watts", [-1.0, 1e9, True, "5"], "null or a number from 0 to 10,000"),
        ("power_watts", [5.0], "has only some of power_watts, energy_uj, energy_source"),
        ("energy_uj", [-1.0, INFINITE, True, "5"], "null or a number from 0 to 1,000,000,000,000"),
        ("energy_source", [5, "", "a\nb"], "null or a text of one line"),
        (
            "runtime",
            [None, 1, "", "another 1.0", "onnxruntime 1.10 or so"],
            "a runtime of the evaluator and its version",
        ),
    ],
)
def test_an_impossible_figure_is_refused_with_its_row_its_column_and_what_is_possible(
    tmp_path: Path, column: str, values: list[Any], possible: str
) -> None:
    remember(tmp_path, dict.fromkeys(ROWS, TrackedRun("jsonl", str(tmp_path / "tracking.jsonl"), "0")))
    *outer, key = column.split(".")
    for value in values:
        content = results()
        spoilt = content["rows"][1]
        (spoilt[outer[0]] if outer else spoilt)[key] = value
        said = refusal(tmp_path, content)
        assert "rows[pets/cluster.onnxruntime]" in said
        assert column.partition(".")[0] in said
        assert possible in said


def test_rows_have_as_many_images_as_one_call_of_the_bundle_gives_them(tmp_path: Path) -> None:
    remember(tmp_path, dict.fromkeys(ROWS, TrackedRun("jsonl", str(tmp_path / "tracking.jsonl"), "0")))
    content = results()
    content["rows"][0] |= {"accuracy": 1.0, "images": 1}
    assert "images is 10, and another row has 1 of more" in refusal(tmp_path, content)
    store = JsonLinesStore(tmp_path)
    remember(tmp_path, {name: TrackedRun("jsonl", store.uri, run) for name, run in store.hosts.items()})
    for each in content["rows"]:
        each |= {"accuracy": 1.0, "images": 1}
    lines = list(import_results(write_results(tmp_path, content), tmp_path, store.uri))
    assert "The accuracies are of 1 image a model (--images 1), fewer than the bundle holds" in lines


def test_what_a_board_measured_once_is_possible() -> None:
    check_results(json.loads((Path(__file__).parents[2] / "docs/measured/board_survey_python36.json").read_text()))


def test_possible_figures_are_taken_as_they_are(tmp_path: Path) -> None:
    store = JsonLinesStore(tmp_path)
    remember(tmp_path, {name: TrackedRun("jsonl", store.uri, run) for name, run in store.hosts.items()})
    content = results()
    content["rows"][0] |= {"accuracy": 1 / 3, "images": 3, "latency_ms": dict.fromkeys(("p50", "p95", "p99"), 1)}
    content["rows"][1] |= {"accuracy": 0, "images": 3, "power_watts": 0.0, "energy_uj": 0.0, "energy_source": "RAPL"}
    line, remark = import_results(write_results(tmp_path, content), tmp_path, store.uri)
    assert line.startswith("2 rows of a board")
    assert "of 3 images a model" in remark
    assert [logged["metrics"]["accuracy"] for logged in store.logged()] == [1 / 3, 0]


@pytest.mark.parametrize(("watts", "energy"), [(0, 10**12), (10, 1e11), (10, 0), (10, 4_999), (10, 200_001)])
def test_energy_is_power_times_latency(tmp_path: Path, watts: float, energy: float) -> None:
    remember(tmp_path, dict.fromkeys(ROWS, TrackedRun("jsonl", str(tmp_path / "tracking.jsonl"), "0")))
    content = results()
    content["rows"][1] |= {"power_watts": watts, "energy_uj": energy, "energy_source": "RAPL"}
    assert f"rows[pets/cluster.onnxruntime].energy_uj is {energy}, and {watts} W for 1.0 ms" in refusal(
        tmp_path, content
    )
    for possible in (5_000, 10_000, 200_000):
        content["rows"][1] |= {"power_watts": 10, "energy_uj": possible}
        check_results(content)


@pytest.mark.parametrize("key", ["rows", "accuracy", "threads"])
def test_a_key_that_is_there_twice_is_refused_instead_of_dropped(tmp_path: Path, key: str) -> None:
    remember(tmp_path, dict.fromkeys(ROWS, TrackedRun("jsonl", str(tmp_path / "tracking.jsonl"), "0")))
    text = json.dumps(results()).replace(f'"{key}": ', f'"{key}": 1, "{key}": ', 1)
    (tmp_path / "twice.json").write_text(text)
    with pytest.raises(InputError, match=f'the key "{key}" is there twice in one object'):
        list(import_results(tmp_path / "twice.json", tmp_path))


@pytest.mark.parametrize("uri", [None, "another.jsonl"])
def test_rows_go_to_no_store_that_only_the_bundles_record_names(tmp_path: Path, uri: str | None) -> None:
    store = JsonLinesStore(tmp_path)
    remember(tmp_path, {name: TrackedRun("jsonl", store.uri, run) for name, run in store.hosts.items()})
    with pytest.raises(InputError) as refused:
        list(import_results(write_results(tmp_path, results()), tmp_path, uri))
    assert f"were tracked at {store.uri}, and conf/tracking/jsonl.yaml names tracking.jsonl" in str(refused.value)
    assert f"--uri {store.uri}" in str(refused.value)
    assert store.logged() == []


def test_the_store_of_the_users_config_needs_no_flag(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    store = JsonLinesStore(tmp_path)
    remember(tmp_path, {name: TrackedRun("jsonl", "tracking.jsonl", run) for name, run in store.hosts.items()})
    (line,) = import_results(write_results(tmp_path, results()), tmp_path)
    assert line == "2 rows of a board are now in tracking.jsonl beside the host's"


def test_no_results_at_all_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="There is no file"):
        list(import_results(tmp_path / "nowhere.json", tmp_path))
    (tmp_path / "results.json").write_text("no results")
    with pytest.raises(InputError, match="holds no results of a board"):
        list(import_results(tmp_path / "results.json", tmp_path))
