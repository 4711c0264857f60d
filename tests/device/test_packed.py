"""The board's reader of packed files: numpy and Python 3.6 alone."""

from __future__ import annotations

import shutil
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest

from src.coding.container import pack, tensor_of
from src.device.packed import PROFILES, read
from src.device.packed_streams import PackedError
from tests.coding.examples import network, pruned, shared

GOLDEN = Path(__file__).parent.parent / "coding" / "golden"
DEVICE = Path(__file__).parent.parent.parent / "src" / "device"


@pytest.mark.parametrize("profile", ["fast", "board"])
def test_numpy_reads_what_the_workbench_wrote(profile: str) -> None:
    found = read(GOLDEN / f"{profile}.dnnc")
    for name, tensor in network().items():
        assert found.tensors[name].bits.tobytes() == tensor.bits.tobytes()


@pytest.mark.parametrize("profile", sorted(set(PROFILES) - {"fast", "board"}))
def test_profiles_that_need_the_workbench_are_named(profile: str) -> None:
    with pytest.raises(PackedError, match=f"'{profile}' is read by the workbench only"):
        read(GOLDEN / f"{profile}.dnnc")


def test_a_dense_layer_of_a_million_weights_is_read_in_under_ten_seconds(tmp_path: Path) -> None:
    weights = shared(pruned(120, 9216, 0.05), 15)
    (tmp_path / "net.dnnc").write_bytes(pack({"fc1.weight": tensor_of(weights)}, "board"))
    start = time.perf_counter()
    assert np.array_equal(read(tmp_path / "net.dnnc").tensors["fc1.weight"].bits, weights.reshape(-1).view(np.uint32))
    assert time.perf_counter() - start < 10


def test_python_36_reads_it(tmp_path: Path) -> None:
    python = shutil.which("python3.6")
    if python is None or subprocess.run([python, "-c", "import numpy"], capture_output=True, check=False).returncode:
        pytest.skip("there is no Python 3.6 with numpy")
    shutil.copytree(DEVICE, tmp_path / "device")
    program = (
        "from pathlib import Path; from device.packed import read\n"
        f"print(len(read(Path({str(GOLDEN / 'board.dnnc')!r})).tensors))"
    )
    done = subprocess.run([python, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.stdout.strip() == str(len(network())), done.stderr
