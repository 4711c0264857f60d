"""The folder of stages."""

from __future__ import annotations

import json
import os
import shutil
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from src.stages.identity import identity
from src.stages.store import CHECKED, RUNS, WEIGHTS, StageStore
from src.stages.store import RECORD as FILE

ID, OTHER = "0123456789abcdef", "fedcba9876543210"
RECORD: dict[str, Any] = {"kind": "baseline", "validation_accuracy": 0.75, "epochs": [{"epoch": 0}], "layers": None}
GOLDEN = Path(__file__).parent / "golden"
GOLDEN_ID = "935167f728a072cc"


@pytest.fixture
def store(tmp_path: Path) -> StageStore:
    return StageStore(tmp_path / "artifacts")


@pytest.fixture
def run(tmp_path: Path) -> Path:
    (tmp_path / "run").mkdir()
    return tmp_path / "run"


def make(store: StageStore, run: Path, identity: str = ID, *, finished_at: float | None = None) -> Path:
    """A finished stage with weights; ``finished_at`` in seconds since 1970, else now."""
    with store.hold(identity, run) as folder:
        (folder / WEIGHTS).write_bytes(bytes(100))
        store.finish(identity, RECORD)
    if finished_at is not None:
        os.utime(folder / "stage.json", (finished_at, finished_at))
    return folder


def is_found(store: StageStore, identity: str = ID) -> bool:
    """Whether the store finds the stage, with the record that it was finished with."""
    found = store.find(identity)
    return found is not None and RECORD.items() <= found.items()


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# Finding and finishing ----------------------------------------------------------------------------


def test_nothing_is_found_before_finish_and_the_record_after_it(store: StageStore, run: Path) -> None:
    assert store.find(ID) is None
    with store.hold(ID, run):
        assert store.find(ID) is None
        store.finish(ID, RECORD)
        assert is_found(store)
    assert is_found(store)
    assert store.find(OTHER) is None


def test_a_stage_has_a_folder_of_its_name(store: StageStore, run: Path, tmp_path: Path) -> None:
    folder = make(store, run)
    assert folder == store.folder(ID) == (tmp_path / "artifacts" / ID)
    assert names(folder) == [CHECKED, RUNS, "stage.json", WEIGHTS]


def test_finish_removes_checkpoints_and_keeps_the_rest(store: StageStore, run: Path) -> None:
    with store.hold(ID, run) as folder:
        for name in ("training.ckpt", "fine_tune_0.ckpt", "model.onnx.part", WEIGHTS, "model.onnx"):
            (folder / name).write_bytes(b"x")
        store.finish(ID, RECORD)
    assert names(folder) == [CHECKED, "model.onnx", RUNS, "stage.json", WEIGHTS]


def test_an_interrupted_stage_keeps_its_checkpoints(store: StageStore, run: Path) -> None:
    def interrupt() -> None:
        with store.hold(ID, run) as folder:
            (folder / "training.ckpt").write_bytes(b"epoch 3")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupt()
    with store.hold(ID, run) as folder:
        assert (folder / "training.ckpt").read_bytes() == b"epoch 3"
        assert store.find(ID) is None


def test_another_store_at_the_same_place_finds_the_stage(store: StageStore, run: Path, tmp_path: Path) -> None:
    make(store, run)
    assert is_found(StageStore(tmp_path / "artifacts"))


def test_a_store_is_created_with_its_first_stage(store: StageStore, run: Path) -> None:
    assert not store.root.exists()
    assert store.stages() == []
    make(store, run)
    assert store.root.is_dir()


