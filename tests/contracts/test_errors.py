"""What goes wrong, by who can mend it."""

from __future__ import annotations

import pytest

from src.contracts import (
    InputError,
    LeftOpenError,
    NoEffectError,
    NotExportableError,
    RefusedFileError,
    TrackingError,
    first_line,
)


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ValueError("first\nsecond"), "first"),
        (ValueError("\n  indented\n"), "indented"),
        (KeyError(), "KeyError"),
        (RuntimeError("   "), "RuntimeError"),
    ],
)
def test_the_first_line_of_a_message_or_the_type(error: Exception, line: str) -> None:
    assert first_line(error) == line


def test_what_stops_one_target_is_the_users_to_mend_and_what_the_store_does_is_not() -> None:
    assert issubclass(RefusedFileError, NotExportableError)
    assert issubclass(NotExportableError, InputError)
    assert issubclass(LeftOpenError, TrackingError)
    assert not issubclass(TrackingError, InputError)
    assert issubclass(NoEffectError, ValueError)  # a method raises it, as it raises other wrong values
