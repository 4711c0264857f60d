"""Training steps that a GPU replays: captured once as a CUDA graph, then started by one launch each.

A small network's step is many short kernels, and starting each from Python takes longer than running it. All that a
step reads and writes therefore stays in place: the order of the images, the place in it, the learning rates, weights,
optimizer state and sums. The draws of a captured step go on from the state of its generators, so that they are the same
as those of a step that is not captured.
"""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from src.contracts import Loss, Recipe, StaticBatches, StepCallback, TrainingProgress
from src.training.steps import Step, Steps

FUSED = (torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW)  # read their learning rate from a tensor on the device
WARM_UP = 2  # calls before the capture: the first creates what is created once, the second is watched
READING = {  # operators whose result, or its shape, the host waits for
    "aten::_local_scalar_dense": "a number is read on the host",
    "aten::is_nonzero": "a branch depends on data",
    "aten::equal": "a branch depends on data",
    "aten::nonzero": "a shape depends on data",
    "aten::masked_select": "a shape depends on data",
    "aten::_unique": "a shape depends on data",
    "aten::_unique2": "a shape depends on data",
    "aten::unique_dim": "a shape depends on data",
    "aten::unique_consecutive": "a shape depends on data",
    "aten::bincount": "a shape depends on data",
    "aten::repeat_interleave": "a shape depends on data",
    "aten::lift_fresh": "a tensor is made of numbers of the host",
    "aten::lift_fresh_copy": "a tensor is made of numbers of the host",
}
INDEXING = ("aten::index", "aten::index_put", "aten::index_put_")


class Watch(TorchDispatchMode):
    """Notes the first operation in a block that a graph cannot hold.

    Attributes:
        reason: Says what it was and where; None if there was none.
    """

    def __init__(self) -> None:
        super().__init__()
        self.reason: str | None = None

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        if self.reason is None:
            problem = _problem(function, args, result)
            self.reason = None if problem is None else f"{problem} ({function.name()}{_place()})"
        return result


def _problem(function: Any, args: Sequence[Any], result: Any) -> str | None:
    """Why a graph cannot hold an operation; None if it can."""
    name = function.name().partition(".")[0]
    if name in READING:
        return READING[name]
    if name in INDEXING and any(isinstance(i, Tensor) and i.dtype in (torch.bool, torch.uint8) for i in args[1]):
        return "a shape depends on data"
    tensors = [argument for argument in (*args, result) if isinstance(argument, Tensor)]
    if name in ("aten::_to_copy", "aten::copy_") and len({tensor.device.type for tensor in tensors}) > 1:
        return "a tensor is copied between host and device"
    return None


def _place() -> str:
    """Where the present operation stands in code that is not torch's."""
    own = (str(Path(torch.__file__).parent), __file__)
    for frame in reversed(traceback.extract_stack()):
        if not frame.filename.startswith(own) and not frame.filename.startswith("<"):
            return f", in {Path(frame.filename).name}, line {frame.lineno}"
    return ""


class Graphs:
    """The stream and the memory that the graphs of one training share; on the CPU nothing is captured.

    Args:
        device: Where the training runs.
        say: Gets a line if something cannot be captured.

    Attributes:
        captures: Whether functions run on the stream and are captured.
        failed: Whether a capture has failed half-way. torch's allocator then still records to the shared memory, and
            refuses every later capture; functions that are not captured yet run as they are.
    """

    def __init__(self, device: torch.device, say: Callable[[str], None]) -> None:
        self.device, self.say = device, say
        self.captures, self.failed = device.type == "cuda", False
        self.stream: Any = torch.cuda.Stream(device) if self.captures else None
        self.pool: Any = torch.cuda.graph_pool_handle() if self.captures else None

    @contextmanager
    def own_stream(self) -> Iterator[None]:
        """Run the block on the graphs' stream, after what was started before, and before what comes later."""
        if not self.captures:
            yield
            return
        outside = torch.cuda.current_stream(self.device)
        self.stream.wait_stream(outside)
        try:
            with torch.cuda.stream(self.stream):
                yield
        finally:
            outside.wait_stream(self.stream)


