"""How small the models of a space can get, and which budgets are refused for it."""

from __future__ import annotations

from typing import Any

import pytest

from src.contracts import InputError
from src.experiment.budget import Budget
from src.study import bounds
from src.study.bounds import check_budget, compare_with_budget
from src.study.judging import Judge
from src.study.space import Number, Point, Space, Step

SPARSITY = Number(mildest=0.5, hardest=0.9, log=False)
SPACE = Space({"prune": Step(method="prune_magnitude", optional=True, choose={"sparsity": SPARSITY})}, ["fc.weight"])


def judge(size: float) -> Judge:
    return Judge(("size_gzip_bytes",), Budget(accuracy_drop=0.01, size_gzip_bytes=size, latency_ms=0.1), 0.99)


def checked(monkeypatch: pytest.MonkeyPatch, size: float, sizes: dict[Any, float]) -> tuple[str, list[Any]]:
    """What ``check_budget`` says if chains have ``sizes`` by sparsity (None: without the step), and what it tried.

    A chain that ``sizes`` lacks cannot be made.
    """
    tried: list[Any] = []

    def measure(point: Any, *_: Any) -> dict[str, float]:
        tried.append(point.get("prune.sparsity"))
        if tried[-1] not in sizes:
            raise InputError("it cannot be made")
        return {"size_gzip_bytes": sizes[tried[-1]]}

    def plan_of(point: Point) -> Any:
        return point

    monkeypatch.setattr(bounds, "measure_untrained", measure)
    return check_budget(SPACE, plan_of, None, judge(size)), tried  # type: ignore[arg-type]


def test_latency_refuses_no_space_and_bytes_do() -> None:
    measured = [{"size_gzip_bytes": 120.0, "latency_ms_p50": 5.0}, {"size_gzip_bytes": 300.0, "latency_ms_p50": 2.0}]
    line = compare_with_budget(measured, judge(100), milder=False)
    assert line == "With every step at its hardest: size_gzip_bytes about 120, latency_ms_p50 about 2"
    with pytest.raises(InputError, match="The budget cannot be kept"):
        compare_with_budget(measured[1:], judge(100), milder=False)
    assert compare_with_budget([{"size_gzip_bytes": 180.0}], judge(100), milder=True)


def test_a_budget_that_the_hardest_chain_keeps_needs_no_other_chain(monkeypatch: pytest.MonkeyPatch) -> None:
    line, tried = checked(monkeypatch, 100, {0.9: 90})
    assert line == "With every step at its hardest: size_gzip_bytes about 90"
    assert tried == [0.9]


def test_a_step_that_costs_more_than_it_saves_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    line, tried = checked(monkeypatch, 100, {0.9: 500, None: 90})
    assert line == "With every step at its hardest: size_gzip_bytes about 90"
    assert tried == [0.9, None]


def test_a_milder_chain_stands_for_one_that_cannot_be_made(monkeypatch: pytest.MonkeyPatch) -> None:
    line, tried = checked(
        monkeypatch, 100, {0.7: 240}
    )  # of the milder chain twice the bytes are allowed, and a quarter
    assert line == "With every step at its hardest: size_gzip_bytes about 240"
    assert tried == [0.9, 0.8, 0.7]


def test_if_no_chain_can_be_made_nothing_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    line, _ = checked(monkeypatch, 100, {})
    assert line == "None of the hardest chains can be made, so that the smallest values are unknown"


def test_a_limit_that_the_target_cannot_measure_is_refused() -> None:
    limited = Judge(("size_bytes",), Budget(energy_uj=1.0), 0.99)
    with pytest.raises(InputError, match="energy_uj_estimate cannot be measured for this target"):
        compare_with_budget([{"size_bytes": 10.0}], limited, milder=False)
