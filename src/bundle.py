"""Pack a survey's models for a board: ``python -m src.bundle outputs/cifar_survey/2026-… --to board.pyz``."""

from __future__ import annotations

import argparse
import io
import json
import os
import re
import sys
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from src import command

if TYPE_CHECKING:
    from src.contracts import DataSplits, ImageSet

EVALUATOR = Path(__file__).parent / "device"
ENTRY = "import sys\n\nfrom device.__main__ import main\n\nsys.exit(main())\n"
SHEBANG = b"#!/usr/bin/env python3\n"
WRITTEN_AT = (1980, 1, 1, 0, 0, 0)  # of every file in the archive, so that equal content makes equal bytes
PICKED_BY = 0  # seeds the choice of test images, the same each time
FROM_ROW = ("variant", "target", "runtime", "precision", "data", "model", "seed")


@dataclass(frozen=True)
class Measured:
    """A row of a run with what belongs to it.

    Attributes:
        row: As in ``results.json``, with ``seed`` and ``settings``.
        parts: Of its file, the one that a runtime is given first.
        config: Of its run, resolved.
        checksum: Of the data that its baseline was trained on; None where that stage is no longer kept.
        tracking: ``uri`` and ``run`` in the tracking store; None where it was not tracked.
    """

    row: Mapping[str, Any]
    parts: tuple[Path, ...]
    config: Mapping[str, Any]
    checksum: str | None
    tracking: Mapping[str, str] | None


@dataclass(frozen=True)
class Sample:
    """Test images of one data set as the bundle holds them.

    Attributes:
        name: Of the data set; numbered where two sets have one name.
        content: The ``.npz`` file.
        about: What the manifest says of it.
    """

    name: str
    content: bytes
    about: Mapping[str, Any]


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m src.bundle",
        description=__doc__,
        epilog="On the board: python3 board.pyz. Then here: python -m src.import_results device_results.json",
    )
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="the output folder of a run or of a survey")
    parser.add_argument("--to", type=Path, required=True, metavar="FILE", help="the bundle to write, e.g. board.pyz")
    parser.add_argument(
        "--images", default="1000", help="test images of each data set, classes in proportion, or 'all' (%(default)s)"
    )
    parser.add_argument(
        "--artifacts", type=Path, default=Path("artifacts"), help="where it is remembered (%(default)s)"
    )
    arguments = parser.parse_args()
    return command.run_command(lambda: bundle(arguments.runs, arguments.to, arguments.images, arguments.artifacts))


def bundle(runs: Sequence[Path], to: Path, images: str, artifacts: Path) -> int:
    """Write the bundle and what ``src.import_results`` needs to know of it; print a line on what is in it."""
    from src.console import size
    from src.contracts import InputError
    from src.device.manifest import FORMAT, NAME, identity
    from src.tracking.device import BUNDLES

    if images != "all" and not (images.isdecimal() and int(images) > 0):
        raise InputError(f"--images must be a number from 1 or 'all', and is {images}: no accuracy without an image")
    if to.is_dir() or not to.absolute().parent.is_dir():
        raise InputError(f"--to must name a file in a folder that exists, and is {to}")
    measured = list({_key(found.row): found for run in reversed(runs) for found in _rows(run)}.values())
    names = labels([found.row for found in measured])
    samples, sample_of = _samples(measured, None if images == "all" else int(images))
    files: dict[str, bytes] = {f"samples/{sample.name}.npz": sample.content for sample in samples}
    models = []
    for found, label in sorted(zip(measured, names, strict=True), key=lambda pair: _order(pair[0].row, pair[1])):
        sample = sample_of[_key(found.row)]
        name = f"{sample}/{_slug(label)}.{_slug(found.row['target'])}"
        held = {f"models/{name}/{part.name}": part.read_bytes() for part in found.parts}
        files |= held
        models.append(
            {
                **{key: found.row[key] for key in FROM_ROW},
                "name": name,
                "label": label,
                "sample": sample,
                "size_bytes": sum(map(len, held.values())),
                "files": [{"file": file, "sha256": _sha256(content)} for file, content in held.items()],
            }
        )
    content = {"format": FORMAT, "models": models, "samples": [dict(sample.about) for sample in samples]}
    content["id"] = identity(content)
    files[NAME] = json.dumps(content, indent=1, sort_keys=True).encode()
    rows = {
        model["name"]: {"row": dict(found.row), "tracking": found.tracking}
        for model in models
        for found, label in zip(measured, names, strict=True)
        if (model["label"], model["target"], model["sample"])
        == (label, found.row["target"], sample_of[_key(found.row)])
    }
    record = artifacts / BUNDLES / f"{content['id']}.json"
    record.parent.mkdir(parents=True, exist_ok=True)
    _write(record, json.dumps({"id": content["id"], "models": rows}, indent=1, ensure_ascii=False).encode())
    _write(to, archive(files))
    to.chmod(to.stat().st_mode | (to.stat().st_mode & 0o444) >> 2)  # executable for whoever may read it
    shown = ", ".join(f"{s.about['images']:,} of {s.about['of']:,} test images of {s.name}" for s in samples)
    print(f"{len(models)} models, {shown}: {to} ({size(to.stat().st_size)}), bundle {content['id']}")
    print(f"On the board: python3 {to.name}")
    return command.DONE


