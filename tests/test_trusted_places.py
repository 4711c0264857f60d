"""Every place that could make code of a file is known; SECURITY.md says what holds there."""

from __future__ import annotations

import ast
from pathlib import Path

ROOT = Path(__file__).parent.parent
# Calls that unpickle, evaluate, import or build what a text names; those of the second line by any module's name.
CALLS = {"eval", "exec", "compile", "__import__", "np.load", "numpy.load", "torch.load", "torch.export.load"} | {
    *("torch.jit.load", "torch.hub.load", "torch.package.PackageImporter", "onnx.load", "yaml.load", "ctypes.CDLL")
}
LAST_NAMES = {
    *("import_module", "find_spec", "instantiate", "get_class", "get_object", "get_method", "load_from_checkpoint"),
    *("load_library", "load_from_config", "run_path", "run_module", "unsafe_load", "read_pickle", "add_extension"),
    *("register_custom_ops_library", "add_safe_globals"),
}
PICKLES = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "marshal", "shelve", "jsonpickle"}
INERT = "src/models/checkpoints.py"  # subclasses pickle's reader so that it finds no class and no function
PICKLING = {INERT, "src/training/ranks.py"}  # the latter reads what the process that started it sends
KNOWN = {
    ("src/coding/graph.py", "onnx.load"),  # protocol buffers
    ("src/__main__.py", "importlib.import_module"),  # one of the commands that lie beside it
    ("src/command/composition.py", "get_class"),  # conf/target
    ("src/command/environment.py", "importlib.util.find_spec"),  # of this project's own dependencies, not imported
    ("src/command/composition.py", "instantiate"),  # typed, in conf/, or checked by src.command.trust
    ("src/command/constructor_checks.py", "compile"),  # constructors of this project, with the plainest builtins
    ("src/command/constructor_checks.py", "exec"),
    ("src/command/trust.py", "get_class"),  # conf/target
    ("src/data/decoding.py", "np.load"),  # takes no objects by default
    ("src/contracts/data.py", "np.load"),
    ("src/data/mapped.py", "np.load"),
    ("src/deploy/onnx_export.py", "onnx.load"),  # protocol buffers
    ("src/deploy/onnx_graph.py", "onnx.load"),
    ("src/deploy/onnxruntime.py", "onnx.load"),  # protocol buffers
    ("src/device/exported_program.py", "torch.export.load"),  # after check_program, without pickles
    ("src/device/runtimes.py", "ctypes.CDLL"),  # CUDA's own library
    ("src/methods/_nncf_quantizers.py", "nncf.torch.load_from_config"),  # modules of NNCF only
    ("src/models/checkpoints.py", "torch.load"),  # by InertPickle, which imports and calls nothing
    ("src/models/onnx_file.py", "onnx.load"),  # protocol buffers
    ("src/stages/identity.py", "importlib.util.find_spec"),  # of a class that is built anyway
    ("src/training/fit.py", "torch.load"),  # weights_only=True
}


def test_every_call_that_could_run_code_from_a_file_stands_in_a_known_place() -> None:
    found: set[tuple[str, str]] = set()
    for path in sorted((ROOT / "src").rglob("*.py")):
        place = str(path.relative_to(ROOT))
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call):
                name = ast.unparse(node.func)
                if name in CALLS or name.rpartition(".")[2] in LAST_NAMES:
                    found.add((place, name))
            elif isinstance(node, (ast.Import, ast.ImportFrom)):
                modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module or ""]
                if place not in PICKLING:
                    assert not PICKLES & {module.partition(".")[0] for module in modules}, place
    assert sorted(found ^ KNOWN) == []


def test_torch_reads_tensors_only_and_numpy_no_objects() -> None:
    for path in (ROOT / "src").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Call):
                continue
            name, options = ast.unparse(node.func), {word.arg: ast.unparse(word.value) for word in node.keywords}
            if name == "torch.load" or (name == "trainer.fit" and "ckpt_path" in options):
                inert = path == ROOT / INERT and options.get("pickle_module") == "InertPickle"
                assert options.get("weights_only") == "True" or inert, path
            if name == "np.load":
                assert "allow_pickle" not in options, path


# Calls that build a tracking store by a name and an address, and what the two come from.
STORES = {
    ("src/command/composition.py", "build_tracker"),  # of tracker_of
    ("src/command/calling.py", "tracker_of"),  # the program's own
    ("src/command/device_results.py", "tracker_of"),  # the bundle's record, compared with conf/tracking and --uri
    ("src/command/execution.py", "build_tracker"),  # the command's own config
    ("src/command/searching.py", "build_tracker"),
    ("src/command/survey.py", "build_tracker"),
    ("src/command/syncing.py", "StoreName"),  # --to and --uri
    ("src/command/syncing.py", "tracker_of"),  # the same, or the list beside the stages
    ("src/promote.py", "tracker_of"),  # typed
    ("src/tracking/guard.py", "StoreName"),  # the command's own
    ("src/tracking/unsent.py", "StoreName"),  # the list beside the stages
}


def test_every_store_that_is_written_to_is_named_by_the_user() -> None:
    found = set()
    for path in sorted((ROOT / "src").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in ("tracker_of", "build_tracker", "StoreName"):
                found.add((str(path.relative_to(ROOT)), ast.unparse(node.func)))
    assert sorted(found ^ STORES) == []


def test_security_md_names_every_kind_of_file_and_how_to_report() -> None:
    text = (ROOT / "SECURITY.md").read_text()
    kinds = ("config.yaml", ".pt2", ".onnx", ".tflite", ".xml", ".safetensors", ".pt", "training.ckpt", "stage.json")
    kinds += ("results.json", "survey.json", "search.json", "search.db", ".pyz", "device_results.json", ".npz", "CIFAR")
    kinds += (".unsent-*.jsonl", ".mlflow_parent", "artifacts/.unsent")
    assert [kind for kind in kinds if kind not in text] == []
    assert "## Report a hole" in text
    assert "--trust" in text
