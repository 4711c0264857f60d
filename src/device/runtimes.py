"""The inference runtimes; each is imported only for a file that needs it."""

import ctypes
import ctypes.util
from pathlib import Path
from typing import Any, Callable, Dict, NamedTuple, Optional, Sequence, Tuple, Union

import numpy as np

from . import telemetry
from .exported_program import UnsafeProgramError, read_program
from .packed import read
from .packed_graph import onnx_bytes

WORKSPACE_BYTES = 1 << 28  # memory that TensorRT may use while it builds; a Jetson Nano has 2 or 4 GB in all


# The packages of which one runs a file; a row names it, with its version.
NAMES = ("onnxruntime", "tensorrt", "tflite_runtime", "ai_edge_litert", "tensorflow", "openvino", "torch")


class NoRuntimeError(Exception):
    """No runtime of this machine runs the file; the message says what is missing."""


class RefusedError(Exception):
    """The runtime is there and refuses the file."""


class Loaded(NamedTuple):
    """A file in its runtime.

    Attributes:
        run: Turns normalized images ``[n, c, h, w]`` (float32) into logits ``[n, classes]`` (float32).
        batch: Number of images that a call takes; None for any number.
        runtime: Name and version of the runtime.
    """

    run: Callable[[np.ndarray], np.ndarray]
    batch: Optional[int]
    runtime: str


def load(
    path: Path, runtime: Dict[str, Optional[str]], computes: Sequence[str], shape: Sequence[int], threads: int
) -> Loaded:
    """Load a model file in the runtime that its ending names.

    Args:
        path: ``.tensorrt.onnx``, ``.onnx``, ``.dnnc`` (unpacked, for ONNX Runtime), ``.tflite``,
            ``.xml`` (beside its ``.bin``) or ``.pt2``.
        runtime: ``name``, ``provider`` and ``stands_in_for`` as in the model's row on the host; they tell an ``.onnx``
            file for TensorRT from others.
        computes: Number formats of the arithmetic: ``float32``, ``int8``, ...
        shape: Shape of an image, ``(channels, height, width)``.
        threads: Number of processor threads.

    Raises:
        NoRuntimeError: No runtime here runs such files.
        RefusedError: The file is no model, or one that this version of the runtime does not take.
    """
    telemetry.switch_off()
    intended = runtime["stands_in_for"] or runtime["name"]
    try:
        if path.suffix == ".onnx" and (intended == "tensorrt" or path.name.endswith(".tensorrt.onnx")):
            return _tensorrt(path, computes, shape)
        if path.suffix == ".onnx":
            return _onnxruntime(path, threads, runtime["provider"] or "CPUExecutionProvider")
        if path.suffix == ".dnnc":
            return _onnxruntime(onnx_bytes(read(path)), threads, runtime["provider"] or "CPUExecutionProvider")
        if path.suffix == ".tflite":
            return _tflite(path, shape, threads)
        if path.suffix == ".xml":
            return _openvino(path, computes, threads)
        if path.suffix == ".pt2":
            return _torch(path, threads)
    except (NoRuntimeError, RefusedError):
        raise
    except Exception as error:  # the runtimes' exceptions have no base class in common
        raise RefusedError(_first_line(error))
    raise NoRuntimeError(f"no runtime is known for '{path.suffix}' files")


def _onnxruntime(model: Union[Path, bytes], threads: int, provider: str) -> Loaded:
    """Load a file, or the bytes of one."""
    try:
        import onnxruntime
    except ImportError as error:
        raise _missing("onnxruntime", "python3 -m pip install onnxruntime", error)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    # By itself ONNX Runtime may multiply a dequantized weight with rounded (int8) activations; 1 is float32.
    options.add_session_config_entry("session.qdq_matmulnbits_accuracy_level", "1")
    if provider not in onnxruntime.get_available_providers():
        raise NoRuntimeError(f"onnxruntime {onnxruntime.__version__} has no {provider} here")
    # Without VNNI, x86 kernels add pairs of products u8 x s8 in 16 bits and cut them off; 1 takes exact, slower kernels
    # for weights beyond -64 ... 64, but not every file is loaded with it.
    for exact, severity in (("1", 4), ("0", 3)):
        options.add_session_config_entry("session.x64quantprecision", exact)
        options.log_severity_level = severity
        try:
            session = onnxruntime.InferenceSession(
                model if isinstance(model, bytes) else str(model), options, providers=[provider]
            )
            break
        except Exception as error:  # of a file in a newer opset than it reads, for example
            if exact == "0":
                raise RefusedError(f"onnxruntime {onnxruntime.__version__}: {_first_line(error)}")
    image, logits = session.get_inputs()[0], session.get_outputs()[0].name

    def run(images: np.ndarray) -> np.ndarray:
        return np.asarray(session.run([logits], {image.name: images})[0])

    batch = image.shape[0] if isinstance(image.shape[0], int) else None
    return Loaded(run, batch, f"onnxruntime {onnxruntime.__version__}")