def archive(files: Mapping[str, bytes]) -> bytes:
    """A zip application of ``files`` and the evaluator; the same bytes for the same content."""
    code = {f"device/{path.name}": path.read_bytes() for path in sorted(EVALUATOR.glob("*.py"))}
    everything = {**files, **code, "__main__.py": ENTRY.encode()}
    out = io.BytesIO()
    out.write(SHEBANG)
    with zipfile.ZipFile(out, "w") as packed:
        for name in sorted(everything):
            info = zipfile.ZipInfo(name, WRITTEN_AT)
            info.external_attr, info.create_system = 0o644 << 16, 3
            packed.writestr(info, everything[name], zipfile.ZIP_STORED)
    return out.getvalue()


def pick(images: ImageSet, count: int | None, classes: int) -> ImageSet:
    """Choose test images by label, each class in proportion to its share, the same ones each time.

    Args:
        images: The test set.
        count: How many; None for all.
        classes: How many there are.

    Returns:
        The chosen ones in the order of the set; all where there are no more than ``count``.
    """
    import torch

    if count is None or count >= len(images):
        return images
    exact = torch.bincount(images.labels, minlength=classes).to(torch.float64) * count / len(images)
    shares = exact.floor().to(torch.int64)
    rest = (shares - exact).argsort(stable=True)[: count - int(shares.sum())]  # the largest remainders first
    shares[rest] += 1
    generator = torch.Generator().manual_seed(PICKED_BY)
    chosen = []
    for label in range(classes):
        at = (images.labels == label).nonzero().flatten()
        chosen.append(at[torch.randperm(len(at), generator=generator)[: int(shares[label])]])
    return images.select(torch.cat(chosen).sort().values)


