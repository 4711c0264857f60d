"""The stages of ``dvc.yaml``, a command each: ``python -m src.pipeline STAGE`` (and METHOD, for ``compress``).

DVC follows files, not Hydra's composition: ``compose`` writes one resolved file a method, and all that comes later
depends on that file. What lies in ``pipeline/`` is DVC's; stages are kept in ``artifacts/`` and found again there.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import json
import os
import shlex
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from src import command
from src.command import DONE
from src.contracts import InputError

if TYPE_CHECKING:
    from src.execution import Executed
    from src.stages.store import StageStore

PARAMS, PIPELINE = Path("params.yaml"), Path("pipeline")
COMPOSED, RUNS, SEARCH = PIPELINE / "composed", PIPELINE / "runs", PIPELINE / "search"
BASELINE = "baseline"
COMPARED = (
    "accuracy",
    "accuracy_validation",
    "size_bytes",
    "size_gzip_bytes",
    "compression_ratio",
    "latency_ms_p50",
    "macs",
)
CURVES = ("train_loss", "train_accuracy", "validation_accuracy", "learning_rate")


@dataclass(frozen=True)
class Choices:
    """What ``params.yaml`` says.

    Attributes:
        data, model, training: The file of each group.
        target: Files of the targets.
        methods: Files of the methods, each run on the same baseline.
        search: The search that runs beside them; None for none.
        seed: Of everything that draws.
        overrides: More of Hydra's overrides, for the baseline, every method and the search.
    """

    data: str
    model: str
    training: str
    target: Sequence[str]
    methods: Sequence[str]
    search: str | None
    seed: int
    overrides: Sequence[str]

    def __post_init__(self) -> None:
        for name in ("target", "methods", "overrides"):
            if not isinstance(getattr(self, name), list):
                raise InputError(f"{PARAMS}: {name} must be a list, and is {getattr(self, name)!r}")

    @classmethod
    def read(cls) -> Choices:
        """Read ``params.yaml``; raises InputError where a key is missing, or is none of these."""
        from omegaconf import OmegaConf

        given: Any = OmegaConf.to_container(OmegaConf.load(PARAMS)) or {}
        wanted = set(cls.__dataclass_fields__)
        if set(given) != wanted:
            named = [f"'{key}' is missing" for key in sorted(wanted - set(given))]
            named += [f"'{key}' is no choice" for key in sorted(set(given) - wanted)]
            raise InputError(f"{PARAMS}: {', '.join(named)}; the choices are {', '.join(cls.__dataclass_fields__)}")
        return cls(**given)

    def overrides_of(self, method: str) -> list[str]:
        """What ``python -m src.run`` is given for the same run; ``python -m src.search`` for the search."""
        groups = [f"data={self.data}", f"model={self.model}", f"training={self.training}"]
        if method == SEARCH.name:
            groups = [f"+search={self.search}", *groups]
            return [*groups, f"target=[{','.join(self.target)}]", f"seed={self.seed}", *self.overrides]
        return [*groups, f"target=[{','.join(self.target)}]", f"seed={self.seed}", *self.overrides, f"method={method}"]


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m src.pipeline", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    stages = parser.add_subparsers(dest="stage", required=True, metavar="STAGE")
    stages.add_parser("compose", help="write the resolved config of the baseline and of each method")
    stages.add_parser("data", help="load the data set and write down what it is")
    stages.add_parser("baseline", help="train, export and measure the baseline")
    stages.add_parser("compress", help="compress, export and measure").add_argument("method", metavar="METHOD")
    stages.add_parser("search", help="search the best model within the budget")
    stages.add_parser("table", help="gather all results into a table, metrics and plots")
    given = parser.parse_args()
    if given.stage in ("baseline", "compress"):
        return command.run_command(lambda: run(BASELINE if given.stage == "baseline" else given.method))
    rest = {"compose": compose, "data": describe_data, "search": search, "table": tabulate}
    return command.run_command(rest[given.stage])


def compose() -> int:
    """Write one resolved file for the baseline and each method: all of them, or nothing where one is wrong."""
    from omegaconf import OmegaConf

    from src.composition import composed

    choices = Choices.read()
    texts = {SEARCH.name: "# no search is chosen\n"}
    for method in [BASELINE, *choices.methods, *([SEARCH.name] if choices.search else [])]:
        overrides = choices.overrides_of(method)
        resolved, chosen = composed(overrides, "search" if method == SEARCH.name else "config")
        groups = {group: chosen[group] for group in sorted(chosen) if not group.startswith("hydra/")}
        written = OmegaConf.create(
            {"overrides": overrides, "choices": {**groups, "experiment": "pipeline"}, "config": resolved}
        )
        OmegaConf.to_container(written, throw_on_missing=True)
        texts[method] = OmegaConf.to_yaml(written)
    COMPOSED.mkdir(parents=True, exist_ok=True)
    for path in COMPOSED.glob("*.yaml"):
        if path.stem not in texts:
            path.unlink()
    for method, text in texts.items():
        (COMPOSED / f"{method}.yaml").write_text(text)
    return DONE


def describe_data() -> int:
    """Load the data set, which checks it, and write ``data.json``."""
    from src.composition import build

    splits = build(_composed(BASELINE)["config"], "data").load()
    parts = {"train": splits.train, "validation": splits.validation, "test": splits.test}
    _write_json(
        PIPELINE / "data.json",
        {
            "name": splits.name,
            "checksum": splits.checksum,
            "image_shape": list(splits.image_shape),
            "images": {part: len(images) for part, images in parts.items()},
            "calibration_images": len(splits.calibration),
            "classes": list(splits.classes),
        },
    )
    return DONE


def run(method: str) -> int:
    """Run one method's experiment as ``python -m src.run`` does; return its exit code.

    Its folder gets the exported files, the results, and each stage's record and weights. Stages that another run's
    folder holds (pulled from a remote, say) are found again, too.
    """
    from src.console import only_ours

    composed = _composed(method)
    config, overrides = composed["config"], composed["overrides"]
    folder = (RUNS / method).absolute()
    folder.mkdir(parents=True, exist_ok=True)
    with only_ours(folder / "run.log", verbose=config["verbose"]) as terminal:
        from src.console import Report
        from src.execution import execute
        from src.stages.store import StageStore

        store = StageStore(Path(config["artifacts"]))
        for record in sorted(RUNS.glob("*/*.stage.json")):
            store.adopt(record, record.with_name(record.name.replace(".stage.json", ".safetensors")), record.parent)
        if "tags" in config["tracking"]:
            config["tracking"]["tags"].update(_revision(method))
        shutil.copyfile(COMPOSED / f"{method}.yaml", folder / "config.yaml")
        again = " ".join(["python -m src.run", *map(shlex.quote, overrides)])
        report = Report(terminal, "")
        done = execute(config, composed["choices"], folder, report=report, command=again, overrides=overrides)
        _keep_stages(done, store, folder)
        for note in [*done.misses, *([done.tracking_failure] if done.tracking_failure else [])]:
            report.line(note)
    return done.code


def search() -> int:
    """Search as ``python -m src.search`` does, in a folder of the pipeline's; return its exit code.

    The study is called by what it searches and by the methods' code, so that another space, budget or method is another
    study, and the same one goes on.
    """
    import subprocess

    SEARCH.mkdir(parents=True, exist_ok=True)
    if Choices.read().search is None:
        return DONE
    environment = {key: value for key, value in os.environ.items() if key != "HYDRA_FULL_ERROR"}  # set by this command
    return subprocess.run([sys.executable, "-m", "src.search", *searched()], env=environment).returncode


def searched() -> list[str]:
    """The overrides of the pipeline's search: its choices, and its places."""
    from src.stages.identity import sources

    composed = _composed(SEARCH.name)
    config = composed["config"]
    code = sources(f"src.methods.{path.stem}" for path in Path(__file__).parent.glob("methods/*.py"))["code"]
    text = (COMPOSED / f"{SEARCH.name}.yaml").read_text() + code
    digest = hashlib.md5(text.encode()).hexdigest()[:8]
    places = {
        "hydra.run.dir": str(SEARCH),
        "hydra.sweep.dir": str(SEARCH / "workers"),
        "artifacts": config["artifacts"],
        "search.storage": config["search"]["storage"],
        "search.name": f"pipeline_{config['search']['name']}_{digest}",
        **({"tracking.uri": config["tracking"]["uri"]} if "uri" in config["tracking"] else {}),
        **({"++tracking.tags": _mapping(_revision(SEARCH.name))} if "tags" in config["tracking"] else {}),
        **({"data.root": config["data"]["root"]} if "root" in config["data"] else {}),
    }
    return [*composed["overrides"], *(f"{key}={value}" for key, value in places.items())]


