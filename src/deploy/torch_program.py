"""The target torch: exported programs, which torch runs without the code that defined the network."""

from __future__ import annotations

import io
import logging
import math
import os
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from src.contracts import (
    Graph,
    GraphNode,
    GraphTensor,
    InputError,
    ModelCard,
    Precision,
    Role,
    Runtime,
    Session,
    StoredWeight,
    Target,
    first_line,
)
from src.deploy import cards, counting
from src.deploy.number_formats import checked_storage, halves
from src.device.exported_program import UnsafeProgramError, read_program
from src.device.runtimes import make_floats_of_weights
from src.files.writing import write_bytes

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor, nn

PROFILED_RUNS = 20
ROLES = {
    **dict.fromkeys(("view", "reshape", "flatten", "unsqueeze", "squeeze", "dropout", "contiguous"), Role.MOVING),
    **dict.fromkeys(("relu", "relu_", "hardtanh", "hardtanh_", "relu6", "sigmoid", "tanh", "hardswish"), Role.IN_PLACE),
    **dict.fromkeys(("add", "add_", "mul", "batch_norm"), Role.IN_PLACE),
    **dict.fromkeys(("getitem", "chunk", "split", "split_with_sizes", "unbind", "tensor_split"), Role.MOVING),
    "max_pool2d": Role.POOLING,
}  # quantizing and dequantizing write new memory
SELECTING = (
    "embedding",
    "index",
    "index_select",
    "gather",
    "cat",
    "stack",
)  # their output is a part of an input, or contains it


class TorchProgram(Target):
    """Writes ``.pt2`` and runs it in torch.

    Arithmetic is always in float32, so that the file of an INT8 network is smaller and not faster.

    Args:
        stored: Number format of float weights in the file: ``float32`` or ``float16``.
    """

    ending = "pt2"
    runtime = Runtime("torch")

    def __init__(self, *, stored: str) -> None:
        self.stored = checked_storage(stored)

    def precision(self, integer: bool) -> Precision:
        return Precision(("float32",), (*(("int8",) if integer else ()), *halves(self.stored)))

    def export(
        self, model: nn.Module, example_input: Tensor, path: Path, card: ModelCard, weights: Mapping[str, StoredWeight]
    ) -> tuple[Path, ...]:
        """Write the file; raise InputError if the network cannot be exported with a free batch size."""
        import torch

        from src.deploy.free_batch import program_of
        from src.deploy.quantized_program import with_operators, with_stored_halves, with_stored_integers

        written, quantized = with_operators(model, example_input)
        with_stored_integers(written, {**weights, **quantized})
        if self.stored == "float16":
            with_stored_halves(written)
        try:
            program = program_of(written, example_input)
        except Exception as error:  # torch raises many types of its own
            raise InputError(f"the network cannot be exported by torch.export: {first_line(error)}") from error
        program.example_inputs = None  # nobody needs this image
        program._guards_code = []  # code, which nobody should run who reads the file
        for node in program.graph.nodes:
            for key in ("stack_trace", "from_node"):  # paths of this machine; passes of torch's own
                node.meta.pop(key, None)
        file = io.BytesIO()  # torch's writer ends the whole process if it cannot write
        torch.export.save(program, file, extra_files=cards.to_text(card))
        write_bytes(path, file.getvalue())
        return (path,)

    def load(self, path: Path, threads: int = 1) -> Session:
        """Load the file; raise InputError if it is no exported program."""
        import torch

        network = _network(path, threads)

        def run(images: np.ndarray) -> np.ndarray:
            with torch.inference_mode():
                result: np.ndarray = network(torch.from_numpy(images)).numpy()
            return result

        return run

    def operators(self, path: Path, image: np.ndarray, threads: int) -> list[tuple[str, str, float]]:
        """Name, kind and median milliseconds of each operator by torch's own profiler, the longest first."""
        import numpy as np
        import torch
        from torch.profiler import ProfilerActivity, profile

        os.environ.setdefault("KINETO_LOG_LEVEL", "9")  # or the profiler prints lines into the table
        network, batch = _network(path, threads), torch.from_numpy(image)
        with torch.inference_mode():
            network(batch)
            with profile(activities=[ProfilerActivity.CPU]) as profiled:
                for _ in range(PROFILED_RUNS):
                    network(batch)
        events = [event for event in profiled.events() if event.cpu_parent is None]
        runs = np.array([event.cpu_time_total for event in events]).reshape(PROFILED_RUNS, -1)
        kinds = [event.name for event in events[: runs.shape[1]]]
        names = [node.name for node in network.graph.nodes if node.op == "call_function"]
        names = names if len(names) == len(kinds) else [f"{at}" for at in range(len(kinds))]
        medians = zip(names, kinds, (np.median(runs, axis=0) / 1000).tolist(), strict=True)
        return sorted(medians, key=lambda median: -median[2])

    def graph(self, path: Path) -> Graph:
        return _graph(_read(path, {}))

    def read_card(self, path: Path) -> ModelCard:
        text = dict.fromkeys(cards.KEYS, "")
        _read(path, text)
        return cards.from_text({key: value for key, value in text.items() if value}, path)


