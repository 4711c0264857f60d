"""Exported files as MLflow's logged models: READY only if file and numbers are there, and one for each measurement."""

from __future__ import annotations

import platform
import re
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from src.contracts import DataDescription, Row
from src.files.inside import is_inside
from src.tracking.mlflow_store import metric_key, milliseconds, models_with
from src.tracking.registry import SAME_MODEL

MODEL_PARAMS = ("variant", "target", "runtime", "precision", "data", "model", "identity", "sha256", "measured_at")


def complete_model(client: Any, experiments: Sequence[str], row: Row) -> Any:
    """The logged model of a row's file and measurement; None if no run has logged it completely.

    Members of a survey share the baseline's model.
    """
    return next((model for model in _models_of(client, experiments, row) if _is_complete(client, model, row)), None)


def ready(client: Any, model_id: str) -> bool:
    """Whether a model is there and READY."""
    from mlflow.exceptions import MlflowException

    try:
        return str(client.get_logged_model(model_id).status) == "READY"
    except MlflowException as error:
        if error.error_code == "RESOURCE_DOES_NOT_EXIST":
            return False
        raise


def log_model(client: Any, experiment: str, run_id: str, row: Row, folder: Path, data: DataDescription) -> Any:
    """Log an exported file as a model with its numbers, unless a run has logged it completely; return the model.

    What this run has logged of it before it was cut off is completed, or deleted if another run has logged it since.

    Args:
        client: MLflow's client.
        experiment: Identifier of MLflow's experiment.
        run_id: Identifier of the run.
        row: The row of the file.
        folder: The run's folder, which holds the file.
        data: The data set of the numbers.
    """
    found = _models_of(client, [experiment], row)
    model = next((model for model in found if _is_complete(client, model, row)), None)
    own = [each for each in found if each.source_run_id == run_id and each is not model]
    if model is None:
        params = {key: str(getattr(row, key)) for key in MODEL_PARAMS}
        name = re.sub(r"[^\w -]", "-", f"{row.variant}.{row.target}")
        model = (
            own.pop() if own else client.create_logged_model(experiment, name=name, source_run_id=run_id, params=params)
        )
        _complete(client, model, run_id, row, folder, data)
    for half in own:
        if str(half.status) == "PENDING":
            client.delete_logged_model(half.model_id)
    return model


def _models_of(client: Any, experiments: Sequence[str], row: Row) -> list[Any]:
    return models_with(client, experiments, {key: getattr(row, key) for key in SAME_MODEL})


def _is_complete(client: Any, model: Any, row: Row) -> bool:
    """Whether a model is READY and holds the row's numbers and its file."""
    if str(model.status) != "READY":
        return False
    logged = {metric.key for metric in client.get_logged_model(model.model_id).metrics or ()}
    if not set(row.numbers()) <= logged:
        return False
    return row.artifact in {file.path for file in client.list_logged_model_artifacts(model.model_id)}


def _complete(client: Any, model: Any, run_id: str, row: Row, folder: Path, data: DataDescription) -> None:
    """Log the file with its signature, then the numbers; what is READY has both.

    ``mlflow.pyfunc`` loads the model if it is an ONNX file.
    """
    from mlflow.entities import Metric
    from mlflow.models import Model

    with tempfile.TemporaryDirectory() as temporary:
        packed = Path(temporary)
        for part in sorted(folder.glob(f"{_escaped(Path(row.artifact).stem)}.*")):
            if is_inside(part, folder):
                shutil.copy2(part, packed / part.name)
        Model(
            run_id=run_id,
            flavors=_flavors(row),
            signature=_signature(data),
            metadata={"classes": list(data.classes), "mean": list(data.mean), "std": list(data.std)},
            model_id=model.model_id,
            model_size_bytes=row.size_bytes,
        ).save(str(packed / "MLmodel"))
        client.log_model_artifacts(model.model_id, str(packed))
    at, origin = milliseconds(row.measured_at), {"dataset_name": data.name, "dataset_digest": data.checksum[:32]}
    numbers = row.numbers().items()
    metrics = [
        Metric(metric_key(key), float(value), at, 0, model_id=model.model_id, run_id=run_id, **origin)
        for key, value in numbers
    ]
    client.log_batch(run_id, metrics=metrics)
    client.finalize_logged_model(model.model_id, "READY")


def _escaped(name: str) -> str:
    """A file's name as a pattern that only it fits."""
    return re.sub(r"([*?[])", r"[\1]", name)


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


def _signature(data: DataDescription) -> Any:
    """The types and shapes of a model's input and output."""
    import numpy as np
    from mlflow.models.signature import ModelSignature
    from mlflow.types import Schema, TensorSpec

    image, logits = (-1, *data.image_shape), (-1, len(data.classes))
    return ModelSignature(
        inputs=Schema([TensorSpec(np.dtype(np.float32), image, "image")]),
        outputs=Schema([TensorSpec(np.dtype(np.float32), logits, "logits")]),
    )
