"""The stages of DVC that train and compress: the baseline, each method, and the search."""

from __future__ import annotations

import hashlib
import os
import shlex
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from src import methods
from src.command.dvc import (
    BASELINE,
    KEPT_RECORD,
    KEPT_WEIGHTS,
    PIPELINE,
    RUNS,
    SEARCH,
    Choices,
    Composed,
    composed_file,
)
from src.command.exits import DONE
from src.files.owner import owning
from src.study.workers import started

if TYPE_CHECKING:
    from src.command.execution import Executed
    from src.stages.store import StageStore


def run(variant: str) -> int:
    """Run the experiment of the baseline or of a method as ``python -m src.run`` does; return its exit code.

    Its folder gets the exported files, the results, and each stage's record and weights. Stages that another run's
    folder holds (pulled from a remote, say) are found again, too.
    """
    from src.display.terminal import Console, only_ours

    composed = Composed.read(variant)
    config = composed.config
    folder = (RUNS / variant).absolute()
    with owning_stage(RUNS / variant), only_ours(folder / "run.log", verbose=config["verbose"]) as terminal:
        from src.command.execution import execute
        from src.command.syncing import kept_in
        from src.stages.store import StageStore
        from src.tracking import provenance

        console = Console(terminal, "")
        store = StageStore(Path(config["artifacts"]), say=console.line)
        _adopt_pulled_stages(store)
        shutil.copyfile(composed_file(variant), folder / "config.yaml")
        done = execute(
            {**config, "tracking": _with_revision(config["tracking"], variant)},
            composed.choices,
            folder,
            console=console,
            command=" ".join(["python -m src.run", *map(shlex.quote, composed.overrides)]),
            overrides=composed.overrides,
        )
        _keep_stages(done, store, folder)
        failure = done.results.tracking_error
        kept = [f"{failure}. {kept_in(folder)}"] if failure is not None else []
        for note in [*done.results.budget_missed, *kept, *provenance.remarks()]:
            console.line(note)
    return done.code


def search() -> int:
    """Search as ``python -m src.search`` does, in a folder of the pipeline's; return its exit code."""
    with owning_stage(SEARCH):
        if Choices.read().search is None:
            return DONE
        environment = {k: value for k, value in os.environ.items() if k != "HYDRA_FULL_ERROR"}  # set by this command
        with started(["-m", "src.search", *search_overrides()], environment) as process:
            return process.wait()


@contextmanager
def owning_stage(folder: Path) -> Iterator[None]:
    """Make and own the folder of a stage, by a lock beside it: DVC removes the folder before the stage runs."""
    lock = PIPELINE.absolute() / f".{folder.name}.lock"
    lock.parent.mkdir(parents=True, exist_ok=True)
    with owning(folder, lock):
        folder.mkdir(parents=True, exist_ok=True)
        yield


def search_overrides() -> list[str]:
    """The overrides of the pipeline's search: those that it was composed from, its places, and its name.

    The name of the study holds a digest of the composed file and of the methods' code: another space, budget or method
    begins another study, and an interrupted search resumes its own.
    """
    composed = Composed.read(SEARCH.name)
    config = composed.config
    places = {
        "hydra.run.dir": str(SEARCH),
        "hydra.sweep.dir": str(SEARCH / "workers"),
        "artifacts": config["artifacts"],
        "search.storage": config["search"]["storage"],
        "search.name": f"pipeline_{config['search']['name']}_{_search_digest()}",
        **({"tracking.uri": config["tracking"]["uri"]} if "uri" in config["tracking"] else {}),
        **({"++tracking.tags": _as_override(_revision(SEARCH.name))} if "tags" in config["tracking"] else {}),
        **({"data.root": config["data"]["root"]} if "root" in config["data"] else {}),
    }
    return [*composed.overrides, *(f"{key}={value}" for key, value in places.items())]


def _search_digest() -> str:
    from src.stages.identity import sources

    modules = [f"{methods.__name__}.{path.stem}" for path in Path(methods.__path__[0]).glob("*.py")]
    text = composed_file(SEARCH.name).read_text(encoding="utf-8") + sources(modules)["code"]
    return hashlib.md5(text.encode()).hexdigest()[:8]


def _as_override(texts: Mapping[str, str]) -> str:
    """A mapping as Hydra's command line takes it."""
    return "{" + ",".join(f"{key}:'{value}'" for key, value in texts.items()) + "}"


def _with_revision(tracking: Mapping[str, Any], variant: str) -> dict[str, Any]:
    """A ``tracking`` config whose tags also name the revision, if it has tags."""
    if "tags" not in tracking:
        return dict(tracking)
    return {**tracking, "tags": {**tracking["tags"], **_revision(variant)}}


def _revision(variant: str) -> dict[str, str]:
    """Tags that lead from a tracked run to its revision: ``dvc.lock`` names the composed file's MD5."""
    from src.tracking.provenance import git_commit

    tags = {
        "dvc.stage": os.environ.get("DVC_STAGE"),
        "dvc.exp": os.environ.get("DVC_EXP_NAME"),
        "dvc.rev": os.environ.get("DVC_EXP_BASELINE_REV") or git_commit(),
        "dvc.composed_md5": hashlib.md5(composed_file(variant).read_bytes()).hexdigest(),
    }
    return {key: value for key, value in tags.items() if value}


def _adopt_pulled_stages(store: StageStore) -> None:
    """Put the stages that any run's folder holds into the store, unless they are there."""
    for record in sorted(RUNS.glob(f"*/*{KEPT_RECORD}")):
        weights = record.with_name(record.name.removesuffix(KEPT_RECORD) + KEPT_WEIGHTS)
        store.adopt(record, weights, record.parent)


def _keep_stages(done: Executed, store: StageStore, folder: Path) -> None:
    """Copy the record and the weights of the baseline and of each step into the run's folder."""
    from src.stages.store import RECORD, WEIGHTS

    identity = done.results.identity
    for step in reversed([BASELINE, *done.plan.steps]):
        store.copy(identity, WEIGHTS, folder / f"{step}{KEPT_WEIGHTS}")
        shutil.copyfile(store.folder(identity) / RECORD, folder / f"{step}{KEPT_RECORD}")
        record = store.record(identity)
        assert record is not None
        identity = record["spec"].get("input", "")