def test_a_store_stays_in_its_folder_if_the_working_folder_changes(
    tmp_path: Path, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    store = StageStore(Path("artifacts"))
    monkeypatch.chdir(run)
    assert make(store, run) == tmp_path / "artifacts" / ID


def test_a_number_that_is_not_finite_does_not_cost_the_stage(store: StageStore, run: Path) -> None:
    """A batch that overflows in float16 makes the mean loss of its epoch infinite; the weights are sound."""
    epochs = [{"epoch": 0, "train_loss": float("inf")}, {"epoch": 1, "train_loss": 0.5}]
    with store.hold(ID, run):
        store.finish(ID, {**RECORD, "epochs": epochs})
    found = store.find(ID)
    assert found is not None
    assert [epoch["train_loss"] for epoch in found["epochs"]] == [None, 0.5]


# Golden stages ------------------------------------------------------------------------------------


def stored(tmp_path: Path, written: str) -> StageStore:
    """A store that holds a golden stage."""
    shutil.copytree(GOLDEN / written, tmp_path / "artifacts")
    shutil.copy(GOLDEN / "schema_1" / GOLDEN_ID / WEIGHTS, tmp_path / "artifacts" / GOLDEN_ID)
    return StageStore(tmp_path / "artifacts")


@pytest.mark.parametrize(("written", "schema"), [("schema_1", 1), ("schema_2", 2)])
def test_a_stage_of_each_schema_is_listed_and_its_record_read(written: str, schema: int, tmp_path: Path) -> None:
    """``schema_1`` was written by commit d975084, before records named their schema."""
    store = stored(tmp_path, written)
    record = store.record(GOLDEN_ID)
    assert record is not None
    assert record["schema"] == schema
    assert identity(record["spec"]) == GOLDEN_ID
    assert record["validation_accuracy"] == 0.2
    (listed,) = store.stages()
    assert (listed.identity, listed.record, listed.runs) == (GOLDEN_ID, record, ())


def test_a_stage_with_checksums_is_found(run: Path, tmp_path: Path) -> None:
    store = stored(tmp_path, "schema_2")
    record = store.find(GOLDEN_ID)
    assert record is not None
    with store.hold(GOLDEN_ID, run) as folder:
        weights = load_file(folder / WEIGHTS)
    assert {name: list(weight.shape) for name, weight in weights.items() if weight.dim() > 1} == {
        layer["name"]: layer["shape"] for layer in record["layers"]
    }
    assert store.stages()[0].runs == ("../run",)


def test_a_stage_without_checksums_is_neither_found_nor_adopted(run: Path, tmp_path: Path) -> None:
    said: list[str] = []
    stored(tmp_path, "schema_1")
    store = StageStore(tmp_path / "artifacts", say=said.append)
    assert store.find(GOLDEN_ID) is None
    with store.hold(GOLDEN_ID, run) as folder:
        assert names(folder) == [RUNS]
    golden = GOLDEN / "schema_1" / GOLDEN_ID
    store.adopt(golden / FILE, golden / WEIGHTS, run)
    assert store.find(GOLDEN_ID) is None
    assert said == ["Stages of an earlier version have no checksums and are made anew."]


def test_finish_writes_the_golden_bytes(store: StageStore, run: Path) -> None:
    with store.hold(GOLDEN_ID, run) as folder:
        shutil.copy(GOLDEN / "schema_1" / GOLDEN_ID / WEIGHTS, folder)
        store.finish(GOLDEN_ID, json.loads((GOLDEN / "schema_1" / GOLDEN_ID / FILE).read_text()))
    assert (folder / FILE).read_bytes() == (GOLDEN / "schema_2" / GOLDEN_ID / FILE).read_bytes()


# Runs ---------------------------------------------------------------------------------------------


def test_every_run_that_uses_a_stage_is_noted_once(store: StageStore, run: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    for by in (run, other, run):
        with store.hold(ID, by):
            pass
    assert (store.folder(ID) / RUNS).read_text().splitlines() == ["../run", "../other"]
    (stage,) = store.stages()
    assert stage.runs == ("../run", "../other")


def test_a_run_whose_folder_is_gone_is_not_listed(store: StageStore, run: Path) -> None:
    make(store, run)
    run.rmdir()
    assert store.stages()[0].runs == ()


# Refreshing ---------------------------------------------------------------------------------------


def test_refreshing_empties_only_stages_that_are_older(store: StageStore, run: Path, tmp_path: Path) -> None:
    now = time.time()
    make(store, run, ID, finished_at=now - 100)
    make(store, run, OTHER, finished_at=now + 100)
    refreshing = StageStore(tmp_path / "artifacts", refresh_before=now)
    with refreshing.hold(ID, run) as folder:
        assert refreshing.find(ID) is None
        assert names(folder) == [RUNS]
    with refreshing.hold(OTHER, run) as folder:
        assert is_found(refreshing, OTHER)
        assert names(folder) == [CHECKED, RUNS, "stage.json", WEIGHTS]


def test_a_refreshing_run_finds_what_it_has_made_itself(store: StageStore, run: Path, tmp_path: Path) -> None:
    make(store, run, finished_at=time.time() - 100)
    refreshing = StageStore(tmp_path / "artifacts", refresh_before=time.time() - 50)
    make(refreshing, run)
    with refreshing.hold(ID, run):
        assert is_found(refreshing)


def test_refreshing_keeps_the_runs(store: StageStore, run: Path, tmp_path: Path) -> None:
    make(store, run, finished_at=time.time() - 100)
    other = tmp_path / "other"
    other.mkdir()
    with StageStore(tmp_path / "artifacts", refresh_before=time.time()).hold(ID, other) as folder:
        assert (folder / RUNS).read_text().splitlines() == ["../run", "../other"]


def test_without_refreshing_the_oldest_stage_is_found(store: StageStore, run: Path) -> None:
    make(store, run, finished_at=1)
    with store.hold(ID, run):
        assert is_found(store)


def test_refreshing_leaves_the_checkpoints_of_an_unfinished_stage(store: StageStore, run: Path, tmp_path: Path) -> None:
    with store.hold(ID, run) as folder:
        (folder / "training.ckpt").write_bytes(b"epoch 3")
    with StageStore(tmp_path / "artifacts", refresh_before=time.time() - 1).hold(ID, run) as folder:
        assert (folder / "training.ckpt").exists()


# Listing and removing -----------------------------------------------------------------------------


def test_stages_are_listed_with_their_record_and_size_the_newest_first(store: StageStore, run: Path) -> None:
    old, new = make(store, run, ID), make(store, run, OTHER)
    for path in old.iterdir():
        os.utime(path, (1000, 1000))
    bytes_of_old = sum(path.stat().st_size for path in old.iterdir())
    listed = store.stages()
    assert [stage.identity for stage in listed] == [OTHER, ID]
    assert [stage.record for stage in listed] == [store.find(OTHER), store.find(ID)]
    assert listed[1].used == 1000
    assert listed[1].size_bytes == bytes_of_old
    assert listed[1].size_bytes > 100
    assert new.is_dir()


def test_an_unfinished_stage_is_listed_without_a_record(store: StageStore, run: Path) -> None:
    with store.hold(ID, run) as folder:
        (folder / "training.ckpt").write_bytes(bytes(10))
    (stage,) = store.stages()
    assert (stage.identity, stage.record) == (ID, None)


def test_locks_and_other_files_are_no_stages(store: StageStore, run: Path) -> None:
    make(store, run)
    (store.root / ".hidden").mkdir()
    (store.root / "notes.txt").write_text("mine")
    assert [stage.identity for stage in store.stages()] == [ID]


def test_removing_a_stage_removes_its_folder_and_nothing_else(store: StageStore, run: Path) -> None:
    make(store, run, ID)
    make(store, run, OTHER)
    store.remove(next(stage for stage in store.stages() if stage.identity == ID))
    assert store.find(ID) is None
    assert is_found(store, OTHER)
    assert not store.folder(ID).exists()
    assert [stage.identity for stage in store.stages()] == [OTHER]
    assert run.is_dir()


def test_a_removed_stage_can_be_made_again(store: StageStore, run: Path) -> None:
    make(store, run)
    store.remove(store.stages()[0])
    make(store, run)
    assert is_found(store)


# Together with others -----------------------------------------------------------------------------


def in_thread(work: Any) -> threading.Thread:
    thread = threading.Thread(target=work)
    thread.start()
    return thread


def test_another_stage_is_free_while_one_is_held(store: StageStore, run: Path) -> None:
    with store.hold(ID, run), store.hold(OTHER, run) as folder:
        assert folder == store.folder(OTHER)
        assert folder.is_dir()


def test_a_second_run_waits_and_finds_what_the_first_has_made(store: StageStore, run: Path) -> None:
    found = []

    def second() -> None:
        with store.hold(ID, run):
            found.append(is_found(store))

    with store.hold(ID, run):
        thread = in_thread(second)
        time.sleep(0.2)
        assert found == []
        store.finish(ID, RECORD)
    thread.join(10)
    assert found == [True]


def test_a_stage_that_is_held_is_not_removed(store: StageStore, run: Path) -> None:
    make(store, run)
    (stage,) = store.stages()
    refused = []
    with store.hold(ID, run):
        in_thread(lambda: refused.append(not store.remove(stage))).join(10)
    assert refused == [True]
    assert is_found(store)
    assert store.remove(stage)
    assert not store.folder(ID).exists()


def test_a_stage_that_a_run_took_up_since_it_was_listed_is_not_removed(
    store: StageStore, run: Path, tmp_path: Path
) -> None:
    make(store, tmp_path / "gone")
    (stage,) = store.stages()
    with store.hold(ID, run):
        pass
    assert not store.remove(stage)
    assert is_found(store)


def fail(store: StageStore, run: Path, *files: str) -> None:
    """Hold the stage, write ``files``, and diverge."""
    with store.hold(ID, run) as folder:
        for name in files:
            (folder / name).write_bytes(b"x")
        raise RuntimeError("training diverged")


def test_the_stage_is_free_again_after_a_failure(store: StageStore, run: Path) -> None:
    with pytest.raises(RuntimeError, match="diverged"):
        fail(store, run)
    thread = in_thread(lambda: make(store, run))
    thread.join(10)
    assert is_found(store)


def test_a_stage_without_a_checkpoint_leaves_no_folder(store: StageStore, run: Path) -> None:
    with pytest.raises(RuntimeError, match="diverged"):
        fail(store, run, "weights.safetensors.part")
    assert not store.folder(ID).exists()
    assert store.stages() == []


def test_a_failure_leaves_complete_files_and_no_half_written_one(store: StageStore, run: Path) -> None:
    with pytest.raises(RuntimeError, match="diverged"):
        fail(store, run, "training.ckpt", "weights.safetensors.part")
    assert names(store.folder(ID)) == [RUNS, "training.ckpt"]


def test_refreshing_also_removes_the_checkpoint_of_an_interrupted_stage(tmp_path: Path) -> None:
    before = StageStore(tmp_path / "artifacts")
    with before.hold("a", tmp_path / "run") as folder:
        (folder / "training.ckpt").write_text("half")
    with StageStore(tmp_path / "artifacts", refresh_before=time.time() + 1).hold("a", tmp_path / "run") as folder:
        assert not (folder / "training.ckpt").exists()
        (folder / "training.ckpt").write_text("anew")
    with StageStore(tmp_path / "artifacts", refresh_before=time.time() - 60).hold("a", tmp_path / "run") as folder:
        assert (folder / "training.ckpt").read_text() == "anew"


def test_a_copy_of_a_stage_is_adopted_under_its_own_name(store: StageStore, run: Path) -> None:
    record, weights = GOLDEN / "schema_2" / GOLDEN_ID / FILE, GOLDEN / "schema_1" / GOLDEN_ID / WEIGHTS
    store.adopt(record, weights, run)
    folder = store.folder(GOLDEN_ID)
    assert store.find(GOLDEN_ID) == json.loads(record.read_text())
    assert names(folder) == [CHECKED, RUNS, FILE, WEIGHTS]
    assert (folder / FILE).read_bytes() == record.read_bytes()
    assert (folder / WEIGHTS).read_bytes() == weights.read_bytes()
