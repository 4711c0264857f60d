"""What a run came to stands on disk whole, and what an earlier version wrote is still read."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from src.contracts import InputError, Precision, Refused, Runtime
from src.experiment.results import FAILURE, Results, begin_survey, gather_survey, write_failure, write_survey
from tests.rows import row, variant

OLD = Path(__file__).parents[1] / "records" / "d975084"
RESULTS = Results(
    identity="1" * 16,
    experiment="pets",
    seed=0,
    git_commit=None,
    command="python -m src.run",
    overrides=["method=small"],
    rows=[row(), variant("small", precision=Precision(("int8",)), runtime=Runtime("openvino"))],
    not_exportable=[Refused("small", "tflite", "why")],
    budget_missed=["too large"],
    files=[],
)


def test_results_survive_writing_and_reading(tmp_path: Path) -> None:
    RESULTS.write(tmp_path)
    read = Results.read(tmp_path)
    assert read == RESULTS
    assert json.loads((tmp_path / "results.json").read_text())["schema"] == 2
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert metrics["small"]["onnxruntime"] == read.rows[1].numbers()
    assert "schema" not in metrics  # DVC would show it


def test_a_file_that_its_runtime_refused_is_a_row_without_figures(tmp_path: Path) -> None:
    refused = Refused("small", "openvino", "target.openvino: it broke", failed=True)
    results = replace(RESULTS, refused=(refused,))
    for member in ("0_a", "1_b"):
        (tmp_path / member).mkdir()
        results.write(tmp_path / member)
    assert Results.read(tmp_path / "0_a") == results
    rows = json.loads((tmp_path / "0_a" / "results.json").read_text())["rows"]
    known = {name: value for name, value in rows[-1].items() if value is not None}
    assert known == {"variant": "small", "target": "openvino", "unavailable": {"artifact": refused.reason}}
    assert set(rows[-1]) == set(rows[0])
    assert write_survey(tmp_path, ["0_a", "1_b"]).refused == [refused]
    assert json.loads((tmp_path / "survey.json").read_text())["rows"][-1]["accuracy"] is None


def test_a_survey_has_each_row_once_with_what_it_varies(tmp_path: Path) -> None:
    for at, (overrides, seed) in enumerate(
        [(["method=a", "seed=0"], 0), (["method=b", "seed=0", "model=wide"], 0), (["method=b", "seed=1"], 1)]
    ):
        member = tmp_path / f"{at}_{overrides[0]}"
        member.mkdir()
        own = variant(overrides[0], identity=str(at), seed=seed)
        replace(RESULTS, overrides=overrides, seed=seed, rows=[row(seed=seed, identity=f"base{seed}"), own]).write(
            member
        )
    (tmp_path / "3_bad").mkdir()
    write_failure(tmp_path / "3_bad", overrides=["method=c"], reason="it broke", kind="error")
    survey = write_survey(tmp_path, ["0_method=a", "1_method=b", "2_method=b", "3_bad"])
    assert [(e.row.variant, e.row.seed, e.settings, e.member) for e in survey.entries] == [
        ("baseline", 0, (), "0_method=a"),
        ("baseline", 0, ("model=wide",), "1_method=b"),
        ("baseline", 1, (), "2_method=b"),
        ("method=a", 0, (), "0_method=a"),
        ("method=b", 0, ("model=wide",), "1_method=b"),
        ("method=b", 1, (), "2_method=b"),
    ]
    assert [(failure.member, failure.reason) for failure in survey.failed] == [("3_bad", "it broke")]
    record = json.loads((tmp_path / "survey.json").read_text())
    assert record["rows"][1]["settings"] == ["model=wide"]
    assert record["budget_missed"] == {member: ["too large"] for member in record["members"]}


def test_a_member_that_succeeds_later_has_failed_no_more(tmp_path: Path) -> None:
    write_failure(tmp_path, overrides=[], reason="it broke", kind="error")
    RESULTS.write(tmp_path)
    assert not (tmp_path / FAILURE).exists()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{", "is damaged"),
        ("[]", "is damaged"),
        ('{"schema": 2}', "is damaged: KeyError 'rows'"),
        ('{"rows": 3}', "is damaged: it holds no rows"),
        ('{"schema": 3}', "is of schema 3, and this version reads up to 2"),
        ('{"schema": 2, "rows": [{}], "not_exportable": []}', "is damaged: rows.0. has no variant"),
    ],
)
def test_a_damaged_or_later_record_gets_one_line(tmp_path: Path, text: str, says: str) -> None:
    (tmp_path / "results.json").write_text(text)
    with pytest.raises(InputError, match=says) as caught:
        Results.read(tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("survey.json", {"failed": [{"x": 1}]}, r"failed\[0\] has no member"),
        ("survey.json", {"failed": 7}, "failed is 7, and must be a list"),
        ("survey.json", {"members": 5}, "members is 5, and must be a list"),
        ("survey.json", {"members": [["0_a"]]}, r"members\[0\] is a list of 1, and must be a text"),
        ("0_a/failure.json", {"reason": 3}, "reason is 3, and must be a text"),
        ("0_a/results.json", {"overrides": 5}, "overrides is 5, and must be a list"),
        ("0_a/results.json", {"rows": [5]}, r"rows\[0\] is 5, and must be an object"),
        ("0_a/results.json", {"schema": 1, "rows": [{}]}, "KeyError"),
    ],
)
def test_a_survey_whose_records_hold_other_kinds_gets_one_line(
    tmp_path: Path, name: str, content: dict[str, Any], says: str
) -> None:
    member(tmp_path, "0_a", "a")
    path = tmp_path / name
    kept = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps({**kept, **content}))
    with pytest.raises(InputError, match=f"{re.escape(str(path))} is damaged: .*{says}") as caught:
        gather_survey(tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("column", "value", "says"),
    [
        ("accuracy", True, "true, and must be null or a number from 0 to 1"),
        ("accuracy", 1.2, "1.2"),
        ("accuracy", "high", '"high"'),
        ("accuracy_change", -2, "-2, and must be null or a number from -1 to 1"),
        ("accuracy_per_class", {"a": 2}, "an object, and must be null or an object of shares"),
        ("latency_ms_p50", -0.5, "-0.5, and must be null or a number from 0"),
        ("size_bytes", -1, "-1, and must be null or a whole number from 0"),
        ("size_bytes", 1.5, "1.5"),
        ("speedup", "twice", '"twice"'),
        ("seed", True, "true"),
        ("unavailable", 3, "3"),
        ("sha256", 7, "7, and must be a text of one line"),
    ],
)
def test_a_row_with_figures_that_cannot_be_is_refused(tmp_path: Path, column: str, value: object, says: str) -> None:
    RESULTS.write(tmp_path)
    record = json.loads((tmp_path / "results.json").read_text())
    record["rows"][1][column] = value
    (tmp_path / "results.json").write_text(json.dumps(record))
    with pytest.raises(InputError, match=rf"results\.json is damaged: rows\[1\]\.{column} is {says}"):
        Results.read(tmp_path)


def test_a_survey_that_an_earlier_version_wrote_is_read(tmp_path: Path) -> None:
    shutil.copytree(OLD / "survey", tmp_path / "survey")
    survey = gather_survey(tmp_path / "survey")
    precisions = {(row.variant, row.target): row.precision for row in survey.rows}
    assert precisions["baseline", "openvino"] == Precision(("float32",))
    assert precisions["quantize_int8", "onnxruntime"] == Precision(("int8",))
    assert {row.runtime for row in survey.rows} == {Runtime("onnxruntime"), Runtime("openvino")}
    base, small = (next(r for r in survey.rows if r.variant == name) for name in ("baseline", "quantize_int8"))
    assert (base.accuracy_change, base.seed) == (None, 0)
    assert small.accuracy_change == round(small.accuracy - base.accuracy, 9)
    assert [failure.member for failure in survey.failed] == ["2_chain"]
    assert survey.tracking == "off"


@pytest.mark.parametrize(
    ("precision", "runtime", "values"),
    [
        ("float32, int8 and float16 stored", "torch", (Precision(("float32",), ("int8", "float16")), Runtime("torch"))),
        ("int8 and bf16", "openvino", (Precision(("int8", "bf16")), Runtime("openvino"))),
        ("int8", "onnxruntime for tensorrt", (Precision(("int8",)), Runtime("onnxruntime", None, "tensorrt"))),
        ("float32, float16 stored", "onnxruntime with CUDAExecutionProvider",
         (Precision(("float32",), ("float16",)), Runtime("onnxruntime", "CUDAExecutionProvider"))),
    ],
)  # fmt: skip
def test_the_sentences_of_an_earlier_version_become_values(
    tmp_path: Path, precision: str, runtime: str, values: tuple[Precision, Runtime]
) -> None:
    record = json.loads((OLD / "survey" / "0_baseline" / "results.json").read_text())
    record["rows"][0] |= {"precision": precision, "runtime": runtime}
    (tmp_path / "results.json").write_text(json.dumps(record))
    read = Results.read(tmp_path).rows[0]
    assert (read.precision, read.runtime) == values
    assert (str(read.precision), str(read.runtime)) == (precision, runtime)


def member(survey: Path, name: str, variant_name: str, **changed: object) -> Path:
    """A survey's member that has come to an end."""
    folder = survey / name
    folder.mkdir(exist_ok=True)
    own = [row(), variant(variant_name)]
    replace(RESULTS, overrides=[f"method={variant_name}"], rows=own, **changed).write(folder)
    return folder