class Replayed:
    """A function over tensors that stay in place, captured after its first calls and then replayed.

    The first calls are real ones, so that nothing needs to be undone. If the function cannot be captured, it is called
    as it is, and the reason is said once.

    Args:
        name: What the function is to a reader.
        function: Takes and returns nothing.
        tensors: Gives the tensors in whose place the graph reads and writes. If one was replaced (a checkpoint was
            loaded, a module exchanged), the function is captured anew.
        graphs: Stream and memory.
        generators: Generators that the function draws from, beside the device's own.

    Attributes:
        reason: Why the function cannot be captured; None if it can, or it is not known yet.
        replays: Number of calls that were replays.
    """

    def __init__(
        self,
        name: str,
        function: Callable[[], None],
        tensors: Callable[[], Iterable[Tensor]],
        graphs: Graphs,
        generators: Sequence[torch.Generator] = (),
    ) -> None:
        self.name, self.function, self.tensors, self.graphs = name, function, tensors, graphs
        self.generators = list(generators)
        self.graph: Any = None
        self.reason: str | None = None
        self.replays = 0
        self._calls = 0
        self._places: list[int] = []

    def begin(self) -> None:
        """Look whether the tensors are still where they were; called before an epoch."""
        if self.graph is not None and self._places != self._places_now():
            self.graph, self._calls = None, WARM_UP - 1

    def __call__(self) -> None:
        if self.graph is None and self.graphs.captures and not self.graphs.failed and self.reason is None:
            self._approach()
        elif self.graph is None:
            self.function()
        if self.graph is not None:
            self.graph.replay()
            self.replays += 1

    def _approach(self) -> None:
        """Call the function, watch it, or capture it, by the number of calls so far."""
        self._calls += 1
        if self._calls < WARM_UP:
            self.function()
        elif self._calls == WARM_UP:
            with Watch() as watch:
                self.function()
            if watch.reason is not None:
                self._give_up(watch.reason)
        else:
            self._capture()

    def _capture(self) -> None:
        """Capture the function; nothing is computed, unless that fails."""
        graph = torch.cuda.CUDAGraph()
        states = {generator: generator.get_state() for generator in self._all_generators()}
        for generator in self.generators:
            graph.register_generator_state(generator)
        torch.cuda.synchronize()
        torch.cuda.empty_cache()  # the first calls' memory is not that of the graph
        try:
            graph.capture_begin(pool=self.graphs.pool, capture_error_mode="thread_local")
            try:
                self.function()
            finally:
                graph.capture_end()
        except Exception as error:  # of CUDA, of torch, of a library: whatever it is, the training goes on without
            for generator, state in states.items():  # a generator that was left capturing gets a state of its own
                fresh = torch.Generator(self.graphs.device)
                fresh.set_state(state)
                generator.graphsafe_set_state(fresh.graphsafe_get_state())
            self.graphs.failed = True
            self._give_up(f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}")
            self.function()
            return
        self.graph, self._places = graph, self._places_now()

    def _all_generators(self) -> list[torch.Generator]:
        index = self.graphs.device.index
        default = torch.cuda.default_generators[torch.cuda.current_device() if index is None else index]
        return [default, *self.generators]

    def _give_up(self, reason: str) -> None:
        self.reason = reason
        self.graphs.say(f"{self.name} cannot be captured as a CUDA graph and is slower: {reason}")

    def _places_now(self) -> list[int]:
        return [tensor.data_ptr() for tensor in self.tensors()]


def why_not(
    model: nn.Module, optimizer: Any, loss: Loss, callbacks: Sequence[StepCallback], batches: Any
) -> str | None:
    """Why a training step is not even tried to be captured; None if it is."""
    if not isinstance(batches, StaticBatches):
        return f"{type(batches).__name__} does not give its batches in place"
    if not batches.capturable:
        return "the images do not fit into the GPU's memory"
    for part in (loss, *callbacks, *model.modules()):
        if not getattr(part, "capturable", True):
            return f"{type(part).__name__} does not say that it can be"
    if type(optimizer) not in FUSED and not all("capturable" in group for group in optimizer.param_groups):
        return f"{type(optimizer).__name__} has no form that can be"
    return None


