"""What a person sees: ours, not the libraries'."""

from __future__ import annotations

import io
import os
import sys
from pathlib import Path

import pytest
import torch

from src.contracts import DataSplits, Epoch, ImageSet
from src.display.terminal import Bar, Console, contents, only_ours, shown


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


def test_a_run_is_said_in_three_lines(splits: DataSplits) -> None:
    out = io.StringIO()
    console = Console(out, "")
    console.begin("prune", "pruned", "cnn", splits, 3)
    console.stage("baseline", "0123456789abcdef", True, 1.0, 0.5)
    console.stage("pruned", "fedcba9876543210", False, 12.0, 0.75)
    console.end(3.0, False)
    assert out.getvalue() == (
        "prune: cnn on shapes (80 images of 3x16x16), seed 3\n"
        + "".join(f"{line}\n" for line in contents(splits))
        + "pruned               baseline found again (01234567) - pruned compressed in 12 s, validation 75.00 % - "
        "exported and measured in 3.0 s\n"
    )


def test_a_survey_says_what_it_does_in_its_first_member_only(splits: DataSplits) -> None:
    out = io.StringIO()
    for prefix in ("[1/2] ", "[2/2] "):
        console = Console(out, prefix)
        console.begin("survey", "v", "cnn", splits, 0)
        console.end(1.0, True)
    said = [line[:7] for line in out.getvalue().splitlines() if line not in contents(splits)]
    assert said == ["survey:", "[1/2] v", "[2/2] v"]
    assert all(out.getvalue().count(line) == 1 for line in contents(splits))


def test_the_first_lines_say_the_images_of_each_class_and_split_and_what_is_wrong_with_them() -> None:
    def part(*labels: int) -> ImageSet:
        return ImageSet(torch.zeros(len(labels), 1, 8, 8, dtype=torch.uint8), torch.tensor(labels))

    train, validation, test = part(0, 0, 0, 1), part(0), part(1, 1)
    data = DataSplits(
        "x", ("ant", "bee"), train, validation, test, train, (0.0,), (1.0,), None, "", remarks=("no bee validates",)
    )
    assert contents(data) == [
        "  train 4 + validation 1 + test 2; 2 classes: ant 3+1+0, bee 1+0+2",
        "  no bee validates",
    ]


def test_of_many_classes_the_first_are_named_and_the_others_counted() -> None:
    images = ImageSet(torch.zeros(20, 1, 8, 8, dtype=torch.uint8), torch.arange(20))
    names = tuple(f"c{at}" for at in range(20))
    (line,) = contents(DataSplits("x", names, images, images, images, images, (0.0,), (1.0,), None, ""))
    assert line.endswith("c11 1+1+1, and 8 more")


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
