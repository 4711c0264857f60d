"""The table says what the rows say, and what could be misread is said beside it."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import pytest

from src.contracts import COLUMNS, Entry, Precision, Refused
from src.display.tables import aligned, columns_as_markdown, highlighted, refusals, remarks, table
from tests.rows import row, variant


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.split("  ") if cell.strip()]


def test_a_line_says_the_row_in_the_declared_columns() -> None:
    small = variant(
        "int8",
        precision=Precision(("int8",)),
        bits_per_weight=8.0,
        accuracy=0.8875,
        accuracy_change=-0.0125,
        size_bytes=250_000,
        compression_ratio=4.0,
        size_gzip_bytes=98_000,
        size_packed_bytes=61_000,
        latency_ms_p50=0.25,
        speedup=2.0,
        speedup_low=1.9,
        speedup_high=2.1,
        integer_share=0.995,
    )
    head, base, line = (cells(each) for each in table([Entry(row()), Entry(small)], width=None))
    assert head == [column.heading for column in COLUMNS if column.heading]
    assert base == [
        "baseline", "onnxruntime", "float32", "32", "90.00 %", "-", "1.00 MB", "1.0x", "900 kB", "700 kB",
        "0.500 ms", "-", "agree", "0.0 %",
    ]  # fmt: skip
    assert line == [
        "int8", "onnxruntime", "int8", "8", "88.75 %", "-1.25", "250 kB", "4.0x", "98.00 kB", "61.00 kB",
        "0.250 ms", "2.00x (1.90 to 2.10)", "agree", "99.5 %",
    ]  # fmt: skip


def test_a_table_fits_a_hundred_characters_and_says_of_a_wrong_file_that_it_is_wrong() -> None:
    long = variant("distill_prune_quantize", speedup=2.0, speedup_low=1.9, speedup_high=2.1)
    lines = table([Entry(row()), Entry(long)])
    assert max(map(len, lines)) <= 100
    assert {"accuracy", "change", "file", "packed", "faster"} <= set(cells(lines[0]))
    assert not {"precision", "file does", "in integers"} & set(cells(lines[0]))
    wrong = table([Entry(row()), Entry(replace(long, agreement=0.5))])
    assert max(map(len, wrong)) <= 100
    assert wrong[2].endswith("WRONG")


def test_a_table_shows_the_share_of_integers_if_a_file_computes_partly_in_floats() -> None:
    entries = [variant("int8", precision=Precision(("int8",)), integer_share=share) for share in (0.995, 0.5)]
    heads = [cells(table([Entry(row()), Entry(entry)], width=200)[0]) for entry in entries]
    assert ["in integers" in head for head in heads] == [False, True]


def test_colours_are_for_terminals_that_want_them(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    lines = ["variant", "one  agree", "two  WRONG"]
    assert highlighted(lines, io.StringIO()) == lines
    assert highlighted(lines, Terminal()) == ["\033[1mvariant\033[0m", "one  agree", "\033[31mtwo  WRONG\033[0m"]
    monkeypatch.setenv("NO_COLOR", "1")
    assert highlighted(lines, Terminal()) == lines


def test_several_seeds_share_a_line_of_means_and_deviations() -> None:
    both = [Entry(row(seed=seed, accuracy=accuracy)) for seed, accuracy in ((0, 0.90), (1, 0.92))]
    lines = table(both)
    assert len(lines) == 2
    assert lines[1].startswith("baseline x2")
    assert "91.00 ± 1.41 %" in lines[1]


def test_what_a_survey_varies_stands_beside_the_variant() -> None:
    lines = table([Entry(row(), ("model=wide", "training.epochs=3")), Entry(row(model="wide"), ("training.epochs=9",))])
    assert lines[1].startswith("baseline net/pets (training.epochs=3)")
    assert lines[2].startswith("baseline wide/pets (training.epochs=9)")


def test_an_unknown_column_is_a_dash_and_a_file_that_departs_is_wrong() -> None:
    (_, line) = table([Entry(variant("pruned", latency_ms_p50=None, speedup=None, agreement=0.9))])
    assert cells(line)[-3:] == ["-", "-", "WRONG"]


def test_cells_are_aligned() -> None:
    assert aligned([["a", "1", "b"], ["long", "22", ""]], left=1) == ["a      1  b", "long  22"]


def test_remarks_name_what_could_be_misread() -> None:
    rows = [
        row(),
        variant("zeros", nonzero_parameters=50_000),
        variant("int8", precision=Precision(("int8",)), size_bytes=250_000, latency_ms_p50=0.8, integer_share=1.0),
        variant("odd", agreement=0.5, departs_at="conv2", unavailable={"macs": "the graph cannot be counted"}),
    ]
    assert remarks(rows) == [
        "Pruned float weights make a file no smaller unless packed (target=packed); channels or INT8 do.",
        "INT8 is slower than float here (int8 on onnxruntime): this network or processor gains nothing.",
        "odd.onnxruntime.onnx predicts what the torch model does for 50.0% of images; conv2 departs first. Trust the "
        "file's accuracy, and mind that the export changed the network.",
        "Not measured: macs on onnxruntime: the graph cannot be counted.",
    ]


def test_an_int8_file_that_is_not_in_integers_is_said_so() -> None:
    settings = {"precision": Precision(("int8",)), "size_bytes": 250_000, "latency_ms_p50": 0.8}
    partly = variant("int8", **settings, integer_share=0.4, float_operations="conv1, conv2")
    assert remarks([row(), partly]) == [
        "int8.onnxruntime.onnx computes 40.0% of its multiply-accumulates in integers; in floats: conv1, conv2.",
        "INT8 is slower than float here (int8 on onnxruntime): much of it is computed in floats.",
    ]


def test_a_pruned_file_that_is_smaller_or_in_integers_needs_no_remark() -> None:
    rows = [row(), variant("a", nonzero_parameters=5, size_bytes=100), variant("b", nonzero_parameters=5, seed=1)]
    assert remarks(rows) == []  # the second has no baseline of its seed


def test_refusals_are_said_once() -> None:
    refused = Refused("int8", "tflite", "target.tflite: no such operator")
    assert refusals([refused, refused]) == ["Not exportable: int8: target.tflite: no such operator"]


def test_a_file_that_its_runtime_refused_has_a_line_without_figures() -> None:
    refused = Refused("small", "openvino", "target.openvino: it broke", failed=True)
    *_, line = table([Entry(row())], [refused, refused])
    assert cells(line)[:2] == ["small", "openvino"]
    assert set(cells(line)[2:]) == {"-", "REFUSED"}
    assert refusals([refused]) == ["Refused: small: target.openvino: it broke"]


def test_the_docs_list_every_column_as_it_is_declared() -> None:
    text = (Path(__file__).parents[2] / "docs" / "results.md").read_text()
    missing = [line for line in columns_as_markdown() if line not in text.splitlines()]
    assert not missing, "docs/results.md lacks these lines:\n" + "\n".join(missing)


def test_an_accuracy_that_rests_on_frequent_classes_is_said() -> None:
    lines = remarks([row(accuracy=0.999, balanced_accuracy=0.5)])
    assert lines == [
        "Balanced accuracy, in which rare classes count as much as frequent ones, is 50.00 % for "
        "baseline.onnxruntime.onnx, and not 99.90 %."
    ]
    assert remarks([row(accuracy=0.9, balanced_accuracy=0.88), row(balanced_accuracy=None)]) == []


def test_a_label_that_is_too_long_goes_on_in_the_next_line_and_loses_nothing() -> None:
    settings = ("method.fine_tune.optimizer.lr=0.001", "method.schedule.updates=40", "training.batch_size=128")
    plain, varied = Entry(row()), Entry(variant("distill_prune_quantize"), settings)
    lines = table([plain, varied])
    assert max(map(len, lines)) <= 100
    said = "".join("".join(line.split("onnxruntime")[0].split()) for line in lines[2:])
    assert said == f"distill_prune_quantize({','.join(settings)})"
    assert len(lines) > 3
    assert [line for line in lines[2:] if "onnxruntime" in line] == [lines[2]]
    assert len(table([plain, varied], width=None)) == 3
