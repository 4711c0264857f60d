"""The record of a bundle: which runs made its models, so that a board's results are put beside them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from src.contracts import InputError, Row
from src.device import schema
from src.device.schema import LINE, Kind, count, optional
from src.files.records import read_record, write_record

BUNDLES = ".bundles"  # folder of the records, in the folder of the artifacts
FACTS = ("variant", "target", "data", "model", "precision", "identity", "sha256", "seed")
FACT = Kind("a text or a number", lambda value: isinstance(value, (str, int)))
MODEL = {
    "row": dict.fromkeys(FACTS, FACT),
    "tracking": Kind("null or an object", lambda value: value is None or isinstance(value, dict)),
}
TRACKING = {"name": LINE, "uri": LINE, "run": LINE}
KNOWN = {"size_bytes": optional(count(0)), "images": optional(count(1))}


@dataclass(frozen=True)
class TrackedRun:
    """A run in its tracking store.

    Attributes:
        name: Name of the ``tracking`` config.
        uri: Address of the store.
        run: Identifier of the run in the store.
    """

    name: str
    uri: str
    run: str


@dataclass(frozen=True)
class HostModel:
    """A model of a bundle, as the host measured it.

    Attributes:
        facts: The columns of its result row that identify it, as text.
        tracked: The run that made it; None if that run was not tracked.
        size_bytes: Bytes of its file; None if an old record does not say.
        images: Number of the bundle's test images for it; None if an old record does not say.
    """

    facts: Mapping[str, str]
    tracked: TrackedRun | None
    size_bytes: int | None = None
    images: int | None = None

    @classmethod
    def from_row(cls, row: Row, tracked: TrackedRun | None, size_bytes: int, images: int) -> HostModel:
        """Take the columns of ``row``; its file, all parts together, has ``size_bytes`` in the bundle."""
        return cls({name: str(getattr(row, name)) for name in FACTS}, tracked, size_bytes, images)


@dataclass(frozen=True)
class BundleRecord:
    """What is remembered of a bundle.

    Attributes:
        id: Identifier of the bundle.
        models: Its models by name.
    """

    id: str
    models: Mapping[str, HostModel]

    def write(self, artifacts: Path) -> None:
        """Write ``.bundles/<id>.json`` into the folder of the artifacts."""
        models = {
            name: {
                "row": {**model.facts, "size_bytes": model.size_bytes},
                "images": model.images,
                "tracking": asdict(model.tracked) if model.tracked else None,
            }
            for name, model in self.models.items()
        }
        path = _path(artifacts, self.id)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_record(path, {"id": self.id, "models": models})

    @classmethod
    def find(cls, artifacts: Path, bundle: str) -> BundleRecord | None:
        """Read the record of the bundle ``bundle``; None if the artifacts do not have it.

        Raises:
            InputError: The record is damaged, or of a later version.
        """
        path = _path(artifacts, bundle)
        if not bundle.isalnum() or not path.is_file():
            return None
        record = read_record(path)
        try:
            schema.check(record, {"models": {}})
            return cls(bundle, {name: _host_model(model, name) for name, model in record["models"].items()})
        except schema.InputError as error:
            raise InputError(f"{path} is damaged: {error}") from error


def _path(artifacts: Path, bundle: str) -> Path:
    return artifacts / BUNDLES / f"{bundle}.json"


def _host_model(record: Mapping[str, Any], name: str) -> HostModel:
    schema.check(record, MODEL, name)
    row, tracking = record["row"], record["tracking"]
    facts = {name: str(row[name]) for name in FACTS}
    known = {"size_bytes": row.get("size_bytes"), "images": record.get("images")}
    schema.check(known, KNOWN, name)
    if tracking is not None:
        # Records before there was a schema do not name the tracking: MLflow was the only one.
        tracking = {"name": "mlflow", **tracking}
        schema.check(tracking, TRACKING, f"{name}.tracking")
        tracking = TrackedRun(**{key: tracking[key] for key in TRACKING})
    return HostModel(facts, tracking, **known)
