"""Rows: what is measured of one file, and what follows from the baseline and the clock."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from src.contracts import (
    BY_NAME,
    COLUMNS,
    DataSplits,
    Graph,
    ImageSet,
    Lowered,
    ModelCard,
    Precision,
    Row,
    Runtime,
    StoredWeight,
)
from src.data.batches import TensorBatches, evaluation_batches
from src.deploy.onnxruntime import OnnxRuntime
from src.metrics.accuracy import torch_accuracy
from src.metrics.graph import macs, parameters
from src.metrics.rows import bits_per_weight, complete, measure, measure_untested
from src.metrics.size import sha256, size_bytes, size_gzip_bytes
from src.metrics.timing import Timing
from src.models.small_cnn import SmallCNN

FROM_THE_RUN = {"variant", "target", "model", "seed", "artifact", "weights_kept"}
FROM_THE_BASELINE = {"accuracy_change", "compression_ratio", "speedup", "speedup_low", "speedup_high"}
FROM_THE_CLOCK = {"timed_at"} | {
    "latency_ms_p50",
    "latency_ms_p95",
    "latency_ms_p99",
    "throughput_per_s",
    "throughput_batch",
    "load_ms",
    "peak_memory_bytes",
    "energy_uj",
}


class Target(OnnxRuntime):
    """ONNX Runtime on the CPU, with options to be careless.

    Args:
        wrong: Name of a layer whose weights are changed when it exports.
        unreadable: Whether its graphs cannot be read.
    """

    def __init__(self, wrong: str = "", unreadable: bool = False) -> None:
        super().__init__(provider="CPUExecutionProvider", stored="float32")
        self.wrong, self.unreadable = wrong, unreadable

    def export(
        self, model: nn.Module, example_input: Tensor, path: Path, card: ModelCard, weights: Mapping[str, StoredWeight]
    ) -> tuple[Path, ...]:
        for name, module in model.named_modules():
            if self.wrong and name.endswith(self.wrong):
                assert isinstance(module.weight, Tensor)
                module.weight.data.neg_()
        return super().export(model, example_input, path, card, weights)

    def graph(self, path: Path) -> Graph:
        if self.unreadable:
            raise KeyError("an operator of another world")
        return super().graph(path)


def network() -> nn.Module:
    torch.manual_seed(0)
    sizes = {"num_classes": 10, "in_channels": 3, "image_size": (16, 16)}
    return SmallCNN(blocks=[[4], [6]], dense=8, padding=1, batch_norm=False, dropout=0.0, **sizes).eval()


@dataclass(frozen=True)
class Case:
    """A network and its file."""

    target: Target
    splits: DataSplits
    parts: tuple[Path, ...]

    def batches(self, images: ImageSet) -> TensorBatches:
        return evaluation_batches(self.splits, images, batch_size=7)

    def measure(self) -> dict[str, Any]:
        return measure(
            self.target,
            self.parts,
            network(),
            Lowered(network(), {}, False),
            self.splits,
            self.batches,
            bits_per_weight=32.0,
            identity="0123456789abcdef",
            threads=1,
        )


@pytest.fixture(scope="module")
def case(splits: DataSplits, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Case]:
    """Makes a case whose target has the given options."""

    def make(**options: Any) -> Case:
        target, path = Target(**options), tmp_path_factory.mktemp("rows") / "model.onnx"
        card = ModelCard(splits.classes, splits.image_shape, splits.mean, splits.std, "")
        parts = target.export(network(), torch.zeros(1, *splits.image_shape), path, card, {})
        return Case(target, splits, parts)

    return make


@pytest.fixture(scope="module")
def columns(case: Callable[..., Case]) -> dict[str, Any]:
    """What is measured of a file that does what its model does."""
    return case().measure()


def timing(milliseconds: float = 2.0, *, memory: int | None = 10) -> Timing:
    rounds = (milliseconds,) * 3
    return Timing(milliseconds, 3.0, 4.0, 500.0, 1, 5.0, memory, None, None, rounds)


def row(columns: Mapping[str, Any], variant: str = "pruned", **known: Any) -> Row:
    """A row whose times and baseline are unknown unless ``known`` holds them."""
    about: dict[str, Any] = {
        "target": "onnxruntime",
        "model": "small_cnn",
        "seed": 3,
        "artifact": f"{variant}.onnxruntime.onnx",
        "weights_kept": "last, epoch 1 of 1",
        "base": None,
        "timing": None,
        "base_timing": None,
        "timed_at": None,
    }
    return complete(columns, variant=variant, **{**about, **known})


# Measuring one file -------------------------------------------------------------------------------


def test_every_column_comes_from_the_file_the_run_the_baseline_or_the_clock(columns: dict[str, Any]) -> None:
    assert set(BY_NAME) - set(columns) == FROM_THE_RUN | FROM_THE_BASELINE | FROM_THE_CLOCK
    assert not set(columns) - set(BY_NAME)
    assert set(timing().columns()) == FROM_THE_CLOCK - {"timed_at"}


def test_columns_are_those_of_the_file(case: Callable[..., Case], columns: dict[str, Any]) -> None:
    made = case()
    graph = made.target.graph(made.parts[0])
    assert columns["size_bytes"] == size_bytes(made.parts)
    assert columns["size_gzip_bytes"] == size_gzip_bytes(made.parts)
    assert columns["sha256"] == sha256(made.parts)
    assert (columns["macs"], columns["parameters"]) == (macs(graph), parameters(graph))
    assert (columns["data"], columns["identity"], columns["bits_per_weight"]) == ("shapes", "0123456789abcdef", 32.0)
    assert (columns["agreement"], columns["departs_at"], columns["unavailable"]) == (1.0, None, {})


def test_accuracies_are_those_of_torch_on_test_and_validation_images(
    columns: dict[str, Any], splits: DataSplits
) -> None:
    for column, images in (("accuracy", splits.test), ("accuracy_validation", splits.validation)):
        batches = evaluation_batches(splits, images, batch_size=50)
        expected = torch_accuracy(network(), batches, 10)
        assert columns[column] == expected.overall
        if column == "accuracy":
            assert tuple(columns["accuracy_per_class"].values()) == expected.per_class
    assert columns["accuracy_torch"] == columns["accuracy"]
    assert tuple(columns["accuracy_per_class"]) == splits.classes


def test_columns_come_back_from_json(columns: dict[str, Any]) -> None:
    known = {"timing": timing(), "base_timing": timing(8.0), "timed_at": "now", "base": row(columns, "baseline")}
    assert row(json.loads(json.dumps(columns)), **known) == row(columns, **known)


def test_a_trial_of_a_search_knows_every_column_that_a_search_may_use(
    case: Callable[..., Case], columns: dict[str, Any], splits: DataSplits
) -> None:
    made = case()
    session = made.target.load(made.parts[0])
    untested = measure_untested(made.target, made.parts, session, splits, made.batches, Lowered(network(), {}, False))
    known = {*untested, *timing().columns(), "bits_per_weight"}
    assert {column.name for column in COLUMNS if column.searched} <= known
    assert {name: columns[name] for name in untested} == untested


def test_the_packed_weights_are_measured_and_are_null_with_a_reason_where_numba_is_missing(
    case: Callable[..., Case], columns: Mapping[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    tensors = sum(value.numel() * value.element_size() for value in network().state_dict().values())
    assert 0.7 * tensors < columns["size_packed_bytes"] < tensors
    for module in [name for name in sys.modules if name.startswith("src.coding")]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, "numba", None)
    found = case().measure()
    assert found["size_packed_bytes"] is None
    assert found["unavailable"] == {"size_packed_bytes": "the coders need numba, which is not installed"}


def test_a_graph_that_cannot_be_read_costs_only_its_counts(case: Callable[..., Case]) -> None:
    found = case(unreadable=True).measure()
    counts = ("parameters", "nonzero_parameters", "macs", "integer_share", "float_operations", "peak_activation_bytes")
    counts = (*counts, "energy_uj_estimate")
    assert {name: found[name] for name in counts} == dict.fromkeys(counts)
    assert set(found["unavailable"]) == set(counts)
    assert "the graph cannot be counted: 'an operator of another world'" in found["unavailable"]["macs"]
    assert found["accuracy"] is not None


def test_a_file_that_does_something_else_names_the_layer_where_it_departs(case: Callable[..., Case]) -> None:
    found = case(wrong="features.0").measure()
    assert found["agreement"] < 0.99
    assert found["departs_at"] == "features.0"
    assert found["logit_difference_max"] >= found["logit_difference_mean"] > 0


def test_a_failed_search_for_that_layer_costs_only_its_name(
    case: Callable[..., Case], monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(*_: object) -> None:
        raise RuntimeError("the runtime gave up")

    monkeypatch.setattr("src.metrics.rows.departs_at", failing)
    found = case(wrong="features.0").measure()
    assert found["departs_at"] is None
    assert found["unavailable"] == {"departs_at": "the layers cannot be looked at: the runtime gave up"}


def test_bits_are_a_mean_over_weights_and_not_over_layers() -> None:
    layers = [{"parameters": 30, "bits": 8}, {"parameters": 10, "bits": 32}]
    assert bits_per_weight(layers) == (30 * 8 + 10 * 32) / 40
    assert bits_per_weight([]) == 0


# Completing a row ---------------------------------------------------------------------------------


def test_a_row_is_built_with_all_its_names(columns: dict[str, Any]) -> None:
    made = row(columns, timing=timing(), timed_at="2026-11-27T08:26:21+00:00")
    assert (made.variant, made.target, made.model, made.seed) == ("pruned", "onnxruntime", "small_cnn", 3)
    assert (made.artifact, made.weights_kept) == ("pruned.onnxruntime.onnx", "last, epoch 1 of 1")
    assert (made.precision, made.runtime) == (Precision(("float32",)), Runtime("onnxruntime"))
    assert made.timed_at == "2026-11-27T08:26:21+00:00"
    assert "" not in asdict(made).values()


def test_the_baseline_is_compared_with_itself(columns: dict[str, Any]) -> None:
    made = row(columns, "baseline", timing=timing())
    assert (made.compression_ratio, made.accuracy_change) == (1.0, None)
    assert (made.speedup, made.speedup_low, made.speedup_high) == (1.0, 1.0, 1.0)


def test_a_compressed_file_is_compared_with_the_baselines(columns: dict[str, Any]) -> None:
    base = row({**columns, "size_bytes": 4000, "accuracy": 0.7}, "baseline")
    smaller = {**columns, "size_bytes": 1000, "accuracy": 0.6}
    made = row(smaller, base=base, timing=timing(2.0), base_timing=timing(8.0), timed_at="now")
    assert made.compression_ratio == 4.0
    assert made.accuracy_change == -0.1  # rounded: 0.6 - 0.7 is -0.09999999999999998
    assert (made.speedup, made.speedup_low, made.speedup_high) == (4.0, 4.0, 4.0)
    assert (made.latency_ms_p50, made.latency_ms_p95, made.peak_memory_bytes) == (2.0, 3.0, 10)


def test_without_a_file_of_the_baseline_there_is_no_comparison(columns: dict[str, Any]) -> None:
    made = row(columns, timing=timing(), timed_at="now")
    assert {name: getattr(made, name) for name in FROM_THE_BASELINE} == dict.fromkeys(FROM_THE_BASELINE)
    assert made.latency_ms_p50 == 2.0


def test_without_times_of_the_baseline_there_is_no_speedup(columns: dict[str, Any]) -> None:
    made = row(columns, base=row(columns, "baseline"), timing=timing(), timed_at="now")
    assert (made.compression_ratio, made.accuracy_change, made.speedup) == (1.0, 0.0, None)


def test_a_file_that_another_runtime_runs_has_no_times_and_says_why(columns: dict[str, Any]) -> None:
    runtime = asdict(Runtime("onnxruntime", stands_in_for="tensorrt"))
    made = row({**columns, "runtime": runtime, "unavailable": {"macs": "no"}}, timed_at="now")
    assert {name: getattr(made, name) for name in FROM_THE_CLOCK} == dict.fromkeys(FROM_THE_CLOCK)
    assert made.unavailable["macs"] == "no"
    assert made.unavailable["latency_ms_p50"].startswith("onnxruntime for tensorrt stands in")


def test_memory_that_the_system_does_not_tell_is_said_so(columns: dict[str, Any]) -> None:
    made = row(columns, timing=timing(memory=None), timed_at="now")
    assert made.peak_memory_bytes is None
    assert made.unavailable == {"peak_memory_bytes": "the system does not tell"}
