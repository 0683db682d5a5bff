"""Position encodings: sine (maps and time), random Fourier features (prompts) and axial rotations (attention)."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor, nn

# Ratio of the longest to the shortest wavelength, as in "Attention is all you need".
_TEMPERATURE = 10000.0


def sine_encoding_2d(channels: int, height: int, width: int) -> Tensor:
    """Sine position encoding of a map, as in DETR, with positions scaled to (0, 2 pi].

    Args:
        channels (int): number of channels, a multiple of 4; the first half encodes y, the second x.
        height (int): height of the map, in cells.
        width (int): width of the map, in cells.

    Returns:
        (1, channels, height, width) float32.
    """
    if channels % 4:
        raise ValueError(f"the sine position encoding needs a multiple of 4 channels, got {channels}")
    half = channels // 2
    frequency = _TEMPERATURE ** (2 * torch.arange(half // 2, dtype=torch.float32) / half)

    def encode(length: int) -> Tensor:
        position = torch.arange(1, length + 1, dtype=torch.float32) / (length + 1e-6) * (2 * math.pi)
        angle = position[:, None] / frequency
        return torch.stack([angle.sin(), angle.cos()], dim=-1).flatten(1)

    y = encode(height)[:, None, :].expand(-1, width, -1)
    x = encode(width)[None, :, :].expand(height, -1, -1)
    return torch.cat([y, x], dim=-1).permute(2, 0, 1).unsqueeze(0).contiguous()


def sine_encoding_1d(positions: Tensor, channels: int) -> Tensor:
    """Encode scalars (distances in time) with sines: (...,) -> (..., channels) float32."""
    half = channels // 2
    exponent = 2 * (torch.arange(half, dtype=torch.float32, device=positions.device) // 2) / half
    angle = positions.float().unsqueeze(-1) / _TEMPERATURE**exponent
    return torch.cat([angle.sin(), angle.cos()], dim=-1)


def axial_rotation(channels: int, height: int, width: int) -> Tensor:
    """The rotations of axial rotary position encoding over a grid (SAM 2, memory attention).

    Args:
        channels (int): number of channels of a query or key; the first half of the pairs rotates with x, the second with y.
        height (int): height of the grid, in cells; tokens are in row-major order.
        width (int): width of the grid, in cells.

    Returns:
        (height * width, channels / 2, 2) float32: cosine and sine.
    """
    frequency = 1.0 / _TEMPERATURE ** (torch.arange(0, channels, 4, dtype=torch.float32) / channels)
    token = torch.arange(height * width, dtype=torch.float32)
    angle_x = torch.outer(token % width, frequency)
    angle_y = torch.outer(torch.div(token, width, rounding_mode="floor"), frequency)
    angle = torch.cat([angle_x, angle_y], dim=-1)
    return torch.stack([angle.cos(), angle.sin()], dim=-1)


class RandomPositionEncoding(nn.Module):
    """Random Fourier features of points, as in SAM: the same projection encodes prompts and image positions."""

    positional_encoding_gaussian_matrix: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("positional_encoding_gaussian_matrix", torch.randn(2, channels // 2))

    def encode(self, points: Tensor) -> Tensor:
        """Encode points (..., 2), (x, y) in [0, 1]; returns (..., channels) float32."""
        angle = 2 * np.pi * ((2 * points - 1) @ self.positional_encoding_gaussian_matrix.float())
        return torch.cat([angle.sin(), angle.cos()], dim=-1)

    def forward(self, height: int, width: int) -> Tensor:
        """Encode the centres of the cells of a grid; returns (channels, height, width) float32."""
        device = self.positional_encoding_gaussian_matrix.device
        y = (torch.arange(height, device=device, dtype=torch.float32) + 0.5) / height
        x = (torch.arange(width, device=device, dtype=torch.float32) + 0.5) / width
        grid = torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1)
        return self.encode(grid).permute(2, 0, 1)
