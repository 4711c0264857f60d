"""Adaptive pooling in operators that every format has."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from src.deploy import pooling
from src.deploy.pooling import FixedWindows, mean_of_windows


@pytest.mark.parametrize("size", [1, 3, 7, (3, 5), (None, 4), (2, None)])
def test_means_of_fixed_windows_are_adaptive_pooling(size: int | tuple[int | None, int | None]) -> None:
    images = torch.randn(2, 3, 7, 10, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    expected = functional.adaptive_avg_pool2d(images, size)
    with FixedWindows():
        found = functional.adaptive_avg_pool2d(images, size)
    torch.testing.assert_close(found, expected)


def test_windows_overlap_if_their_number_does_not_divide_the_side() -> None:
    """Of 5 elements and 2 windows: elements 0 to 2, and 2 to 4."""
    assert mean_of_windows(torch.tensor([1.0, 2.0, 3.0, 5.0, 10.0]), 0, 2).tolist() == [2.0, 6.0]


def test_pooling_whose_windows_divide_the_image_stays_one_operator(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pooling, "mean_of_windows", lambda *_: pytest.fail("it was written as windows"))
    images = torch.arange(16.0).view(1, 1, 4, 4)
    with FixedWindows():
        assert functional.adaptive_avg_pool2d(images, 2).flatten().tolist() == [2.5, 4.5, 10.5, 12.5]