def tabulate() -> int:
    """Gather the runs into ``table.md``, ``metrics.json``, ``runs.json`` and what ``dvc plots`` draws."""
    from src import results
    from src.console import remarks, table

    rows: dict[str, list[dict[str, Any]]] = {}
    runs: dict[str, dict[str, Any]] = {}
    curves: list[dict[str, Any]] = []
    choices = Choices.read()
    for method in [BASELINE, *choices.methods, *([SEARCH.name] if choices.search else [])]:
        folder = SEARCH / _chosen() if method == SEARCH.name else RUNS / method
        if not (folder / results.RESULTS).exists():
            raise InputError(f"{folder} holds no results: dvc repro makes them")
        result = json.loads((folder / results.RESULTS).read_text())
        runs[method] = {key: result.get(key) for key in ("identity", "tracking_run", "git_commit", "command")}
        rows[method] = [row for row in results.rows_of(folder) if (row["variant"] == BASELINE) == (method == BASELINE)]
        curves += _curves(method, folder)
    every = [row for of_method in rows.values() for row in of_method]
    about = f"{every[0]['model']} on {every[0]['data']}, seed {every[0]['seed']}"
    lines = "\n".join(table(every))
    text = "\n".join([f"# {about}", "", "```", lines, "```", "", *remarks(every)])
    (PIPELINE / "table.md").write_text(text.rstrip() + "\n")
    _write_json(PIPELINE / "runs.json", runs)
    _write_json(
        PIPELINE / "metrics.json",
        {
            method: {row["target"]: {key: row[key] for key in COMPARED if row[key] is not None} for row in of_method}
            for method, of_method in rows.items()
        },
    )
    points = [
        {"method": method, **{key: row[key] for key in ("target", *COMPARED)}}
        for method, of_method in rows.items()
        for row in of_method
    ]
    _write_csv(PIPELINE / "accuracy_size.csv", ("method", "target", *COMPARED), points)
    _write_csv(PIPELINE / "training.csv", ("method", "stage", "epoch", *CURVES), curves)
    print(lines)
    return DONE


