"""Result rows as a run would write them."""

from __future__ import annotations

from typing import Any

from src.contracts import BY_NAME, Precision, Row, Runtime


def row(**changes: Any) -> Row:
    """The row of a baseline's file in ONNX Runtime, with ``changes``."""
    values: dict[str, Any] = {
        "variant": "baseline",
        "target": "onnxruntime",
        "precision": Precision(("float32",)),
        "bits_per_weight": 32.0,
        "accuracy": 0.9,
        "balanced_accuracy": 0.9,
        "accuracy_change": None,
        "accuracy_validation": 0.91,
        "accuracy_torch": 0.9,
        "accuracy_per_class": {"cat": 0.8, "dog": 1.0},
        "size_bytes": 1_000_000,
        "compression_ratio": 1.0,
        "size_gzip_bytes": 900_000,
        "size_packed_bytes": 700_000,
        "latency_ms_p50": 0.5,
        "latency_ms_p95": 0.6,
        "latency_ms_p99": 0.7,
        "speedup": 1.0,
        "speedup_low": 1.0,
        "speedup_high": 1.0,
        "agreement": 1.0,
        "logit_difference_max": 1e-6,
        "logit_difference_mean": 1e-7,
        "logit_range": 10.0,
        "departs_at": None,
        "integer_share": 0.0,
        "float_operations": None,
        "may_saturate": None,
        "throughput_per_s": 4000.0,
        "throughput_batch": 8,
        "load_ms": 3.0,
        "peak_memory_bytes": 5_000_000,
        "energy_uj": None,
        "energy_uj_estimate": 100.0,
        "parameters": 250_000,
        "nonzero_parameters": 250_000,
        "macs": 1_000_000,
        "peak_activation_bytes": 10_000,
        "runtime": Runtime("onnxruntime"),
        "data": "pets",
        "model": "net",
        "seed": 0,
        "artifact": "baseline.onnxruntime.onnx",
        "sha256": "0" * 64,
        "identity": "0" * 16,
        "weights_kept": "best, epoch 3 of 4",
        "machine": "a board",
        "measured_at": "2026-01-01T00:00:00+00:00",
        "timed_at": "2026-01-01T00:00:00+00:00",
        "unavailable": {},
    }
    return Row(**{**dict.fromkeys(BY_NAME), **values, **changes})  # a column that is new is None


def variant(name: str, **changes: Any) -> Row:
    """The row of a compressed model, with ``changes``."""
    base = {"variant": name, "artifact": f"{name}.onnxruntime.onnx", "identity": "1" * 16, "accuracy_change": 0.0}
    return row(**{**base, **changes})
