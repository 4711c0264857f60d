"""What DVC's stages read: the choices of ``params.yaml``, each method's composed file, the data's description."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from src.command.composition import build, composed
from src.contracts import InputError
from src.files.writing import write_text

PARAMS, PIPELINE = Path("params.yaml"), Path("pipeline")
COMPOSED, RUNS, SEARCH = PIPELINE / "composed", PIPELINE / "runs", PIPELINE / "search"
BASELINE = "baseline"
KEPT_RECORD, KEPT_WEIGHTS = ".stage.json", ".safetensors"  # endings of a stage's copy in the folder of a run
SQLITE = "sqlite:///"


@dataclass(frozen=True)
class Choices:
    """The content of ``params.yaml``.

    Attributes:
        data, model, training: The file of each group.
        target: Files of the targets.
        methods: Files of the methods, each run on the same baseline.
        search: The search that runs beside them; None for none.
        seed: Seed of the baseline, of every method and of the search.
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
            value = getattr(self, name)
            if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
                raise InputError(f"{PARAMS}: {name} must be a list of words, and is {value!r}")
        for name in ("data", "model", "training", "search"):
            value = getattr(self, name)
            if not isinstance(value, str) and not (name == "search" and value is None):
                raise InputError(f"{PARAMS}: {name} must be a word, and is {value!r}")

    @classmethod
    def read(cls) -> Choices:
        """Read ``params.yaml``.

        Raises:
            InputError: A key is missing or unknown, or a value is of a wrong type.
        """
        from omegaconf import OmegaConf

        given: Any = OmegaConf.to_container(OmegaConf.load(PARAMS)) or {}
        if not isinstance(given, dict):
            raise InputError(f"{PARAMS} must hold choices by their keys, and is {given!r}")
        keys = set(cls.__dataclass_fields__)
        if set(given) != keys:
            wrong = [f"'{key}' is missing" for key in sorted(keys - set(given))]
            wrong += [f"'{key}' is no choice" for key in sorted(set(given) - keys)]
            raise InputError(f"{PARAMS}: {', '.join(wrong)}; the choices are {', '.join(cls.__dataclass_fields__)}")
        return cls(**given)

    @property
    def variants(self) -> list[str]:
        """What the table compares: the baseline, each method, and ``search`` if a search is chosen."""
        return [BASELINE, *self.methods, *([SEARCH.name] if self.search else [])]

    def overrides_of(self, variant: str) -> list[str]:
        """The overrides of the same run by ``python -m src.run``; of the search, by ``python -m src.search``."""
        groups = [f"data={self.data}", f"model={self.model}", f"training={self.training}"]
        rest = [f"target=[{','.join(self.target)}]", f"seed={self.seed}", *self.overrides]
        if variant == SEARCH.name:
            return [f"+search={self.search}", *groups, *rest]
        return [*groups, *rest, f"method={variant}"]


@dataclass(frozen=True)
class Composed:
    """The composed file of a method.

    Attributes:
        overrides: The overrides that it was composed from.
        choices: Hydra's choices: which file each group came from.
        config: The resolved config.
    """

    overrides: list[str]
    choices: dict[str, str]
    config: dict[str, Any]

    @classmethod
    def read(cls, variant: str) -> Composed:
        """Read what ``compose`` wrote for ``variant``, its paths resolved in the main repository.

        ``dvc exp run --temp`` works in a copy of the repository and deletes it afterwards; DVC_ROOT names the
        repository that it was started in. Stages, tracking store and data lie there, and stay.

        Raises:
            InputError: There is no composed file.
        """
        from omegaconf import OmegaConf

        path = composed_file(variant)
        if not path.is_file():
            raise InputError(f"There is no {path}: list the method in {PARAMS}, and dvc repro compose writes it")
        content: Any = OmegaConf.to_container(OmegaConf.load(path))
        home = Path(os.environ.get("DVC_ROOT", "")).absolute()
        if home != Path.cwd():
            content["config"] = _at_home(content["config"], home)
        return cls(**content)


def composed_file(variant: str) -> Path:
    """The path of a variant's composed file."""
    return COMPOSED / f"{variant}.yaml"


def compose() -> None:
    """Write the composed files of the baseline, each method and the search: all of them, or none if one is wrong."""
    choices = Choices.read()
    texts = {SEARCH.name: "# no search is chosen\n"}
    texts |= {variant: _composed_text(choices, variant) for variant in choices.variants}
    COMPOSED.mkdir(parents=True, exist_ok=True)
    for path in COMPOSED.glob("*.yaml"):
        if path.stem not in texts:
            path.unlink()
    for variant, text in texts.items():
        write_text(composed_file(variant), text)


def describe_data() -> None:
    """Load the data set, which checks it, and write ``data.json``."""
    splits = build(Composed.read(BASELINE).config, "data").load()
    parts = {"train": splits.train, "validation": splits.validation, "test": splits.test}
    write_json(
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


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write plain JSON for DVC, which reads every key as a metric: no schema."""
    write_text(path, json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n")


def _composed_text(choices: Choices, variant: str) -> str:
    from omegaconf import OmegaConf

    overrides = choices.overrides_of(variant)
    config, chosen = composed(overrides, "search" if variant == SEARCH.name else "config")
    groups = {group: chosen[group] for group in sorted(chosen) if not group.startswith("hydra/")}
    content = {"overrides": overrides, "choices": {**groups, "experiment": "pipeline"}, "config": config}
    written = OmegaConf.create(content)
    OmegaConf.to_container(written, throw_on_missing=True)
    return OmegaConf.to_yaml(written)


def _at_home(config: Mapping[str, Any], home: Path) -> dict[str, Any]:
    """``config`` with the places that it names relative to the folder ``home``."""
    from src.data.images import data_root

    moved = {**config, "artifacts": str(home / Path(config["artifacts"]).expanduser())}
    if "root" in config["data"]:
        moved["data"] = {**config["data"], "root": str(home / data_root(config["data"]["root"]))}
    for group, key in (("tracking", "uri"), ("search", "storage")):
        address = config.get(group, {}).get(key)
        if address:
            moved[group] = {**config[group], key: _address_at_home(address, home)}
    return moved


def _address_at_home(address: str, home: Path) -> str:
    """A server's address as it is; the file of an SQLite database, or a plain file, below ``home``."""
    if address.startswith(SQLITE):
        return f"{SQLITE}{home / address.removeprefix(SQLITE)}"
    return address if "://" in address else str(home / Path(address).expanduser())
