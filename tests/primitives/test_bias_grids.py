"""Biases in the steps of integer kernels."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from src.primitives.bias_grids import rounded_biases


class Quantized(nn.Module):
    """An image in steps of 1/4 through a transposition into a dense layer with weights in steps of 1/8 and 1/2."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(2, 2)
        self.fc.bias.data = torch.tensor([0.3, -0.3])
        self.free = nn.Linear(2, 1)

    def forward(self, image: Tensor) -> Tensor:
        image = torch.fake_quantize_per_tensor_affine(image, 0.25, 0, -128, 127).transpose(0, 1)
        image = torch.cat([image[:, :1], image[:, 1:]], 1).reshape(1, 2)
        steps, zeros = torch.tensor([0.125, 0.5]), torch.zeros(2, dtype=torch.int32)
        weight = torch.fake_quantize_per_channel_affine(self.fc.weight, steps, zeros, 0, -127, 127)
        return self.free(nn.functional.linear(image, weight, self.fc.bias))


def test_a_bias_is_rounded_to_input_scale_times_weight_scale() -> None:
    found = rounded_biases(Quantized(), torch.ones(2, 1))
    assert list(found) == ["fc.bias"]  # the other layer has no quantized weight
    assert found["fc.bias"].tolist() == [0.3125, -0.25]  # 10/32 and -2/8


def test_a_bias_beyond_32_bits_is_left_as_it_is() -> None:
    model = Quantized()
    model.fc.bias.data[0] = 2.0**31
    assert rounded_biases(model, torch.ones(2, 1)) == {}


class ByName(nn.Module):
    """A dense layer called by the names of its arguments, and one whose weight is transposed after its quantization."""

    def __init__(self) -> None:
        super().__init__()
        self.named, self.turned = nn.Linear(2, 2), nn.Linear(2, 3)
        self.named.bias.data = torch.tensor([0.3, -0.3])
        self.weight = nn.Parameter(torch.ones(2, 3))

    def forward(self, image: Tensor) -> Tensor:
        image = torch.fake_quantize_per_tensor_affine(image, 0.25, 0, -128, 127)
        weight = torch.fake_quantize_per_tensor_affine(self.named.weight, 0.5, 0, -127, 127)
        image = nn.functional.linear(input=image, weight=weight, bias=self.named.bias)
        image = torch.fake_quantize_per_tensor_affine(image, 0.25, 0, -128, 127)
        steps, zeros = torch.tensor([0.125, 0.5]), torch.zeros(2, dtype=torch.int32)
        turned = torch.fake_quantize_per_channel_affine(self.weight, steps, zeros, 0, -127, 127).transpose(0, 1)
        return nn.functional.linear(image, turned, self.turned.bias)


def test_arguments_by_name_are_followed_and_a_turned_weight_with_a_scale_a_channel_is_not() -> None:
    found = rounded_biases(ByName(), torch.ones(1, 2))
    assert {name: bias.tolist() for name, bias in found.items()} == {"named.bias": [0.25, -0.25]}
