"""A bundle may hold anything: reading it works, or says in one line what is wrong, and takes no memory for a claim."""

from __future__ import annotations

import copy
import io
import json
import struct
import sys
import tracemalloc
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from src.device.__main__ import main
from src.device.manifest import Bundle, BundleError, identity
from tests.device.bundles import brightness, bundle, content_of, images, packed, write
from tests.device.test_evaluator import OLD, QUICK, run

NAN, INFINITE = float("nan"), float("inf")
WRONG = (None, True, 0, -1, 0.5, 10**30, INFINITE, NAN, "", "x" * 100_000, "a\nb", "\ud800", "/", [], [[[[]]]], {})
MEBIBYTE = 1 << 20
MOST = 32 * MEBIBYTE  # of memory, to refuse what claims 128 MiB and more


def parts() -> tuple[dict, dict[str, bytes]]:
    return content_of({"net": {"net.onnx": brightness()}}, packed(*images()))


def places(value: Any, place: tuple = ()) -> Iterator[tuple]:
    """Where each leaf and each subtree of a JSON value stands."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, held in inner:
        yield (*place, key)
        yield from places(held, (*place, key))


def holder(content: Any, place: tuple) -> Any:
    for key in place[:-1]:
        content = content[key]
    return content


def refusal(path: Path) -> str | None:
    """Why a bundle is refused, in one line; None if it is read."""
    try:
        Bundle(path)
    except BundleError as error:
        said = str(error)
        assert len(said.splitlines()) == 1
        assert len(said) < 1000
        return said
    return None


def small(path: Path, files: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> Path:
    """A bundle without the evaluator."""
    with zipfile.ZipFile(path, "w", compression) as out:
        for name, held in files.items():
            out.writestr(name, held)
    return path


def named(content: dict) -> bytes:
    return json.dumps({**content, "id": identity(content)}).encode()


@pytest.mark.parametrize("place", sorted(places(parts()[0]), key=str), ids=lambda place: ".".join(map(str, place)))
def test_a_wrong_value_anywhere_in_the_manifest_is_refused_or_measured(
    tmp_path: Path, place: tuple, capsys: pytest.CaptureFixture[str]
) -> None:
    content, files = parts()
    for wrong in (*WRONG, "nothing at all"):
        spoilt = copy.deepcopy(content)
        if wrong == "nothing at all":
            del holder(spoilt, place)[place[-1]]
        else:
            holder(spoilt, place)[place[-1]] = wrong
        path = small(tmp_path / "b.pyz", {**files, "manifest.json": named(spoilt)})
        if refusal(path) is None:
            assert main([str(path), "--seconds", "0.001", "--out", str(tmp_path / "r.json")]) in (0, 2)
            assert len(capsys.readouterr().err.splitlines()) <= 1


@pytest.mark.parametrize("wrong", WRONG, ids=str)
def test_a_manifest_that_is_no_object_is_refused(tmp_path: Path, wrong: object) -> None:
    assert refusal(small(tmp_path / "b.pyz", {"manifest.json": json.dumps(wrong).encode()}))


def test_a_manifest_nested_too_deeply_is_refused(tmp_path: Path) -> None:
    assert "cannot be read" in str(refusal(small(tmp_path / "b.pyz", {"manifest.json": b"[" * 100_000})))


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda model, _: model.update(label=3), "models[net].label is 3, and must be a text of one line"),
        (lambda model, _: model.update(name=None), "models[0].name is null, and must be a text of one line"),
        (lambda model, _: model.update(files={}), "models[net].files is an object, and must be a list"),
        (lambda model, _: model.update(runtime="onnxruntime"), 'models[net].runtime is "onnxruntime", and must be an'),
        (lambda model, _: model.update(size_bytes=True), "size_bytes is true, and must be a whole number from 0"),
        (lambda model, _: model.update(size_bytes=1), f"net has {len(brightness()):,} bytes, not 1"),
        (lambda _, sample: sample.update(std=[0.0]), "samples[levels].std[0] is 0.0, and must be a number from 1e-06"),
        (lambda _, sample: sample.update(mean=[-0.5]), "samples[levels].mean[0] is -0.5, and must be a number from 0"),
        (lambda _, sample: sample.update(mean=[NAN]), "samples[levels].mean[0] is NaN, and must be a number from 0"),
        (lambda _, sample: sample.update(mean=[0, 0]), "levels has 1 channels, and needs a mean and a std for each"),
        (lambda _, sample: sample.update(image_shape=[2, 2]), "image_shape is a list of 2, and must be [channels, h"),
        (lambda _, sample: sample.update(image_shape=[1, 2, 1 << 40]), "each from 1 to 16,384"),
        (lambda _, sample: sample.update(classes=[0, 1]), "samples[levels].classes[0] is 0, and must be a text"),
        (lambda _, sample: sample.update(images=6), "are not 6 of 1x2x2 bytes"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, spoil: Callable[[dict, dict], None], said: str) -> None:
    content, files = parts()
    spoil(content["models"][0], content["samples"][0])
    assert said in str(refusal(small(tmp_path / "b.pyz", {**files, "manifest.json": named(content)})))


@pytest.mark.parametrize("kind", ["models", "samples"])
def test_two_of_one_name_are_refused(tmp_path: Path, kind: str) -> None:
    content, files = parts()
    content[kind] *= 2
    path = small(tmp_path / "b.pyz", {**files, "manifest.json": named(content)})
    assert f"two of its {kind} have one name" in str(refusal(path))


@pytest.mark.slow
def test_a_bundle_with_any_byte_changed_or_cut_off_anywhere_is_refused_or_read(tmp_path: Path) -> None:
    content, files = parts()
    whole = small(tmp_path / "whole.pyz", {**files, "manifest.json": named(content)}).read_bytes()
    path = tmp_path / "b.pyz"
    for at in range(len(whole)):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 0xFF]) + whole[at + 1 :])
        refusal(path)
    for at in range(0, len(whole), 7):
        path.write_bytes(whole[:at])
        assert refusal(path)


def test_a_sample_with_any_byte_changed_is_refused_or_read(tmp_path: Path) -> None:
    whole = packed(*images())
    for at in range(len(whole)):
        content, files = content_of(
            {"net": {"net.onnx": b""}}, whole[:at] + bytes([whole[at] ^ 0xFF]) + whole[at + 1 :]
        )
        refusal(small(tmp_path / "b.pyz", {**files, "manifest.json": named(content)}))


def array(shape: tuple[int, ...], dtype: type, numbers: bytes) -> bytes:
    """An array file whose header says ``shape``, whatever follows."""
    out = io.BytesIO()
    header = {"descr": np.lib.format.dtype_to_descr(np.dtype(dtype)), "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(out, header)
    return out.getvalue() + numbers


def bomb(number: int, mebibytes: int = 128) -> bytes:
    """A sample of ``number`` images by its header, whose file unpacks to ``mebibytes``."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as made:
        with made.open("images.npy", "w") as file:
            file.write(array((number, 1, 2, 2), np.uint8, b""))
            for _ in range(mebibytes):
                file.write(bytes(MEBIBYTE))
        made.writestr("labels.npy", array((number,), np.int64, bytes(40)))
    return out.getvalue()


