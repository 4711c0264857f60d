"""One study, many workers: who runs which trial, whatever is killed.

A trial belongs to whoever holds its file lock, which the system frees when that process ends, however it ends. A
trial that is running and whose lock is free was cut off: the next worker that asks takes it up again, with the same
number and the same choices. So no trial is lost and none counts twice. Workers on other machines need the same
folder of locks (it lies beside the stages, which they share anyway).
"""

from __future__ import annotations

import json
import uuid
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import optuna
from filelock import FileLock, Timeout
from optuna.exceptions import StorageInternalError
from optuna.trial import FrozenTrial, Trial, TrialState

from src.contracts import InputError, first_line

ID, ASKED, ATTEMPTS, REASON = "id", "asked", "attempts", "reason"
FINISHED = (TrialState.COMPLETE, TrialState.FAIL, TrialState.PRUNED)
Direction = Literal["minimize", "maximize"]
MakeSampler = Callable[..., optuna.samplers.BaseSampler]


def open_study(
    storage: str, name: str, directions: Sequence[Direction], asked: Mapping[str, Any], locks: Path
) -> optuna.Study:
    """Open the study ``name``, or begin it.

    Args:
        storage: ``sqlite:///search.db``, or the address of a PostgreSQL or MySQL server.
        name: Of the study.
        directions: ``minimize`` or ``maximize`` for each objective.
        asked: What the search looks for and where; a study goes on only with the same.
        locks: Folder of locks.

    Raises:
        InputError: Nothing answers there, or another search has that name.
    """
    locks.mkdir(parents=True, exist_ok=True)
    with FileLock(locks / f"study-{name}"):
        try:
            waits = {"timeout": 60} if storage.startswith("sqlite") else {}
            made = optuna.storages.RDBStorage(storage, engine_kwargs={"connect_args": waits, "pool_pre_ping": True})
            study = optuna.create_study(storage=made, study_name=name, directions=list(directions), load_if_exists=True)
        except ImportError as error:
            raise InputError(f"search.storage={_hidden(storage)} needs a driver: {first_line(error)}") from error
        except Exception as error:  # SQLAlchemy lets through what each driver raises
            raise InputError(f"search.storage={_hidden(storage)} does not answer: {first_line(error)}") from error
        wanted = json.loads(json.dumps(dict(asked)))
        known = study.user_attrs.get(ASKED)
        if known is None:
            study.set_user_attr(ID, uuid.uuid4().hex)
            study.set_user_attr(ASKED, wanted)
        elif known != wanted:
            keys = ", ".join(_differing(known, wanted))
            raise InputError(
                f"a search called {name} is in {_hidden(storage)} already, with another {keys}: go on with what it "
                f"had, or give this one a name of its own (search.name=…)"
            )
    return study


@contextmanager
def answering(storage: str) -> Iterator[None]:
    """Raise InputError where the storage stops answering; what is finished is kept there."""
    try:
        yield
    except StorageInternalError as error:
        raise InputError(
            f"search.storage={_hidden(storage)} stopped answering ({first_line(error)}): finished trials are kept, and "
            "the same command goes on"
        ) from error


class Claims:
    """Deals out trials to this worker.

    Args:
        study: That all workers share.
        sampler: Makes one that chooses, given ``seed``.
        seed: Of the search; trial k is drawn with a seed of (seed, k), so that a search that was cut off chooses as
            it would have.
        trials: To be finished in all.
        choose: Asks a trial for its choices, one worker's at a time, so that each knows what the others try.
        attempts: How often a trial may be taken up before it counts as failed (it may be what kills its worker).
        locks: Folder of locks.
    """

    def __init__(
        self,
        study: optuna.Study,
        sampler: MakeSampler,
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
    def next(self) -> Iterator[Trial | None]:
        """A trial to run, this worker's own meanwhile; None where every one is finished or somebody's."""
        with FileLock(self.locks / self.study.user_attrs[ID]):
            trial, lock = self._taken_up() or self._begun() or (None, None)
            if trial is not None:
                self.choose(trial)
        try:
            yield trial
        finally:
            if lock is not None:
                lock.release()

    def _taken_up(self) -> tuple[Trial, FileLock] | None:
        """A trial that was cut off."""
        for frozen in self.study.get_trials(deepcopy=False, states=[TrialState.RUNNING]):
            lock = self._lock(frozen.number)
            try:
                lock.acquire(blocking=False)
            except Timeout:
                continue
            # Its worker may have finished it between the list and the lock.
            if self.study._storage.get_trial(frozen._trial_id).state is not TrialState.RUNNING:
                lock.release()
                continue
            self._seed(frozen.number)
            trial = Trial(self.study, frozen._trial_id)
            attempts = frozen.user_attrs.get(ATTEMPTS, 1) + 1
            if attempts > self.attempts:
                fail(self.study, trial, f"its worker was killed {self.attempts} times")
                lock.release()
                continue
            trial.set_user_attr(ATTEMPTS, attempts)
            return trial, lock
        return None

    def _begun(self) -> tuple[Trial, FileLock] | None:
        begun = self.study.get_trials(deepcopy=False, states=[*FINISHED, TrialState.RUNNING])
        if len(begun) >= self.trials:
            return None
        self._seed(len(begun))
        trial = self.study.ask()
        lock = self._lock(trial.number)
        lock.acquire()
        return trial, lock

    def _lock(self, number: int) -> FileLock:
        return FileLock(self.locks / f"{self.study.user_attrs[ID]}-{number}")

    def _seed(self, number: int) -> None:
        self.study.sampler = self.sampler(seed=zlib.crc32(f"{self.seed} {number}".encode()))


def fail(study: optuna.Study, trial: Trial, reason: str) -> None:
    """Finish a trial as failed, with the reason."""
    trial.set_user_attr(REASON, reason)
    study.tell(trial, state=TrialState.FAIL)


def finished(study: optuna.Study) -> list[FrozenTrial]:
    """The trials that count, in order."""
    return study.get_trials(deepcopy=False, states=FINISHED)


def _hidden(storage: str) -> str:
    from sqlalchemy.engine import make_url

    try:
        return make_url(storage).render_as_string(hide_password=True)
    except Exception:  # no address at all
        return storage


def _differing(known: Any, wanted: Any, at: str = "") -> list[str]:
    """Keys at which two configs differ, each as deep as it goes."""
    if isinstance(known, Mapping) and isinstance(wanted, Mapping):
        keys = [*known, *(key for key in wanted if key not in known)]
        missing = object()
        return [
            found
            for key in keys
            for found in _differing(known.get(key, missing), wanted.get(key, missing), f"{at}.{key}" if at else key)
        ]
    return [] if known == wanted else [at]