def test_a_survey_in_a_used_folder_takes_up_only_its_own_members(tmp_path: Path) -> None:
    begin_survey(tmp_path)
    for name in ("a", "b", "c"):
        member(tmp_path, f"0_{name}", name)
        survey = write_survey(tmp_path, [f"0_{name}"])
    assert survey.members == ["0_a", "0_b", "0_c"]
    earlier = (tmp_path / "survey.json").read_bytes()
    begin_survey(tmp_path)
    assert (tmp_path / "survey.json").read_bytes() == earlier  # until a member has ended
    assert gather_survey(tmp_path).members == ["0_a", "0_b", "0_c"]
    member(tmp_path, "0_a", "a")
    assert write_survey(tmp_path, ["0_a"]).members == ["0_a"]
    write_failure(tmp_path / "0_b", overrides=[], reason="it broke", kind="error")
    survey = write_survey(tmp_path, ["0_b"])
    assert (survey.members, [failure.member for failure in survey.failed]) == (["0_a"], ["0_b"])
    assert gather_survey(tmp_path) == survey
    assert (tmp_path / "0_c" / "results.json").exists()  # its work is not lost; nothing lists it


def test_a_run_in_a_used_folder_removes_only_what_the_earlier_record_lists(tmp_path: Path) -> None:
    own = [replace(row(), artifact="baseline.onnx"), replace(variant("small"), artifact="small.xml")]
    files = ["baseline.onnx", "small.xml", "small.bin"]
    for name in [*files, "mine.xml", "notes.txt", "survey.json"]:
        (tmp_path / name).write_text(name)
    replace(RESULTS, rows=own, files=files).write(tmp_path)
    (tmp_path / "other.onnx").write_text("other")
    other = [own[0], replace(variant("other"), artifact="other.onnx")]
    replace(RESULTS, rows=other, files=["baseline.onnx", "other.onnx"]).write(tmp_path)
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {"baseline.onnx", "other.onnx", "mine.xml", "notes.txt", "results.json", "metrics.json"}


