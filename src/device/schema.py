"""What a JSON file must hold: a table of kinds, and one check of a value against it."""

import json
import re
from typing import Any, Callable, Dict, List, NamedTuple, Tuple, Union

LONGEST_LINE = 1000  # characters
LARGEST_COUNT = 1 << 53  # JSON numbers are exact up to here
# Line ends, terminal codes, marks that reverse the order of what is read, half characters.
NOT_OF_A_LINE = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


class InputError(Exception):
    """The request cannot be carried out; the message says why, in one line."""


class Kind(NamedTuple):
    """A kind of value.

    Attributes:
        says: What a value must be, for a person.
        holds: Whether a value is of this kind.
    """

    says: str
    holds: Callable[[Any], bool]


def between(low: float, high: float) -> Kind:
    """A number from ``low`` to ``high``; ``true`` is no number, and neither is NaN."""
    return Kind(
        f"a number from {low:,} to {high:,}",
        lambda value: type(value) in (int, float) and low <= value <= high,
    )


def count(low: int, high: int = LARGEST_COUNT) -> Kind:
    """A whole number from ``low`` to ``high``."""
    says = f"a whole number from {low:,}" + (f" to {high:,}" if high < LARGEST_COUNT else "")
    return Kind(says, lambda value: type(value) is int and low <= value <= high)


def optional(kind: Kind) -> Kind:
    """``null``, or a value of ``kind``."""
    return Kind("null or " + kind.says, lambda value: value is None or kind.holds(value))


TEXT = Kind("a text", lambda value: isinstance(value, str))
TRUTH = Kind("true or false", lambda value: isinstance(value, bool))
LINE = Kind(
    "a text of one line",
    lambda value: isinstance(value, str) and 0 < len(value) <= LONGEST_LINE and not NOT_OF_A_LINE.search(value),
)


def read_json(text: Union[str, bytes], finite: bool = False) -> Any:
    """Read JSON in which no object has a key twice: a value would be dropped in silence.

    Args:
        text: The text.
        finite: Whether NaN and Infinity, which JSON does not have and Python reads, are refused.

    Raises:
        ValueError: The text is no such JSON, or is nested deeper than Python reads.
    """
    try:
        return json.loads(
            text, object_pairs_hook=_with_each_key_once, parse_constant=_refuse_constant if finite else None
        )
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no number")


def _with_each_key_once(pairs: List[Tuple[str, Any]]) -> Dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f"the key {shown(twice)} is there twice in one object")
    return found


def check(value: Any, table: Any, place: str = "") -> None:
    """Compare a value that was read from JSON with a table; keys that the table does not name may be there.

    Args:
        value: The value.
        table: A ``Kind``; ``{key: table}`` for an object that has these keys; ``[table]`` for a list of such items.
        place: Where the value stands in its file. An item of a list is called by its name if it has one.

    Raises:
        InputError: A value is of another kind, or a key is missing; the message names the place and the value.
    """
    if isinstance(table, dict):
        _expect(isinstance(value, dict), value, "an object", place)
        for key, inner in table.items():
            if key not in value:
                raise InputError(f"{place or 'it'} has no {key}")
            check(value[key], inner, f"{place}.{key}" if place else key)
    elif isinstance(table, list):
        _expect(isinstance(value, list), value, "a list", place)
        for number, item in enumerate(value):
            name = item.get("name") if isinstance(item, dict) else None
            check(item, table[0], f"{place}[{name if LINE.holds(name) else number}]")
    else:
        _expect(table.holds(value), value, table.says, place)


def shown(value: Any) -> str:
    """A value in a few characters of one line."""
    if isinstance(value, (dict, list)):
        return "an object" if isinstance(value, dict) else f"a list of {len(value)}"
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _expect(holds: bool, value: Any, says: str, place: str) -> None:
    if not holds:
        raise InputError(f"{place or 'it'} is {shown(value)}, and must be {says}")
