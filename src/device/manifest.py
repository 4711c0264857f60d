"""Reading a bundle; all of it is checked before any of it is used, and its sizes before any of it is unpacked."""

import hashlib
import io
import json
import zipfile
from pathlib import Path, PurePosixPath
from typing import Any, Dict, List, Optional, Sequence, Tuple

import numpy as np

from .schema import LINE, TEXT, InputError, Kind, between, check, count, optional, read_json, shown

NAME = "manifest.json"
FORMAT = 2
READABLE = (1, 2)
LARGEST_SIDE = 1 << 14  # of an image, in pixels
LONGEST_HEADER = 1 << 16  # bytes before the numbers of an array file
UNPACKED_BYTES = 1 << 26  # images of a sample may take these in any case,
UNPACKED_SHARE = 50  # or this many times the bundle's own bytes
BYTES = ("u1",)
INTEGERS = ("i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8")

SHAPE = Kind(
    f"[channels, height, width], each from 1 to {LARGEST_SIDE:,}",
    lambda value: isinstance(value, list) and len(value) == 3 and all(map(count(1, LARGEST_SIDE).holds, value)),
)
MODEL = {
    "name": LINE,
    "label": LINE,
    "target": LINE,
    "runtime": {"name": LINE, "provider": optional(LINE), "stands_in_for": optional(LINE)},
    "precision": LINE,
    "computes": [LINE],
    "sample": LINE,
    "files": [{"file": LINE, "sha256": LINE}],
    "size_bytes": count(0),
}
MODEL_OF_FORMAT_1 = dict({key: kind for key, kind in MODEL.items() if key != "computes"}, runtime=LINE)
SAMPLE = {
    "name": LINE,
    "images": count(1),
    "of": count(1),
    "image_shape": SHAPE,
    "classes": [TEXT],
    "mean": [between(0, 1)],  # of pixels in [0, 1]
    "std": [between(1e-6, 1000)],
    "file": LINE,
    "sha256": LINE,
}


class BundleError(InputError):
    """A bundle that cannot be used; the message says why, in one line."""


