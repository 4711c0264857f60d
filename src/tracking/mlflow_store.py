"""What every part of the MLflow tracker needs: its settings, its errors, its clock, its filters."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from src.contracts import TrackingError, first_line

# By default MLflow repeats a request for minutes. The user's own settings count, if there are any.
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")

PARENT_TAG = "mlflow.parentRunId"


@contextmanager
def answering(uri: str) -> Iterator[None]:
    """Turn any error of MLflow into a TrackingError of one line."""
    try:
        yield
    except TrackingError:
        raise
    except Exception as error:  # errors of its HTTP client, database and file system come through as they are
        reason = first_line(error)
        if "Max retries exceeded" in reason or "Connection" in type(error.__cause__ or error).__name__:
            raise TrackingError(
                f"Nothing answers at tracking.uri={uri}; start the server, or choose tracking=off"
            ) from error
        raise TrackingError(f"MLflow at {uri} failed: {reason[:300]}") from error


def all_of(kind: str, wanted: Mapping[str, object]) -> str:
    """A filter for MLflow's searches: every key of ``kind`` (``tags`` or ``params``) has the wanted value."""
    return " and ".join(f"{kind}.`{key}` = '{value}'" for key, value in wanted.items())


def now() -> int:
    """Milliseconds since 1970."""
    return int(time.time() * 1000)
