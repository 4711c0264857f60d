"""A file of events, one JSON object a line, to which several processes append."""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock

from src.contracts import TrackingError

PREFIX = b'{"event": "'  # every line begins so


class EventFile:
    """Events in the order in which they were appended.

    Args:
        path: Path of the file, which is created with the first event.
    """

    def __init__(self, path: Path) -> None:
        self.path = path.expanduser().absolute()
        self._lock = FileLock(self.path.with_name(f".{self.path.name}.lock"), mode=0o666)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other processes out; may be nested. Errors of the file system become a TrackingError."""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self._lock:
                yield
        except OSError as error:
            raise TrackingError(f"{self.path} cannot be used: {error.strerror or error}") from error

    def append(self, event: str, **fields: Any) -> None:
        """Append an event, on a line of its own even if the last line was not completed."""
        content = {"event": event, "time": time.time(), **fields}
        line = json.dumps(_plain(content), ensure_ascii=False, allow_nan=False).encode()
        with self.locked(), self.path.open("ab+") as file:
            incomplete = False
            if file.seek(0, os.SEEK_END):
                file.seek(-1, os.SEEK_END)
                incomplete = file.read(1) != b"\n"
            file.write((b"\n" if incomplete else b"") + line + b"\n")

    def events(self, kind: str) -> list[dict[str, Any]]:
        """Return every event of a kind, the oldest first; lines that a killed process left incomplete are ignored.

        Raises:
            TrackingError: The file holds something else than events.
        """
        wanted = PREFIX + kind.encode() + b'"'
        found = []
        with self.locked():
            lines = self.path.read_bytes().split(b"\n") if self.path.exists() else []
        for number, line in enumerate(lines, start=1):
            if line[: len(PREFIX)] != PREFIX[: len(line)]:
                raise TrackingError(f"{self.path} is no file of tracking events: see line {number}")
            if line.startswith(wanted):
                try:
                    found.append(json.loads(line))
                except ValueError:  # cut off while it was written
                    continue
        return found


def _plain(value: Any) -> Any:
    """The value as JSON can hold it; a number that is not finite becomes null."""
    if isinstance(value, Mapping):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(each) for each in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, (str, int)) else str(value)
