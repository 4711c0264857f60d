"""What is wrong with a data set that was read, a line each: classes without images, copies, images of one colour."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from src.contracts import DataSplits, ImageSet
from src.data.splitting import Looks

SKEWED = 10  # times as many images in the largest class as in the smallest
DARK = 64  # of 255
NAMED = 5  # classes in a line


def of_labels(classes: Sequence[str], train: ImageSet, validation: ImageSet, test: ImageSet) -> list[str]:
    """Lines on classes that have no image where one is needed, or far fewer than others."""
    counts = {
        part: torch.bincount(images.labels, minlength=len(classes))
        for part, images in (("training", train), ("validation", validation), ("test", test))
    }
    every = sum(counts.values(), torch.zeros(len(classes), dtype=torch.int64))
    lines = []
    alone = _names(classes, every == 1)
    if alone:
        lines.append(f"one image is all that there is of {alone}: nothing can be said of such a class; add images")
    for part, found in counts.items():
        lacking = _names(classes, (found == 0) & (every != 1))
        if lacking:
            lines.append(f"no {part} image of {lacking}")
    found = counts["training"][counts["training"] > 0]
    if int(found.max()) >= SKEWED * int(found.min()):
        lines.append(
            f"classes have {int(found.min()):,} to {int(found.max()):,} training images: read balanced_accuracy beside "
            f"accuracy"
        )
    return lines


def of_pixels(
    splits: DataSplits, looks: Mapping[str, Looks], files: Mapping[str, Sequence[Path]], root: Path
) -> list[str]:
    """Lines on copies of images, on images of one colour and on a set that is dark throughout.

    Args:
        splits: The data.
        looks: What the images of ``train``, ``validation`` and ``test`` look like.
        files: The file of each image of ``train``, ``validation`` and ``test``.
        root: Folder that the files lie in; lines name them from there.
    """
    parts = {"train": splits.train, "validation": splits.validation, "test": splits.test}
    labels = torch.cat([part.labels for part in parts.values()])
    where = torch.cat([torch.full((len(part),), at) for at, part in enumerate(parts.values())])
    names = [_below(path, root) for part in parts for path in files[part]]
    digests = [digest for part in parts for digest in looks[part].digests]
    lowest, highest = (torch.cat([getattr(looks[part], name) for part in parts]) for name in ("lowest", "highest"))
    every = Looks(digests, lowest, highest)
    lines = _copies(every.copies(), labels, where, names)
    flat = every.constant
    if flat.any():
        example = names[int(flat.nonzero()[0])]
        lines.append(f"{int(flat.sum())} of {len(flat)} images have one colour in all their pixels ({example})")
    brightest = int(looks["train"].highest.max())
    if brightest < DARK:
        lines.append(
            f"the brightest pixel of the training images is {brightest} of 255: 12 bits in files of 16 are read so if "
            f"they are in colour; data.pixel_range=[0,4095] helps grey ones"
        )
    return lines


def _copies(first: Tensor, labels: Tensor, where: Tensor, names: Sequence[str]) -> list[str]:
    """Lines on images of equal pixels; ``first`` is the index of the first image equal to each."""
    lines = []
    for at, part in ((1, "validation"), (2, "test")):
        mine = (where == at).nonzero().flatten().tolist()
        for before, earlier in ((0, "training"), (1, "validation"))[:at]:
            seen = set(first[where == before].tolist())
            shared = [index for index in mine if int(first[index]) in seen]
            if shared:
                lines.append(
                    f"{len(shared)} of {len(mine)} {part} images are {earlier} images, too: their accuracy promises "
                    f"too much ({names[shared[0]]} equals {names[_twin(first, where == before, shared[0])]})"
                )
    other = (labels != labels[first]).nonzero().flatten().tolist()
    if other:
        lines.append(
            f"{len(other)} image{'s' * (len(other) > 1)} stand{'s' * (len(other) == 1)} in two classes "
            f"({names[other[0]]} equals {names[int(first[other[0]])]})"
        )
    same = (first != torch.arange(len(first))) & (labels == labels[first]) & (where == where[first])
    again = same.nonzero().flatten().tolist()
    if again:
        lines.append(
            f"{len(again)} image{'s' * (len(again) > 1)} repeat{'s' * (len(again) == 1)} another one of the same class "
            f"and split ({names[again[0]]} equals {names[int(first[again[0]])]})"
        )
    return lines


def _twin(first: Tensor, among: Tensor, index: int) -> int:
    """The first image ``among`` others that equals the image at ``index``."""
    return int(((first == first[index]) & among).nonzero()[0])


def _names(classes: Sequence[str], which: Tensor) -> str:
    """The names of the classes that ``which`` (``[classes]``, bool) marks."""
    found = [classes[at] for at in which.nonzero().flatten().tolist()]
    return ", ".join(found[:NAMED]) + (f" and {len(found) - NAMED} more" if len(found) > NAMED else "")


def _below(path: Path, root: Path) -> str:
    return str(path.relative_to(root)) if path.is_relative_to(root) else str(path)
