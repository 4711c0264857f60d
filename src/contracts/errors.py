"""What goes wrong, by who can mend it: the user, a target, a method, the tracking store."""

from __future__ import annotations


class InputError(Exception):
    """The user's request cannot be carried out; the message says why and what to do (exit 2)."""


class NotExportableError(InputError):
    """A target cannot hold the network; other targets of the same run may."""


class RefusedFileError(NotExportableError):
    """A file was written, and its runtime fails on it or computes something else; other targets of the run may not."""


class NoEffectError(ValueError):
    """A method would change nothing; on a trained network instead of an untrained one it might."""


class TrackingError(Exception):
    """The tracking store refused or did not answer; the results stay on disk (exit 3)."""


class LeftOpenError(TrackingError):
    """The store has begun a run, and could neither complete nor close it."""


def first_line(error: BaseException) -> str:
    """The first line of an error's message, or the name of its type if it has no message."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
