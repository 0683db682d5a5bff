"""Prompts as maps: clicks, boxes and the mask to refine, drawn at the resolution of the masks.

Point tokens influence the mask only through the decoder's attention, which a small model with little training does not learn
to follow. Click-based segmenters of this size draw clicks as discs (Sofiiuk et al., "Reviving Iterative Training with Mask
Guidance for Interactive Segmentation", 2021). The published SAM-I2V does not.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from i2v.modeling.sam.prompt_encoder import BOX_BOTTOM_RIGHT, BOX_TOP_LEFT, NEGATIVE, POSITIVE


class DensePromptEncoder(nn.Module):
    """Encodes prompts as maps at every resolution of the mask decoder. Untrained, it adds zero.

    Args:
        embed_dim (int): number of channels of the features.
        channels (Sequence[int]): number of channels of each level of the decoder's upscaling, from coarse to fine.
        image_size (int): side of the network's input, in pixels.
        feature_stride (int): pixels per feature; each level of the upscaling halves it.
        click_radius (float): radius of the discs that stand for clicks, in cells of the mask.
    """

    def __init__(
        self, embed_dim: int, channels: Sequence[int], image_size: int, feature_stride: int, click_radius: float = 3.0
    ) -> None:
        super().__init__()
        self.image_size = image_size
        self.mask_size = image_size // feature_stride * 2 ** len(channels)
        self.channels = list(channels)
        self.click_radius = click_radius
        finest, *others = reversed(channels)
        hidden = [4, *others, embed_dim // 2]
        self.downscaling = nn.ModuleList(
            nn.Sequential(nn.Conv2d(fine, coarse, 3, stride=2, padding=1), nn.ReLU()) for fine, coarse in pairwise(hidden)
        )
        self.outputs = nn.ModuleList([nn.Conv2d(4, finest, 3, padding=1)])
        self.outputs.extend(nn.Conv2d(c, d, 1) for c, d in zip(hidden[1:], [*others, embed_dim], strict=True))
        for output in self.outputs:
            for parameter in output.parameters():
                nn.init.zeros_(parameter)

    def forward(self, points: Tensor, labels: Tensor, mask_logits: Tensor | None) -> tuple[Tensor, list[Tensor]]:
        """Encode the prompts of B objects.

        Args:
            points (Tensor): (B, N, 2), (x, y) in pixels of the network's input.
            labels (Tensor): (B, N) integers as in `PromptEncoder`.
            mask_logits (Tensor or None): (B, 1, mask_size, mask_size) of a mask to refine, or None.

        Returns:
            A map (B, embed_dim, h, w) to add to the features, and (B, channels[l], h_l, w_l) per level of the upscaling, from
            coarse to fine.
        """
        drawn = self.draw(points, labels)
        mask = torch.zeros_like(drawn[:, :1]) if mask_logits is None else (mask_logits.float() / 2).tanh()
        x = torch.cat([mask, drawn], dim=1)
        maps = [self.outputs[0](x)]
        for downscale, output in zip(self.downscaling, self.outputs[1:], strict=True):
            x = downscale(x)
            maps.append(output(x))
        *levels, dense = maps
        return dense, levels[::-1]

    def draw(self, points: Tensor, labels: Tensor) -> Tensor:
        """Draw positive clicks, negative clicks and boxes as maps of 0 and 1, (B, 3, mask_size, mask_size)."""
        cells = (points.float() + 0.5) * (self.mask_size / self.image_size) - 0.5
        grid = torch.arange(self.mask_size, device=points.device, dtype=torch.float32)
        dx, dy = grid - cells[..., :1], grid - cells[..., 1:]  # (B, N, mask_size)
        disc = (dx.square()[:, :, None, :] + dy.square()[:, :, :, None]) <= self.click_radius**2
        maps = [(disc & (labels == kind)[..., None, None]).any(dim=1) for kind in (POSITIVE, NEGATIVE)]
        # Right of and below a first corner, left of and above a second one; cells that the box cuts count.
        is_first, is_second = ((labels == kind)[..., None] for kind in (BOX_TOP_LEFT, BOX_BOTTOM_RIGHT))
        inside_x, inside_y = (((is_first & (d > -1)).any(1) & (is_second & (d < 1)).any(1)) for d in (dx, dy))
        maps.append(inside_y[:, :, None] & inside_x[:, None, :])
        return torch.stack(maps, dim=1).float()
