"""What every part of the MLflow tracker needs: its client, its settings, its errors, its searches."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

from src.contracts import TrackingError, first_line
from src.tracking.mlflow_moved import artifact_root, mend_moved

# By default MLflow repeats a request for minutes. The user's own settings count, if there are any.
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")

ROOT = "_MLFLOW_SERVER_ARTIFACT_ROOT"  # where MLflow looks for the place of a new store's files
PARENT_TAG = "mlflow.parentRunId"
KEY_TAG = "run_key"  # of the run before MLflow has given it an identifier
LOCK = Path(tempfile.gettempdir()) / "dnn-compression-mlflow.lock"
PAGE = 1000
PLAIN = re.compile(r"[\w.:+-]*", re.ASCII)  # values that MLflow's filters take without misreading them
STATUS = re.compile(r"too many (\d{3}) error|error code (\d{3})|\b([45]\d{2}) (?:Server|Client) Error")


@contextmanager
def answering(uri: str) -> Iterator[None]:
    """Turn any error of MLflow into a TrackingError of one line."""
    try:
        yield
    except TrackingError:
        raise
    except Exception as error:  # errors of its HTTP client, database and file system come through as they are
        raise TrackingError(_explained(error, uri)) from error


def _explained(error: Exception, uri: str) -> str:
    """What is wrong with the store, and what to do."""
    text = f"{error} {error.__cause__ or ''}"
    choice = "or choose tracking=off"
    if uri.startswith("http"):
        status = STATUS.search(text)
        if status is not None:
            code = next(group for group in status.groups() if group)
            why = "see its log" if code.startswith("5") else first_line(error)[-200:]
            return f"The server at tracking.uri={uri} answered {code}: {why}, {choice}"
        if re.search("timed out|timeout exception", text, re.IGNORECASE):
            seconds = os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"]
            return f"The server at tracking.uri={uri} did not answer within {seconds} s; see what delays it, {choice}"
    reason = first_line(error)
    if "Max retries exceeded" in reason or "Connection" in type(error.__cause__ or error).__name__:
        return f"Nothing answers at tracking.uri={uri}; start the server, {choice}"
    return f"MLflow at {uri} failed: {reason[:300]}"


@contextmanager
def one_at_a_time() -> Iterator[None]:
    """Keep other processes of this machine out: two that create the same store, or model, disturb each other."""
    from filelock import FileLock

    with FileLock(LOCK, mode=0o666, is_singleton=True):  # a process that holds it already may take it again
        yield


def connect(uri: str) -> tuple[Any, list[str]]:
    """Return MLflow's client, and lines for a person if the store was moved since it was last used."""
    from mlflow import MlflowClient

    with one_at_a_time():
        notes = mend_moved(uri)
        with _root_of_files(uri):
            client = MlflowClient(tracking_uri=uri)
    return client, notes


@contextmanager
def _root_of_files(uri: str) -> Iterator[None]:
    """Let a new database name the place of its files by an address, in which quotation marks are escaped.

    By itself MLflow takes the path of the current folder, and puts it into SQL as it is.
    """
    root = artifact_root(uri)
    if root is None or ROOT in os.environ:
        yield
        return
    os.environ[ROOT] = root
    try:
        yield
    finally:
        del os.environ[ROOT]


def runs_with(client: Any, experiment: str, tags: Mapping[str, object]) -> list[Any]:
    """Return the runs of an experiment that have all the tags."""
    wanted = {key: str(value) for key, value in tags.items()}
    found: list[Any] = []
    page = None
    while True:
        runs = client.search_runs([experiment], all_of("tags", wanted), max_results=PAGE, page_token=page)
        found += [run for run in runs if wanted.items() <= run.data.tags.items()]
        page = runs.token
        if not page:
            return found


def models_with(client: Any, experiments: Sequence[str], params: Mapping[str, object]) -> list[Any]:
    """Return the logged models of the experiments that have all the parameters."""
    wanted = {key: str(value) for key, value in params.items()}
    found: list[Any] = []
    page = None
    while True:
        models = client.search_logged_models(list(experiments), all_of("params", wanted) or None, page_token=page)
        found += [model for model in models if wanted.items() <= model.params.items()]
        page = models.token
        if not page:
            return found


def all_of(kind: str, wanted: Mapping[str, str]) -> str:
    """A filter for MLflow's searches: every key of ``kind`` (``tags`` or ``params``) has the wanted value.

    A value that a filter could misread, such as a path with an apostrophe, is left out: who searches compares again.
    """
    return " and ".join(f"{kind}.`{key}` = '{value}'" for key, value in wanted.items() if PLAIN.fullmatch(value))


def milliseconds(at: str | float) -> int:
    """Milliseconds since 1970 of a time in ISO format, or in seconds since 1970."""
    return int(1000 * (datetime.fromisoformat(at).timestamp() if isinstance(at, str) else at))


def metric_key(name: str) -> str:
    """``name`` with ``_`` in place of each character that MLflow refuses in the name of a metric or parameter."""
    return re.sub(r"[^\w./ :-]", "_", name)
