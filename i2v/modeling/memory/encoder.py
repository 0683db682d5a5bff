"""The memory encoder: a frame's features and its mask become a memory (SAM 2, section 4)."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from i2v.modeling.layers import LayerNorm2d


class MaskDownsampler(nn.Module):
    """Strided convolutions from the resolution of the image to that of the features: (B, 1, S, S) -> (B, C, h, w).

    Args:
        out_channels (int): C.
        total_stride (int): S / h, a power of 2. Each step of stride 2 quadruples the channels.
    """

    def __init__(self, out_channels: int, total_stride: int = 16) -> None:
        super().__init__()
        if total_stride < 2 or total_stride & (total_stride - 1):
            raise ValueError(f"total_stride must be a power of 2 and at least 2, got {total_stride}")
        layers: list[nn.Module] = []
        channels = 1
        for _ in range(int(math.log2(total_stride))):
            layers += [
                nn.Conv2d(channels, channels * 4, 3, stride=2, padding=1),
                LayerNorm2d(channels * 4),
                nn.GELU(),
            ]
            channels *= 4
        self.encoder = nn.Sequential(*layers, nn.Conv2d(channels, out_channels, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.encoder(x)


class ConvNeXtBlock(nn.Module):
    """ConvNeXt block with layer scale: (B, C, h, w) -> the same."""

    def __init__(self, channels: int, kernel_size: int = 7, layer_scale: float = 1e-6) -> None:
        super().__init__()
        self.dwconv = nn.Conv2d(channels, channels, kernel_size, padding=kernel_size // 2, groups=channels)
        self.norm = LayerNorm2d(channels)
        self.pwconv1 = nn.Linear(channels, 4 * channels)
        self.act = nn.GELU()
        self.pwconv2 = nn.Linear(4 * channels, channels)
        self.gamma = nn.Parameter(torch.full((channels,), layer_scale))

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.dwconv(x)).permute(0, 2, 3, 1)
        y = self.gamma * self.pwconv2(self.act(self.pwconv1(y)))
        return x + y.permute(0, 3, 1, 2)


class Fuser(nn.Module):
    """Two ConvNeXt blocks."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(ConvNeXtBlock(channels) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x)
        return x


class MemoryEncoder(nn.Module):
    """Fuses image features and a mask into a memory.

    Args:
        in_channels (int): number of channels of the image features.
        out_channels (int): number of channels of the memory.
        total_stride (int): image pixels per feature, a power of 2.
    """

    def __init__(self, in_channels: int = 256, out_channels: int = 64, total_stride: int = 16) -> None:
        super().__init__()
        self.mask_downsampler = MaskDownsampler(in_channels, total_stride)
        self.pix_feat_proj = nn.Conv2d(in_channels, in_channels, 1)
        self.fuser = Fuser(in_channels)
        self.out_proj = nn.Conv2d(in_channels, out_channels, 1)

    def forward(self, features: Tensor, mask: Tensor) -> Tensor:
        """Encode one frame.

        Args:
            features (Tensor): (B or 1, in_channels, h, w) image features, not conditioned on memory.
            mask (Tensor): (B, 1, S, S), scaled to the range that the network was trained with (-10 to 10).

        Returns:
            (B, out_channels, h, w).
        """
        x = self.pix_feat_proj(features) + self.mask_downsampler(mask)
        return self.out_proj(self.fuser(x))
