"""Sending what a tracking store did not get when it was logged: a command was killed, or the store did not answer."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from src.command.composition import tracker_of
from src.command.exits import DONE, TRACKING_FAILED
from src.contracts import InputError, Tracker, TrackingError
from src.display.terminal import shown
from src.experiment.results import RESULTS, Results, write_survey
from src.files.owner import owning
from src.tracking.unsent import Journal, StoreName, journals_in, journals_of


def sync(folders: Sequence[Path], artifacts: Path) -> int:
    """Send what the folders keep, or what is known beside the stages if none is given; return the exit code.

    Raises:
        InputError: A folder is not there.
    """
    os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")  # no log file takes what it says
    for folder in folders:
        if not folder.is_dir():
            raise InputError(f"There is no folder {folder}")
    journals, gone = (_below(folders), []) if folders else journals_of(artifacts)
    for folder in gone:
        print(f"{shown(folder)} is gone, and with it what the tracking store lacks of it.")
    sent, failures = _send(journals)
    # A run that is sent may open the journal of its parent anew.
    more, later = _send(
        [each for each in (_below(folders) if folders else journals_of(artifacts)[0]) if not each.is_run]
    )
    for line in [*_lines(sent + more), *failures, *(line for line in later if line not in failures)]:
        print(line)
    if not sent + more and not failures:
        print("Nothing is left to send.")
    return TRACKING_FAILED if failures or later else DONE


def send_earlier(artifacts: Path, uri: str | None, apart: Path) -> list[str]:
    """Send what earlier commands left for the store at ``uri``, which answers; return lines for a person.

    Args:
        artifacts: Folder of the stages.
        uri: Address of the store; None if there is no store.
        apart: Folder of the command's own run, survey or search, which is still at work.
    """
    if uri is None:
        return []
    own = apart.resolve()
    journals, gone = journals_of(artifacts)
    lines = [f"{shown(folder)} is gone, and with it what the tracking store lacks of it." for folder in gone]
    there = [each for each in journals if each.events and each.store.uri == uri]
    sent, _ = _send([each for each in there if own not in (each.folder, each.survey)])
    return [*lines, *_lines(sent)]


def close_earlier(folder: Path) -> None:
    """Send what an earlier command, which is not at work any more, left in a folder that another one begins to use."""
    for journal in journals_in(folder):
        try:
            _send_one(journal)
        except (TrackingError, InputError, OSError):  # it stays, and is sent later
            continue


def kept_in(folder: Path) -> str:
    """What a person is told if the store failed."""
    return f"The results are complete in {shown(folder)}; python -m src.sync sends them to the store later."


def _below(folders: Sequence[Path]) -> list[Journal]:
    """The journals in folders and in those of their members; runs before their parents."""
    found = [
        each
        for top in folders
        for folder in (top, *sorted(top.iterdir()))
        if folder.is_dir()
        for each in journals_in(folder.resolve())
    ]
    return sorted(found, key=lambda journal: not journal.is_run)


def _send(journals: Sequence[Journal]) -> tuple[Counter[str], list[str]]:
    """Send each journal whose command is not at work; return how many each store got, and why others failed.

    A store that fails is not asked again.
    """
    sent: Counter[str] = Counter()
    failures: dict[str, str] = {}
    for journal in journals:
        store = journal.store.uri if journal.events else ""
        if store in failures or journal.alive:
            continue
        with ExitStack() as stack:
            try:
                stack.enter_context(owning(journal.folder))
            except (InputError, OSError):  # another command has begun to use the folder, or it cannot be written
                continue
            try:
                _send_one(journal)
                sent[store] += 1
            except (TrackingError, InputError) as error:
                failures[store] = f"{error}. {kept_in(journal.folder)}"
    return sent, list(failures.values())


def _send_one(journal: Journal) -> None:
    """Send a journal; results that say that the store lacks some of them say so no longer."""
    if not journal.events:
        journal.remove()
        return
    failed = _results_of(journal)
    if failed is not None:
        replace(failed, tracking_error=None).write(journal.folder)
    try:
        journal.send(_tracker(journal.store))
    except (TrackingError, InputError):
        if failed is not None:
            failed.write(journal.folder)
        raise
    if failed is not None and journal.survey is not None:
        write_survey(journal.survey)


def _results_of(journal: Journal) -> Results | None:
    """The results of a run that say that the store lacks some of them; None if there are none."""
    if not journal.is_run or not (journal.folder / RESULTS).exists():
        return None
    try:
        results = Results.read(journal.folder)
    except InputError:  # damaged: the journal has the rows
        return None
    return results if results.tracking_error is not None else None


def _tracker(store: StoreName) -> Tracker:
    return tracker_of(store.name, store.uri, tags=dict(store.tags), system_metrics=False)


def _lines(sent: Counter[str]) -> list[str]:
    return [f"Sent {count} earlier run{'s' * (count != 1)} to {uri}" for uri, count in sent.items() if uri]
