"""Bytes and checksums of files."""

from __future__ import annotations

import gzip
import hashlib
import os
from pathlib import Path

import pytest

from src.metrics.size import parts_of, sha256, size_bytes, size_gzip_bytes
from tests.exported import TARGETS


@pytest.fixture
def parts(tmp_path: Path) -> list[Path]:
    """1,000 zero bytes and 300 random ones."""
    zeros, noise = tmp_path / "zeros.xml", tmp_path / "noise.bin"
    zeros.write_bytes(bytes(1000))
    noise.write_bytes(b"".join(hashlib.sha256(bytes([at])).digest() for at in range(10))[:300])
    return [zeros, noise]


def test_all_parts_count(parts: list[Path]) -> None:
    assert size_bytes(parts) == 1300
    assert size_bytes(parts[:1]) == 1000


def test_zeros_shrink_and_noise_does_not(parts: list[Path]) -> None:
    assert size_gzip_bytes(parts[:1]) < 40
    assert size_gzip_bytes(parts[1:]) >= 300
    assert size_gzip_bytes(parts) == size_gzip_bytes(parts[:1]) + size_gzip_bytes(parts[1:])


def test_gzipped_bytes_are_those_of_level_nine(parts: list[Path], tmp_path: Path) -> None:
    text = tmp_path / "text"
    text.write_bytes(b"".join(f"{at * at} ".encode() for at in range(5000)))
    assert size_gzip_bytes([text]) == len(gzip.compress(text.read_bytes(), 9))
    assert size_gzip_bytes([text]) < len(gzip.compress(text.read_bytes(), 1))


def test_the_age_of_a_file_does_not_matter(parts: list[Path]) -> None:
    before = size_gzip_bytes(parts), sha256(parts)
    os.utime(parts[0], (1, 1))
    assert (size_gzip_bytes(parts), sha256(parts)) == before


def test_the_hash_is_that_of_all_bytes_in_order(parts: list[Path]) -> None:
    joined = b"".join(part.read_bytes() for part in parts)
    assert sha256(parts) == hashlib.sha256(joined).hexdigest()
    assert sha256(parts) != sha256(parts[::-1])


def test_the_parts_of_a_file_are_those_that_its_target_writes_beside_it(tmp_path: Path) -> None:
    file, values = tmp_path / "model.xml", tmp_path / "model.bin"
    file.write_text("")
    assert parts_of(TARGETS["openvino"], file) == (file,)
    values.write_text("")
    assert parts_of(TARGETS["openvino"], file) == (file, values)
    assert parts_of(TARGETS["onnxruntime"], file) == (file,)
