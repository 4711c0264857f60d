"""Reading a bundle; all of it is checked before any of it is used."""

import hashlib
import io
import json
import zipfile
import zlib
from pathlib import Path, PurePosixPath
from typing import Any, Dict, List, Tuple

import numpy as np

NAME = "manifest.json"
FORMAT = 2
READABLE = (1, 2)
MODEL = ("name", "label", "target", "runtime", "precision", "computes", "sample", "files", "size_bytes")
RUNTIME = ("name", "provider", "stands_in_for")
SAMPLE = ("images", "of", "image_shape", "classes", "mean", "std", "file", "sha256")
UNREADABLE = (zipfile.BadZipFile, zlib.error, EOFError, KeyError, NotImplementedError, RuntimeError, OSError)


class BundleError(Exception):
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
        models: A dict for each model, with the keys ``MODEL``: ``runtime`` has the keys ``RUNTIME``, ``computes`` lists
            the number formats of the arithmetic, ``precision`` is the same for people, and a runtime is given the
            first of ``files``.
        samples: A dict for each sample of test images by its name, with the keys ``SAMPLE``.

    Raises:
        BundleError: The file is no bundle, is damaged, names a file outside itself, or has no test image.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._archive = zipfile.ZipFile(str(path))
        except (zipfile.BadZipFile, OSError) as error:
            raise BundleError(f"{path} is no bundle: {_reason(error)}")
        try:
            content = json.loads(self._archive.read(NAME).decode())
        except UNREADABLE + (ValueError,) as error:
            raise BundleError(f"{path} is no bundle: its {NAME} cannot be read ({_reason(error)})")
        found = content.get("format") if isinstance(content, dict) else None
        if found not in READABLE:
            raise BundleError(f"{path}: its {NAME} is of format {found}; formats {READABLE[0]} to {FORMAT} can be read")
        if content.get("id") != identity(content):
            raise BundleError(f"{path}: its {NAME} was changed after it was written: it no longer has its own checksum")
        try:
            self.id = str(content["id"])
            models = content["models"]
            self.models: List[Dict[str, Any]] = [from_format_1(m) if found == 1 else m for m in models]
            self.samples: Dict[str, Dict[str, Any]] = {sample["name"]: sample for sample in content["samples"]}
            self._check()
        except (KeyError, TypeError, AttributeError, IndexError) as error:
            raise BundleError(f"{path}: its {NAME} is not as this evaluator expects it: {error!r}")

    def sample(self, name: str) -> Tuple[np.ndarray, np.ndarray]:
        """Images ``[n, c, h, w]`` (uint8) and labels ``[n]`` of a sample."""
        about = self.samples[name]
        try:
            with np.load(io.BytesIO(self._read(about["file"]))) as arrays:
                images, labels = arrays["images"], arrays["labels"]
        except UNREADABLE + (ValueError,) as error:
            raise BundleError(f"{self.path}: {about['file']} holds no images and labels ({_reason(error)})")
        if len(images) == 0:
            raise BundleError(f"{self.path}: the test sample {name} is empty")
        if images.dtype != np.uint8 or list(images.shape[1:]) != list(about["image_shape"]):
            shape = "x".join(str(size) for size in about["image_shape"])
            raise BundleError(
                f"{self.path}: the images of {about['file']} are not of {shape} bytes, as its {NAME} says"
            )
        fits = np.issubdtype(labels.dtype, np.integer) and labels.shape == (len(images),)
        if not fits or labels.min() < 0 or labels.max() >= len(about["classes"]):
            raise BundleError(f"{self.path}: a label of {about['file']} is not in 0 ... {len(about['classes']) - 1}")
        return images, labels

    def extract(self, model: Dict[str, Any], folder: Path) -> Path:
        """Write a model's files into ``folder``; return the path of the one that a runtime is given."""
        paths = [folder / PurePosixPath(part["file"]).name for part in model["files"]]
        for part, path in zip(model["files"], paths):
            path.write_bytes(self._read(part["file"]))
        return paths[0]

    def _check(self) -> None:
        if not self.models:
            raise BundleError(f"{self.path} holds no model")
        parts = [part for model in self.models for part in model["files"]]
        for part in parts + list(self.samples.values()):
            self._check_file(part["file"], part["sha256"])
        for about, keys in [(model, MODEL) for model in self.models] + [(s, SAMPLE) for s in self.samples.values()]:
            missing = [key for key in keys if key not in about]
            if missing:
                raise KeyError(missing[0])
        for model in self.models:
            missing = [key for key in RUNTIME if key not in model["runtime"]]
            if missing:
                raise KeyError(missing[0])
            if model["sample"] not in self.samples:
                raise BundleError(
                    f"{self.path}: {model['name']} names a test sample {model['sample']} that is not there"
                )
            names = [PurePosixPath(part["file"]).name for part in model["files"]]
            if not names or len(set(names)) != len(names):
                raise BundleError(f"{self.path}: {model['name']} has no file, or two of one name")
        for name in self.samples:
            self.sample(name)

    def _check_file(self, name: str, sha256: str) -> None:
        path = PurePosixPath(name)
        if path.is_absolute() or ".." in path.parts or "\\" in name or ":" in name:
            raise BundleError(f"{self.path}: its {NAME} names a file outside the bundle: {name}")
        if hashlib.sha256(self._read(name)).hexdigest() != sha256:
            raise BundleError(f"{self.path}: {name} has another checksum than its {NAME} says: the bundle is damaged")

    def _read(self, name: str) -> bytes:
        try:
            return self._archive.read(name)
        except UNREADABLE as error:
            raise BundleError(f"{self.path}: {name} has a wrong checksum or is not there ({_reason(error)})")


def from_format_1(model: Dict[str, Any]) -> Dict[str, Any]:
    """A model of a manifest of format 1 as format 2 has it.

    Format 1 has the runtime (``onnxruntime for tensorrt``, ``onnxruntime with CUDAExecutionProvider``) and the number
    formats (``int8 and bf16, float16 stored``) only as text for people.
    """
    rest, _, target = model["runtime"].partition(" for ")
    name, _, provider = rest.partition(" with ")
    runtime = {"name": name, "provider": provider or None, "stands_in_for": target or None}
    return dict(model, runtime=runtime, computes=model["precision"].partition(",")[0].split(" and "))


def _reason(error: BaseException) -> str:
    """Why a file cannot be read, in one line."""
    if isinstance(error, KeyError):
        return "it is missing"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error).splitlines()[0] if str(error) else type(error).__name__
