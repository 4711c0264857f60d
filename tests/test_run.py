"""The main command as a user sees it, on real digits and a network that trains in a second."""

from __future__ import annotations

import gzip
import hashlib
import json
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from safetensors.numpy import load_file

from src.contracts import Row
from tests.commands import Commands

FAST = ["training.epochs=2", "training.batch_size=128", "model.blocks=[[8],[16]]", "model.dense=256"]
COLUMNS = set(Row.__dataclass_fields__)


@pytest.fixture
def commands(tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Commands:
    return Commands(tmp_path, capfd, monkeypatch)


def rows_of(folder: Path) -> list[dict]:
    return json.loads((folder / "results.json").read_text())["rows"]


def test_a_run_writes_rows_whose_numbers_are_those_of_the_files(commands: Commands) -> None:
    said, folder = commands.run("method=prune_quantize", "target=[onnxruntime,openvino]", *FAST)
    assert said.code == 0, said.err
    rows = rows_of(folder)
    assert [(row["variant"], row["target"]) for row in rows] == [
        ("baseline", "onnxruntime"),
        ("baseline", "openvino"),
        ("prune_quantize", "onnxruntime"),
        ("prune_quantize", "openvino"),
    ]
    from src.data.digits import Digits

    splits = Digits(
        root="data",
        sha256=None,
        test_share=0.2,
        validation_share=0.15,
        calibration_images=200,
        split_seed=0,
        mean=[0.3064],
        std=[0.3763],
        augmentation=None,
    ).load()
    images = ((splits.test.images.numpy() / 255 - 0.3064) / 0.3763).astype(np.float32)
    for row in rows:
        assert set(row) == COLUMNS
        parts = [folder / row["artifact"]]
        parts += [parts[0].with_suffix(".bin")] if row["runtime"]["name"] == "openvino" else []
        written = [part.read_bytes() for part in parts]
        assert row["sha256"] == hashlib.sha256(b"".join(written)).hexdigest()
        assert row["size_bytes"] == sum(map(len, written))
        assert row["size_gzip_bytes"] == sum(len(gzip.compress(part, 9, mtime=0)) for part in written)
        base = next(b for b in rows if b["variant"] == "baseline" and b["target"] == row["target"])
        assert row["compression_ratio"] == base["size_bytes"] / row["size_bytes"]
        if row["runtime"]["name"] == "onnxruntime":
            options = onnxruntime.SessionOptions()
            options.add_session_config_entry("session.x64quantprecision", "1")  # exact on processors without VNNI, too
            session = onnxruntime.InferenceSession(str(parts[0]), options)
            hits = session.run(None, {"image": images})[0].argmax(1) == splits.test.labels.numpy()
            assert row["accuracy"] == hits.mean()
    assert [row["precision"]["computes"] for row in rows] == [["float32"], ["float32"], ["int8"], ["int8"]]
    assert rows[2]["size_bytes"] < 0.5 * rows[0]["size_bytes"]
    assert rows[2]["nonzero_parameters"] < 0.35 * rows[2]["parameters"]
    assert all(row["latency_ms_p50"] <= row["latency_ms_p95"] for row in rows)
    metrics = json.loads((folder / "metrics.json").read_text())
    assert metrics["prune_quantize"]["onnxruntime"]["accuracy"] == rows[2]["accuracy"]
    for name in ("config.yaml", "run.log"):
        assert (folder / name).stat().st_size > 0
    assert "prune_quantize" in said.out
    assert "Written:" in said.out
    assert "Warning" not in said.out + said.err


@pytest.mark.slow
def test_the_same_run_is_found_again_and_a_refresh_makes_it_anew(commands: Commands) -> None:
    arguments = ["method=quantize_int8", *FAST]
    _, first = commands.run(*arguments)
    started = time.perf_counter()
    said, second = commands.run(*arguments)
    assert time.perf_counter() - started < 10
    assert "baseline found again" in said.out
    assert "quantize_int8 found again" in said.out
    assert "files found again" in said.out
    assert rows_of(first) == rows_of(second)
    file = "baseline.onnxruntime.onnx"
    assert (first / file).read_bytes() == (second / file).read_bytes()
    said, third = commands.run(*arguments, "refresh=true")
    assert "found again" not in said.out
    assert rows_of(third)[0]["measured_at"] >= rows_of(first)[0]["measured_at"]


def test_another_fine_tuning_leaves_the_baseline_as_found(commands: Commands) -> None:
    commands.run("method=prune_magnitude", *FAST)
    said, _ = commands.run("method=prune_magnitude", "method.fine_tune.epochs=1", "method.sparsity=0.5", *FAST)
    assert "baseline found again" in said.out
    assert "prune_magnitude compressed" in said.out


def test_the_command_in_the_results_makes_the_run_again(commands: Commands) -> None:
    _, folder = commands.run("method=baseline", "seed=3", *FAST)
    result = json.loads((folder / "results.json").read_text())
    assert result["seed"] == 3
    assert result["command"].startswith("python -m src.run method=baseline seed=3 training.epochs=2")
    again = [word for word in result["command"].split()[3:] if not word.startswith("hydra.run.dir")]
    import shlex

    said = commands.call("run", *shlex.split(" ".join(again)), f"hydra.run.dir={commands.folder / 'again'}")
    assert said.code == 0
    assert "baseline found again" in said.out


def test_a_missed_budget_exits_with_4_and_says_by_how_much(commands: Commands) -> None:
    said, folder = commands.run("method=prune_magnitude", "budget.size_bytes=100", *FAST)
    assert said.code == 4
    assert "allowed are 100" in said.out
    assert len(rows_of(folder)) == 2
    said, _ = commands.run("method=prune_magnitude", "budget.size_bytes=10000000", *FAST)
    assert said.code == 0


@pytest.mark.slow
def test_a_failed_member_does_not_stop_the_others(commands: Commands) -> None:
    said, folder = commands.run("-m", "method=baseline,chain,quantize_int8", *FAST)
    assert said.code == 1
    survey = json.loads((folder / "survey.json").read_text())
    assert [row["variant"] for row in survey["rows"]] == ["baseline", "quantize_int8"]
    assert [failure["reason"] for failure in survey["failed"]] == [
        "method.name is missing: a chain's rows are called by it (method.name=…)"
    ]
    assert "[2/3] failed: method.name is missing" in said.err
    assert "Failed: 1_chain" in said.out


def test_several_seeds_give_mean_and_spread(commands: Commands) -> None:
    said, folder = commands.run("-m", "method=baseline", "seed=0,1", *FAST)
    assert said.code == 0
    rows = json.loads((folder / "survey.json").read_text())["rows"]
    assert [row["seed"] for row in rows] == [0, 1]
    mean = 50 * (rows[0]["accuracy"] + rows[1]["accuracy"])
    line = next(line for line in said.out.splitlines() if line.startswith("baseline x2"))
    assert f"{mean:.2f} ± " in line


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (["+experiment=cifar_prun"], "Did you mean cifar_prune"),
        (["method=prune_magnitud"], "Did you mean prune_magnitude"),
        (["method=prune_magnitude", "method.sparsty=0.5"], "Did you mean sparsity"),
        (["method=prune_magnitude", "method.sparsity=1.0"], "method.sparsity must be in [0, 1), and is 1.0"),
        (["method=prune_magnitude", "method.sparsity=-0.1"], "method.sparsity must be in [0, 1), and is -0.1"),
        (["method=prune_magnitude", "method.sparsity=much"], "method.sparsity must be a number, and is 'much'"),
        (["method=chain"], "method.name is missing"),
        (["data=image_folder"], "data.root must be given"),
        (["data=image_folder", "data.root=/nowhere"], "there is no folder /nowhere"),
        (["data=cifar10", "model=cifar_cnn", "data.root=/proc/none"], "Three ways out"),
        (["model=custom"], "model._target_ must be given"),
        (["model=custom", "model._target_=nets.Leaf"], "nets.Leaf cannot be imported"),
        (["model=custom", "model._target_=torchvision.models.resnet18"], "images of 1 channel"),
        (["model=vgg16"], "shrink an image of 8x8 to nothing"),
        (["model.weights=/nowhere.safetensors"], "there is no file /nowhere.safetensors"),
        (["training.precision=int4"], "training.precision must be one of auto, bf16, float32"),
        (["training.epochs=0"], "training.epochs must be at least 1"),
        (["+training.optimizer.speed=1"], "has no setting 'speed'"),
        (["training.optimizer.lr=-1"], "training.optimizer.lr must be a finite number above 0, and is -1"),
        (["budget.size_bytes=-5"], "budget.size_bytes must be more than 0"),
        (["seed=abc"], "seed must be a whole number"),
        (["target=[tflit]"], "There is no target 'tflit'"),
        (["colour=red"], "There is no key 'colour'"),
        (["artifacts=/dev/null/x"], "/dev/null/x"),
        (["tracking=mlflow", "tracking.uri=http://127.0.0.1:9"], "Nothing answers at tracking.uri=http://127.0.0.1:9"),
    ],
)
def test_bad_input_gets_one_line_and_leaves_nothing(commands: Commands, overrides: list[str], says: str) -> None:
    out = commands.folder / "out"
    where = [f"hydra.run.dir={out}"]
    where += [] if any(o.startswith("artifacts") for o in overrides) else [f"artifacts={commands.artifacts}"]
    where += [] if any(o.startswith("tracking") for o in overrides) else ["tracking=off"]
    said = commands.call("run", *overrides, *where)
    assert said.code == 2, said
    assert says in said.err
    assert len(said.err.splitlines()) == 1
    assert "Traceback" not in said.out + said.err
    assert not out.exists()
    assert not list(commands.artifacts.rglob("*.safetensors"))


