"""A bundle is checked before any of it is used."""

from __future__ import annotations

import hashlib
import json
import zipfile
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest

from src.command.bundling import archive
from src.contracts import Precision, Runtime
from src.device.manifest import Bundle, BundleError, from_format_1, identity
from tests.device.bundles import brightness, bundle, content_of, images, packed, write


def test_a_bundle_gives_back_what_was_packed(tmp_path: Path) -> None:
    read = Bundle(bundle(tmp_path / "b.pyz"))
    pixels, labels = read.sample("levels")
    np.testing.assert_array_equal(pixels, images()[0])
    np.testing.assert_array_equal(labels, images()[1])
    path = read.extract(read.models[0], tmp_path)
    assert path == tmp_path / "net.onnx"
    assert path.read_bytes() == brightness()


def test_a_manifests_id_is_that_of_all_it_says() -> None:
    content = {"format": 1, "models": [], "samples": []}
    assert identity({**content, "id": "anything"}) == identity(content) == "d61a8490787b98c3"
    assert identity({**content, "format": 2}) != identity(content)


def refusing(make: Callable[[dict, dict[str, bytes]], None], tmp_path: Path, sample: bytes | None = None) -> str:
    """The message about a bundle that ``make`` spoilt."""
    content, files = content_of({"net": {"net.onnx": brightness()}}, sample or packed(*images()))
    make(content, files)
    with pytest.raises(BundleError) as caught:
        Bundle(write(tmp_path / "b.pyz", content, files))
    said = str(caught.value)
    assert "\n" not in said
    assert "b.pyz" in said
    return said


def test_another_file_than_the_one_packed_is_refused(tmp_path: Path) -> None:
    def spoil(content: dict, files: dict[str, bytes]) -> None:
        files["models/net/net.onnx"] += b"\0"

    assert "models/net/net.onnx has another checksum" in refusing(spoil, tmp_path)


def test_a_byte_that_changed_in_the_archive_is_refused(tmp_path: Path) -> None:
    path = bundle(tmp_path / "b.pyz")
    content = bytearray(path.read_bytes())
    content[content.index(b"brightness")] ^= 1
    path.write_bytes(content)
    with pytest.raises(BundleError, match=r"models/net/net.onnx has a wrong checksum"):
        Bundle(path)


def test_a_changed_manifest_is_refused(tmp_path: Path) -> None:
    content, files = content_of({"net": {"net.onnx": brightness()}}, packed(*images()))
    changed = {**content, "id": identity(content)}
    changed["samples"][0]["of"] = 5
    (tmp_path / "b.pyz").write_bytes(archive({**files, "manifest.json": json.dumps(changed).encode()}))
    with pytest.raises(BundleError, match="changed after it was written"):
        Bundle(tmp_path / "b.pyz")


@pytest.mark.parametrize(
    "name", ["/etc/net.onnx", "../net.onnx", "models/../../net.onnx", "..\\net.onnx", "C:net.onnx"]
)
def test_a_path_that_leaves_the_bundle_is_refused_though_it_is_there(tmp_path: Path, name: str) -> None:
    def spoil(content: dict, files: dict[str, bytes]) -> None:
        files[name] = files.pop("models/net/net.onnx")
        content["models"][0]["files"][0]["file"] = name

    assert f"outside the bundle: {name}" in refusing(spoil, tmp_path)


def test_a_file_that_is_missing_is_named(tmp_path: Path) -> None:
    assert "models/net/net.onnx" in refusing(lambda _, files: files.pop("models/net/net.onnx"), tmp_path)


def test_an_empty_sample_is_refused(tmp_path: Path) -> None:
    pixels, labels = images()
    assert "are not 5 of 1x2x2 bytes" in refusing(lambda *_: None, tmp_path, packed(pixels[:0], labels[:0]))


@pytest.mark.parametrize("label", [-1, 2])
def test_a_label_of_no_class_is_refused(tmp_path: Path, label: int) -> None:
    pixels, labels = images()
    assert "is not in 0 ... 1" in refusing(
        lambda *_: None, tmp_path, packed(pixels, np.where(labels == 1, label, labels))
    )


def test_images_of_another_shape_are_refused(tmp_path: Path) -> None:
    pixels, labels = images()
    assert "are not 5 of 1x2x2 bytes" in refusing(lambda *_: None, tmp_path, packed(pixels[:, :, :1], labels))
    assert "are not 5 of 1x2x2 bytes" in refusing(lambda *_: None, tmp_path, packed(pixels.astype(np.float32), labels))


