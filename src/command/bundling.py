"""From the folders of runs to a bundle: one file with their models, test images and the evaluator for the board."""

from __future__ import annotations

import hashlib
import io
import json
import re
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from src import device
from src.command.bundle_files import MeasuredFile, measured_files
from src.command.bundle_images import Sample, samples_of
from src.command.bundle_records import BundleRecord, HostModel
from src.contracts import Entry, InputError
from src.files.writing import replacing

EVALUATOR = Path(device.__path__[0])
MAIN = "import sys\n\nfrom device.__main__ import main\n\nsys.exit(main())\n"
SHEBANG = b"#!/usr/bin/env python3\n"
TIME_IN_ARCHIVE = (1980, 1, 1, 0, 0, 0)  # the same for every file, so that equal content makes equal bytes


@dataclass(frozen=True)
class Bundled:
    """A bundle that was written.

    Attributes:
        path: The bundle.
        id: Identifier of the bundle, a digest of its manifest.
        models: Number of its models.
        samples: Its test images, one sample for each data set.
        size_bytes: Bytes of the bundle.
    """

    path: Path
    id: str
    models: int
    samples: Sequence[Sample]
    size_bytes: int


@dataclass(frozen=True)
class BundledModel:
    """A model as a bundle holds it.

    Attributes:
        manifest: Its entry of the manifest.
        files: Content of its files by their names in the bundle; a runtime is given the first.
        host: The model as the host measured it.
    """

    manifest: Mapping[str, Any]
    files: Mapping[str, bytes]
    host: HostModel


def bundle(runs: Sequence[Path], to: Path, images: str, artifacts: Path, *, trust: bool = False) -> Bundled:
    """Write a bundle, and its record, which ``src.import_results`` needs later.

    Args:
        runs: Folders of runs and surveys; a file that two of them hold is packed once.
        to: The bundle to write.
        images: Number of test images of each data set, or ``all``.
        artifacts: Folder that keeps the record.
        trust: Whether the ``config.yaml`` of a run may name any class.

    Raises:
        InputError: A folder holds no results, a file is not the one that was measured, the test images are not the ones
            that it was measured on, or the board would refuse the bundle.
    """
    count = _image_count(images)
    _check_place(to)
    measured = measured_files(runs, trust=trust)
    samples = samples_of(measured, count)
    models = _models(measured, samples)
    different = sorted({sample.name: sample for sample in samples}.values(), key=lambda sample: sample.name)
    manifest = _manifest(models, different)
    record = BundleRecord(manifest["id"], {model.manifest["name"]: model.host for model in models})
    with replacing(to) as part:
        part.write_bytes(archive(_files(models, different, manifest)))
        _check_as_on_the_board(part, to)
        record.write(artifacts)
    to.chmod(to.stat().st_mode | (to.stat().st_mode & 0o444) >> 2)  # executable for everyone who may read it
    return Bundled(to, manifest["id"], len(models), different, to.stat().st_size)


def _check_as_on_the_board(part: Path, to: Path) -> None:
    """Read a bundle as its own evaluator does: what that refuses is not written.

    Raises:
        InputError: The evaluator would refuse it.
    """
    from src.device.manifest import Bundle, BundleError

    try:
        Bundle(part)
    except BundleError as error:
        raise InputError(f"The board would refuse {str(error).replace(str(part), str(to))}") from error


def archive(files: Mapping[str, bytes]) -> bytes:
    """A zip application of ``files`` and the evaluator; the same bytes for the same content."""
    code = {f"device/{path.name}": path.read_bytes() for path in sorted(EVALUATOR.glob("*.py"))}
    everything = {**files, **code, "__main__.py": MAIN.encode()}
    out = io.BytesIO()
    out.write(SHEBANG)
    with zipfile.ZipFile(out, "w") as packed:
        for name in sorted(everything):
            info = zipfile.ZipInfo(name, TIME_IN_ARCHIVE)
            info.external_attr, info.create_system = 0o644 << 16, 3
            packed.writestr(info, everything[name], zipfile.ZIP_STORED)
    return out.getvalue()