def test_an_output_folder_that_cannot_be_written_gets_one_line(commands: Commands) -> None:
    said = commands.call("run", "method=baseline", "hydra.run.dir=/dev/null/x", "tracking=off")
    assert said.code == 2
    assert said.err == "/dev/null/x: Not a directory\n"


def test_weights_that_do_not_fit_are_refused_before_training(commands: Commands, tmp_path: Path) -> None:
    from safetensors.numpy import save_file

    save_file({"features.0.weight": np.zeros((8, 1, 3, 3), np.float32)}, tmp_path / "few.safetensors")
    said, _ = commands.run(f"model.weights={tmp_path / 'few.safetensors'}", *FAST)
    assert said.code == 2
    assert "does not fit the model" in said.err
    assert "is missing" in said.err


def test_given_weights_are_the_baseline_as_they_are(commands: Commands) -> None:
    _, first = commands.run("method=baseline", *FAST)
    stage = commands.artifacts / rows_of(first)[0]["identity"]
    said, second = commands.run("method=quantize_int8", f"model.weights={stage / 'weights.safetensors'}", *FAST)
    assert said.code == 0, said.err
    assert rows_of(second)[0]["weights_kept"] == "as given"
    assert rows_of(second)[0]["accuracy"] == rows_of(first)[0]["accuracy"]