def make_capturable(optimizer: Any, device: torch.device) -> None:
    """Let an optimizer read its learning rate, and count its steps, on the device."""
    for group in optimizer.param_groups:
        if type(optimizer) in FUSED:
            group["fused"], group["foreach"] = True, False
        if "capturable" in group:
            group["capturable"] = device.type == "cuda"
        group["lr"] = torch.tensor(float(group["lr"]), device=device)


class StaticSteps(Steps):
    """The loop over the steps of an epoch, each of which is replayed where that can be.

    The callbacks' ``before_step`` and ``after_step`` run on the host between two replays and change tensors in place.

    Args:
        step: What a step does with a batch.
        recipe: Number of epochs and learning rate.
        callbacks: Called around each step.
        progress: Gets a step each ``SECONDS``; the host waits for the device then, and only then.
        batches: Batches in place.
        graphs: Stream and memory of the graph.
    """

    SECONDS = 0.25

    def __init__(
        self,
        step: Step,
        recipe: Recipe,
        callbacks: Sequence[StepCallback],
        progress: TrainingProgress,
        batches: StaticBatches,
        graphs: Graphs,
    ) -> None:
        super().__init__(step, recipe, callbacks, progress)
        self.batches, self.graphs = batches, graphs
        make_capturable(step.optimizer, graphs.device)
        groups = len(step.optimizer.param_groups)
        self.rates = torch.zeros(groups, len(batches), device=graphs.device)
        self.place = torch.zeros(1, dtype=torch.int64, device=graphs.device)
        self.replayed = Replayed("the training step", self.take_step, self.tensors, graphs, batches.generators)

    def take_step(self, size: int | None = None) -> None:
        """The next step of the epoch: learning rate, batch (full unless ``size`` is given), and all of ``Step``."""
        for group, rates in zip(self.step.optimizer.param_groups, self.rates, strict=True):
            group["lr"].copy_(rates.index_select(0, self.place).squeeze(0))
        self.place += 1
        self.step(*self.batches.take(size or self.batches.batch_size))

    def tensors(self) -> Iterator[Tensor]:
        """The tensors that must stay in place: weights, buffers, the optimizer's state and learning rates."""
        yield from self.step.model.parameters()
        yield from self.step.model.buffers()
        for group in self.step.optimizer.param_groups:
            yield group["lr"]
        for state in self.step.optimizer.state.values():
            yield from (value for value in state.values() if isinstance(value, Tensor))

    def run(self, batches: Any, epoch: int) -> None:
        """Train one epoch on the batches that the object was made for."""
        with self.graphs.own_stream():
            self.begin(len(batches))
            first, total = epoch * len(batches), self.recipe.epochs * len(batches)
            factors = [self.recipe.rate(step / total) for step in range(first, first + len(batches))]
            groups = self.step.optimizer.param_groups
            self.rates.copy_(torch.tensor([[group["initial_lr"] * factor for factor in factors] for group in groups]))
            self.place.zero_()
            self.batches.begin()
            self.replayed.begin()
            self._run(epoch, first, total)

    def _run(self, epoch: int, first: int, total: int) -> None:
        report_at, model = time.perf_counter() + self.SECONDS, self.step.model
        last = first + len(self.batches)
        for step in range(first, last):
            for callback in self.before:
                callback.before_step(model, step / total)
            rest = self.batches.rest if step + 1 == last else 0
            if rest:
                self.take_step(rest)
            else:
                self.replayed()
            for callback in self.after:
                callback.after_step(model, (step + 1) / total)
            self.count(rest or self.batches.batch_size)
            if step + 1 == last or time.perf_counter() > report_at:
                self.progress.step(epoch, step + 1, self.sums.loss)
                report_at = time.perf_counter() + self.SECONDS
