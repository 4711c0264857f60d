"""NNCodec on the tensors of an .npz file, in a virtual environment of its own.

``PEER_PYTHON benchmarks/nncodec_peer.py weights.npz QP FOLDER`` writes ``FOLDER/QP.npz`` (what it decodes) and prints a
JSON object: bytes of its stream, seconds of coding and decoding. Its own quantizer, dependent quantization on.
"""

from __future__ import annotations

import importlib
import json
import sys
import time
from pathlib import Path

import numpy as np


def main() -> None:
    source, qp, folder = Path(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])
    nnc = importlib.import_module("nncodec.nnc")
    weights = dict(np.load(source))
    start = time.perf_counter()
    stream = nnc.compress(weights, bitstream_path=str(folder / f"{qp}.nnc"), qp=qp, use_dq=True, return_bitstream=True)
    coded = time.perf_counter()
    decoded = nnc.decompress(stream)
    seconds = (coded - start, time.perf_counter() - coded)
    np.savez(folder / f"{qp}.npz", **decoded)
    print(json.dumps({"bytes": len(stream), "encode_s": seconds[0], "decode_s": seconds[1]}))


if __name__ == "__main__":
    main()
