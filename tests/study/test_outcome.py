"""What a search ends with."""

from __future__ import annotations

import json
from pathlib import Path

from src.contracts import Row
from src.study.outcome import Outcome
from tests.rows import row
from tests.study.studies import JUDGE, failed, measured, study_of

STUDY = study_of(
    measured(0.99, 9_000.0, prune=True, **{"prune.sparsity": 0.9}), failed("it was too large"), measured(0.9, 900.0)
)
BASELINE = [row(), row(target="openvino")]


def finalist(**changes: object) -> Row:
    return row(variant="trial_0", artifact="trial_0.onnxruntime.onnx", identity="f" * 64, **changes)


def outcome(folder: Path, *rows: Row, chosen: int | None = 0) -> Outcome:
    return Outcome(
        study=STUDY,
        judge=JUDGE,
        target="onnxruntime",
        folder=folder,
        baseline=BASELINE,
        finalists={0: list(rows)},
        chosen=chosen,
        notes=["a note"],
        commands={0: "python -m src.run method=chain"},
    )


def test_search_json_has_every_trial_the_front_and_a_schema(tmp_path: Path) -> None:
    outcome(tmp_path, finalist()).write()
    record = json.loads((tmp_path / "search.json").read_text())
    assert record["schema"] >= 2
    assert (record["chosen"], record["front"], record["objectives"]) == (0, [2, 0], ["size_gzip_bytes"])
    assert record["budget"] == {
        "accuracy_drop": 0.01,
        "size_bytes": None,
        "size_gzip_bytes": None,
        "size_packed_bytes": None,
        "latency_ms": None,
        "energy_uj": None,
    }
    assert [trial["number"] for trial in record["trials"]] == [0, 1, 2]
    assert record["commands"] == {"0": "python -m src.run method=chain"}
    assert record["trial_seconds"] == 8.0
    assert (tmp_path / "front.png").stat().st_size > 5000


def test_the_chosen_model_is_named_with_its_files_and_the_command_that_makes_it_again(tmp_path: Path) -> None:
    lines = outcome(tmp_path, finalist(accuracy=0.895)).lines()
    at = lines.index("Chosen: trial 0, 89.50 % of the test set (drop 0.50)")
    assert lines[at + 1 : at + 3] == [
        f"  {tmp_path}/trial_0/trial_0.onnxruntime.onnx",
        "Made again by: python -m src.run method=chain",
    ]
    assert "The front (2 of 3 trials):" in lines
    assert "a note" in lines
    assert "Failed: trial 1: it was too large" in lines
    assert lines[-1].endswith("25.0 % of the time went to the search")


def test_a_test_set_that_misses_the_budget_is_said_and_selects_nothing(tmp_path: Path) -> None:
    lines = outcome(tmp_path, finalist(accuracy=0.88)).lines()
    missed = "on the test set the budget of 1.00 points is missed"
    assert f"Chosen: trial 0, 88.00 % of the test set (drop 2.00); {missed}" in lines


def test_without_a_chosen_trial_the_baseline_identifies_the_results(tmp_path: Path) -> None:
    without = outcome(tmp_path, finalist(), chosen=None)
    assert without.identity == BASELINE[0].identity
    assert outcome(tmp_path, finalist()).identity == "f" * 64
    assert "Nothing keeps the budget when it is measured once more." in without.lines()


def test_a_chain_of_no_step_has_the_baselines_rows_once(tmp_path: Path) -> None:
    assert outcome(tmp_path, *BASELINE).rows == BASELINE


def test_the_registry_gets_the_chosen_file_with_what_it_was_searched_for(tmp_path: Path) -> None:
    best = finalist(size_bytes=10)
    chosen = outcome(tmp_path, finalist(target="openvino"), best).registration("abc")
    assert chosen.row == best
    assert chosen.name == f"{best.data}-{best.model}"
    assert len(chosen.rows) == 4
    assert (chosen.objective, chosen.budget, chosen.git_commit) == ("size_gzip_bytes", {"accuracy_drop": 0.01}, "abc")
    assert chosen.point == {"prune": True, "prune.sparsity": 0.9}
