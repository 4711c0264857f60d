"""What lies in a user's folder of images: its splits, its classes, their files, and what is not read."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from src.contracts import InputError

ENDINGS = {
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".apng", ".bmp", ".dib", ".gif", ".webp", ".avif"),
    *(".tif", ".tiff", ".pbm", ".pgm", ".ppm", ".pnm", ".jp2", ".j2k", ".jpx", ".jpf", ".tga", ".qoi"),
}
TRAIN, VALIDATION, TEST = "train", "validation", "test"
WORDS = {
    **dict.fromkeys(("train", "training", "trn"), TRAIN),
    **dict.fromkeys(("val", "valid", "validation", "validate", "dev", "eval", "evaluation"), VALIDATION),
    **dict.fromkeys(("test", "testing", "tst"), TEST),
}
# Words that stand beside the name of a split: seg_train, training_set, train_images, test-2.
BESIDE = {"set", "sets", "data", "dataset", "image", "images", "img", "imgs", "split", "seg"}
# Folders that tools leave beside images; so are all whose name begins with a dot.
LEFT_BY_TOOLS = {"__pycache__", "__MACOSX", "@eaDir", "lost+found", "$RECYCLE.BIN", "System Volume Information"}
NAMED = 5  # names in a line


@dataclass(frozen=True)
class Contents:
    """The images below a folder.

    Attributes:
        folder: The folder.
        images: Every image, sorted; links are followed.
        unread: How many other files there are of each ending.
    """

    folder: Path
    images: Sequence[Path]
    unread: Mapping[str, int]

    @property
    def loose(self) -> list[Path]:
        """The images that lie in the folder itself."""
        return [path for path in self.images if path.parent == self.folder]

    @property
    def classes(self) -> set[str]:
        """Names of the folders in it that hold images."""
        return {path.relative_to(self.folder).parts[0] for path in self.images if path.parent != self.folder}


@dataclass(frozen=True)
class Found:
    """The images of a data set by split.

    Attributes:
        classes: Names of the classes, sorted.
        parts: Files and labels of each split that is there: ``train``, ``validation``, ``test``.
        remarks: Lines on what was not read.
    """

    classes: Sequence[str]
    parts: Mapping[str, tuple[Sequence[Path], Sequence[int]]]
    remarks: Sequence[str]


def find(root: Path) -> Found:
    """Find the images of ``root/<split>/<class>``, or of ``root/<class>`` if no folder has the name of a split.

    Splits are known by their usual names (``split_of``) in any case. A folder without an image is no class.

    Raises:
        InputError: The folder is missing, or what lies in it is no data set; the message says what to do.
    """
    if not root.is_dir():
        raise InputError(f"data.root: there is no folder {root}; it should hold a folder of images for each class")
    inside = {folder.name: _contents(folder) for folder in _folders(root)}
    filled = {name: contents for name, contents in inside.items() if contents.images}
    if not filled:
        raise InputError(
            f"data.root: no image lies in the class folders of {root} ({', '.join(sorted(ENDINGS))}){_hint(root, {})}"
        )
    splits = _splits(root, filled)
    if not splits:
        classes = sorted(filled)
        _check_classes(root, classes, _hint(root, filled))
        every = _labelled(root, filled, classes)
        return Found(classes, {TRAIN: every}, _remarks(root, inside, _own_files(root), aside=[]))
    classes = sorted(filled[splits[TRAIN]].classes)
    _check_classes(root / splits[TRAIN], classes, "")
    parts: dict[str, tuple[Sequence[Path], Sequence[int]]] = {}
    below: dict[str, Contents] = {}
    for part, name in splits.items():
        unknown = sorted(filled[name].classes - set(classes))
        if unknown:
            raise InputError(
                f"data.root: {root / name} has classes that {splits[TRAIN]} does not have: {_listed(unknown)}"
            )
        contents = {folder.name: _contents(folder) for folder in _folders(root / name)}
        parts[part] = _labelled(root / name, contents, classes)
        below |= {f"{name}/{inner}": each for inner, each in contents.items()}
    aside = sorted(set(filled) - set(splits.values()))
    own = _own_files(root, *(root / name for name in splits.values()))
    return Found(classes, parts, _remarks(root, below, own, aside))


def split_of(name: str) -> str | None:
    """The split whose name a folder has, perhaps beside words that say nothing more; else None.

    >>> split_of("seg_train"), split_of("Validation Set"), split_of("testset2"), split_of("train_station")
    ('train', 'validation', 'test', None)
    """
    words = [word for word in re.split(r"[\W\d_]+", name.lower()) if word and word not in BESIDE]
    if len(words) != 1:
        return None
    return WORDS.get(words[0], WORDS.get(re.sub(r"(set|data|images|imgs)$", "", words[0])))


def _splits(root: Path, filled: Mapping[str, Contents]) -> dict[str, str]:
    """The folder of each split by the split's name; empty if the folders are classes."""
    named = {name: part for name in filled if (part := split_of(name)) is not None}
    flat = [name for name in named if not filled[name].classes]
    if flat and len(flat) == len(filled):
        raise InputError(
            f"data.root: images lie directly in {_listed(_folder_names(flat))} of {root}, with no folder for each class"
        )
    named = {name: part for name, part in named.items() if name not in flat}
    if not named:
        return {}
    twice = [part for part, count in Counter(named.values()).items() if count > 1]
    if twice:
        both = [name for name, part in named.items() if part == twice[0]]
        raise InputError(f"data.root: {_listed(_folder_names(both))} of {root} are {twice[0]} splits: keep one")
    if len(named) == 1:
        ((name, part),) = named.items()
        beside = sorted(set(filled) - {name})
        what = f"{name}/ beside {_listed(_folder_names(beside))}" if beside else f"only {name}/"
        do = f"data.root={root / name} splits the classes in it"
        if part != TRAIN:
            do = "name the folder of the training images train/"
        raise InputError(f"data.root: {root} holds {what}, which has the name of a split: {do}")
    if TRAIN not in named.values():
        raise InputError(
            f"data.root: {root} holds {_listed(_folder_names(sorted(named)))} and no train/: name the folder of the "
            f"training images train/"
        )
    return {part: name for part in (TRAIN, VALIDATION, TEST) for name, of in named.items() if of == part}


