"""Random numbers, and decisions by the values of images, are found with their line."""

from __future__ import annotations

import re

import pytest
import torch
from torch import Tensor, nn

from src.contracts import InputError
from src.experiment.watching import check_repeats, decisions, watched
from tests.exported import images
from tests.odd_networks import AlwaysDrops, CountsItsBatch, Decides, Plain


def test_a_plain_network_draws_nothing_and_decides_nothing() -> None:
    for network in (Plain, CountsItsBatch):  # a shape is no value of an image
        found = watched(network(3).eval(), images(2, 16))
        assert (found.draws, found.reads) == ({}, {})
        check_repeats(network(3).eval(), images(2, 16))


def test_the_line_that_draws_is_named_and_the_generator_stays_where_it_was() -> None:
    model, before = AlwaysDrops(3).eval(), torch.get_rng_state()
    with pytest.raises(InputError, match=r"odd_networks\.py:\d+ \(return functional\.dropout.*draws random numbers"):
        check_repeats(model, images(2, 16))
    assert torch.equal(torch.get_rng_state(), before)


def test_each_line_that_decides_is_named_once() -> None:
    class DecidesOften(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            for _ in range(3):
                if images.sum() > 0:
                    images = images / 2
            return images

    (line,) = decisions(DecidesOften(), images(2))
    assert re.fullmatch(r"test_watching\.py:\d+ \(if images\.sum\(\) > 0:\)", line)
    assert len(decisions(Decides(3).eval(), images(2, 16))) == 1


def test_a_number_that_depends_on_no_image_is_no_decision() -> None:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.tensor(2.0))

        def forward(self, images: Tensor) -> Tensor:
            return images * float(self.scale)

    assert decisions(Scaled(), images(2)) == []