def labels(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Name each row by its variant and as much more as tells it from the others of its data set and target."""
    said = [str(row["variant"]) for row in rows]
    details = (lambda row: row["model"], lambda row: f"seed {row['seed']}", lambda row: " ".join(row["settings"]))
    for detail in (*details, lambda row: row["identity"]):
        where = [(row["data"], row["target"], _slug(text)) for row, text in zip(rows, said, strict=True)]
        groups = {place: {detail(row) for row, at in zip(rows, where, strict=True) if at == place} for place in where}
        said = [
            f"{text} {detail(row)}" if len(groups[place]) > 1 and detail(row) else text
            for row, text, place in zip(rows, said, where, strict=True)
        ]
    return said


def _rows(run: Path) -> Iterator[Measured]:
    """The rows of a run or survey; their files are there and are those that were measured."""
    from omegaconf import OmegaConf

    from src.composition import target_of
    from src.contracts import InputError
    from src.metrics.size import parts_of, sha256
    from src.results import RESULTS, SURVEY, gather_survey

    if (run / SURVEY).is_file():
        rows = [(run / row["member"], row) for row in gather_survey(run)["rows"]]
    elif (run / RESULTS).is_file():
        read = _json(run / RESULTS)
        rows = [(run, {**row, "seed": read["seed"], "settings": []}) for row in read["rows"]]
    else:
        raise InputError(f"{run} is no run and no survey: it has no {RESULTS} and no {SURVEY}")
    if not rows:
        raise InputError(f"{run} has no result row: every member of it failed")
    for folder, row in rows:
        header = _json(folder / RESULTS)
        file = folder / row["artifact"]
        if not file.is_file():
            raise InputError(f"{file} is not there: run it again")
        parts = parts_of(target_of(file), file)
        if sha256(parts) != row["sha256"]:
            raise InputError(f"{file} is not the file that was measured (another checksum): run it again")
        config: dict[str, Any] = OmegaConf.to_container(OmegaConf.load(folder / "config.yaml"))  # type: ignore[assignment]
        tracking = None
        if header.get("tracking_uri") and header.get("tracking_run") and not header["tracking_error"]:
            tracking = {"uri": header["tracking_uri"], "run": header["tracking_run"]}
        baseline = next(other["identity"] for other in header["rows"] if other["variant"] == "baseline")
        yield Measured(row, parts, config, _trained_on(Path(config["artifacts"]), baseline), tracking)


def _trained_on(artifacts: Path, baseline: str) -> str | None:
    from src.stages.store import StageStore

    record = StageStore(artifacts).find(baseline)
    return record["spec"]["checksum"] if record else None


def _samples(measured: Sequence[Measured], count: int | None) -> tuple[list[Sample], dict[tuple[str, ...], str]]:
    """Each data set's test sample, loaded again once, and which of them each row's model is tested on."""
    samples: dict[str, Sample] = {}
    loaded: dict[str, Sample] = {}
    of: dict[tuple[str, ...], str] = {}
    for found in measured:
        asked = json.dumps(found.config["data"], sort_keys=True)
        if asked not in loaded:
            splits = _test_set(found)
            key = json.dumps([splits.checksum, len(splits.test), splits.mean, splits.std, splits.classes])
            if key not in samples:
                same = sum(sample.about["data"] == splits.name for sample in samples.values())
                samples[key] = _sample(splits, f"{splits.name}-{same + 1}" if same else splits.name, count)
            loaded[asked] = samples[key]
        sample = loaded[asked]
        of[_key(found.row)] = sample.name
        _check_same(found, sample)
    return sorted(samples.values(), key=lambda sample: sample.name), of


def _test_set(found: Measured) -> DataSplits:
    from src.composition import build

    splits: DataSplits = build(dict(found.config), "data").load()
    return splits


def _check_same(found: Measured, sample: Sample) -> None:
    """The data as it lies there now must be what the row was measured on."""
    from src.contracts import InputError

    known = found.checksum or found.config["data"].get("sha256")
    if known is None:
        raise InputError(
            f"{found.parts[0]}: nothing says on which images it was measured (its baseline's stage is not in "
            f"{found.config['artifacts']}/, and its run names no data.sha256): run it again"
        )
    if known != sample.about["checksum"] or list(found.row["accuracy_per_class"]) != list(sample.about["classes"]):
        raise InputError(
            f"{found.parts[0]} was measured on other images than those that {sample.about['data']} has now "
            f"(checksums {known[:12]}… and {str(sample.about['checksum'])[:12]}…): run it again"
        )


def _sample(splits: DataSplits, name: str, count: int | None) -> Sample:
    import numpy as np

    chosen = pick(splits.test, count, len(splits.classes))
    out = io.BytesIO()
    np.savez_compressed(out, images=chosen.images.numpy(), labels=chosen.labels.numpy())
    about = {
        "name": name,
        "data": splits.name,
        "file": f"samples/{name}.npz",
        "sha256": _sha256(out.getvalue()),
        "checksum": splits.checksum,
        "images": len(chosen),
        "of": len(splits.test),
        "image_shape": list(splits.image_shape),
        "classes": list(splits.classes),
        "mean": list(splits.mean),
        "std": list(splits.std),
    }
    return Sample(name, out.getvalue(), about)


def _key(row: Mapping[str, Any]) -> tuple[str, ...]:
    """The same for rows of one file and measurement, as members of a survey share the baseline's."""
    return tuple(str(row[key]) for key in ("identity", "target", "precision", "variant", "sha256"))


def _order(row: Mapping[str, Any], label: str) -> tuple[Any, ...]:
    return (row["data"], row["variant"] != "baseline", label, row["target"])


def _slug(text: str) -> str:
    return re.sub(r"[^\w.=+-]+", "_", text)


def _json(path: Path) -> dict[str, Any]:
    from src.contracts import InputError

    try:
        content: dict[str, Any] = json.loads(path.read_text())
    except ValueError as error:
        raise InputError(f"{path} is damaged: {error}") from error
    if not isinstance(content, dict) or "rows" not in content:
        raise InputError(f"{path} is damaged: it holds no rows")
    return content


def _sha256(content: bytes) -> str:
    import hashlib

    return hashlib.sha256(content).hexdigest()


def _write(path: Path, content: bytes) -> None:
    part = path.with_name(path.name + ".part")
    try:
        part.write_bytes(content)
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


if __name__ == "__main__":
    sys.exit(main())