def test_a_run_in_the_folder_of_a_search_is_no_search_any_more(tmp_path: Path) -> None:
    (tmp_path / "front.png").write_text("a picture of the user's own")
    RESULTS.write(tmp_path)
    assert (tmp_path / "front.png").exists()
    for name in ("search.json", "front.png", "model_card.md", "search.db"):
        (tmp_path / name).write_text("{}")
    RESULTS.write(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"results.json", "metrics.json", "search.db"}


def test_a_run_in_a_folder_of_an_earlier_version_leaves_no_part_of_its_files(tmp_path: Path) -> None:
    old = [replace(row(), artifact="baseline.openvino.xml"), replace(variant("small"), artifact="small.onnx")]
    for name in ("baseline.openvino.xml", "baseline.openvino.bin", "small.onnx", "small.bin", "other.bin"):
        (tmp_path / name).write_text(name)
    replace(RESULTS, rows=old, files=[]).write(tmp_path)
    new = [replace(row(), artifact="baseline.onnx")]
    replace(RESULTS, rows=new, files=["baseline.onnx"]).write(tmp_path)
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {"small.bin", "other.bin", "results.json", "metrics.json"}


def test_a_record_that_lists_what_is_no_file_of_the_folder_removes_nothing(tmp_path: Path) -> None:
    folder, outside = tmp_path / "run", tmp_path / "outside.txt"
    (folder / "below").mkdir(parents=True)
    outside.write_text("mine")
    replace(RESULTS, files=["../outside.txt", str(outside), "below", "..", "", "results.json"]).write(folder)
    RESULTS.write(folder)
    assert outside.read_text() == "mine"
    assert {path.name for path in folder.iterdir()} == {"below", "results.json", "metrics.json"}


def test_a_record_that_lists_files_of_the_user_removes_none_of_them(tmp_path: Path) -> None:
    kept = ["config.yaml", "run.log", "notes.txt", "failure.md", "search.db", ".unsent-a.jsonl"]
    for name in [*kept, "old.onnx"]:
        (tmp_path / name).write_text("mine")
    replace(RESULTS, files=["old.onnx", *kept], rows=[replace(row(), artifact="config.yaml")]).write(tmp_path)
    RESULTS.write(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {*kept, "results.json", "metrics.json"}


def test_a_survey_in_the_folder_of_a_run_is_no_run_any_more(tmp_path: Path) -> None:
    (tmp_path / "small.onnx").write_text("small")
    (tmp_path / "notes.txt").write_text("notes")
    replace(RESULTS, files=["small.onnx"]).write(tmp_path)
    begin_survey(tmp_path)
    assert write_survey(tmp_path).members == []  # interrupted before a member ended
    assert Results.read(tmp_path).rows == RESULTS.rows
    member(tmp_path, "0_a", "a")
    write_survey(tmp_path, ["0_a"])
    assert {path.name for path in tmp_path.iterdir()} >= {"notes.txt", "survey.json", "0_a"}
    assert not [name for name in ("results.json", "metrics.json", "small.onnx") if (tmp_path / name).exists()]
