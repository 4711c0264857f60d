"""The card of a file as text."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from src.contracts import InputError, ModelCard, Preparation
from src.deploy import cards

CARD = ModelCard(("a", "b"), (3, 8, 9), (0.5, 0.25, 0.1), (0.2, 0.25, 0.3), "id", Preparation("bicubic", 0.875))


def test_a_card_comes_back_whole() -> None:
    assert cards.from_text(cards.to_text(CARD), Path("x")) == CARD


def test_a_whole_preparation_comes_back_and_the_usual_one_adds_nothing_to_a_file() -> None:
    how = Preparation("nearest", None, "letterbox", 255, (0.0, 4095.0))
    card = replace(CARD, preparation=how)
    assert cards.from_text(cards.to_text(card), Path("x")) == card
    assert not {"fit", "background", "pixel_range"} & set(cards.to_text(CARD))


def test_a_preparation_that_cannot_be_is_refused() -> None:
    with pytest.raises(InputError, match="crop must be in"):
        cards.from_text({**cards.to_text(CARD), "crop": "7"}, Path("x"))


def test_files_of_before_the_input_contract_were_stretched_bilinear() -> None:
    text = {key: value for key, value in cards.to_text(CARD).items() if key not in ("interpolation", "crop")}
    found = cards.from_text(text, Path("x"))
    assert found.preparation == Preparation()


def test_a_file_of_somebody_else_is_refused() -> None:
    with pytest.raises(InputError, match=r"x does not say its std"):
        cards.from_text({key: value for key, value in cards.to_text(CARD).items() if key != "std"}, Path("x"))


@pytest.mark.parametrize("key", ["classes", "image_shape", "mean"])
@pytest.mark.parametrize("text", ["7", "{", "null", '{"a": 1, "a": 2}'])
def test_a_card_of_other_kinds_is_refused_in_one_line(key: str, text: str) -> None:
    with pytest.raises(InputError, match=r"x says of itself what no export of this project does: [^\n]*$"):
        cards.from_text({**cards.to_text(CARD), key: text}, Path("x"))


@pytest.mark.parametrize(
    ("key", "text", "says"),
    [
        ("std", "[0.2, 0, 0.3]", r"std\[1\] is 0, and must be a number from"),
        ("std", "[0.2, -1, 0.3]", r"std\[1\] is -1"),
        ("std", "[0.2, NaN, 0.3]", "NaN is no number"),
        ("mean", "[0.2, Infinity, 0.3]", "Infinity is no number"),
        ("mean", "[0.2, 1e999, 0.3]", r"mean\[1\] is Infinity"),
        ("mean", '[0.2, "0.2", 0.3]', r'mean\[1\] is "0.2"'),
        ("mean", "[0.5]", "3 channels, and it needs a mean and a std for each"),
        ("image_shape", "[3, -8, 9]", r"image_shape\[1\] is -8, and must be a whole number from 1"),
        ("image_shape", "[3, 8.5, 9]", r"image_shape\[1\] is 8.5"),
        ("image_shape", "[3, 8]", "not enough values"),
        ("classes", '["a", 7]', r"classes\[1\] is 7, and must be a text"),
        ("crop", "NaN", "NaN is no number"),
    ],
)
def test_figures_that_cannot_be_are_refused(key: str, text: str, says: str) -> None:
    """With such a mean or std every probability is NaN."""
    with pytest.raises(InputError, match=says) as caught:
        cards.from_text({**cards.to_text(CARD), key: text}, Path("x"))
    assert "\n" not in str(caught.value)
