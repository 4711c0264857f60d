"""Many workers, one study: no trial is lost and none counts twice, whatever is killed."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import optuna
import pytest
from filelock import FileLock
from optuna.exceptions import StorageInternalError
from optuna.trial import TrialState

from src.contracts import InputError
from src.study.attributes import ATTEMPTS, DEFINITION, LATEST_SCHEMA, REASON, SCHEMA, STUDY_ID
from src.study.claims import Claims, fail, finished_trials, open_study, storage_errors_explained

# A worker whose trials take a while; what each one chose and did is written down in order.
WORKER = """
import sys, time
from pathlib import Path
import optuna
from src.study.claims import Claims, open_study
folder, trials = Path(sys.argv[1]), int(sys.argv[2])
study = open_study(f"sqlite:///{folder}/s.db", "s", ["minimize"], {}, folder / "locks")
def choose(trial):
    return trial.suggest_float("x", 0, 1)
made = {"seed": 0, "trials": trials, "attempts": 50, "locks": folder / "locks"}
claims = Claims(study, optuna.samplers.RandomSampler, choose, **made)
while True:
    with claims.next_trial() as trial:
        if trial is None:
            break
        x = choose(trial)
        time.sleep(0.15)
        study.tell(trial, x)
"""


def study_in(folder: Path, **definition: object) -> optuna.Study:
    return open_study(f"sqlite:///{folder}/s.db", "s", ["minimize"], definition, folder / "locks")


def choose(trial: optuna.Trial) -> float:
    return trial.suggest_float("x", 0, 1)


def claims_of(study: optuna.Study, folder: Path, trials: int = 3, attempts: int = 2) -> Claims:
    sampler = optuna.samplers.RandomSampler
    return Claims(study, sampler, choose, seed=0, trials=trials, attempts=attempts, locks=folder / "locks")


def work_alone(folder: Path, trials: int) -> list[float]:
    """What a worker chooses that nobody kills."""
    study = study_in(folder)
    claims = claims_of(study, folder, trials=trials)
    while True:
        with claims.next_trial() as trial:
            if trial is None:
                return [trial.params["x"] for trial in finished_trials(study)]
            study.tell(trial, choose(trial))


@pytest.mark.slow
def test_killed_workers_lose_no_trial_and_double_none(tmp_path: Path) -> None:
    trials, kills = 24, 10
    (tmp_path / "killed").mkdir()
    command = [sys.executable, "-c", WORKER, str(tmp_path / "killed"), str(trials)]
    chance = random.Random(7)
    workers = [subprocess.Popen(command) for _ in range(2)]
    for _ in range(kills):
        time.sleep(chance.uniform(0.1, 0.6))
        at = chance.randrange(2)
        if workers[at].poll() is None:
            os.kill(workers[at].pid, signal.SIGKILL)
        workers[at].wait()
        workers[at] = subprocess.Popen(command)
    for worker in workers:
        assert worker.wait(timeout=120) == 0
    subprocess.run(command, check=True)  # runs what the last kill left
    study = study_in(tmp_path / "killed")
    assert [trial.number for trial in finished_trials(study)] == list(range(trials))
    assert len(study.trials) == trials
    assert [trial.params["x"] for trial in finished_trials(study)] == work_alone(tmp_path / "alone", trials)


def test_an_interrupted_trial_resumes_with_what_it_had_chosen(tmp_path: Path) -> None:
    study = study_in(tmp_path)
    begun = study.ask()
    chosen = begun.suggest_float("x", 0, 1)
    with claims_of(study, tmp_path).next_trial() as trial:
        assert trial is not None
        assert trial.number == begun.number
        assert trial.suggest_float("x", 0, 1) == chosen
        assert trial.user_attrs[ATTEMPTS] == 2


def test_a_trial_has_chosen_before_another_worker_chooses(tmp_path: Path) -> None:
    study = study_in(tmp_path)
    with claims_of(study, tmp_path).next_trial(), claims_of(study, tmp_path).next_trial():
        assert [sorted(trial.params) for trial in study.trials] == [["x"], ["x"]]


def test_a_running_trial_is_locked_for_other_workers(tmp_path: Path) -> None:
    study = study_in(tmp_path)
    with claims_of(study, tmp_path, trials=1).next_trial() as first:
        assert first is not None
        with claims_of(study, tmp_path, trials=1).next_trial() as second:
            assert second is None


def test_a_trial_that_its_worker_finishes_just_before_its_lock_is_free_stays_finished(tmp_path: Path) -> None:
    study = study_in(tmp_path)
    begun = study.ask()

    class Late(Claims):
        def _lock(self, number: int) -> FileLock:
            study_in(tmp_path).tell(begun.number, 1.0, skip_if_finished=True)
            return super()._lock(number)

    claims = Late(study, optuna.samplers.RandomSampler, choose, seed=0, trials=1, attempts=2, locks=tmp_path / "locks")
    with claims.next_trial() as trial:
        assert trial is None
    (only,) = finished_trials(study)
    assert only.value == 1.0
    assert ATTEMPTS not in only.user_attrs


def test_a_trial_whose_workers_are_killed_fails_in_the_end(tmp_path: Path) -> None:
    study = study_in(tmp_path)
    study.ask()
    for _ in range(3):
        with claims_of(study, tmp_path, trials=1).next_trial() as trial:
            pass
    assert trial is None
    (only,) = finished_trials(study)
    assert only.state is TrialState.FAIL
    assert only.user_attrs[REASON] == "its worker was killed 2 times"


def test_a_new_study_stores_its_schema(tmp_path: Path) -> None:
    study_in(tmp_path)
    assert study_in(tmp_path).user_attrs[SCHEMA] == LATEST_SCHEMA


def test_a_study_of_an_earlier_version_which_stores_no_schema_is_continued(tmp_path: Path) -> None:
    earlier = optuna.create_study(storage=f"sqlite:///{tmp_path}/s.db", study_name="s")
    earlier.set_user_attr(STUDY_ID, "of an earlier version")
    earlier.set_user_attr(DEFINITION, {"seed": 1})
    assert study_in(tmp_path, seed=1).user_attrs[STUDY_ID] == "of an earlier version"


def test_a_study_of_a_later_version_is_refused_in_one_line(tmp_path: Path) -> None:
    study_in(tmp_path, seed=1).set_user_attr(SCHEMA, LATEST_SCHEMA + 1)
    for definition in ({"seed": 1}, {"seed": 2}):
        with pytest.raises(InputError, match=r"^the search called s in sqlite.* is of schema 2, .* up to 1: update"):
            study_in(tmp_path, **definition)


def test_first_points_come_first_and_failures_count(tmp_path: Path) -> None:
    study = study_in(tmp_path)
    study.enqueue_trial({"x": 0.25})
    claims = claims_of(study, tmp_path, trials=2)
    with claims.next_trial() as trial:
        assert trial is not None
        assert trial.suggest_float("x", 0, 1) == 0.25
        fail(study, trial, "it was too large")
    with claims.next_trial() as trial:
        assert trial is not None
        study.tell(trial, 1.0)
    with claims.next_trial() as trial:
        assert trial is None
    assert [each.user_attrs.get(REASON) for each in finished_trials(study)] == ["it was too large", None]


def test_a_trial_is_one_workers_however_the_storage_is_spelt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    claims = claims_of(study_in(tmp_path), tmp_path, trials=1)
    other = open_study("sqlite:///s.db", "s", ["minimize"], {}, tmp_path / "locks")
    with claims.next_trial() as trial, claims_of(other, tmp_path, trials=1).next_trial() as second:
        assert trial is not None
        assert second is None


def test_a_storage_that_stops_answering_is_said_in_one_line_without_its_password() -> None:
    with (
        pytest.raises(
            InputError, match=r"search.storage=.*stopped answering \(gone\).* the same command continues the search"
        ) as said,
        storage_errors_explained("postgresql://me:secret@host/db"),
    ):
        raise StorageInternalError("gone\nand more")
    assert "secret" not in str(said.value)
    assert "\n" not in str(said.value)


def test_two_searches_of_one_name_with_different_spaces_are_refused(tmp_path: Path) -> None:
    study_in(tmp_path, space={"prune": {"sparsity": 0.9}}, seed=0)
    assert study_in(tmp_path, space={"prune": {"sparsity": 0.9}}, seed=0).study_name == "s"
    with pytest.raises(InputError, match=r"another space.prune.sparsity, seed: .*search.name="):
        study_in(tmp_path, space={"prune": {"sparsity": 0.8}}, seed=1)


@pytest.mark.parametrize(
    "storage",
    ["postgresql://nobody:secret@127.0.0.1:1/x", "mysql+nodriver://x/y", "nonsense", "sqlite:////no/where.db"],
)
def test_a_storage_that_nothing_answers_is_said_in_one_line(tmp_path: Path, storage: str) -> None:
    with pytest.raises(InputError, match="search.storage=") as refused:
        open_study(storage, "s", ["minimize"], {}, tmp_path / "locks")
    assert "\n" not in str(refused.value)
    assert "secret" not in str(refused.value)
