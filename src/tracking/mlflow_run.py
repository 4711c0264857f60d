"""An open run in MLflow: its epochs, its result rows, and a logged model for each exported file."""

from __future__ import annotations

import platform
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from src.contracts import Epoch, Row, RunDescription, TrackedRun
from src.tracking.mlflow_store import all_of, answering, now

MODEL_PARAMS = ("variant", "target", "runtime", "precision", "data", "model", "identity", "sha256", "measured_at")
SAME_MODEL = ("variant", "sha256", "measured_at")  # the same file and measurement
SAMPLING_SECONDS = 5


class MlflowRun(TrackedRun):
    """An open run.

    Args:
        client: MLflow's client.
        uri: Address of the store.
        experiment: Identifier of MLflow's experiment.
        run_id: Identifier of the run.
        run: Description of the run.
    """

    def __init__(self, client: Any, uri: str, experiment: str, run_id: str, run: RunDescription) -> None:
        self.run_id: str = run_id
        self._client, self._uri, self._experiment, self._run = client, uri, experiment, run
        self._monitor: Any = None

    def monitor(self) -> None:
        """Log the use of processor and memory until the run is finished."""
        from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

        self._monitor = SystemMetricsMonitor(self.run_id, sampling_interval=SAMPLING_SECONDS, tracking_uri=self._uri)
        self._monitor.start()

    def epoch(self, stage: str, epoch: Epoch) -> None:
        from mlflow.entities import Metric

        fields = {key: value for key, value in asdict(epoch).items() if key not in ("epoch", "finished_at")}
        numbers = {key: value for key, value in fields.items() if value is not None}  # null stands for infinite
        at = int(1000 * epoch.finished_at)
        metrics = [Metric(f"{stage}/{key}", value, at, epoch.epoch) for key, value in numbers.items()]
        with answering(self._uri):
            self._client.log_batch(self.run_id, metrics=metrics)

    def rows(self, rows: Sequence[Row], folder: Path) -> None:
        with answering(self._uri):
            own = [row for row in rows if row.variant == self._run.variant]
            for row in [*(row for row in rows if row.variant != self._run.variant), *own[::-1]]:
                self._log_row(row, folder)
            self._log_columns(rows, own[0])
            for key in ("identity", "machine"):
                self._client.set_tag(self.run_id, key, getattr(rows[-1], key))
            self._client.log_artifacts(self.run_id, str(folder))

    def finish(self, status: str) -> None:
        monitor, self._monitor = self._monitor, None
        with answering(self._uri):
            try:
                if monitor is not None:
                    monitor.finish()
            finally:
                self._client.set_terminated(self.run_id, status)

    def _log_row(self, row: Row, folder: Path) -> None:
        """Log a row's file as a model with the row's numbers; a model that another run logged is linked."""
        from mlflow.entities import LoggedModelOutput

        model, found = logged_model(self._client, [self._experiment], row), True
        if model is None:
            model, found = self._log_model(row, folder), False
        if model.model_id not in self._linked_models():  # a run that resumes may have linked it before
            self._client.log_outputs(self.run_id, [LoggedModelOutput(model.model_id, step=0)])
        for key, value in {} if found else row.numbers().items():
            self._client.log_metric(
                self.run_id,
                key,
                float(value),
                model_id=model.model_id,
                dataset_name=self._run.data.name,
                dataset_digest=self._run.data.checksum[:32],
            )

    def _linked_models(self) -> set[str]:
        outputs = self._client.get_run(self.run_id).outputs
        return {output.model_id for output in outputs.model_outputs} if outputs is not None else set()

    def _log_columns(self, rows: Sequence[Row], first: Row) -> None:
        """Log each row's numbers as metrics ``<target>/<column>``, and those of ``first`` by their plain names."""
        from mlflow.entities import Metric

        metrics = []
        for row in rows:
            prefix = row.target if row.variant == self._run.variant else f"baseline_{row.target}"
            metrics += [Metric(f"{prefix}/{key}", float(value), now(), 0) for key, value in row.numbers().items()]
        metrics += [Metric(key, float(value), now(), 0) for key, value in first.numbers().items()]
        self._client.log_batch(self.run_id, metrics=metrics)

    def _log_model(self, row: Row, folder: Path) -> Any:
        """Log an exported file as a model with its signature; ``mlflow.pyfunc`` loads it if it is an ONNX file."""
        from mlflow.models import Model

        name = f"{row.variant}.{row.target}".replace(".", "-")
        params = {key: str(getattr(row, key)) for key in MODEL_PARAMS}
        logged = self._client.create_logged_model(self._experiment, name=name, source_run_id=self.run_id, params=params)
        data = self._run.data
        with tempfile.TemporaryDirectory() as temporary:
            packed = Path(temporary)
            for part in sorted(folder.glob(f"{Path(row.artifact).stem}.*")):
                shutil.copy2(part, packed / part.name)
            Model(
                run_id=self.run_id,
                flavors=_flavors(row),
                signature=_signature(self._run),
                metadata={"classes": list(data.classes), "mean": list(data.mean), "std": list(data.std)},
                model_id=logged.model_id,
                model_size_bytes=row.size_bytes,
            ).save(str(packed / "MLmodel"))
            self._client.log_model_artifacts(logged.model_id, str(packed))
        self._client.finalize_logged_model(logged.model_id, "READY")
        return logged


def logged_model(client: Any, experiments: Sequence[str], row: Row) -> Any:
    """The logged model of a row's file and measurement; None if no run has logged it.

    Members of a survey share the baseline's model.
    """
    wanted = all_of("params", {key: getattr(row, key) for key in SAME_MODEL})
    found = client.search_logged_models(list(experiments), filter_string=wanted, max_results=1)
    return found[0] if found else None


def _flavors(row: Row) -> dict[str, Any]:
    """How MLflow loads a row's file."""
    if not row.artifact.endswith(".onnx"):
        return {row.runtime.name: {"data": row.artifact}}
    import onnx

    return {
        "onnx": {"onnx_version": onnx.__version__, "data": row.artifact, "providers": ["CPUExecutionProvider"]},
        "python_function": {
            "loader_module": "mlflow.onnx",
            "data": row.artifact,
            "python_version": platform.python_version(),
        },
    }


def _signature(run: RunDescription) -> Any:
    """The types and shapes of a model's input and output."""
    import numpy as np
    from mlflow.models.signature import ModelSignature
    from mlflow.types import Schema, TensorSpec

    image, logits = (-1, *run.data.image_shape), (-1, len(run.data.classes))
    return ModelSignature(
        inputs=Schema([TensorSpec(np.dtype(np.float32), image, "image")]),
        outputs=Schema([TensorSpec(np.dtype(np.float32), logits, "logits")]),
    )
