"""One study, many workers: which worker runs which trial, whatever process is killed.

A trial belongs to the process that holds its file lock; the system frees the lock when that process ends, for whatever
reason. A trial that is running in the study while its lock is free was interrupted: the next worker that looks for work
resumes it, with the same number and the same choices. So no trial is lost and none is counted twice. Workers on other
machines need the same folder of locks; it lies beside the stages, which they share anyway.
"""

from __future__ import annotations

import json
import uuid
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import optuna
from filelock import FileLock, Timeout
from optuna.exceptions import StorageInternalError
from optuna.trial import FrozenTrial, Trial, TrialState

from src.contracts import InputError, first_line
from src.study.attributes import ATTEMPTS, DEFINITION, LATEST_SCHEMA, REASON, SCHEMA, STARTED, STUDY_ID
from src.study.judging import Direction

FINISHED = (TrialState.COMPLETE, TrialState.FAIL, TrialState.PRUNED)
SamplerMaker = Callable[..., optuna.samplers.BaseSampler]


def open_study(
    storage: str, name: str, directions: Sequence[Direction], definition: Mapping[str, Any], locks: Path
) -> optuna.Study:
    """Open the study ``name``, or create it.

    Args:
        storage: ``sqlite:///search.db``, or the address of a PostgreSQL or MySQL server.
        name: Name of the study.
        directions: Optuna's direction of each objective.
        definition: The configuration that all trials share; a study is only opened again with an equal one.
        locks: Folder of the locks.

    Raises:
        InputError: Nothing answers at the address, or a study of that name has another definition or a later schema.
    """
    locks.mkdir(parents=True, exist_ok=True)
    with FileLock(locks / f"study-{name}"):
        try:
            waits = {"timeout": 60} if storage.startswith("sqlite") else {}
            made = optuna.storages.RDBStorage(storage, engine_kwargs={"connect_args": waits, "pool_pre_ping": True})
            study = optuna.create_study(storage=made, study_name=name, directions=list(directions), load_if_exists=True)
        except ImportError as error:
            raise InputError(f"search.storage={_no_password(storage)} needs a driver: {first_line(error)}") from error
        except Exception as error:  # SQLAlchemy lets through what each driver raises
            raise InputError(f"search.storage={_no_password(storage)} does not answer: {first_line(error)}") from error
        schema = study.user_attrs.get(SCHEMA, 1)
        if schema > LATEST_SCHEMA:
            raise InputError(
                f"the search called {name} in {_no_password(storage)} is of schema {schema}, and this version reads up "
                f"to {LATEST_SCHEMA}: update the workbench"
            )
        wanted = json.loads(json.dumps(dict(definition)))
        stored = study.user_attrs.get(DEFINITION)
        if stored is None:
            study.set_user_attr(SCHEMA, LATEST_SCHEMA)
            study.set_user_attr(STUDY_ID, uuid.uuid4().hex)
            study.set_user_attr(DEFINITION, wanted)
        elif stored != wanted:
            keys = ", ".join(_differing_keys(stored, wanted))
            raise InputError(
                f"a search called {name} is in {_no_password(storage)} already, with another {keys}: continue it with "
                f"its own settings, or give this search a name of its own (search.name=…)"
            )
    return study


def queue_points(study: optuna.Study, points: Sequence[Mapping[str, Any]]) -> None:
    """Let the first trials try ``points``; does nothing if the study was started before."""
    if not study.user_attrs.get(STARTED):
        for point in points:
            study.enqueue_trial(dict(point), skip_if_exists=True)
        study.set_user_attr(STARTED, True)


@contextmanager
def storage_errors_explained(storage: str) -> Iterator[None]:
    """Raise InputError if the storage stops answering; finished trials are kept there."""
    try:
        yield
    except StorageInternalError as error:
        raise InputError(
            f"search.storage={_no_password(storage)} stopped answering ({first_line(error)}): finished trials are "
            "kept, and the same command continues the search"
        ) from error


