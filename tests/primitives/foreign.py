"""Layers and networks as other people write them: layers with a forward of their own, lists, functions, attention."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

IMAGE = torch.randn(1, 3, 16, 16, generator=torch.Generator().manual_seed(5))


class SamePadding(nn.Conv2d):
    """Pads its input by itself, as timm's Conv2dSame."""

    def forward(self, images: Tensor) -> Tensor:
        padded = F.pad(images, [1, 1, 1, 1])
        return F.conv2d(padded, self.weight, self.bias, self.stride, 0, self.dilation, self.groups)


class Standardized(nn.Conv2d):
    """Standardizes its weight in each pass, as timm's StdConv2d: a zero of the parameter is no zero of the weight."""

    def forward(self, images: Tensor) -> Tensor:
        mean = self.weight.mean((1, 2, 3), keepdim=True)
        weight = (self.weight - mean) / (self.weight.std((1, 2, 3), keepdim=True) + 1e-6)
        return F.conv2d(images, weight, self.bias, self.stride, self.padding, self.dilation, self.groups)


class Equalized(nn.Linear):
    """Scales its weight in each pass by a constant."""

    def forward(self, values: Tensor) -> Tensor:
        return F.linear(values, self.weight * 0.25, self.bias)


class NormAct(nn.BatchNorm2d):
    """A batch normalization with an activation of its own, as timm's BatchNormAct2d."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.act = nn.ReLU()

    def forward(self, values: Tensor) -> Tensor:
        return self.act(super().forward(values))


class Timmish(nn.Module):
    """A convolution that pads by itself, a normalization with an activation, a scaled dense layer."""

    def __init__(self, middle: type[nn.Conv2d] = SamePadding) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.norm = NormAct(16)
        self.middle = middle(16, 24, 3, stride=2, padding=1 if middle is Standardized else 0)
        self.hidden = Equalized(24, 32)
        self.fc = nn.Linear(32, 10)

    def forward(self, images: Tensor) -> Tensor:
        values = torch.relu(self.middle(self.norm(self.stem(images)))).mean((2, 3))
        return self.fc(torch.relu(self.hidden(values)))


class Lists(nn.Module):
    """Layers in a list that is called by index, and a parameter that a function takes."""

    def __init__(self) -> None:
        super().__init__()
        self.streams = nn.ModuleList(nn.Conv2d(3, 16, 3, padding=1) for _ in range(3))
        self.kernel = nn.Parameter(torch.randn(16, 16, 3, 3) / 12)
        self.fc = nn.Linear(16, 10)

    def forward(self, images: Tensor) -> Tensor:
        values = sum(torch.relu(stream(images)) for stream in self.streams)
        return self.fc(F.conv2d(torch.relu(values), self.kernel, padding=1).mean((2, 3)))


class Shuffle(nn.Module):
    """Two halves, one of them convolved, are joined and their channels shuffled, as in ShuffleNet."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, padding=1)
        self.inner = nn.Conv2d(8, 16, 1)
        self.outer = nn.Conv2d(16, 8, 1)
        self.last = nn.Conv2d(16, 24, 1)
        self.fc = nn.Linear(24, 10)

    def forward(self, images: Tensor) -> Tensor:
        one, two = torch.relu(self.stem(images)).chunk(2, 1)
        joined = torch.cat([one, self.outer(torch.relu(self.inner(two)))], 1)
        n, c, h, w = joined.shape
        shuffled = joined.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w)
        return self.fc(torch.relu(self.last(shuffled)).mean((2, 3)))


class Recurrent(nn.Module):
    """The rows of a feature map are read by a GRU."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 8, 3, padding=1)
        self.gru = nn.GRU(8 * 16, 16, batch_first=True)
        self.fc = nn.Linear(16, 10)

    def forward(self, images: Tensor) -> Tensor:
        rows = torch.relu(self.two(torch.relu(self.one(images)))).permute(0, 2, 1, 3).flatten(2)
        return self.fc(self.gru(rows)[0][:, -1])


class Transformer(nn.Module):
    """Patches, one block of attention with heads, an MLP, a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 32, 4, stride=4)
        self.norm = nn.LayerNorm(32)
        self.qkv, self.proj = nn.Linear(32, 96), nn.Linear(32, 32)
        self.up, self.down = nn.Linear(32, 64), nn.Linear(64, 32)
        self.fc = nn.Linear(32, 10)
        self.fused_attn = True  # as timm's attention

    def forward(self, images: Tensor) -> Tensor:
        tokens = self.patches(images).flatten(2).transpose(1, 2)
        n, count, _ = tokens.shape
        q, k, v = self.qkv(self.norm(tokens)).reshape(n, count, 3, 4, 8).permute(2, 0, 3, 1, 4).unbind(0)
        if self.fused_attn:
            attended = F.scaled_dot_product_attention(q, k, v)
        else:
            attended = (q * 8**-0.5 @ k.transpose(-2, -1)).softmax(-1) @ v
        attended = attended.transpose(1, 2).reshape(n, count, 32)
        tokens = tokens + self.proj(attended)
        return self.fc((tokens + self.down(F.gelu(self.up(tokens)))).mean(1))
