"""The test images of a bundle: chosen from each data set, and the same ones that the models were measured on."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from src.command.bundle_files import MeasuredFile
from src.command.composition import build, target_of
from src.contracts import DataSplits, ImageSet, InputError

SEED = 0  # chooses the same test images each time


@dataclass(frozen=True)
class Sample:
    """Test images of one data set as a bundle holds them.

    Attributes:
        content: The ``.npz`` file.
        manifest: Its entry of the manifest.
    """

    content: bytes
    manifest: Mapping[str, Any]

    @property
    def name(self) -> str:
        """Name of the data set; the second of the same name has a number, too."""
        return str(self.manifest["name"])

    @property
    def images(self) -> int:
        """Number of images in the sample."""
        return int(self.manifest["images"])

    @property
    def test_images(self) -> int:
        """Number of images in the whole test set."""
        return int(self.manifest["of"])


def samples_of(files: Sequence[MeasuredFile], count: int | None) -> list[Sample]:
    """The sample that each file's model is tested on; files of one data set share one sample.

    Args:
        files: The measured files.
        count: Number of images of each sample; None for all.

    Raises:
        InputError: The data is no longer what a file was measured on, or nothing says what it was.
    """
    samples: dict[str, Sample] = {}
    by_config: dict[str, Sample] = {}
    for file in files:
        config = _config(file)
        if config not in by_config:
            splits: DataSplits = build({"data": _data(file)}, "data").load()
            if file.config["model"].get(
                "pretrained"
            ):  # its weights have a normalization of their own, held by the file
                card = target_of(file.parts[0]).read_card(file.parts[0])
                splits = replace(splits, mean=card.mean, std=card.std)
            about = [splits.checksum, len(splits.test), splits.image_shape, asdict(splits.preparation)]
            content = json.dumps([*about, splits.mean, splits.std, splits.classes])
            if content not in samples:
                same_name = sum(sample.manifest["data"] == splits.name for sample in samples.values())
                name = f"{splits.name}-{same_name + 1}" if same_name else splits.name
                samples[content] = _sample(splits, name, count)
            by_config[config] = samples[content]
        _check_same_data(file, by_config[config])
    return [by_config[_config(file)] for file in files]


def _data(file: MeasuredFile) -> dict[str, Any]:
    """The config of a file's data; records of before call the folder that ``DNNC_DATA`` may name ``data``."""
    config = dict(file.config["data"])
    if config.get("root") == "data" and not Path("data").exists():
        config["root"] = None
    return config


def _config(file: MeasuredFile) -> str:
    """What determines the images of a file and their normalization."""
    model = file.config["model"]
    pretrained = [model["_target_"], model.get("name")] if model.get("pretrained") else []
    return json.dumps([file.config["data"], *pretrained], sort_keys=True)


def pick(images: ImageSet, count: int | None, classes: int) -> ImageSet:
    """Choose test images by label, each class in proportion to its share, the same ones each time.

    Args:
        images: The test set.
        count: Number of images to choose; None for all.
        classes: Number of classes.

    Returns:
        The chosen images in the order of the set; the whole set if it has no more than ``count``.
    """
    if count is None or count >= len(images):
        return images
    exact = torch.bincount(images.labels, minlength=classes).to(torch.float64) * count / len(images)
    shares = exact.floor().to(torch.int64)
    rest = (shares - exact).argsort(stable=True)[: count - int(shares.sum())]  # the largest remainders first
    shares[rest] += 1
    generator = torch.Generator().manual_seed(SEED)
    chosen = []
    for label in range(classes):
        places = (images.labels == label).nonzero().flatten()
        chosen.append(places[torch.randperm(len(places), generator=generator)[: int(shares[label])]])
    return images.select(torch.cat(chosen).sort().values)


def _sample(splits: DataSplits, name: str, count: int | None) -> Sample:
    chosen = pick(splits.test, count, len(splits.classes))
    out = io.BytesIO()
    np.savez_compressed(out, images=chosen.images[:].numpy(), labels=chosen.labels.numpy())
    content = out.getvalue()
    manifest = {
        "name": name,
        "data": splits.name,
        "file": f"samples/{name}.npz",
        "sha256": hashlib.sha256(content).hexdigest(),
        "checksum": splits.checksum,
        "images": len(chosen),
        "of": len(splits.test),
        "image_shape": list(splits.image_shape),
        "classes": list(splits.classes),
        "mean": list(splits.mean),
        "std": list(splits.std),
        **asdict(splits.preparation),  # how these images were made; the evaluator resizes nothing
    }
    return Sample(content, manifest)


def _check_same_data(file: MeasuredFile, sample: Sample) -> None:
    """Compare the data as it is now with the data that the file was measured on."""
    known = file.data_checksum or file.config["data"].get("sha256")
    if known is None:
        raise InputError(
            f"{file.parts[0]}: nothing says on which images it was measured (its baseline's stage is not in "
            f"{file.config['artifacts']}/, and its run names no data.sha256): run it again"
        )
    now = str(sample.manifest["checksum"])
    if known != now or list(file.entry.row.accuracy_per_class) != list(sample.manifest["classes"]):
        raise InputError(
            f"{file.parts[0]} was measured on other images than those that {sample.manifest['data']} has now "
            f"(checksums {known[:12]}… and {now[:12]}…): run it again"
        )