class Claims:
    """Gives this worker its trials, each locked while it runs.

    Args:
        study: The study that all workers share.
        sampler: Makes the sampler of one trial; called with ``seed``.
        choose: Asks a trial for its choices. One worker does so at a time, so that each sampler knows what the other
            workers try.
        seed: Seed of the search. Trial k is sampled with a seed derived from (seed, k), so that an interrupted search
            makes the same choices as one that was not.
        trials: Number of trials to finish in all.
        attempts: How often a trial may be started before it counts as failed; it may be what kills its worker.
        locks: Folder of the locks.
    """

    def __init__(
        self,
        study: optuna.Study,
        sampler: SamplerMaker,
        choose: Callable[[Trial], Any],
        *,
        seed: int,
        trials: int,
        attempts: int,
        locks: Path,
    ) -> None:
        self.study, self.sampler, self.choose, self.seed = study, sampler, choose, seed
        self.trials, self.attempts, self.locks = trials, attempts, locks

    @contextmanager
    def next_trial(self) -> Iterator[Trial | None]:
        """The next trial, locked for this worker; None if all are finished or locked by others."""
        with FileLock(self.locks / self.study.user_attrs[STUDY_ID]):
            trial, lock = self._interrupted_trial() or self._new_trial() or (None, None)
            if trial is not None:
                self.choose(trial)
        try:
            yield trial
        finally:
            if lock is not None:
                lock.release()

    def _interrupted_trial(self) -> tuple[Trial, FileLock] | None:
        """A running trial whose worker is dead."""
        for frozen in self.study.get_trials(deepcopy=False, states=[TrialState.RUNNING]):
            lock = self._lock(frozen.number)
            try:
                lock.acquire(blocking=False)
            except Timeout:
                continue
            # Its worker may have finished it after the list was read and before the lock was acquired.
            if self.study._storage.get_trial(frozen._trial_id).state is not TrialState.RUNNING:
                lock.release()
                continue
            self._seed_sampler(frozen.number)
            trial = Trial(self.study, frozen._trial_id)
            attempts = frozen.user_attrs.get(ATTEMPTS, 1) + 1
            if attempts > self.attempts:
                fail(self.study, trial, f"its worker was killed {self.attempts} times")
                lock.release()
                continue
            trial.set_user_attr(ATTEMPTS, attempts)
            return trial, lock
        return None

    def _new_trial(self) -> tuple[Trial, FileLock] | None:
        """A trial that nobody has started; None if enough are started."""
        started = self.study.get_trials(deepcopy=False, states=[*FINISHED, TrialState.RUNNING])
        if len(started) >= self.trials:
            return None
        self._seed_sampler(len(started))
        trial = self.study.ask()
        lock = self._lock(trial.number)
        lock.acquire()
        return trial, lock

    def _lock(self, number: int) -> FileLock:
        return FileLock(self.locks / f"{self.study.user_attrs[STUDY_ID]}-{number}")

    def _seed_sampler(self, number: int) -> None:
        self.study.sampler = self.sampler(seed=zlib.crc32(f"{self.seed} {number}".encode()))


def fail(study: optuna.Study, trial: Trial, reason: str) -> None:
    """Finish a trial as failed, with the reason."""
    trial.set_user_attr(REASON, reason)
    study.tell(trial, state=TrialState.FAIL)


def finished_trials(study: optuna.Study) -> list[FrozenTrial]:
    """Completed and failed trials, by number."""
    return study.get_trials(deepcopy=False, states=FINISHED)


def _no_password(storage: str) -> str:
    from sqlalchemy.engine import make_url

    try:
        return make_url(storage).render_as_string(hide_password=True)
    except Exception:  # it is no address at all
        return storage


def _differing_keys(stored: Any, wanted: Any, at: str = "") -> list[str]:
    """The deepest dotted keys at which two configs differ; ``at`` is the key of both."""
    if isinstance(stored, Mapping) and isinstance(wanted, Mapping):
        keys = [*stored, *(key for key in wanted if key not in stored)]
        missing = object()
        return [
            found
            for key in keys
            for found in _differing_keys(
                stored.get(key, missing), wanted.get(key, missing), f"{at}.{key}" if at else key
            )
        ]
    return [] if stored == wanted else [at]
