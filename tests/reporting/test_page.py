"""The page of a survey that an earlier version wrote: its figures, what fell short, and names that look like HTML."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from src.command.composition import target_of
from src.command.reporting import artifacts_of, load_data, report
from src.contracts import InputError
from src.reporting.gathering import gather
from src.reporting.page import page
from src.reporting.predicting import KEPT, Predictions, Reader, predictions
from src.reporting.views import trials
from tests.browser import shown

HTML = '<img src=x onerror="boom()">&</script><script>boom()</script>'


def views_of(text: str) -> Any:
    return json.loads(re.search(r'<script type="application/json" id="views">(.*?)</script>', text, re.DOTALL)[1])  # type: ignore[index]


def renamed(folder: Path, old: str, new: str) -> None:
    """Put a name into the records of a folder."""
    for path in folder.rglob("*.json"):
        path.write_text(path.read_text().replace(json.dumps(old), json.dumps(new)))


def test_every_row_stands_in_the_table_with_the_figures_of_its_record(records: Path) -> None:
    report(["survey"], records / "report.html", "python -m src.report survey")
    text = (records / "report.html").read_text()
    rows = [json.loads(path.read_text())["rows"] for path in sorted(records.glob("survey/*/results.json"))]
    known = {(row["variant"], row["target"]): row for member in rows for row in member}
    (view,) = views_of(text)
    assert {(item["variant"], item["target"]) for item in view["items"]} == set(known)
    for item in view["items"]:
        row = known[item["variant"], item["target"]]
        assert (item["accuracy"], item["size_bytes"]) == (row["accuracy"], row["size_bytes"])
        assert f"{100 * row['accuracy']:.2f} %" in text
        assert row["sha256"] in text
    for command in {json.loads(p.read_text())["command"] for p in records.glob("survey/*/results.json")}:
        assert command.replace("'", "&#x27;") in text
    assert "2_chain failed: " in text


def test_predictions_are_those_of_the_files_and_are_found_again(records: Path) -> None:
    gathered = gather([records / "survey"], artifacts_of)
    reader = Reader(load_data, target_of)
    first = predictions(gathered.sections[0], reader)
    assert first.notes == []
    for item in gathered.sections[0].items:
        assert (first.predicted[item.name] == first.labels).mean() == pytest.approx(item.row.accuracy, abs=1e-12)

    def refused(path: Path) -> Any:
        raise AssertionError(f"{path} is run again")

    again = predictions(gathered.sections[0], Reader(load_data, refused))
    assert {name: each.tolist() for name, each in again.predicted.items()} == {
        name: each.tolist() for name, each in first.predicted.items()
    }


def test_predictions_that_do_not_reach_the_accuracy_of_the_row_are_not_shown(records: Path) -> None:
    gathered = gather([records / "run"], artifacts_of)
    reader = Reader(load_data, target_of)
    predictions(gathered.sections[0], reader)
    kept = records / "run" / KEPT
    record = json.loads(kept.read_text())
    for file in record["files"].values():
        file["predicted"] = [0] * len(file["predicted"])
    kept.write_text(json.dumps(record))
    anew = predictions(gathered.sections[0], reader)  # what is kept does not fit, so the files are run
    assert all(each.any() for each in anew.predicted.values())
    (records / "run" / "prune_quantize.onnxruntime.onnx").write_bytes(
        (records / "run" / "baseline.onnxruntime.onnx").read_bytes()
    )
    kept.unlink()
    changed = predictions(gathered.sections[0], reader)
    assert "prune_quantize" not in changed.predicted
    assert ["is not the file that was measured" in note for note in changed.notes] == [True]


def test_data_that_is_not_here_costs_the_images_alone(records: Path) -> None:
    def gone(folder: Path) -> Any:
        raise InputError("the data is on another machine")

    gathered = gather([records / "run"], artifacts_of)
    found = predictions(gathered.sections[0], Reader(gone, target_of))
    assert found.predicted == {}
    text = page(gathered, [found], "python -m src.report run")
    assert "the data is on another machine" in text
    assert views_of(text)[0]["items"][0]["accuracy"] == pytest.approx(0.2395543175487465)


def test_rows_of_two_data_sets_stand_in_two_sections(records: Path) -> None:
    other = records / "other"
    shutil.copytree(records / "run", other)
    record = json.loads((other / "results.json").read_text())
    for row in record["rows"]:
        row |= {"data": "leaves", "identity": f"0{row['identity'][1:]}"}
    (other / "results.json").write_text(json.dumps(record))
    gathered = gather([records / "run", other], artifacts_of)
    assert [section.data for section in gathered.sections] == ["digits", "leaves"]
    text = page(gathered, [Predictions(), Predictions()], "")
    assert text.count("<section ") == 2
    assert [[item["variant"] for item in view["items"]] for view in views_of(text)] == [
        ["baseline", "prune_quantize"]
    ] * 2


def test_html_in_names_stays_text(records: Path) -> None:
    renamed(records / "run", "prune_quantize", HTML)
    text = page(gather([records / "run"], artifacts_of), [Predictions()], HTML)
    assert text.count("boom()") > 3
    assert "<img" not in text.replace("\\u003cimg", "")
    assert "<script>boom" not in text
    path = records / "report.html"
    path.write_text(text)
    found = shown(path, asked="typeof boomed")
    assert found.console == []
    assert found.answer == "undefined"
    assert "<img" not in found.dom.partition("<script")[0]


def test_a_run_that_was_cut_off_is_said_and_a_folder_of_nothing_is_refused(records: Path) -> None:
    (records / "half").mkdir()
    shutil.copy(records / "run" / "config.yaml", records / "half")
    said = report(["half"], None, "")
    assert "half holds no results: its command was cut off" in said[0]
    assert "There is no result row yet." in (records / "half" / "report.html").read_text()
    (records / "empty").mkdir()
    for names, line in (
        (["empty"], "empty holds no results"),
        (["nowhere"], "There is no folder 'nowhere'"),
        ([], "There is no run to report in outputs/"),
        (["cifar_prune"], "python -m src.run [+]experiment=cifar_prune makes them"),
        (["run/config.yaml"], "is a file"),
    ):
        with pytest.raises(InputError, match=line):
            report(names, None, "")
    with pytest.raises(InputError, match=r"--to report.pdf"):
        report(["run"], Path("report.pdf"), "")


def test_a_config_beside_a_run_cannot_run_code(records: Path) -> None:
    config = records / "run" / "config.yaml"
    config.write_text(config.read_text().replace("src.data.digits.Digits", "os.system"))
    said = report(["run"], None, "")
    assert "data._target_ is os.system, which is no class of conf/data" in said[0]


def test_a_search_shows_its_trials_and_its_finalists(records: Path) -> None:
    said = report(["search"], records / "report.html", "python -m src.report search")
    text = (records / "report.html").read_text()
    record = json.loads((records / "search" / "search.json").read_text())
    (search,) = json.loads(text.partition('id="searches">')[2].partition("</script>")[0])
    assert search["chosen"] == record["chosen"]
    assert [point["number"] for point in search["points"] if point["front"]] == sorted(record["front"])
    for point, trial in zip(search["points"], record["trials"], strict=True):
        assert point["values"] == trial["values"]
        assert point["within"] == trial["within_budget"]
    assert record["commands"]["0"].replace("'", "&#x27;") in text
    assert any("cannot be run here" in line for line in said)  # the files of its finalists are not there
    found = shown(records / "report.html")
    assert found.console == []
    assert 'aria-label="trial 0"' in found.dom


@pytest.mark.parametrize("trial", [3, {}, {"values": 1}, {"values": {"accuracy_validation": "x"}}, {"point": []}])
def test_a_trial_of_another_version_is_left_out(trial: object) -> None:
    assert trials({"trials": [trial], "objectives": ["size_bytes", "nothing"]})["points"] == []
