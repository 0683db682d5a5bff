"""What every image trunk provides."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

from torch import Tensor, nn


class Trunk(nn.Module, ABC):
    """An image encoder without a sense of time, such as SAM's. Subclass it to add a trunk; docs/extending.md has an example.

    A subclass sets both attributes in its `__init__`. `ImageEncoder` checks them against the rest of the network.

    Attributes:
        channels (Sequence[int]): number of channels of each map that `forward` returns.
        strides (Sequence[int]): image pixels per cell of each of these maps.
    """

    channels: Sequence[int]
    strides: Sequence[int]

    @property
    def stride(self) -> int:
        """Image pixels per cell of the last map, which is the stride of the network's features."""
        return self.strides[-1]

    @abstractmethod
    def forward(self, images: Tensor) -> list[Tensor]:
        """Encode images.

        Args:
            images (Tensor): (B, 3, S, S) float, normalised with the `pixel_mean` and `pixel_std` of the image encoder.

        Returns:
            list[Tensor]: maps (B, channels[i], h_i, w_i), the last one at `stride` with the network's `embed_dim` channels.
        """

    def depth_groups(self) -> list[list[nn.Module]]:
        """List the trunk's modules from input to output, grouped by learning rate.

        In training each group's learning rate is `layer_decay` times that of the group after it. By default there is one
        group, so that the whole trunk has one learning rate.
        """
        return [[self]]