def _tflite(path: Path, shape: Sequence[int], threads: int) -> Loaded:
    interpreter_class, version = _tflite_interpreter()
    interpreter = interpreter_class(model_path=str(path), num_threads=threads)
    interpreter.allocate_tensors()
    image, logits = interpreter.get_input_details()[0], interpreter.get_output_details()[0]
    found, (channels, height, width) = tuple(int(size) for size in image["shape"]), shape
    if found[1:] not in ((channels, height, width), (height, width, channels)):
        raise RefusedError(f"its input is {list(found)}, and the images are {list(shape)}")
    channels_last = found[1:] != (channels, height, width)

    def run(images: np.ndarray) -> np.ndarray:
        ordered = np.ascontiguousarray(images.transpose(0, 2, 3, 1)) if channels_last else images
        interpreter.set_tensor(image["index"], quantized(ordered, image["dtype"], image["quantization"]))
        interpreter.invoke()
        return dequantized(interpreter.get_tensor(logits["index"]), logits["quantization"])

    return Loaded(run, found[0], version)


def _tflite_interpreter() -> Tuple[Any, str]:
    """The interpreter of the first of three packages that is there, and the package's name and version."""
    try:
        import tflite_runtime
        from tflite_runtime.interpreter import Interpreter

        return Interpreter, f"tflite_runtime {tflite_runtime.__version__}"
    except ImportError:
        pass
    try:
        import ai_edge_litert
        from ai_edge_litert.interpreter import Interpreter

        return Interpreter, f"ai_edge_litert {getattr(ai_edge_litert, '__version__', '')}".strip()
    except ImportError:
        pass
    try:
        import tensorflow

        return tensorflow.lite.Interpreter, f"tensorflow {tensorflow.__version__}"
    except ImportError as error:
        raise _missing("a TFLite interpreter", "tflite-runtime, ai-edge-litert or tensorflow", error)


def quantized(images: np.ndarray, dtype: Any, parameters: Tuple[float, int]) -> np.ndarray:
    """``images / scale + zero_point``, rounded and clipped, if ``dtype`` is an integer; else ``images`` cast to it."""
    if not np.issubdtype(dtype, np.integer):
        return images.astype(dtype)
    scale, zero_point = parameters
    limits = np.iinfo(dtype)
    return np.clip(np.rint(images / scale) + zero_point, limits.min, limits.max).astype(dtype)


def dequantized(logits: np.ndarray, parameters: Tuple[float, int]) -> np.ndarray:
    """``(logits - zero_point) * scale`` as float32 if ``logits`` are integers; else ``logits`` as float32."""
    if not np.issubdtype(logits.dtype, np.integer):
        return logits.astype(np.float32)
    scale, zero_point = parameters
    return (logits.astype(np.float32) - zero_point) * np.float32(scale)


def _openvino(path: Path, computes: Sequence[str], threads: int) -> Loaded:
    try:
        import openvino
    except ImportError as error:
        raise _missing("openvino", "python3 -m pip install openvino", error)
    core = openvino.Core()
    wanted = "bf16" if "bf16" in computes else "f32"
    settings = {
        "INFERENCE_PRECISION_HINT": wanted,
        "INFERENCE_NUM_THREADS": threads,
        "NUM_STREAMS": 1,
        "PERFORMANCE_HINT": "LATENCY",
    }
    if "DYNAMIC_QUANTIZATION_GROUP_SIZE" in core.get_property("CPU", "SUPPORTED_PROPERTIES"):
        settings["DYNAMIC_QUANTIZATION_GROUP_SIZE"] = 0  # or dense layers of stored integers compute in int8
    model = core.read_model(str(path))
    compiled = core.compile_model(model, "CPU", settings)
    found = compiled.get_property("INFERENCE_PRECISION_HINT").to_string()
    if found != wanted:
        raise NoRuntimeError(f"the model is to compute in {wanted}, and this processor computes in {found}")
    request = compiled.create_infer_request()

    def run(images: np.ndarray) -> np.ndarray:
        return np.array(request.infer([images])[0])

    first = model.inputs[0].partial_shape[0]
    return Loaded(run, first.get_length() if first.is_static else None, f"openvino {openvino.__version__}")


