"""What holds for every target of ``conf/target``."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf

from src.command.composition import build, composed, target_of
from src.contracts import InputError, Lowered, Target
from src.metrics.agreement import agreement
from src.metrics.graph import integer_macs, macs, parameters, peak_activation_bytes
from src.metrics.size import size_bytes
from tests.exported import CARD, NETS, Quantized, images
from tests.plans import experiment, plan
from tests.processor import BF16, SATURATES

CONF = Path(__file__).parents[2] / "conf" / "target"
NAMES = sorted(path.stem for path in CONF.glob("*.yaml"))
ELSEWHERE = {"onnxruntime_cuda", "onnxruntime_tensorrt"}  # need an accelerator to be loaded
HERE = [name for name in NAMES if name not in ELSEWHERE and (BF16 or name != "openvino_bf16")]
# Each target; those that store 16 bits write the same graphs, and seldom break alone.
EACH = [pytest.param(name, marks=pytest.mark.slow) if "16" in name else name for name in HERE]
# bf16 has 8 bits of mantissa, float16 weights 11.
NEAR = {"openvino_bf16": 0.2, "openvino_fp16": 1e-2, "onnxruntime_fp16": 1e-2, "tflite_fp16": 1e-2, "torch_fp16": 1e-2}


def made(name: str) -> Target:
    target: Target = build(composed([f"target=[{name}]"])[0]["target"], name)
    return target


def exported(target: Target, lowered: Lowered, folder: Path) -> tuple[Path, ...]:
    return target.export(lowered.model, images(1), folder / f"model.{target.ending}", CARD, lowered.weights)


@pytest.mark.parametrize("name", NAMES)
def test_its_config_is_one_entry_of_its_name_after_a_comment(name: str) -> None:
    text = (CONF / f"{name}.yaml").read_text()
    assert list(OmegaConf.load(CONF / f"{name}.yaml")) == [name]
    assert text.startswith("# ")


@pytest.mark.parametrize("name", EACH)
@pytest.mark.parametrize("net", NETS)
def test_a_float_network_does_what_torch_does_in_batches_of_any_size(name: str, net: str, tmp_path: Path) -> None:
    target, model = made(name), NETS[net]()
    parts = exported(target, Lowered(model, {}, False), tmp_path)
    assert sorted(parts) == sorted(path for path in tmp_path.iterdir() if path.is_file())
    session = target.load(parts[0], threads=1)
    with torch.inference_mode():
        expected = model(images(7)).numpy()
    for count in (1, 7, 3):
        found = session(images(7).numpy()[:count])
        assert found.dtype == np.float32
        assert np.abs(found - expected[:count]).max() <= NEAR.get(name, 1e-4) * max(1, np.abs(expected).max())
    assert target.read_card(parts[0]) == CARD


@pytest.mark.parametrize("name", EACH)
def test_an_int8_network_is_small_and_predicts_as_torch_does(name: str, quantized: Quantized, tmp_path: Path) -> None:
    target = made(name)
    (tmp_path / "float").mkdir()
    floats = exported(target, Lowered(quantized.plain, {}, False), tmp_path / "float")
    parts = exported(target, Lowered(quantized.lowered, {}, True), tmp_path)
    least = 0.95 if name == "tensorrt" else 0.99  # after a ReLU, TensorRT's grid has half as many steps
    least = 0.9 if SATURATES and name.startswith("openvino") else least
    assert agreement(target.load(parts[0]), quantized.lowered, [images(200)]).classes >= least
    assert "int8" in str(target.precision(True))
    # TensorRT 8.2 takes no stored integers; a float16 file has half the bytes already; OpenVINO's graph is long text.
    limit = 1.1 if name == "tensorrt" else 0.8 if "16" in name else 0.45
    assert size_bytes(parts) < limit * size_bytes(floats)


@pytest.mark.parametrize("name", EACH)
def test_its_graph_counts_what_the_network_has(name: str, tmp_path: Path) -> None:
    target, model = made(name), NETS["cnn"]()
    graph = target.graph(exported(target, Lowered(model, {}, False), tmp_path)[0])
    folded = sum(p.numel() for n, p in model.named_parameters() if p.dim() > 1)
    assert folded < parameters(graph) <= sum(p.numel() for p in model.parameters())
    reference = made("onnxruntime")
    (tmp_path / "reference").mkdir()
    known = reference.graph(exported(reference, Lowered(model, {}, False), tmp_path / "reference")[0])
    assert macs(graph) == macs(known)
    assert peak_activation_bytes(graph) > 0


@pytest.mark.parametrize("name", [name for name in HERE if not name.startswith(("tensorrt", "tflite"))])
def test_operators_are_timed_longest_first(name: str, tmp_path: Path) -> None:
    target = made(name)
    file = exported(target, Lowered(NETS["cnn"](), {}, False), tmp_path)[0]
    timed = target.operators(file, images(1).numpy(), 1)
    assert timed is not None
    times = [took for _, _, took in timed]
    assert times == sorted(times, reverse=True)
    assert 0 < max(times) < 1000
    assert min(times) >= 0
    assert len({name for name, _, _ in timed}) == len(timed)
    assert sum("conv" in kind.lower() for _, kind, _ in timed) == 2


@pytest.mark.parametrize("name", EACH)
def test_a_text_file_with_its_ending_is_refused(name: str, tmp_path: Path) -> None:
    target = made(name)
    path = tmp_path / f"text.{target.ending}"
    path.write_text("no model")
    for look in (target.load, target.graph, target.read_card):
        with pytest.raises(InputError, match="text"):
            look(path)


@pytest.mark.parametrize("name", EACH)
def test_a_file_is_recognized_by_the_name_of_its_target(name: str, tmp_path: Path) -> None:
    target = made(name)
    path = tmp_path / f"pruned.{name}.{target.ending}"
    path.write_text("")
    assert type(target_of(path)) is type(target)
    assert vars(target_of(path)) == vars(target)


@pytest.mark.parametrize("name", EACH)
def test_an_operation_is_called_after_its_layer(name: str, tmp_path: Path) -> None:
    file = exported(made(name), Lowered(NETS["cnn"](), {}, False), tmp_path)[0]
    computing = [node.name for node in made(name).graph(file).nodes if node.macs]
    assert len(computing) == 4
    layers = ("features", "features", "classifier", "classifier")
    if name == "packed":  # names are not stored
        layers = ("Conv_0", "Conv_3", "Gemm_7", "Gemm_9")
    for node, layer in zip(computing, layers, strict=True):
        assert layer in node


def test_a_file_is_loaded_with_the_options_of_the_run_that_wrote_it(tmp_path: Path) -> None:
    path = tmp_path / "pruned.tflite.tflite"
    path.write_text("")
    config = {"target": {"tflite": {**OmegaConf.load(CONF / "tflite.yaml")["tflite"], "dynamic_batch": True}}}
    OmegaConf.save(OmegaConf.create(config), tmp_path / "config.yaml")
    assert target_of(path).free_batch
    path.rename(tmp_path / "elsewhere.tflite")  # not a name that a run gives
    assert not target_of(tmp_path / "elsewhere.tflite").free_batch


@pytest.mark.parametrize("name", sorted(ELSEWHERE))
def test_what_needs_an_accelerator_says_so(name: str, tmp_path: Path) -> None:
    target = made(name)
    path = exported(target, Lowered(NETS["cnn"](), {}, False), tmp_path)[0]
    if torch.cuda.is_available():
        pytest.skip("there is one")
    with pytest.raises(InputError, match="Provider"):
        target.load(path)


@pytest.mark.skipif(BF16, reason="this processor computes in bf16")
def test_a_processor_without_bf16_says_so(tmp_path: Path) -> None:
    target = made("openvino_bf16")
    path = exported(target, Lowered(NETS["cnn"](), {}, False), tmp_path)[0]
    with pytest.raises(InputError, match="OpenVINO is to compute in bf16, and computes in f32 on this processor"):
        target.load(path)


@pytest.mark.parametrize("name", [name for name in HERE if not name.startswith(("tflite", "torch"))])
def test_a_measuring_process_imports_no_torch(name: str, tmp_path: Path) -> None:
    target = made(name)
    path = exported(target, Lowered(NETS["cnn"](), {}, False), tmp_path)[0]
    source = type(target).__module__
    settings = {key: value for key, value in vars(target).items() if not key.startswith("_")}
    code = (
        f"import sys; from pathlib import Path; from {source} import {type(target).__name__} as T\n"
        f"T(**{settings!r}).load(Path({str(path)!r})); assert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("name", EACH)
def test_an_int8_file_is_loaded_by_a_process_that_did_not_write_it(
    name: str, quantized: Quantized, tmp_path: Path
) -> None:
    target = made(name)
    path = exported(target, Lowered(quantized.lowered, {}, True), tmp_path)[0]
    code = (
        "import sys, numpy as np; from pathlib import Path; from src.command.composition import target_of\n"
        f"print(target_of(Path({str(path)!r})).load(Path({str(path)!r}))(np.zeros((1, 3, 8, 8), np.float32)).shape)"
    )
    path = path.rename(path.with_name(f"q.{name}.{target.ending}")) if target.ending != "xml" else path
    code = code.replace("model." + target.ending, path.name)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "(1, 3)"


def test_what_is_computed_in_integers_is_counted_so_in_every_format(quantized: Quantized, tmp_path: Path) -> None:
    found = {}
    for name in ("onnxruntime", "openvino", "tflite", "torch"):
        target = made(name)
        (tmp_path / name).mkdir()
        graph = target.graph(exported(target, Lowered(quantized.lowered, {}, True), tmp_path / name)[0])
        found[name] = (integer_macs(graph), macs(graph), peak_activation_bytes(graph))
    every = found["onnxruntime"][1]
    assert {macs for _, macs, _ in found.values()} == {every}
    assert found["onnxruntime"][0] == found["openvino"][0] == found["tflite"][0] == every
    assert found["torch"][0] == 0
    assert found["torch"][2] >= 3 * found["onnxruntime"][2]  # floats


@pytest.mark.slow
def test_a_tflite_file_takes_any_number_of_images_if_it_is_exported_so(tmp_path: Path) -> None:
    from src.deploy.tflite import TfLite

    target, model = TfLite(stored="float32", dynamic_batch=True), NETS["residual"]()
    path = exported(target, Lowered(model, {}, False), tmp_path)[0]
    session = target.load(path)
    with torch.inference_mode():
        expected = model(images(5)).numpy()
    for count in (1, 5, 2):
        assert np.abs(session(images(5).numpy()[:count]) - expected[:count]).max() < 1e-4
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(str(path))
    assert interpreter.get_input_details()[0]["shape_signature"][0] == -1
    interpreter.resize_tensor_input(interpreter.get_input_details()[0]["index"], [5, 8, 8, 3], strict=True)
    interpreter.allocate_tensors()
    interpreter.invoke()
    assert interpreter.get_tensor(interpreter.get_output_details()[0]["index"]).shape == (5, 3)


METHODS = ["quantize_aware_int8", "quantize_uniform", "prune_cluster_quantize", "prune_channels", "low_rank"]


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_whatever_a_method_returns_is_exported_for_all_of_them_and_agrees(method: str, tmp_path: Path) -> None:
    names = [name for name in HERE if "16" not in name]
    tried = experiment(plan(f"method={method}", f"target=[{','.join(names)}]"), tmp_path)
    rows = tried.run()
    assert not tried.refused
    assert sorted(row.target for row in rows if row.variant != "baseline") == names
    for row in rows:
        overflows = SATURATES and row.target == "openvino" and row.may_saturate  # only ONNX Runtime can be told not to
        assert overflows or row.agreement >= 0.99, (row.variant, row.target)
