"""The exit code says the worst of what became of an experiment."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from src.command.execution import Executed
from src.contracts import Refused
from src.experiment.results import Results
from tests.rows import row

DONE = Results("1" * 16, "pets", 0, None, "python -m src.run", [], [row()])
FAILED = Refused("small", "openvino", "target.openvino: it broke", failed=True)
UNFIT = Refused("small", "tflite", "target.tflite: it has no such operator")


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({}, 0),
        ({"not_exportable": [UNFIT]}, 0),
        ({"refused": [FAILED], "budget_missed": ["too large"]}, 1),
        ({"refused": [FAILED], "tracking_error": "it does not answer"}, 3),
        ({"budget_missed": ["too large"]}, 4),
    ],
)
def test_a_refused_file_is_1_and_a_target_without_a_form_for_the_network_is_0(
    changes: dict[str, Any], code: int
) -> None:
    assert Executed(None, replace(DONE, **changes), None, None).code == code  # type: ignore[arg-type]