def test_fewer_labels_than_images_are_refused(tmp_path: Path) -> None:
    pixels, labels = images()
    assert "a label of" in refusing(lambda *_: None, tmp_path, packed(pixels, labels[:-1]))


def test_a_sample_that_is_no_array_file_is_refused(tmp_path: Path) -> None:
    assert "holds no images and labels" in refusing(lambda *_: None, tmp_path, b"no arrays")


def test_a_model_of_an_unknown_sample_is_refused(tmp_path: Path) -> None:
    def spoil(content: dict, files: dict[str, bytes]) -> None:
        content["models"][0]["sample"] = "nowhere"

    assert "a test sample nowhere" in refusing(spoil, tmp_path)


def test_a_bundle_without_models_is_refused(tmp_path: Path) -> None:
    assert "no model" in refusing(lambda content, _: content.update(models=[]), tmp_path)


def test_a_key_that_is_not_there_is_named(tmp_path: Path) -> None:
    assert "image_shape" in refusing(lambda content, _: content["samples"][0].pop("image_shape"), tmp_path)


def test_a_runtime_without_the_key_of_its_provider_is_refused(tmp_path: Path) -> None:
    assert "provider" in refusing(lambda content, _: content["models"][0]["runtime"].pop("provider"), tmp_path)


def test_another_format_is_refused(tmp_path: Path) -> None:
    said = refusing(lambda content, _: content.update(format=3), tmp_path)
    assert said.endswith("its manifest.json is of format 3; formats 1 to 2 can be read")


@pytest.mark.parametrize(
    ("text", "name", "provider", "stands_in_for"),
    [
        ("openvino", "openvino", None, None),
        ("onnxruntime with CUDAExecutionProvider", "onnxruntime", "CUDAExecutionProvider", None),
        ("onnxruntime for tensorrt", "onnxruntime", None, "tensorrt"),
    ],
)
@pytest.mark.parametrize(
    ("precision", "computes"),
    [
        ("float32", ["float32"]),
        ("float32, int8 and float16 stored", ["float32"]),
        ("int8 and bf16, float16 stored", ["int8", "bf16"]),
    ],
)
def test_the_text_of_format_1_becomes_values(
    text: str, name: str, provider: str | None, stands_in_for: str | None, precision: str, computes: list[str]
) -> None:
    found = from_format_1({"label": "net", "runtime": text, "precision": precision})
    runtime = {"name": name, "provider": provider, "stands_in_for": stands_in_for}
    assert found == {"label": "net", "runtime": runtime, "precision": precision, "computes": computes}


def test_values_of_format_2_and_text_of_format_1_say_the_same() -> None:
    """The text is what ``str`` makes of a row's values."""
    for runtime in (Runtime("tflite"), Runtime("onnxruntime", "X"), Runtime("onnxruntime", stands_in_for="tensorrt")):
        for precision in (Precision(("float32",), ("int8", "float16")), Precision(("int8", "bf16"))):
            found = from_format_1({"runtime": str(runtime), "precision": str(precision)})
            assert found["runtime"] == asdict(runtime)
            assert found["computes"] == list(precision.computes)


def test_a_bundle_of_format_1_is_still_read(tmp_path: Path) -> None:
    content, files = content_of({"net": {"net.onnx": brightness()}}, packed(*images()))
    (model,) = content["models"]
    del model["computes"]
    model |= {"runtime": "onnxruntime for tensorrt", "precision": "int8, float16 stored"}
    (read,) = Bundle(write(tmp_path / "b.pyz", {**content, "format": 1}, files)).models
    assert read["runtime"] == {"name": "onnxruntime", "provider": None, "stands_in_for": "tensorrt"}
    assert (read["computes"], read["precision"]) == (["int8"], "int8, float16 stored")


def test_a_file_that_is_no_archive_is_refused(tmp_path: Path) -> None:
    (tmp_path / "b.pyz").write_text("no archive")
    with pytest.raises(BundleError, match="is no bundle"):
        Bundle(tmp_path / "b.pyz")


def test_an_archive_of_something_else_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "b.pyz", "w") as other:
        other.writestr("__main__.py", "")
    with pytest.raises(BundleError, match=r"is no bundle: its manifest.json cannot be read"):
        Bundle(tmp_path / "b.pyz")


def test_the_checksum_is_sha256(tmp_path: Path) -> None:
    read = Bundle(bundle(tmp_path / "b.pyz"))
    assert read.models[0]["files"][0]["sha256"] == hashlib.sha256(brightness()).hexdigest()
