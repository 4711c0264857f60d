"""The report as Markdown and as pictures."""

from __future__ import annotations

import json
from pathlib import Path

from PIL import Image

from src.command.reporting import artifacts_of, report
from src.reporting.gathering import gather
from src.reporting.markdown import markdown
from src.reporting.predicting import Predictions


def test_markdown_has_every_row_its_front_its_layers_and_its_command(records: Path) -> None:
    report(["run"], records / "report.md", "")
    text = (records / "report.md").read_text()
    record = json.loads((records / "run" / "results.json").read_text())
    for row in record["rows"]:
        (line,) = [line for line in text.splitlines() if line.startswith(f"| {row['variant']} | ")]
        assert f" {100 * row['accuracy']:.2f} % " in line
    assert f"      {record['command']}\n" in text
    stage = json.loads((records / "artifacts" / record["rows"][-1]["identity"] / "stage.json").read_text())
    for layer in stage["layers"]:
        assert f"| {layer['name']} | {100 * layer['sparsity']:.1f} % | {layer['bits']} |" in text
    assert "Front of accuracy and file: prune_quantize (" in text


def test_a_name_cannot_break_a_table_or_be_html(records: Path) -> None:
    name = "a|b<img src=x>\n`c`"
    for path in (records / "run").glob("*.json"):
        path.write_text(path.read_text().replace('"prune_quantize"', json.dumps(name.replace("\n", " "))))
    text = markdown(gather([records / "run"], artifacts_of), [Predictions()])
    assert "| a\\|b&lt;img src=x&gt; \\`c\\` |" in text
    assert "<img" not in text


def test_pictures_are_drawn_of_what_is_there(records: Path) -> None:
    report(["survey"], records / "pictures", "")
    found = {path.name: Image.open(path).size for path in (records / "pictures").iterdir()}
    assert set(found) == {f"digits_{name}.png" for name in ("fronts", "bars", "intervals", "training")}
    assert all(width > 1000 and height > 500 for width, height in found.values())
