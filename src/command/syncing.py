"""Sending what a tracking store did not get when it was logged: a command was killed, or the store did not answer."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path

from src.command.composition import tracker_of
from src.command.exits import DONE, TRACKING_FAILED
from src.contracts import InputError, Tracker, TrackingError
from src.display.terminal import shown
from src.experiment.results import RESULTS, Results, write_survey
from src.files.owner import owning
from src.tracking.unsent import (
    Journal,
    StoreName,
    how_to_send,
    journals_in,
    journals_of,
    list_journal,
    unlisted_in,
)


@dataclass
class Report:
    """What became of journals.

    Attributes:
        sent: The number that each store got.
        at_work: A line for each folder whose command is still at work.
        changed: A line for each model that was changed after it was measured, so that its run is sent without it.
        left: A line for each journal, and each store, of which something was not sent.
    """

    sent: Counter[str] = field(default_factory=Counter)
    at_work: list[str] = field(default_factory=list)
    changed: list[str] = field(default_factory=list)
    left: list[str] = field(default_factory=list)

    @property
    def lines(self) -> list[str]:
        """All of it for a person, each line once."""
        sent = [f"Sent {count} earlier run{'s' * (count != 1)} to {uri}" for uri, count in self.sent.items() if uri]
        return [*sent, *dict.fromkeys([*self.changed, *self.at_work, *self.left])]


def sync(
    folders: Sequence[Path],
    artifacts: Path,
    *,
    to: str | None = None,
    uri: str | None = None,
    ended: bool = False,
) -> tuple[int, list[str]]:
    """Send what the store lacks of the runs, surveys and searches in folders.

    Args:
        folders: Folders of runs, surveys or searches; if there are none, every folder with unsent results.
        artifacts: Folder of the stages, beside which is noted what is unsent and to which store it goes.
        to: Name of the ``tracking`` config whose store gets what is not noted there; None sends none of that.
        uri: Address of that store; None for that of the config.
        ended: Whether commands that were begun on other machines have ended.

    Returns:
        The exit code, and lines for a person.

    Raises:
        InputError: A folder is not there, or no store has that name.
    """
    os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")  # no log file takes what it says
    for folder in folders:
        if not folder.is_dir():
            raise InputError(f"There is no folder {folder}")
    report, gone, added = Report(), list[str](), list[Journal]()
    if folders:
        added = _list_others(folders, artifacts, _store(to, uri), report)
    elif to is not None or uri is not None:
        raise InputError("--to and --uri say where the runs of given folders go: name the folders, too")
    else:
        found = journals_of(artifacts)
        gone, report.left = _gone_lines(found.gone), [*found.lines]
    _send(_journals(folders, artifacts, added), report, ended=ended)
    # A run that is sent may open the journal of its parent anew.
    _send([each for each in _journals(folders, artifacts) if not each.is_run], report, ended=ended)
    lines = [*gone, *report.lines]
    if not report.lines:
        lines.append("Nothing is left to send.")
    return TRACKING_FAILED if report.left else DONE, lines


def send_earlier(artifacts: Path, uri: str | None, own_folder: Path) -> list[str]:
    """Send what earlier commands left for the store at ``uri``, which answers; return lines for a person.

    Args:
        artifacts: Folder of the stages.
        uri: Address of the store; None if there is no store.
        own_folder: Folder of the command's own run, survey or search, which is still at work.
    """
    if uri is None:
        return []
    own = own_folder.resolve()
    found, report = journals_of(artifacts), Report()
    for_store = [each for each in found.journals if each.store.uri == uri and own not in (each.folder, each.survey)]
    _send(for_store, report)
    return [*_gone_lines(found.gone), *found.lines, *Report(report.sent, changed=report.changed).lines]


def close_earlier(folder: Path, artifacts: Path) -> list[str]:
    """Send what an earlier command, which is not at work any more, left in a folder that another one begins to use.

    Returns:
        A line for each model that was changed after it was measured, and for each journal that is not
        sent, since no command of this project has listed it.
    """
    changed: list[str] = []
    for journal in journals_in(folder, artifacts):
        try:
            changed += _send_one(journal)
        except (TrackingError, InputError, OSError):  # it stays, and is sent later
            continue
    return [*changed, *(_unlisted_line(path) for path in unlisted_in(folder, artifacts))]


def kept_in(folder: Path) -> str:
    """What a person is told if the store failed."""
    return f"The results are complete in {shown(folder)}; python -m src.sync sends them to the store later."


def _store(name: str | None, uri: str | None) -> StoreName | None:
    """The store that the user names; None if none is named.

    Raises:
        InputError: There is no such store.
    """
    if name is None:
        if uri is not None:
            raise InputError(f"--uri {uri} needs --to, the name of its tracking config (mlflow, jsonl)")
        return None
    tracker = tracker_of(name, uri)
    if tracker.uri is None:
        raise InputError(f"tracking={name} has no store")
    return StoreName(name, tracker.uri, tracker.tags)


def _with_members(folders: Sequence[Path]) -> list[Path]:
    """Folders, and those of their members."""
    return [each for top in folders for each in (top, *sorted(top.iterdir())) if each.is_dir()]


def _journals(folders: Sequence[Path], artifacts: Path, added: Sequence[Journal] = ()) -> list[Journal]:
    """The listed journals in folders and in those of their members, or all of them; runs before their parents.

    ``added`` are journals that were to be listed now: the list may be one that cannot be written.
    """
    inside = {folder.resolve() for folder in _with_members(folders)}
    listed = [each for each in journals_of(artifacts).journals if not folders or each.folder in inside]
    known = {journal.path for journal in listed}
    return sorted([*listed, *(each for each in added if each.path not in known)], key=lambda each: not each.is_run)


def _list_others(folders: Sequence[Path], artifacts: Path, store: StoreName | None, report: Report) -> list[Journal]:
    """Put the journals that no command of this project has listed on the list, for the store that the user names.

    What cannot be listed, or what no store is named for, is reported.
    """
    journals = []
    for path in [path for folder in _with_members(folders) for path in unlisted_in(folder, artifacts)]:
        if store is None:
            report.left.append(_unlisted_line(path))
            continue
        try:
            journals.append(list_journal(path, artifacts, store, folders))
        except TrackingError as error:
            report.left.append(f"Not sent: {error}")
    return journals


def _unlisted_line(path: Path) -> str:
    return (
        f"Not sent: {shown(path)} did not begin here, or its store is not known any more; if you trust it, "
        f"{how_to_send(shown(path.parent))} sends it to your store"
    )


def _send(journals: Sequence[Journal], report: Report, *, ended: bool = False) -> None:
    """Send each journal whose command is not at work; a store that fails is not asked again."""
    failed: set[str] = set()
    for journal in journals:
        if journal.store.uri in failed:
            continue
        where = shown(journal.folder)
        with ExitStack() as stack:
            try:
                if journal.elsewhere and not ended:
                    report.left.append(
                        f"Not sent: {where} was begun on {journal.listed.host}, and may be at work there; if it is "
                        "not, python -m src.sync --ended sends it"
                    )
                    continue
                if journal.alive:
                    report.at_work.append(f"{where} is at work; what it logs is sent when it has ended.")
                    continue
                stack.enter_context(owning(journal.folder))
            except InputError as error:  # another command has begun to use the folder
                report.at_work.append(f"{error}; what it logs is sent when it has ended.")
                continue
            except OSError as error:
                report.left.append(f"Not sent: {where} cannot be written ({error.strerror or error})")
                continue
            try:
                report.changed += _send_one(journal)
                report.sent[journal.store.uri] += 1
            except (TrackingError, InputError) as error:
                failed.add(journal.store.uri)
                report.left.append(f"{error}. {kept_in(journal.folder)}")
            except OSError as error:
                report.left.append(f"Not sent: {where}: {error.strerror or error}")


def _send_one(journal: Journal) -> list[str]:
    """Send a journal, and clear ``tracking_error`` in the results of its run; return what ``Journal.send`` says."""
    if not journal.events:
        journal.remove()
        return []
    failed = _results_of(journal)
    if failed is not None:
        replace(failed, tracking_error=None).write(journal.folder)
    try:
        lines = journal.send(_tracker(journal.store))
    except (TrackingError, InputError):
        if failed is not None:
            failed.write(journal.folder)
        raise
    if failed is not None and journal.survey is not None:
        write_survey(journal.survey)
    return lines


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


def _gone_lines(folders: Sequence[Path]) -> list[str]:
    return [f"{shown(folder)} is gone, and with it what the tracking store lacks of it." for folder in folders]