def identity(content: Dict[str, Any]) -> str:
    """Identifier of a manifest: a hash of all its content except ``id``, 16 hexadecimal digits."""
    rest = {key: value for key, value in content.items() if key != "id"}
    text = json.dumps(rest, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


class Bundle:
    """A bundle each of whose files was read and compared with its checksum.

    Args:
        path: The zip application.

    Attributes:
        id: Identifier of its manifest.
        models: A dict for each model, as the table ``MODEL`` says: ``computes`` lists the number formats of the
            arithmetic, ``precision`` is the same for people, and a runtime is given the first of ``files``.
        samples: A dict for each sample of test images by its name, as the table ``SAMPLE`` says.

    Raises:
        BundleError: The file is no bundle, is damaged, names a file outside itself, or holds or claims what cannot be.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._archive = zipfile.ZipFile(str(path))
            self._size_bytes = path.stat().st_size
        except Exception as error:  # zipfile may raise anything on a damaged file
            raise BundleError(f"{path} is no bundle: {_reason(error)}")
        content = self._manifest()
        self.id: str = content["id"]
        self.models: List[Dict[str, Any]] = [
            from_format_1(model) if content["format"] == 1 else model for model in content["models"]
        ]
        self.samples: Dict[str, Dict[str, Any]] = {sample["name"]: sample for sample in content["samples"]}
        for kind in ("models", "samples"):
            names = [about["name"] for about in content[kind]]
            self._require(len(set(names)) == len(names), f"two of its {kind} have one name")
        self._check()

    def sample(self, name: str) -> Tuple[np.ndarray, np.ndarray]:
        """Images ``[n, c, h, w]`` (uint8) and labels ``[n]`` of a sample."""
        about = self.samples[name]
        file, number, shape, classes = about["file"], about["images"], about["image_shape"], about["classes"]
        content = self._read(file)
        try:
            with zipfile.ZipFile(io.BytesIO(content)) as packed:
                images = _array(packed, "images.npy", [number] + shape, BYTES)
                labels = _array(packed, "labels.npy", [number], INTEGERS)
        except Exception as error:  # zipfile and numpy may raise anything on a damaged file
            raise BundleError(f"{self.path}: {file} holds no images and labels ({_reason(error)})")
        if images is None:
            size = "x".join(map(str, shape))
            raise BundleError(f"{self.path}: the images of {file} are not {number} of {size} bytes, as its {NAME} says")
        if labels is None or labels.min() < 0 or labels.max() >= len(classes):
            raise BundleError(
                f"{self.path}: a label of {file} is not in 0 ... {len(classes) - 1}, or not each image has one"
            )
        return images, labels

    def extract(self, model: Dict[str, Any], folder: Path) -> Path:
        """Write a model's files into ``folder``; return the path of the one that a runtime is given."""
        paths = [folder / PurePosixPath(part["file"]).name for part in model["files"]]
        for part, path in zip(model["files"], paths):
            path.write_bytes(self._read(part["file"]))
        return paths[0]

    def _manifest(self) -> Dict[str, Any]:
        try:
            content = read_json(self._unpacked(NAME).decode())
            changed = not isinstance(content, dict) or content.get("id") != identity(content)
        except Exception as error:  # zipfile and json may raise anything on a damaged file
            raise BundleError(f"{self.path} is no bundle: its {NAME} cannot be read ({_reason(error)})")
        found = content.get("format") if isinstance(content, dict) else None
        self._require(
            type(found) is int and found in READABLE,
            f"its {NAME} is of format {shown(found)}; formats {READABLE[0]} to {FORMAT} can be read",
        )
        self._require(not changed, f"its {NAME} was changed after it was written: it no longer has its own checksum")
        try:
            check(content, {"models": [MODEL if found == FORMAT else MODEL_OF_FORMAT_1], "samples": [SAMPLE]})
        except InputError as error:
            raise BundleError(f"{self.path}: its {NAME} is not as this evaluator expects it: {error}")
        return content

    def _check(self) -> None:
        self._require(bool(self.models), "it holds no model")
        for model in self.models:
            name, sample = model["name"], model["sample"]
            self._require(sample in self.samples, f"{name} names a test sample {sample} that is not there")
            names = {PurePosixPath(part["file"]).name for part in model["files"]}
            self._require(bool(names), f"{name} has no file")
            self._require(len(names) == len(model["files"]), f"{name} has two files of one name")
            found = sum(self._check_file(part) for part in model["files"])
            self._require(found == model["size_bytes"], f"{name} has {found:,} bytes, not {model['size_bytes']:,}")
        for name, sample in self.samples.items():
            channels, height, width = sample["image_shape"]
            unpacked = sample["images"] * channels * height * width
            most = max(UNPACKED_BYTES, UNPACKED_SHARE * self._size_bytes)
            self._require(
                unpacked <= most, f"its images of {name} would take {unpacked:,} bytes, and at most {most:,} can"
            )
            fits = len(sample["mean"]) == len(sample["std"]) == channels
            self._require(fits, f"{name} has {channels} channels, and needs a mean and a std for each")
            self._check_file(sample)
            self.sample(name)

    def _check_file(self, part: Dict[str, Any]) -> int:
        """Compare a file with its checksum; return its bytes."""
        name = part["file"]
        path = PurePosixPath(name)
        inside = (
            path.name and not path.is_absolute() and ".." not in path.parts and "\\" not in name and ":" not in name
        )
        self._require(bool(inside), f"its {NAME} names a file outside the bundle: {name}")
        content = self._read(name)
        same = hashlib.sha256(content).hexdigest() == part["sha256"]
        self._require(same, f"{name} has another checksum than its {NAME} says: the bundle is damaged")
        return len(content)

    def _read(self, name: str) -> bytes:
        try:
            return self._unpacked(name)
        except Exception as error:  # zipfile may raise anything on a damaged file
            raise BundleError(f"{self.path}: {name} has a wrong checksum or is not there ({_reason(error)})")

    def _unpacked(self, name: str) -> bytes:
        """A file of the bundle; it takes no more memory than the bundle has bytes, whatever the archive claims."""
        info = self._archive.getinfo(name)
        if info.compress_type != zipfile.ZIP_STORED or info.file_size != info.compress_size:
            raise ValueError("it is compressed, which a bundle's files are not")
        if info.file_size > self._size_bytes:
            raise ValueError("it claims to be larger than the bundle")
        return self._archive.read(info)

    def _require(self, holds: bool, otherwise: str) -> None:
        if not holds:
            raise BundleError(f"{self.path}: {otherwise}")


def from_format_1(model: Dict[str, Any]) -> Dict[str, Any]:
    """A model of a manifest of format 1 as format 2 has it.

    Format 1 has the runtime (``onnxruntime for tensorrt``, ``onnxruntime with CUDAExecutionProvider``) and the number
    formats (``int8 and bf16, float16 stored``) only as text for people.
    """
    rest, _, target = model["runtime"].partition(" for ")
    name, _, provider = rest.partition(" with ")
    runtime = {"name": name, "provider": provider or None, "stands_in_for": target or None}
    return dict(model, runtime=runtime, computes=model["precision"].partition(",")[0].split(" and "))


def _array(packed: zipfile.ZipFile, name: str, shape: Sequence[int], types: Sequence[str]) -> Optional[np.ndarray]:
    """An array of a sample; None, and nothing is unpacked, if its header says another shape or type than expected."""
    info = packed.getinfo(name)
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise ValueError("it is compressed in a way that numpy does not write")
    with packed.open(info) as file:
        if np.lib.format.read_magic(file) != (1, 0):
            raise ValueError("its arrays are not of version 1.0")
        found, _, dtype = np.lib.format.read_array_header_1_0(file)
    numbers_bytes = dtype.itemsize
    for size in shape:
        numbers_bytes *= size
    sizes_fit = numbers_bytes <= info.file_size <= numbers_bytes + LONGEST_HEADER
    if list(found) != list(shape) or dtype.str[1:] not in types or not sizes_fit:
        return None
    with packed.open(info) as file:
        return np.lib.format.read_array(file, allow_pickle=False)


def _reason(error: BaseException) -> str:
    """Why a file cannot be read, in one line."""
    if isinstance(error, KeyError):
        return "it is missing"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error).splitlines()[0][:200] if str(error) else type(error).__name__