def test_a_data_set_and_a_network_of_ones_own_need_no_edit(commands: Commands, tmp_path: Path) -> None:
    (tmp_path / "my_nets.py").write_text(
        "from torch import nn\n"
        "def leaf_net(num_classes, in_channels, width=4):\n"
        "    return nn.Sequential(nn.Conv2d(in_channels, width, 3), nn.BatchNorm2d(width), nn.ReLU(),\n"
        "        nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(4 * width, num_classes))\n"
    )
    commands.patch.syspath_prepend(tmp_path)
    own = ["data=custom", "data._target_=tests.own_data.Stripes", "model=custom", "model._target_=my_nets.leaf_net"]
    said, folder = commands.run(*own, "method=prune_quantize", "training.epochs=3", "training.batch_size=20")
    assert said.code == 0, said.err
    rows = rows_of(folder)
    assert {row["data"] for row in rows} == {"stripes"}
    assert {row["model"] for row in rows} == {"leaf_net"}
    assert set(rows[0]["accuracy_per_class"]) == {"across", "down"}
    said, _ = commands.run(*own, "+model.width=8", "training.epochs=3", "training.batch_size=20")
    assert "baseline trained" in said.out


def test_a_network_that_cannot_be_exported_is_refused_before_training(commands: Commands, tmp_path: Path) -> None:
    (tmp_path / "odd_nets.py").write_text(
        "from torch import nn\n"
        "def odd(num_classes, in_channels):\n"
        "    return nn.Sequential(nn.AdaptiveMaxPool2d(3), nn.Flatten(), nn.Linear(9 * in_channels, num_classes))\n"
    )
    commands.patch.syspath_prepend(tmp_path)
    said, folder = commands.run("model=custom", "model._target_=odd_nets.odd")
    assert said.code == 2
    assert said.err.startswith("target.onnxruntime: the network cannot be exported: ")
    assert not folder.exists()