def claiming(archive: bytes, name: bytes, size: int, packed_size: int | None = None) -> bytes:
    """An archive whose directory claims another size for a file."""
    at = archive.rindex(name) - 46  # the entry of the directory before the file's name
    assert archive[at : at + 4] == b"PK\x01\x02"
    found = struct.unpack("<I", archive[at + 20 : at + 24])[0]
    sizes = struct.pack("<II", found if packed_size is None else packed_size, size)
    return archive[: at + 20] + sizes + archive[at + 28 :]


def cheaply_refused(path: Path) -> str:
    tracemalloc.start()
    said = refusal(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < MOST
    return str(said)


NUMBERS = 5 * 4 + len(array((5, 1, 2, 2), np.uint8, b""))


@pytest.mark.parametrize(
    ("sample", "claimed", "said"),
    [
        (lambda: bomb(32 * MEBIBYTE), 32 * MEBIBYTE, "images of levels would take 134,217,728 bytes, and at most 67,1"),
        (lambda: bomb(32 * MEBIBYTE), 5, "are not 5 of 1x2x2 bytes"),
        (lambda: bomb(5), 5, "are not 5 of 1x2x2 bytes"),
        (lambda: claiming(bomb(5), b"images.npy", NUMBERS), 5, "holds no images and labels (Bad CRC-32"),
        (lambda: bomb(10**12, 1), 5, "are not 5 of 1x2x2 bytes"),
        (lambda: bomb(10**12, 1), 10**12, "images of levels would take 4,000,000,000,000 bytes"),
        (lambda: bomb(16 * MEBIBYTE, 1), 16 * MEBIBYTE, "are not 16777216 of 1x2x2 bytes"),
    ],
    ids=["honest", "more images", "more bytes", "less claimed", "far more", "far more, honest", "fewer bytes"],
)
def test_a_sample_that_unpacks_to_far_more_than_it_is_takes_no_memory(
    tmp_path: Path, sample: Callable[[], bytes], claimed: int, said: str
) -> None:
    content, files = content_of({"net": {"net.onnx": brightness()}}, sample())
    content["samples"][0]["images"] = claimed
    path = small(tmp_path / "b.pyz", {**files, "manifest.json": named(content)})
    assert path.stat().st_size < MEBIBYTE
    assert said in cheaply_refused(path)


def test_a_file_that_is_compressed_in_the_bundle_takes_no_memory(tmp_path: Path) -> None:
    content, files = content_of({"net": {"net.onnx": bytes(128 * MEBIBYTE)}}, packed(*images()))
    path = small(tmp_path / "b.pyz", {**files, "manifest.json": named(content)}, zipfile.ZIP_DEFLATED)
    assert "cannot be read (it is compressed, which a bundle's files are not)" in cheaply_refused(path)
    with zipfile.ZipFile(path, "w") as out:
        out.writestr("manifest.json", named(content))
        for name, held in files.items():
            out.writestr(name, held, zipfile.ZIP_DEFLATED)
    assert "net.onnx has a wrong checksum or is not there (it is compressed" in cheaply_refused(path)


def test_a_file_that_claims_more_bytes_than_the_bundle_has_takes_no_memory(tmp_path: Path) -> None:
    content, files = parts()
    path = small(tmp_path / "b.pyz", {**files, "manifest.json": named(content)})
    path.write_bytes(claiming(path.read_bytes(), b"models/net/net.onnx", 1 << 31, 1 << 31))
    assert "it claims to be larger than the bundle" in cheaply_refused(path)


def test_numbers_that_are_objects_are_not_loaded(tmp_path: Path) -> None:
    out = io.BytesIO()
    np.savez(out, images=np.array([{}], object), labels=np.zeros(1, np.int64))
    content, files = content_of({"net": {"net.onnx": brightness()}}, out.getvalue())
    assert refusal(small(tmp_path / "b.pyz", {**files, "manifest.json": named(content)}))


@pytest.mark.parametrize(
    "python", [sys.executable, pytest.param(OLD, marks=pytest.mark.skipif(OLD is None, reason="no 3.6"))]
)
def test_the_evaluator_ends_with_one_line_and_exit_code_2(tmp_path: Path, python: str) -> None:
    content, files = parts()
    (sample,) = content["samples"]
    for changes in ({"std": [0.0]}, {"classes": 2}, {"name": ["levels"]}, {"images": 10**12}):
        path = write(tmp_path / "b.pyz", {**content, "samples": [{**sample, **changes}]}, files)
        done = run(python, str(path), *QUICK, cwd=tmp_path)
        assert (done.returncode, done.stdout) == (2, "")
        assert len(done.stderr.splitlines()) == 1, done.stderr
        assert "b.pyz: its " in done.stderr


@pytest.mark.parametrize(
    "python", [sys.executable, pytest.param(OLD, marks=pytest.mark.skipif(OLD is None, reason="no 3.6"))]
)
def test_a_terminal_that_cannot_write_a_name_is_told_what_helps(tmp_path: Path, python: str) -> None:
    path = bundle(tmp_path / "b.pyz", label="größer")
    done = run(python, str(path), *QUICK, cwd=tmp_path, PYTHONIOENCODING="ascii")
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert "ascii cannot write '\\xf6\\xdf', which is in a name: LC_ALL=C.UTF-8 python3 ..." in done.stderr