def _chosen() -> str:
    """The folder of the search's chosen model below its own."""
    from src import results

    if not (SEARCH / results.SEARCH).exists():
        raise InputError(f"{SEARCH} holds no search: dvc repro makes it")
    return f"trial_{json.loads((SEARCH / results.SEARCH).read_text())['chosen']}"


def _composed(method: str) -> dict[str, Any]:
    """What ``compose`` wrote for a method, its places made those of the main repository.

    ``dvc exp run --temp`` runs a copy of the repository that is deleted afterwards; DVC_ROOT names the one it was
    started in. There stages, tracking store and data are, and stay.
    """
    from omegaconf import OmegaConf

    from src.data.images import data_root

    path = COMPOSED / f"{method}.yaml"
    if not path.is_file():
        raise InputError(f"There is no {path}: list the method in {PARAMS}, and dvc repro compose writes it")
    composed: dict[str, Any] = OmegaConf.to_container(OmegaConf.load(path))  # type: ignore[assignment]
    home = Path(os.environ.get("DVC_ROOT", "")).absolute()
    if home == Path.cwd():
        return composed
    config, sqlite = composed["config"], "sqlite:///"
    config["artifacts"] = str(home / Path(config["artifacts"]).expanduser())
    if "root" in config["data"]:
        config["data"]["root"] = str(home / data_root(config["data"]["root"]))
    for group, key in (("tracking", "uri"), ("search", "storage")):
        address = config.get(group, {}).get(key) or ""
        if address.startswith(sqlite):
            config[group][key] = f"{sqlite}{home / address.removeprefix(sqlite)}"
    return composed


def _mapping(texts: Mapping[str, str]) -> str:
    """As Hydra's command line takes it."""
    return "{" + ",".join(f"{key}:'{value}'" for key, value in texts.items()) + "}"


def _revision(method: str) -> dict[str, str]:
    """Tags that lead from a tracked run to its revision: ``dvc.lock`` names the composed file's MD5."""
    from src.tracking.provenance import git_commit

    tags = {
        "dvc.stage": os.environ.get("DVC_STAGE"),
        "dvc.exp": os.environ.get("DVC_EXP_NAME"),
        "dvc.rev": os.environ.get("DVC_EXP_BASELINE_REV") or git_commit(),
        "dvc.composed_md5": hashlib.md5((COMPOSED / f"{method}.yaml").read_bytes()).hexdigest(),
    }
    return {key: value for key, value in tags.items() if value}


def _keep_stages(done: Executed, store: StageStore, folder: Path) -> None:
    """Copy the record and the weights of the baseline and of each step into the run's folder."""
    from src.stages.store import RECORD, WEIGHTS

    identity = done.rows[-1].identity
    for step in reversed([BASELINE, *done.plan.steps]):
        shutil.copyfile(store.folder(identity) / WEIGHTS, folder / f"{step}.safetensors")
        record = folder / f"{step}.stage.json"
        shutil.copyfile(store.folder(identity) / RECORD, record)
        identity = json.loads(record.read_text())["spec"].get("input", "")


def _curves(method: str, folder: Path) -> list[dict[str, Any]]:
    """A line for each epoch of a run's stages, in order; a method's without those of its baseline."""
    records = {
        path.name.removesuffix(".stage.json"): json.loads(path.read_text()) for path in folder.glob("*.stage.json")
    }
    order = sorted(records, key=lambda stage: min((e["finished_at"] for e in records[stage]["epochs"]), default=0.0))
    epochs = [
        (stage, e) for stage in order if stage != BASELINE or method == BASELINE for e in records[stage]["epochs"]
    ]
    return [
        {"method": method, "stage": stage, "epoch": at + 1, **{key: epoch[key] for key in CURVES}}
        for at, (stage, epoch) in enumerate(epochs)
    ]


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n")


def _write_csv(path: Path, columns: Sequence[str], lines: Sequence[Mapping[str, Any]]) -> None:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(lines)


if __name__ == "__main__":
    sys.exit(main())
