"""Programs of networks for any number of images."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from src.deploy.free_batch import program_of, traceable
from tests.exported import images
from tests.odd_networks import Attends, CountsItsBatch, Plain


class OnlyTwo(nn.Module):
    """Refuses every number of images but two."""

    def forward(self, images: Tensor) -> Tensor:
        return images.view(2, -1)


@pytest.mark.parametrize("network", [Plain, CountsItsBatch, Attends])
def test_a_program_of_one_image_takes_three(network: type[Plain]) -> None:
    model = network(4).eval()
    program = program_of(model, images(1, 16)).module()
    torch.testing.assert_close(program(images(3, 16)), model(images(3, 16)))


@pytest.mark.parametrize("network", [Plain, CountsItsBatch])
def test_a_tracer_sees_the_batch_size_of_a_traceable_network(network: type[Plain]) -> None:
    model = network(4).eval()
    form = traceable(model, images(1, 16))
    assert form is not None
    traced = torch.jit.trace(form.eval(), images(2, 16), check_trace=False)
    torch.testing.assert_close(traced(images(5, 16)), model(images(5, 16)))


def test_a_network_for_a_fixed_number_of_images_has_no_such_form() -> None:
    assert traceable(OnlyTwo().eval(), images(1, 16)) is None
