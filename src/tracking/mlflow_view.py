"""How MLflow's page opens an experiment: views in tags of the experiment, as the page itself stores them.

A tag is ``mlflow.sharedViewState.<key>``; the page opens it by ``?viewStateShareKey=<key>`` and lists it under Views.
The format is that of MLflow 3.17; a page that does not know a part of it shows its own view.
"""

from __future__ import annotations

import base64
import json
import time
import zlib
from typing import Any

KEY, SMALLEST = "compression", "smallest"
TAG = "mlflow.sharedViewState."
LOCAL = "http://127.0.0.1:5000"  # where ``mlflow ui`` answers
COLUMNS = (
    "params.`method`",
    "metrics.`accuracy`",
    "metrics.`accuracy_change`",
    "metrics.`size_bytes`",
    "metrics.`compression_ratio`",
    "metrics.`latency_ms_p50`",
)
MODELS = "attributes.`Models`"
ACCURATE = 0.98
# Sections of the charts by identifier; lines through four axes need the whole width.
AGAINST_SECTION, TOGETHER_SECTION = "compression-section", "compression-together"
SECTIONS = {
    AGAINST_SECTION: "Accuracy against bytes and latency",
    TOGETHER_SECTION: "Sparsity, bits, bytes and accuracy together",
}
AGAINST = ("size_bytes", "size_gzip_bytes", "latency_ms_p50")
BARS = ("size_bytes", "accuracy", "latency_ms_p50")


def address(root: str, experiment: str, key: str = KEY) -> str:
    """The address that opens an experiment in a view; ``root`` is that of the server."""
    return f"{root.rstrip('/')}/#/experiments/{experiment}/runs?viewStateShareKey={key}"


def write_views(client: Any, experiment: Any) -> None:
    """Store the views in the experiment, unless they are there.

    Args:
        client: MLflow's client.
        experiment: MLflow's experiment.
    """
    for key, (name, state) in views().items():
        _write(client, experiment, key, name, packed(state))


def _write(client: Any, experiment: Any, key: str, name: str, state: str) -> None:
    try:
        known = json.loads(experiment.tags.get(TAG + key, "{}"))
    except ValueError:
        known = {}
    if not isinstance(known, dict) or known.get("state") != state:
        now = int(1000 * time.time())
        content = {"name": name, "createdAt": now, "updatedAt": now, "state": state}
        client.set_experiment_tag(experiment.experiment_id, TAG + key, json.dumps(content))


def views() -> dict[str, tuple[str, dict[str, Any]]]:
    """Each view's name and state by its key: all runs, the most accurate first; the smallest of the accurate ones.

    MLflow's list of logged models can neither be filtered nor sorted by a figure; the second view has a link to each
    run's models instead.
    """
    accurate = f"metrics.accuracy > {ACCURATE}"
    return {
        KEY: ("Compression", _view("metrics.`accuracy`", ascending=False)),
        SMALLEST: ("Smallest above 98 %", _view("metrics.`size_bytes`", ascending=True, filtered=accurate)),
    }


def _view(order: str, ascending: bool, filtered: str = "") -> dict[str, Any]:
    """A view: figures that decide as columns, and charts of accuracy against cost."""
    return {
        "searchFilter": filtered,
        "orderByKey": order,
        "orderByAsc": ascending,
        "startTime": "ALL",
        "lifecycleFilter": "Active",
        "datasetsFilter": [],
        "modelVersionFilter": "All Runs",
        "selectedColumns": [*COLUMNS, *([MODELS] if filtered else [])],
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
        "compareRunSections": [_section(AGAINST_SECTION, columns=3), _section(TOGETHER_SECTION, columns=1)],
        "compareRunCharts": [*map(_scatter, AGAINST), *map(_bar, BARS), _parallel()],
    }


def packed(state: dict[str, Any]) -> str:
    """A view as the page stores it."""
    text = json.dumps(state, separators=(",", ":")).encode()
    return "deflate;" + base64.b64encode(zlib.compress(text, 9)).decode()


def _section(identifier: str, columns: int) -> dict[str, Any]:
    flags = {"display": True, "isReordered": False, "deleted": False, "isGenerated": False}
    return {"uuid": identifier, "name": SECTIONS[identifier], "columns": columns, "cardHeight": 360, **flags}


def _chart(kind: str, name: str, section: str = AGAINST_SECTION, **more: Any) -> dict[str, Any]:
    return {
        "uuid": f"{section}-{name}",
        "type": kind,
        "runsCountToCompare": 20,
        "deleted": False,
        "isGenerated": False,
        "metricSectionId": section,
        **more,
    }


def _scatter(cost: str) -> dict[str, Any]:
    return _chart(
        "SCATTER",
        f"scatter-{cost}",
        xaxis={"key": cost, "type": "METRIC"},
        yaxis={"key": "accuracy", "type": "METRIC"},
    )


def _bar(column: str) -> dict[str, Any]:
    return _chart("BAR", f"bar-{column}", metricKey=column)


def _parallel() -> dict[str, Any]:
    metrics = ["sparsity", "bits_per_weight", "size_bytes", "accuracy"]
    return _chart("PARALLEL", "parallel", TOGETHER_SECTION, selectedParams=[], selectedMetrics=metrics)
