"""The packed file: the same tensors to the bit in every profile, one line for whatever is no such file."""

from __future__ import annotations

import contextlib
import random
import time
import tracemalloc
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from src.coding.container import entry_bytes, pack, read, tensor_of, unpack
from src.coding.errors import DnncError
from src.device import packed
from src.device.packed import PROFILES, Entry, Tensor
from tests.coding.examples import network, pruned, shared

GOLDEN = Path(__file__).parent / "golden"


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    """Whether two sets of tensors are the same: names in order, types, shapes, every bit."""
    return list(one) == list(other) and all(
        (one[name].dtype, one[name].shape) == (other[name].dtype, other[name].shape)
        and one[name].bits.tobytes() == other[name].bits.tobytes()
        for name in one
    )


def sealed(content: bytes) -> bytes:
    """Content with the checksum of the file that it should have."""
    return content[:-4] + zlib.crc32(content[:-4]).to_bytes(4, "little")


@pytest.mark.parametrize("profile", PROFILES)
def test_every_tensor_comes_back_to_the_bit(profile: str) -> None:
    tensors = network()
    found = unpack(pack(tensors, profile, card=b'{"a":1}', graph=b"graph"))
    assert same(found.tensors, tensors)
    assert (found.profile, found.card, found.graph) == (profile, b'{"a":1}', b"graph")


ELEMENTS = {"<f4": st.floats(width=32), "<i8": st.integers(-(2**63), 2**63 - 1), "|i1": st.integers(-3, 3)}


@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize("dtype", ELEMENTS)
@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_any_array_comes_back_to_the_bit(profile: str, dtype: str, data: st.DataObject) -> None:
    shape = data.draw(arrays.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=6))
    few = data.draw(st.lists(ELEMENTS[dtype], min_size=1, max_size=4))
    elements = data.draw(st.sampled_from([ELEMENTS[dtype], st.sampled_from(few)]))
    tensors = {"x": tensor_of(data.draw(arrays.arrays(dtype, shape, elements=elements)))}
    assert same(unpack(pack(tensors, profile)).tensors, tensors)


@pytest.mark.parametrize("share", [0.05, 0.3])
def test_a_lenet_with_15_shared_values_takes_at_most_its_zero_order_entropy(share: float) -> None:
    from src.coding.stat import zero_order_bytes

    shapes = {"fc1": (300, 784), "fc2": (100, 300), "fc3": (10, 100)}
    tensors = {f"{name}.weight": tensor_of(shared(pruned(*shape, share), 15)) for name, shape in shapes.items()}
    entropy = sum(zero_order_bytes(tensor)[0] for tensor in tensors.values())
    assert len(pack(tensors, "small")) < 1.0 * entropy


def test_empty_rows_and_columns_cost_almost_nothing() -> None:
    inner = shared(pruned(40, 60, 0.2), 7)
    outer = np.zeros((100, 300), np.float32)
    outer[30:70, 120:180] = inner
    for profile in ("fast", "small"):
        with_border, without = (len(pack({"w": tensor_of(each)}, profile)) for each in (outer, inner))
        assert with_border < 1.1 * without + 20


def test_many_zeros_fill_the_file_up_to_what_its_length_may_hold() -> None:
    tensors = {"x": tensor_of(np.zeros((3000, 4000), np.float32))}
    content = pack(tensors, "fast")
    assert packed.FREE_BYTES + packed.EXPANSION * len(content) >= 48e6
    assert same(unpack(content).tensors, tensors)


@pytest.mark.parametrize("name", ["../x", "a/../../b", "a\\..\\b", "a\nb", "\0"])
def test_a_name_that_leaves_its_folder_is_refused(name: str) -> None:
    with pytest.raises(DnncError, match="cannot hold"):
        pack({name: tensor_of(np.zeros(1))}, "fast")


def hostile(entry: Entry) -> bytes:
    """A file whose only tensor is what ``entry`` says, without content."""
    deflater = zlib.compressobj(9, zlib.DEFLATED, -15, 9, zlib.Z_DEFAULT_STRATEGY, packed.WORDS)
    raw = bytes([len(entry.name)]) + entry.name.encode() + b"\0"
    deflated = deflater.compress(raw) + deflater.flush()
    head = b"DNNC" + bytes([1, packed.SMALL, len(raw), len(deflated)]) + deflated + b"\1" + entry_bytes(entry)
    return sealed(head + b"\0\0\0\0" + b"sum!")


@pytest.mark.parametrize(
    ("entry", "says"),
    [
        (Entry("w", "F32", (10**6, 10**6), 0, packed.CODEBOOK, (1, 1)), "claims 4,000,000,000,000 bytes"),
        (Entry("../w", "F32", (2,), 0, packed.RAW, (1, 1)), "name that is not allowed"),
        (Entry("w", "F32", (4, 4), 0, packed.UNIFORM, (3, 9)), "plane that does not divide"),
        (Entry("w", "F16", (4, 4), 0, packed.UNIFORM, (1, 1)), "cannot have uniform levels"),
        (Entry("w", "F32", (2, 350, 350), 7, packed.SPARSE, (1, 1)), "checksum is wrong|cut off"),
    ],
)
def test_what_a_file_claims_is_refused_in_one_line_and_takes_no_memory(entry: Entry, says: str) -> None:
    content = hostile(entry)
    unpack(pack({"w": tensor_of(np.eye(3, dtype=np.float32))}, "small"))  # numba compiles
    tracemalloc.start()
    start = time.process_time()
    with pytest.raises(DnncError, match=says) as refused:
        unpack(content)
    assert "\n" not in str(refused.value)
    assert time.process_time() - start < 4
    assert tracemalloc.get_traced_memory()[1] < 50e6
    tracemalloc.stop()


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "no packed file"),
        (b"PK\3\4" + bytes(100), "no packed file"),
        (b"DNNC", "cut off"),
        (b"DNNC\2" + bytes(20), "version 2"),
    ],
)
def test_another_format_or_a_later_version_is_named(content: bytes, says: str) -> None:
    with pytest.raises(DnncError, match=says):
        unpack(content)


@pytest.mark.parametrize("profile", PROFILES)
def test_a_file_that_was_cut_off_or_has_a_flipped_bit_is_refused(profile: str) -> None:
    content = pack({"w": tensor_of(shared(pruned(20, 50, 0.2), 7))}, profile)
    for length in range(len(content)):
        with pytest.raises(DnncError):
            unpack(content[:length])
    for place in range(len(content)):
        wrong = bytearray(content)
        wrong[place] ^= 1 << place % 8
        with pytest.raises(DnncError):
            unpack(bytes(wrong))


@pytest.mark.slow
@pytest.mark.parametrize("profile", PROFILES)
def test_random_changes_with_a_right_checksum_give_that_error_or_whole_tensors(profile: str) -> None:
    tensors = network()
    content = pack(tensors, profile)
    draws = random.Random(0)
    for _ in range(300):
        wrong = bytearray(content)
        for _ in range(draws.choice([1, 1, 2, 8])):
            wrong[draws.randrange(5, len(wrong))] = draws.randrange(256)
        with contextlib.suppress(DnncError):
            found = unpack(sealed(bytes(wrong)))
            assert all(tensor.bits.size == int(np.prod(tensor.shape)) for tensor in found.tensors.values())


def test_golden_files_of_version_1_stay_readable() -> None:
    expected = network()
    files = sorted(GOLDEN.glob("*.dnnc"))
    assert {path.stem for path in files} == set(PROFILES)
    for path in files:
        assert same(read(path).tensors, expected), path