def _network(path: Path, threads: int) -> Any:
    """The network of the file as a module, its stored weights already dequantized."""
    import torch

    network = _read(path, {}).module()
    make_floats_of_weights(network)
    torch.set_num_threads(threads)
    return network


def _read(path: Path, text: dict[str, str]) -> Any:
    """Read the program; the values of ``text`` are replaced by the texts that the file holds under its keys."""
    if not zipfile.is_zipfile(path):
        raise InputError(f"{path} cannot be loaded by torch: it is no exported program")
    log = logging.getLogger("torch.export")
    was_disabled, log.disabled = log.disabled, True  # it prints the trace of an error before it raises another one
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return read_program(path, text)
    except UnsafeProgramError as error:
        raise InputError(
            f"{path} cannot be loaded by torch: it is no exported program of plain data, and could run code: {error}"
        ) from error
    except Exception as error:  # torch raises many types
        raise InputError(
            f"{path} cannot be loaded by torch: it is no exported program that this torch reads"
        ) from error
    finally:
        log.disabled = was_disabled


def _graph(program: Any) -> Graph:
    """Operators and tensors of a program at batch 1; what an operator gives that is several tensors counts as one."""
    import torch

    tensors: dict[str, GraphTensor] = {}
    nodes: list[GraphNode] = []
    weights: list[str] = []
    weighted: set[str] = set()
    inputs: list[str] = []
    shapes: dict[str, list[int]] = {}
    signature = program.graph_signature
    stored = {**signature.inputs_to_parameters, **signature.inputs_to_buffers}
    for node in program.graph.nodes:
        value = node.meta.get("val")
        parts = [part for part in (value if isinstance(value, (list, tuple)) else [value]) if torch.is_tensor(part)]
        if parts:
            sizes = [[_at_batch_one(size) for size in part.shape] for part in parts]
            shapes[node.name] = sizes[0]
            elements = sum(map(math.prod, sizes))
            tensors[node.name] = GraphTensor(elements, elements * parts[0].element_size())
        if node.op == "placeholder" and node.name in stored:
            array = {**program.state_dict, **program.constants}[stored[node.name]]
            tensors[node.name] = GraphTensor(array.numel(), array.nbytes, int(torch.count_nonzero(array)))
            if node.name in signature.inputs_to_parameters:
                weights.append(node.name)
                weighted.add(node.name)
        elif node.op == "placeholder":
            inputs.append(node.name)
        elif node.op == "call_function" and node.name in tensors:
            reads = tuple(argument.name for argument in node.all_input_nodes if argument.name in tensors)
            if reads and all(read in weighted for read in reads):
                weighted.add(node.name)  # the results of an operation on weights are weights
            kind = node.target.__name__.partition(".")[0]
            name = f"{_layer(node)}/{kind}"
            nodes.append(
                GraphNode(reads, (node.name,), ROLES.get(kind, Role.COMPUTE), _macs(node, kind, shapes, weighted), name)
            )
    return Graph(tuple(nodes), tensors, tuple(weights), tuple(inputs), tuple(signature.user_outputs))


def _layer(node: Any) -> str:
    """Name of the layer that an operator belongs to: ``features.0``."""
    path = [str(path) for path, *_ in node.meta.get("nn_module_stack", {}).values()]
    return path[-1] if path else ""


def _at_batch_one(size: Any) -> int:
    """A dimension of a tensor, with 1 for the free batch size."""
    if isinstance(size, int):
        return size
    expression = size.node.expr
    return int(expression.subs(dict.fromkeys(expression.free_symbols, 1)))


def _macs(node: Any, kind: str, shapes: Mapping[str, list[int]], weighted: set[str]) -> int | None:
    """Multiply-accumulates of an operator; None if it has weights and is of an unknown kind."""
    flat = [
        each for argument in node.args for each in (argument if isinstance(argument, (list, tuple)) else [argument])
    ]
    given = [shapes[name] for name in (getattr(each, "name", "") for each in flat) if name in shapes]
    made = shapes[node.name]
    if kind in ("conv1d", "conv2d", "conv3d"):
        return counting.convolution(made, given[1])
    if kind in ("conv_transpose1d", "conv_transpose2d", "conv_transpose3d"):
        return counting.transposed_convolution(given[0], given[1])
    if kind in ("linear", "matmul", "mm", "bmm"):
        return counting.product(made, given[0][-1])
    if kind in ("addmm", "baddbmm"):
        return counting.product(made, given[1][-1])
    if kind in ("gru", "lstm", "rnn_tanh", "rnn_relu"):
        return counting.recurrence(math.prod(given[0][:-1]), [s for s in given[1:] if len(s) == 2])
    if kind == "scaled_dot_product_attention":
        return counting.attention(*given[:3])
    if kind == "einsum":
        return counting.einsum(node.args[0], given)
    reads = [each.name for each in node.all_input_nodes if each.name in shapes]
    if kind in SELECTING or all(name in weighted for name in reads):
        return 0
    return 0 if all(counting.is_spread(shapes[name], made) for name in reads if name in weighted) else None
