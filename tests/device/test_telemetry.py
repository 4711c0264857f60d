"""No library sends anything by itself, and none leaves an identifier in the user's home."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.device import no_network
from tests.device.bundles import bundle

ROOT = Path(__file__).parents[2]
PYTHON = sys.executable
LIBRARIES = """
import src
from mlflow.telemetry.utils import is_telemetry_disabled
from huggingface_hub.constants import HF_HUB_DISABLE_TELEMETRY
from ray._common.usage.usage_lib import usage_stats_enabled
from nncf.telemetry.wrapper import NNCFTelemetryStub, telemetry
from openvino.tools.ovc import telemetry as of_openvino
assert is_telemetry_disabled() and HF_HUB_DISABLE_TELEMETRY and not usage_stats_enabled()
assert isinstance(telemetry, NNCFTelemetryStub) and "stub" in type(of_openvino).__module__
"""
PIPELINE = "stages: {one: {cmd: python -c 'print(1)'}}"
# What libraries keep in the user's home; nothing of it names user or machine.
EXPECTED = (".cache/matplotlib/",)  # the list of installed fonts


def environment(home: Path) -> dict[str, str]:
    """A user's: without the variables that say CI, for libraries send nothing from there, and with a new home."""
    path = f"{Path(PYTHON).parent}{os.pathsep}{os.environ['PATH']}"
    kept = {"PATH": path, "PYTHONPATH": str(ROOT), "HOME": str(home)}
    return {**kept, "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}


def alone(folder: Path, *commands: list[str]) -> list[dict[str, Any]]:
    """What became of ``commands`` in ``folder``, with a new home beside it, where the network is refused."""
    home, record = folder / "home", folder / "record.json"
    home.mkdir(exist_ok=True)
    namespace = ["unshare", "--net", *([] if os.getuid() == 0 else ["--user", "--map-root-user"])]
    if shutil.which("unshare") is None or subprocess.run([*namespace, "true"], capture_output=True).returncode != 0:
        pytest.skip("this machine does not let us make a network of our own (unshare --net)")
    script = [PYTHON, no_network.__file__, str(record), json.dumps(commands)]
    subprocess.run([*namespace, *script], cwd=folder, env=environment(home), check=True, timeout=280)
    return json.loads(record.read_text())


def test_what_is_tried_is_counted(tmp_path: Path) -> None:
    """The scale itself: an address, a name, and the machine's own, which may be used."""
    connect = "import socket; socket.socket().connect(({!r}, 80))"
    ask = "import socket; socket.getaddrinfo('example.org', 80)"
    own = "import socket; s = socket.create_server(('127.0.0.1', 0)); socket.create_connection(s.getsockname())"
    address, name, local = alone(tmp_path, *([PYTHON, "-c", code] for code in (connect.format("192.0.2.1"), ask, own)))
    assert (address["refused"] > 0, name["refused"] > 0, local["refused"], local["code"]) == (True, True, 0, 0)


@pytest.mark.parametrize(("given", "kept"), [({}, "1"), ({"ORT_DISABLE_TELEMETRY": "0"}, "0")], ids=["", "the user's"])
def test_what_the_user_has_set_is_left_as_it_is(given: dict[str, str], kept: str, tmp_path: Path) -> None:
    code = "import src, os; print(os.environ['ORT_DISABLE_TELEMETRY'])"
    command = [PYTHON, "-c", code]
    said = subprocess.run(command, env={**environment(tmp_path), **given}, capture_output=True, text=True, check=True)
    assert said.stdout.strip() == kept


@pytest.mark.slow
def test_each_library_says_that_it_sends_nothing(tmp_path: Path) -> None:
    command = [PYTHON, "-c", LIBRARIES]
    said = subprocess.run(command, env=environment(tmp_path), capture_output=True, text=True, check=False)
    assert said.returncode == 0, said.stderr


@pytest.mark.slow
def test_no_command_tries_to_send_anything_or_leaves_an_identifier(tmp_path: Path) -> None:
    """Training, NNCF, every runtime, MLflow, the evaluator of a board, and DVC."""
    run = [PYTHON, "-m", "src.run", "method=prune_quantize", "target=[onnxruntime,openvino,tflite,torch]"]
    run += [
        "training.epochs=1",
        "model.blocks=[[8],[16]]",
        "model.dense=32",
        "training.threads=1",
        "timing.seconds=0.1",
    ]
    run += ["hydra.run.dir=run", "hydra.sweep.dir=run", f"tracking.uri=sqlite:///{tmp_path}/mlflow.db"]
    board = [PYTHON, str(bundle(tmp_path / "board.pyz")), "--seconds", "0.02"]
    shutil.copytree(ROOT / ".dvc", tmp_path / ".dvc", ignore=lambda *_: {"cache", "tmp", "config.local"})
    (tmp_path / "dvc.yaml").write_text(PIPELINE)
    setup = ["git", "init", "--quiet"]
    found = alone(tmp_path, setup, run, board, ["dvc", "repro"])
    assert [each["code"] for each in found] == [0] * 4, [each["said"] for each in found]
    assert [each["refused"] for each in found] == [0] * 4, "strace -f -e trace=network COMMAND shows to whom"
    home = tmp_path / "home"
    left = {str(path.relative_to(home)) for path in home.rglob("*") if path.is_file()}
    assert {path for path in left if not path.startswith(EXPECTED)} == set()