@pytest.mark.slow
def test_the_chain_of_the_docs_runs(commands: Commands, tmp_path: Path) -> None:
    text = (Path(__file__).parent.parent / "docs" / "methods" / "README.md").read_text()
    (tmp_path / "conf" / "experiment").mkdir(parents=True)
    (tmp_path / "conf" / "experiment" / "my_chain.yaml").write_text(text.split("```yaml\n")[1].split("```")[0])
    small = ["data=digits", "model=small_cnn", "training=digits", *FAST]
    said, folder = commands.run(f"hydra.searchpath=[file://{tmp_path / 'conf'}]", "+experiment=my_chain", *small)
    assert said.code == 0, said.err
    row = rows_of(folder)[1]
    assert (row["variant"], row["precision"]["computes"]) == ("my_chain", ["int8"])
    assert row["nonzero_parameters"] < 0.15 * row["parameters"]


@pytest.mark.slow
def test_a_full_disk_gets_one_line(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    small = f"mount -t tmpfs -o size=16k small {out}"
    alone = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c"]  # a file system that only one process sees
    if shutil.which("unshare") is None or subprocess.run([*alone, small], capture_output=True, check=False).returncode:
        pytest.skip("this machine lets no user mount a small file system")
    run = shlex.join(
        [sys.executable, "-m", "src.run", "method=baseline", f"hydra.run.dir={out / 'run'}", "tracking=off"]
    )
    settings = f"artifacts={tmp_path / 'artifacts'} {' '.join(FAST)}"
    done = subprocess.run([*alone, f"{small} && {run} {settings}"], capture_output=True, text=True, check=False)
    assert done.returncode == 2, done.stderr
    assert done.stderr == f"{out / 'run'}: the disk is full\n"


def test_a_stage_that_fails_leaves_no_half_file(tmp_path: Path) -> None:
    from src.stages.store import StageStore

    store = StageStore(tmp_path)
    with pytest.raises(RuntimeError), store.hold("ab", tmp_path) as folder:  # noqa: PT012
        (folder / "weights.safetensors.part").write_bytes(b"half")
        raise RuntimeError("I/O error")
    assert not (tmp_path / "ab").exists()


def test_tracking_that_fails_late_keeps_the_results_and_exits_with_3(commands: Commands) -> None:
    said, folder = commands.run(
        "method=baseline", *FAST, "tracking._target_=tests.broken_tracker.BreaksAtTheEnd", tracking="tracking=off"
    )
    assert said.code == 3
    assert "the disk of the server is full" in said.out
    assert len(rows_of(folder)) == 1


@pytest.mark.slow
@pytest.mark.parametrize(("how", "code"), [(signal.SIGKILL, -signal.SIGKILL), (signal.SIGTERM, 130)])
def test_a_killed_training_goes_on_and_ends_at_the_same_weights(
    commands: Commands, tmp_path: Path, how: signal.Signals, code: int
) -> None:
    arguments = ["method=baseline", *FAST[1:], "training.epochs=40", "training.optimizer.lr=0.02"]
    _, whole = commands.run(*arguments)
    identity = rows_of(whole)[0]["identity"]
    cut = tmp_path / "cut"
    line = [sys.executable, "-m", "src.run", *arguments, f"artifacts={cut}", "tracking=off", "training.threads=1"]
    root = Path(__file__).parent.parent
    process = subprocess.Popen([*line, f"hydra.run.dir={tmp_path / 'killed'}"], cwd=root, stdout=subprocess.DEVNULL)
    checkpoint = cut / identity / "training.ckpt"
    deadline = time.monotonic() + 90
    while not checkpoint.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(how)
    assert process.wait() == code
    assert checkpoint.exists(), "the training was over before it could be killed"
    said = commands.call("run", *line[3:], f"hydra.run.dir={tmp_path / 'resumed'}")
    assert said.code == 0, said.err
    assert "resumes after epoch" in said.out
    expected = load_file(commands.artifacts / identity / "weights.safetensors")
    found = load_file(cut / identity / "weights.safetensors")
    assert all(np.array_equal(expected[name], found[name]) for name in expected)
    assert not checkpoint.exists()


def test_help_lists_experiments_and_methods_without_heavy_imports(commands: Commands) -> None:
    said = commands.call("run", "--help")
    assert said.code == 0
    for name in ("cifar_prune", "digits_quickstart", "prune_magnitude", "quantize_int8", "130 interrupted"):
        assert name in said.out
    code = "import sys, src.run; sys.argv = ['run', '--help']; src.run.main(); print(sorted(sys.modules))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    for heavy in ("torch", "mlflow", "pytorch_lightning", "nncf", "hydra"):
        assert f"'{heavy}'" not in loaded.splitlines()[-1]


def test_predict_names_classes_with_any_exported_file(commands: Commands, tmp_path: Path) -> None:
    from PIL import Image
    from sklearn.datasets import load_digits

    said, folder = commands.run("method=baseline", "target=[onnxruntime,openvino]", "training.epochs=12", *FAST[1:])
    digit = load_digits()
    Image.fromarray((digit.images[1] * 255 / 16).astype(np.uint8)).save(tmp_path / "one.png")
    answers = []
    for name in ("baseline.onnxruntime.onnx", "baseline.openvino.xml"):
        said = commands.call("predict", str(folder / name), str(tmp_path / "one.png"))
        assert said.code == 0, said.err
        answers.append(said.out)
    assert answers[0] == answers[1]
    assert answers[0].startswith("1 ")
    said = commands.call("predict", str(folder / "config.yaml"), str(tmp_path / "one.png"))
    assert said.code == 2
    assert "no runtime here reads '.yaml' files" in said.err
    said = commands.call("predict", str(folder / "baseline.onnxruntime.onnx"), str(folder / "config.yaml"))
    assert said.code == 2
    assert "cannot be read as an image" in said.err


def test_artifacts_lists_stages_and_removes_those_that_no_run_names(commands: Commands) -> None:
    _, kept = commands.run("method=baseline", *FAST)
    _, dropped = commands.run("method=baseline", "seed=1", *FAST)
    said = commands.call("artifacts", "--artifacts", str(commands.artifacts))
    assert said.out.count("1 run") == 6  # a baseline, its file and its timing, twice
    shutil.rmtree(dropped)
    said = commands.call("artifacts", "--artifacts", str(commands.artifacts), "--remove")
    assert "Removed 3." in said.out
    left = {path.name for path in commands.artifacts.iterdir() if path.is_dir() and not path.name.startswith(".")}
    assert rows_of(kept)[0]["identity"] in left
    assert len(left) == 3


def test_a_layer_that_pruning_empties_is_named(commands: Commands) -> None:
    said, _ = commands.run("method=prune_magnitude", "method.sparsity=0.999", "method.fine_tune.epochs=1", *FAST)
    assert said.code == 0, said.err
    assert "prune_magnitude leaves no weight of " in said.out