def _torch(path: Path, threads: int) -> Loaded:
    try:
        import torch
        import torch.ao.quantization.fx._decomposed  # the operators of INT8 files
    except ImportError as error:
        raise _missing("torch", "python3 -m pip install torch", error)
    torch.set_num_threads(threads)
    try:
        program = read_program(path)
    except UnsafeProgramError as error:
        raise RefusedError("it is no exported program of plain data, and could run code: {}".format(error))
    module = program.module()
    make_floats_of_weights(module)

    def run(images: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            return np.asarray(module(torch.from_numpy(images)).numpy())

    return Loaded(run, None if program.range_constraints else 1, f"torch {torch.__version__}")


def make_floats_of_weights(network: Any) -> None:
    """Convert stored weights to float32 now instead of in each call, in place."""
    import operator

    import torch

    for number, node in enumerate(list(network.graph.nodes)):
        sources = node.all_input_nodes
        name = getattr(node.target, "__name__", "")
        reads_stored = bool(sources) and all(source.op == "get_attr" for source in sources)
        if not reads_stored or not name.startswith(("dequantize_", "to.dtype")):
            continue
        stored = {source: operator.attrgetter(source.target)(network) for source in sources}
        arguments = torch.fx.node.map_arg(node.args, stored.__getitem__)
        with torch.no_grad():
            network.register_buffer("floats_{}".format(number), node.target(*arguments, **node.kwargs))
        with network.graph.inserting_before(node):
            node.replace_all_uses_with(network.graph.get_attr("floats_{}".format(number)))
        network.graph.erase_node(node)
    network.graph.eliminate_dead_code()
    network.recompile()


def _tensorrt(path: Path, computes: Sequence[str], shape: Sequence[int]) -> Loaded:
    """Build an engine with the Python interface of TensorRT 8.2, in FP16 if the GPU has it."""
    try:
        import tensorrt
    except ImportError as error:
        raise _missing("tensorrt", "it comes with JetPack", error)
    cuda = _Cuda()
    logger = tensorrt.Logger(tensorrt.Logger.ERROR)
    builder = tensorrt.Builder(logger)
    network = builder.create_network(1 << int(tensorrt.NetworkDefinitionCreationFlag.EXPLICIT_BATCH))
    parser = tensorrt.OnnxParser(network, logger)
    if not parser.parse(path.read_bytes()):
        raise RefusedError(parser.get_error(0).desc())
    config = builder.create_builder_config()
    config.max_workspace_size = WORKSPACE_BYTES
    if builder.platform_has_fast_fp16:
        config.set_flag(tensorrt.BuilderFlag.FP16)
    if "int8" in computes:
        if not builder.platform_has_fast_int8:
            raise NoRuntimeError(
                "the model computes in INT8, and this GPU has no units for that (a Jetson Nano has FP16)"
            )
        config.set_flag(tensorrt.BuilderFlag.INT8)
    one = (1,) + tuple(shape)
    image = network.get_input(0)
    if image.shape[0] == -1:
        profile = builder.create_optimization_profile()
        profile.set_shape(image.name, one, one, one)
        config.add_optimization_profile(profile)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise RefusedError("TensorRT builds no engine from the file")
    runtime = tensorrt.Runtime(logger)
    engine = runtime.deserialize_cuda_engine(plan)
    context = engine.create_execution_context()
    at = 0 if engine.binding_is_input(0) else 1
    context.set_binding_shape(at, one)
    logits = np.empty(tuple(context.get_binding_shape(1 - at)), np.float32)
    bindings = [0, 0]
    bindings[at] = cuda.allocate(4 * int(np.prod(one)))
    bindings[1 - at] = cuda.allocate(logits.nbytes)

    def run(images: np.ndarray) -> np.ndarray:
        """Run the engine; the copies to the GPU and back are part of the call."""
        cuda.to_device(bindings[at], np.ascontiguousarray(images, np.float32))
        if not context.execute_v2(bindings):
            raise RefusedError("TensorRT cannot execute its engine")
        cuda.from_device(logits, bindings[1 - at])
        return logits.copy()

    run.keeps = (runtime, engine)  # type: ignore[attr-defined]  # an engine must not outlive its runtime
    return Loaded(run, 1, f"tensorrt {tensorrt.__version__}")


class _Cuda:
    """The calls of CUDA's runtime library that TensorRT needs; JetPack has no Python package for them."""

    def __init__(self) -> None:
        name = ctypes.util.find_library("cudart") or "libcudart.so"
        try:
            self._library = ctypes.CDLL(name)
        except OSError as error:
            raise _missing("CUDA's runtime library (libcudart)", "it comes with JetPack", error)

    def allocate(self, size_bytes: int) -> int:
        """Allocate GPU memory until the process ends, and return its address."""
        address = ctypes.c_void_p()
        self._check(self._library.cudaMalloc(ctypes.byref(address), ctypes.c_size_t(size_bytes)))
        return int(address.value or 0)

    def to_device(self, address: int, array: np.ndarray) -> None:
        self._copy(address, array.ctypes.data, array.nbytes, 1)

    def from_device(self, array: np.ndarray, address: int) -> None:
        self._copy(array.ctypes.data, address, array.nbytes, 2)

    def _copy(self, to: int, source: int, size_bytes: int, direction: int) -> None:
        arguments = (ctypes.c_void_p(to), ctypes.c_void_p(source), ctypes.c_size_t(size_bytes))
        self._check(self._library.cudaMemcpy(*arguments, ctypes.c_int(direction)))

    def _check(self, code: int) -> None:
        if code != 0:
            raise RefusedError(f"CUDA failed with error {code}")


def _missing(name: str, remedy: str, error: Exception) -> NoRuntimeError:
    """The error for a package that is not installed, or is installed and cannot be imported."""
    why = "is not installed" if isinstance(error, ModuleNotFoundError) else f"cannot be used ({_first_line(error)})"
    return NoRuntimeError(f"{name} {why}: {remedy}")


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
