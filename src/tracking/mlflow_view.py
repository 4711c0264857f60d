"""How MLflow's page opens an experiment: a view in a tag of the experiment, as the page itself stores it.

The tag is ``mlflow.sharedViewState.<key>``; the page opens it by ``?viewStateShareKey=<key>`` and lists it under Views.
The format is that of MLflow 3.17; a page that does not know a part of it shows its own view.
"""

from __future__ import annotations

import base64
import json
import time
import zlib
from typing import Any

KEY = "compression"
TAG = f"mlflow.sharedViewState.{KEY}"
LOCAL = "http://127.0.0.1:5000"  # where ``mlflow ui`` answers
COLUMNS = (
    "params.`method`",
    "metrics.`accuracy`",
    "metrics.`accuracy_change`",
    "metrics.`size_bytes`",
    "metrics.`compression_ratio`",
    "metrics.`latency_ms_p50`",
)
SECTION = "compression-section"
AGAINST = ("size_bytes", "size_gzip_bytes", "latency_ms_p50")
BARS = ("size_bytes", "accuracy", "latency_ms_p50")


def address(root: str, experiment: str) -> str:
    """The address that opens an experiment in the view; ``root`` is that of the server."""
    return f"{root.rstrip('/')}/#/experiments/{experiment}/runs?viewStateShareKey={KEY}"


def write_view(client: Any, experiment: Any) -> None:
    """Store the view in the experiment, unless it is there.

    Args:
        client: MLflow's client.
        experiment: MLflow's experiment.
    """
    state = packed(view())
    try:
        known = json.loads(experiment.tags.get(TAG, "{}"))
    except ValueError:
        known = {}
    if not isinstance(known, dict) or known.get("state") != state:
        now = int(1000 * time.time())
        content = {"name": "Compression", "createdAt": now, "updatedAt": now, "state": state}
        client.set_experiment_tag(experiment.experiment_id, TAG, json.dumps(content))


def view() -> dict[str, Any]:
    """The view: figures that decide as columns, the most accurate run first, and charts of accuracy against cost."""
    return {
        "searchFilter": "",
        "orderByKey": "metrics.`accuracy`",
        "orderByAsc": False,
        "startTime": "ALL",
        "lifecycleFilter": "Active",
        "datasetsFilter": [],
        "modelVersionFilter": "All Runs",
        "selectedColumns": list(COLUMNS),
        "columnOrder": [],
        "columnWidths": {},
        "runsHiddenMode": "FIRST_20_RUNS",
        "viewMaximized": False,
        "runListHidden": False,
        "isAccordionReordered": False,
        "useGroupedValuesInCharts": True,
        "hideEmptyCharts": True,
        "groupBy": None,
        "groupsExpanded": {},
        "autoRefreshEnabled": True,
        "globalLineChartConfig": {"xAxisKey": "step", "lineSmoothness": 0, "selectedXAxisMetricKey": ""},
        "compareRunSections": [
            {
                "uuid": SECTION,
                "name": "Accuracy against bytes and latency",
                "display": True,
                "isReordered": False,
                "deleted": False,
                "isGenerated": False,
            }
        ],
        "compareRunCharts": [*map(_scatter, AGAINST), _parallel(), *map(_bar, BARS)],
    }


def packed(state: dict[str, Any]) -> str:
    """A view as the page stores it."""
    text = json.dumps(state, separators=(",", ":")).encode()
    return "deflate;" + base64.b64encode(zlib.compress(text, 9)).decode()


def _chart(kind: str, name: str, **more: Any) -> dict[str, Any]:
    return {
        "uuid": f"{SECTION}-{name}",
        "type": kind,
        "runsCountToCompare": 20,
        "deleted": False,
        "isGenerated": False,
        "metricSectionId": SECTION,
        **more,
    }


def _scatter(cost: str) -> dict[str, Any]:
    axes = {"xaxis": {"key": cost, "type": "METRIC"}, "yaxis": {"key": "accuracy", "type": "METRIC"}}
    return _chart("SCATTER", f"scatter-{cost}", **axes)


def _bar(column: str) -> dict[str, Any]:
    return _chart("BAR", f"bar-{column}", metricKey=column)


def _parallel() -> dict[str, Any]:
    metrics = ["sparsity", "bits_per_weight", "size_bytes", "accuracy"]
    return _chart("PARALLEL", "parallel", selectedParams=[], selectedMetrics=metrics)