def labels(entries: Sequence[Entry]) -> list[str]:
    """Name each row by its variant, and by as much more as tells it from the others of its data set and target."""
    details: tuple[Callable[[Entry], str], ...] = (
        lambda entry: entry.row.model,
        lambda entry: f"seed {entry.row.seed}",
        lambda entry: " ".join(entry.settings),
        lambda entry: entry.row.identity,
    )
    names = [entry.row.variant for entry in entries]
    for detail in details:
        places = [(e.row.data, e.row.target, _as_file_name(name)) for e, name in zip(entries, names, strict=True)]
        found: dict[tuple[str, ...], set[str]] = {}
        for entry, place in zip(entries, places, strict=True):
            found.setdefault(place, set()).add(detail(entry))
        names = [
            f"{name} {detail(entry)}" if len(found[place]) > 1 and detail(entry) else name
            for entry, name, place in zip(entries, names, places, strict=True)
        ]
    return names


def _image_count(images: str) -> int | None:
    """The number that ``--images`` asks for; None for all."""
    if images == "all":
        return None
    if not (images.isdecimal() and int(images) > 0):
        raise InputError(f"--images must be a number from 1 or 'all', and is {images}: no accuracy without an image")
    return int(images)


def _check_place(to: Path) -> None:
    if to.is_dir() or not to.absolute().parent.is_dir():
        raise InputError(f"--to must name a file in a folder that exists, and is {to}")


def _models(measured: Sequence[MeasuredFile], samples: Sequence[Sample]) -> list[BundledModel]:
    """The model of each file, baselines first within a data set."""
    found = zip(measured, samples, labels([file.entry for file in measured]), strict=True)
    models = [_model(file, sample, label) for file, sample, label in found]
    return sorted(models, key=lambda model: _order(model.manifest))


def _model(file: MeasuredFile, sample: Sample, label: str) -> BundledModel:
    row = file.entry.row
    name = f"{sample.name}/{_as_file_name(label)}.{_as_file_name(row.target)}"
    files = {f"models/{name}/{part.name}": part.read_bytes() for part in file.parts}
    size_bytes = sum(map(len, files.values()))  # not the row's, which may come from anybody
    manifest = {
        "name": name,
        "label": label,
        "variant": row.variant,
        "target": row.target,
        "runtime": asdict(row.runtime),
        "precision": str(row.precision),
        "computes": list(row.precision.computes),
        "data": row.data,
        "model": row.model,
        "seed": row.seed,
        "sample": sample.name,
        "size_bytes": size_bytes,
        "files": [{"file": each, "sha256": hashlib.sha256(held).hexdigest()} for each, held in files.items()],
    }
    return BundledModel(manifest, files, HostModel.from_row(row, file.tracked, size_bytes, sample.images))


def _order(manifest: Mapping[str, Any]) -> tuple[Any, ...]:
    return manifest["data"], manifest["variant"] != "baseline", manifest["label"], manifest["target"]


def _manifest(models: Sequence[BundledModel], samples: Sequence[Sample]) -> dict[str, Any]:
    """What the evaluator reads first: every model, every sample, and the bundle's identifier."""
    from src.device.manifest import FORMAT, identity

    content: dict[str, Any] = {
        "format": FORMAT,
        "models": [dict(model.manifest) for model in models],
        "samples": [dict(sample.manifest) for sample in samples],
    }
    return {**content, "id": identity(content)}


def _files(models: Sequence[BundledModel], samples: Sequence[Sample], manifest: Mapping[str, Any]) -> dict[str, bytes]:
    """Every file of the bundle but the evaluator's."""
    from src.device.manifest import NAME

    files = {sample.manifest["file"]: sample.content for sample in samples}
    for model in models:
        files |= model.files
    return {**files, NAME: json.dumps(manifest, indent=1, sort_keys=True).encode()}


def _as_file_name(text: str) -> str:
    return re.sub(r"[^\w.=+-]+", "_", text)
