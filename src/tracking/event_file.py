"""A file of events, one JSON object a line, to which several processes append."""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, BinaryIO

from filelock import FileLock

from src.contracts import TrackingError
from src.device.schema import read_json

PREFIX = b'{"event": "'  # every line begins so


class EventFile:
    """Events in the order in which they were appended.

    Args:
        path: Path of the file, which is created with the first event.
        shared: Whether several processes may use it at the same time.
    """

    def __init__(self, path: Path, *, shared: bool = True) -> None:
        self.path = path.expanduser().absolute()
        lock = self.path.with_name(f".{self.path.name}.lock")
        self._lock = FileLock(lock, mode=0o666) if shared else nullcontext()

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
        """Append an event; a last line that a killed process left incomplete is removed."""
        content = {"event": event, "time": time.time(), **fields}
        line = json.dumps(_plain(content), ensure_ascii=False, allow_nan=False).encode()
        with self.locked(), self.path.open("ab+") as file:
            try:
                _complete_last_line(file)
            except ValueError:
                raise TrackingError(f"{self.path} is no file of tracking events: see its last line") from None
            file.write(line + b"\n")

    def events(self, kind: str | None = None) -> list[dict[str, Any]]:
        """Return every event of a kind, or every event, the oldest first; incomplete lines are ignored.

        Raises:
            TrackingError: The file holds something else than events.
        """
        wanted = PREFIX if kind is None else PREFIX + kind.encode() + b'"'
        found = []
        with self.locked():
            lines = self.path.read_bytes().split(b"\n") if self.path.exists() else []
        for number, line in enumerate(lines, start=1):
            if line[: len(PREFIX)] != PREFIX[: len(line)]:
                raise TrackingError(f"{self.path} is no file of tracking events: see line {number}")
            if line.startswith(wanted):
                try:
                    found.append(read_json(line))
                except ValueError as error:
                    if number < len(lines):  # the last may have been cut off while it was written
                        raise TrackingError(f"{self.path} is damaged: line {number} cannot be read ({error})") from None
        return found


def _complete_last_line(file: BinaryIO) -> None:
    """End the last line if only its end is missing, and remove it if more is: a killed process left it so.

    Raises:
        ValueError: The last line is no part of an event.
    """
    if not file.seek(0, os.SEEK_END):
        return
    file.seek(-1, os.SEEK_END)
    if file.read() == b"\n":
        return
    file.seek(0)
    start = file.read().rfind(b"\n") + 1
    file.seek(start)
    line = file.read()
    if line[: len(PREFIX)] != PREFIX[: len(line)]:
        raise ValueError
    try:
        json.loads(line)
        file.write(b"\n")
    except ValueError:
        file.truncate(start)


def _plain(value: Any) -> Any:
    """The value as JSON can hold it; a number that is not finite becomes null."""
    if isinstance(value, Mapping):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(each) for each in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, (str, int)) else str(value)
