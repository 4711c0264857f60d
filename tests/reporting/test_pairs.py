"""Paired comparisons against the formula written out, and against simulated images."""

from __future__ import annotations

import numpy as np
import pytest

from src.reporting.pairs import compared, confusion, flipped, paired_interval, pareto


def test_the_interval_is_the_one_of_the_paper() -> None:
    # Agresti and Min 2005, section 4: half a pair is added to each of the four cells, then Wald's interval.
    b, c, n = 12 + 0.5, 5 + 0.5, 100 + 2
    half = 1.959963984540054 * (((b + c) - (c - b) ** 2 / n) ** 0.5) / n
    found = paired_interval(lost=12, won=5, images=100)
    assert found.change == pytest.approx(-0.07)
    assert (found.low, found.high) == pytest.approx(((c - b) / n - half, (c - b) / n + half))


def test_the_interval_holds_the_true_difference_in_95_of_100_samples() -> None:
    random, lost, won, images = np.random.default_rng(0), 0.08, 0.03, 300
    samples = random.multinomial(images, [lost, won, 1 - lost - won], 4000)
    intervals = [paired_interval(int(b), int(c), images) for b, c, _ in samples]
    covered = np.mean([each.low <= won - lost <= each.high for each in intervals])
    assert 0.94 < covered < 0.97


def test_files_that_predict_alike_still_have_an_interval_around_zero() -> None:
    same = paired_interval(0, 0, 359)
    assert same.change == 0
    assert same.low < 0 < same.high
    with pytest.raises(ValueError, match="cannot be"):
        paired_interval(3, 3, 5)


def test_lost_and_won_images_and_the_confusion_are_counted() -> None:
    labels, before, after = (np.array(each) for each in ([0, 1, 1, 2], [0, 1, 0, 0], [0, 0, 1, 1]))
    assert flipped(labels, before, after) == ([1], [2])
    change = compared(labels, before, after)
    assert (change.lost, change.won, change.images, change.change) == (1, 1, 4, 0)
    assert (confusion(labels, after, 3) - confusion(labels, before, 3)).tolist() == [[0, 0, 0], [0, 0, 0], [-1, 1, 0]]


def test_the_front_is_what_no_other_point_beats() -> None:
    assert pareto([(3, 0.9), (1, 0.5), (2, 0.9), (2, 0.4), (1, 0.5)]) == [1, 4, 2]
    assert pareto([]) == []