def _check_classes(top: Path, classes: Sequence[str], hint: str) -> None:
    if len(classes) < 2:
        raise InputError(
            f"data.root: {top} holds {len(classes)} folders of images; at least two classes are needed{hint}"
        )


def _hint(root: Path, filled: Mapping[str, Contents]) -> str:
    """What else the user may have meant by a folder with fewer than two classes."""
    if len(filled) == 1:
        ((name, contents),) = filled.items()
        if len(contents.classes) > 1:
            return f" (data.root={root / name} holds {len(contents.classes)}: {_listed(sorted(contents.classes))})"
    loose = sum(path.suffix.lower() in ENDINGS for path in _own_files(root))
    return f" ({loose} images lie directly in it: put those of each class into a folder of its own)" if loose else ""


def _labelled(
    top: Path, contents: Mapping[str, Contents], classes: Sequence[str]
) -> tuple[Sequence[Path], Sequence[int]]:
    """Files and labels of the class folders in ``top``, in the order of the classes."""
    paths: list[Path] = []
    labels: list[int] = []
    for label, name in enumerate(classes):
        found = contents[name].images if name in contents else []
        paths += found
        labels += [label] * len(found)
    if not paths:
        raise InputError(f"data.root: no image lies in the class folders of {top} ({', '.join(sorted(ENDINGS))})")
    return paths, labels


def _remarks(root: Path, inside: Mapping[str, Contents], own: Iterable[Path], aside: Sequence[str]) -> list[str]:
    lines = []
    empty = sorted(name for name, contents in inside.items() if not contents.images)
    if empty:
        lines.append(f"no class, since no image lies there: {_listed(_folder_names(empty))}")
    if aside:
        lines.append(f"not read, since it is none of the splits: {_listed(_folder_names(aside))}")
    unread = sum((Counter(contents.unread) for contents in inside.values()), Counter())
    if unread:
        files = _listed([f"{count} {ending}" for ending, count in unread.most_common()])
        heic = "; .heic becomes .jpg with the camera's or the system's export" if unread[".heic"] else ""
        lines.append(f"not read, since no image of a known ending: {files}{heic}")
    loose = sum(path.suffix.lower() in ENDINGS for path in own)
    if loose:
        lines.append(f"not read, since outside of the class folders of {root}: {loose} images")
    return lines


def _folders(top: Path) -> list[Path]:
    """The folders in ``top``, but those that tools leave."""
    return sorted(path for path in top.iterdir() if path.is_dir() and _counts(path.name))


def _own_files(*tops: Path) -> list[Path]:
    """The files that lie in folders themselves."""
    return [path for top in tops for path in sorted(top.iterdir()) if path.is_file() and _counts(path.name)]


def _counts(name: str) -> bool:
    return not name.startswith(".") and name not in LEFT_BY_TOOLS


def _contents(folder: Path) -> Contents:
    images: list[Path] = []
    unread: Counter[str] = Counter()
    for path, kind in _walk(folder, set()):
        if kind in ENDINGS:
            images.append(path)
        else:
            unread[kind] += 1
    return Contents(folder, sorted(images), unread)


def _walk(folder: Path, above: set[Path]) -> Iterator[tuple[Path, str]]:
    """Every file below ``folder`` and its ending; linked folders are followed, but never into one that they lie in."""
    real = folder.resolve()
    if real in above:
        return
    for entry in sorted(os.scandir(folder), key=lambda each: each.name):
        if not _counts(entry.name):
            continue
        if entry.is_dir():
            yield from _walk(Path(entry.path), above | {real})
        elif entry.is_file():
            yield Path(entry.path), Path(entry.name).suffix.lower() or "(no ending)"
        elif entry.is_symlink():
            yield Path(entry.path), "(broken link)"


def _folder_names(names: Iterable[str]) -> list[str]:
    return [f"{name}/" for name in names]


def _listed(words: Sequence[str]) -> str:
    more = f" and {len(words) - NAMED} more" if len(words) > NAMED else ""
    return ", ".join(words[:NAMED]) + more
