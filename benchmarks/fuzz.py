"""Packed files with random changes: nothing but whole tensors or one DnncError.

``python -m benchmarks.fuzz [--seconds 600] [--seed 0]``

The golden files of the tests are changed, cut and mixed, mostly with a right checksum so that the readers behind it are
reached; each is read, and its graph, if it has one, written as an ONNX file. Prints how many inputs there were.
"""

from __future__ import annotations

import argparse
import collections
import random
import resource
import time
import zlib
from pathlib import Path

import numpy as np

from src.coding.container import unpack
from src.coding.errors import DnncError
from src.device.packed_graph import onnx_bytes
from src.device.packed_streams import PackedError

GOLDEN = Path(__file__).parent.parent / "tests" / "coding" / "golden"


def changed(files: list[bytes], draws: random.Random) -> bytes:
    """A file with some bytes changed, inserted, left out, cut off or taken from another file."""
    content = bytearray(draws.choice(files)[:-4])
    for _ in range(draws.choice([1, 1, 1, 2, 4, 16])):
        if len(content) < 16:
            break
        at, kind = draws.randrange(len(content)), draws.random()
        if kind < 0.6:
            content[at] = draws.choice([draws.randrange(256), 0, 127, 128, 255, content[at] ^ 1 << draws.randrange(8)])
        elif kind < 0.7:
            content[at:at] = bytes(draws.randrange(256) for _ in range(draws.randrange(1, 9)))
        elif kind < 0.8:
            del content[at : at + draws.randrange(1, 9)]
        elif kind < 0.9:
            del content[max(8, at) :]
        else:
            other = draws.choice(files)
            content[at : at + 64] = other[at : at + 64]
    return bytes(content) + (zlib.crc32(content).to_bytes(4, "little") if draws.random() < 0.95 else b"none")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    draws, outcomes, slowest = random.Random(arguments.seed), collections.Counter[str](), 0.0
    files = [path.read_bytes() for path in sorted(GOLDEN.glob("*.dnnc"))]
    for content in files:
        unpack(content)  # numba compiles
    end = time.monotonic() + arguments.seconds
    while time.monotonic() < end:
        content, start = changed(files, draws), time.process_time()
        try:
            found = unpack(content)
            assert all(tensor.bits.size == np.prod(tensor.shape, dtype=object) for tensor in found.tensors.values())
            outcomes["whole tensors"] += 1
            onnx_bytes(found)
        except (DnncError, PackedError) as error:
            outcomes["one line" if "\n" not in str(error) else "several lines"] += 1
        slowest = max(slowest, time.process_time() - start)
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"{sum(outcomes.values()):,} outcomes: {dict(outcomes)}; slowest {slowest:.2f} s; peak {memory:.0f} MiB")


if __name__ == "__main__":
    main()
