"""What a person sees: ours, not the libraries'."""

from __future__ import annotations

import io
import os
import sys
from pathlib import Path

import pytest

from src.contracts import DataSplits, Epoch
from src.display.terminal import Bar, Console, only_ours, shown


def test_what_libraries_print_goes_to_the_log_and_ours_to_the_terminal(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    log = tmp_path / "run.log"
    with only_ours(log, verbose=False) as terminal:
        os.write(1, b"a library in C++\n")
        os.write(2, b"its warning\n")
        terminal.write("ours\n")
    os.write(1, b"afterwards\n")
    assert capfd.readouterr().out == "ours\nafterwards\n"
    assert log.read_text() == "a library in C++\nits warning\n"


def test_the_descriptors_are_given_back_after_an_error(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ValueError, match="broken"), only_ours(tmp_path / "run.log", verbose=False):
        raise ValueError("broken")
    os.write(1, b"here again\n")
    assert capfd.readouterr().out == "here again\n"


def test_verbose_leaves_everything_on_the_terminal(tmp_path: Path) -> None:
    with only_ours(tmp_path / "run.log", verbose=True) as terminal:
        assert terminal is sys.stdout
    assert not (tmp_path / "run.log").exists()


def test_a_run_is_said_in_two_lines(splits: DataSplits) -> None:
    out = io.StringIO()
    console = Console(out, "")
    console.begin("prune", "pruned", "cnn", splits, 3)
    console.stage("baseline", "0123456789abcdef", True, 1.0, 0.5)
    console.stage("pruned", "fedcba9876543210", False, 12.0, 0.75)
    console.end(3.0, False)
    assert out.getvalue() == (
        "prune: cnn on shapes (80 images of 3x16x16), seed 3\n"
        "pruned               baseline found again (01234567) - pruned compressed in 12 s, validation 75.00 % - "
        "exported and measured in 3.0 s\n"
    )


def test_a_survey_says_what_it_does_in_its_first_member_only(splits: DataSplits) -> None:
    out = io.StringIO()
    for prefix in ("[1/2] ", "[2/2] "):
        console = Console(out, prefix)
        console.begin("survey", "v", "cnn", splits, 0)
        console.end(1.0, True)
    assert [line[:6] for line in out.getvalue().splitlines()] == ["survey", "[1/2] ", "[2/2] "]


def test_a_bar_hands_each_epoch_on_and_says_where_it_resumes() -> None:
    out, heard = io.StringIO(), []
    bar = Bar(out, "baseline", heard.append)
    bar.start(4, 40)
    bar.resumed(1)
    epoch = Epoch(2, 0.1, 0.9, 0.8, 0.01, 1.0, 0.0)
    bar.epoch(epoch)
    bar.stop()
    assert heard == [epoch]
    assert out.getvalue() == "baseline: resumes after epoch 2\n"


def test_a_path_is_shown_as_a_user_here_would_write_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert shown(tmp_path / "outputs") == Path("outputs")
    assert shown(Path("/elsewhere")) == Path("/elsewhere")
