"""The tutorial as it stands in the docs, with fewer images: a trainer's checkpoint goes to four runtimes."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest

from tests.commands import Commands

ROOT = Path(__file__).parent.parent
SMALL = [
    *("data.train_images=300", "data.test_images=60", "data.calibration_images=30", "method.fine_tune.epochs=1"),
    *("timing.seconds=0.02", "timing.rounds=2", "timing.largest_batch=2"),
]


@pytest.mark.slow
def test_a_timm_network_of_a_trainers_checkpoint_goes_to_four_runtimes_by_the_docs_command(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    text = (ROOT / "docs" / "tutorial.md").read_text().partition("\n## From a camera's")[0]
    script = text.split("```python\n# train.py\n")[1].split("```")[0]
    command = text.split("$ python -m src.run ")[1].split("\n```")[0].split("\n$")[0].replace("\\\n", " ")
    monkeypatch.chdir(tmp_path)
    few, changed = re.subn(r"EPOCHS, IMAGES, SIDE = 12, 4000, 64", "EPOCHS, IMAGES, SIDE = 1, 200, 64", script)
    assert changed == 1
    exec(compile(few, "train.py", "exec"), {})
    overrides = shlex.split(command.split("\n")[0])

    said, folder = Commands(tmp_path, capfd, monkeypatch).run(*overrides, *SMALL)

    assert said.code == 0, said.err
    assert "checkpoint.pth: " in said.out  # what was done with the checkpoint is said
    rows = json.loads((folder / "results.json").read_text())["rows"]
    made = {(row["variant"], row["target"]) for row in rows}
    targets = ("onnxruntime", "openvino", "tflite", "torch")
    assert made == {(variant, target) for variant in ("baseline", "prune_channels") for target in targets}
    for row in rows:
        assert row["agreement"] == 1.0, row["target"]
        assert row["logit_difference_max"] <= 1e-4 * row["logit_range"], row["target"]
    macs = {row["variant"]: row["macs"] for row in rows if row["target"] == "onnxruntime"}
    assert macs["prune_channels"] < 0.8 * macs["baseline"]
