"""Making a report: what a person named is found, its data and runtimes are opened, and the report is written."""

from __future__ import annotations

import difflib
import logging
import shlex
from collections.abc import Sequence
from pathlib import Path

from src.command.composition import build, target_of
from src.command.exits import CONF
from src.command.trust import check_config, read_config
from src.contracts import DataSplits, InputError, first_line
from src.display.terminal import shown
from src.files.writing import write_text
from src.reporting.gathering import Gathered, gather, holds_records
from src.reporting.markdown import markdown
from src.reporting.page import page
from src.reporting.pictures import pictures
from src.reporting.predicting import Predictions, Reader, predictions
from src.reporting.table import as_csv

log = logging.getLogger(__name__)
OUTPUTS = Path("outputs")
PATIENCE = 20  # seconds that files may run for a report that nobody asked for
QUICK = ("src.data.digits.", "src.data.shapes.", "src.data.torchvision_sets.")  # data without files to decode
KINDS = "a .html or .md file, or a folder of pictures (a name without an ending)"


def report(names: Sequence[str], to: Path | None, made_by: str, *, trust: bool = False) -> list[str]:
    """Report runs, surveys and searches; return lines for a person.

    Args:
        names: Their folders, or names of experiments, of which the last run, survey or search is taken; if there are
            none, the last of all.
        to: File that the report goes to: HTML, or Markdown by its ending; a name without an ending is a folder of
            pictures. None is ``report.html`` in the first folder.
        made_by: The command that makes the report.
        trust: Whether the configs of the runs may name any class.

    Raises:
        InputError: There is nothing to report, or the ending is unknown.
    """
    folders = [folder_of(name) for name in names] or [_last(OUTPUTS, "There is no run to report in outputs/")]
    to = to or folders[0] / "report.html"
    if to.suffix not in (".html", ".md", ""):
        raise InputError(f"--to {to}: a report is {KINDS}")
    gathered = gather(folders, artifacts_of)
    reader = Reader(lambda folder: load_data(folder, trust=trust), lambda file: target_of(file, trust=trust))
    predicted = [predictions(section, reader) for section in gathered.sections]
    notes = [*gathered.notes, *(note for each in predicted for note in each.notes)]
    rows = sum(len(section.items) for section in gathered.sections)
    return [*dict.fromkeys(notes), f"Written: {_written(gathered, predicted, to, made_by)} ({rows} rows)"]


def leave_report(folder: Path) -> list[str]:
    """Write the report of a survey or search into its folder, as HTML, Markdown and CSV, without a long wait.

    Data that would have to be decoded is not loaded, so that test images and intervals may be missing; a report of
    one's own (``python -m src.report``) has them.

    Returns:
        A line if that fails, which costs no result.
    """
    try:
        gathered = gather([folder], artifacts_of)
        reader = Reader(_load_quickly, target_of, seconds=PATIENCE)
        predicted = [predictions(section, reader) for section in gathered.sections]
        command = shlex.join(["python", "-m", "src.report", str(shown(folder))])
        write_text(folder / "report.html", page(gathered, predicted, command))
        write_text(folder / "report.md", markdown(gathered, predicted))
        write_text(folder / "table.csv", as_csv(gathered))
    except Exception as error:  # a survey must not be lost for its report
        log.exception("no report of %s", folder)
        return [f"No report was written: {first_line(error)}"]
    return []


def _load_quickly(folder: Path) -> DataSplits:
    """The data of a run, if it is of a kind that is read within seconds."""
    data = read_config(folder / "config.yaml").get("data")
    target = str(data.get("_target_")) if isinstance(data, dict) else ""
    if not target.startswith(QUICK):
        raise InputError(f"reading them takes long here; python -m src.report {shown(folder.parent)} shows them")
    return load_data(folder)


def _written(gathered: Gathered, predicted: Sequence[Predictions], to: Path, made_by: str) -> Path:
    if not to.suffix:
        if not pictures(gathered, predicted, to):
            raise InputError(f"--to {to}: there is nothing to draw")
        return to
    to.parent.mkdir(parents=True, exist_ok=True)
    text = page(gathered, predicted, made_by) if to.suffix == ".html" else markdown(gathered, predicted)
    write_text(to, text)
    return to


def folder_of(name: str) -> Path:
    """The folder of results that a person named.

    Args:
        name: A folder, a folder of folders, of which the last is taken, or the name of an experiment.

    Raises:
        InputError: There is none.
    """
    for place in (Path(name), OUTPUTS / name):
        if place.is_dir():
            return place if holds_records(place) else _last(place, f"{place} holds no results")
    if Path(name).exists():
        raise InputError(f"{name} is a file; a report is made of folders of runs, surveys and searches")
    there = [path.name for path in OUTPUTS.iterdir() if path.is_dir()] if OUTPUTS.is_dir() else []
    if (CONF / "experiment" / f"{name}.yaml").is_file():
        raise InputError(
            f"The experiment '{name}' has no results in outputs/; python -m src.run +experiment={name} makes them"
        )
    near = difflib.get_close_matches(name, there, 1)
    meant = f" Did you mean {near[0]}?" if near else f" There are {', '.join(sorted(there))}" if there else ""
    raise InputError(f"There is no folder '{name}', and no results of that name in outputs/.{meant}")


def artifacts_of(folder: Path) -> Path:
    """The folder of the stages that a run in ``folder`` made, as its config names it; the usual one if it does not."""
    try:
        given = read_config(folder / "config.yaml").get("artifacts")
    except (InputError, OSError):
        given = None
    named = Path(given).expanduser() if isinstance(given, str) and "${" not in given else Path("artifacts")
    return named if named.is_dir() else Path("artifacts")


def load_data(folder: Path, *, trust: bool = False) -> DataSplits:
    """The data of the run in ``folder``, as its config names it.

    Raises:
        InputError: The data is not here, or the config names a class that ``conf/data`` does not.
    """
    path = folder / "config.yaml"
    if not path.is_file():
        raise InputError(f"{folder} has no config.yaml, which says what the data is")
    config = read_config(path)
    if not trust:
        check_config(config.get("data"), "data", "data", path)
    splits: DataSplits = build(config, "data").load()
    return splits


def _last(place: Path, otherwise: str) -> Path:
    """The folder of results in ``place``, or in its folders, that was written last.

    Raises:
        InputError: There is none; ``otherwise`` says so.
    """
    found = [path for pattern in ("*", "*/*") for path in place.glob(pattern) if path.is_dir() and holds_records(path)]
    whole = [path for path in found if not holds_records(path.parent)]
    if not whole:
        raise InputError(otherwise)
    return max(whole, key=lambda path: path.stat().st_mtime)
