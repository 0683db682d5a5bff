"""What every image trunk provides."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import NamedTuple

from torch import Tensor, nn


class AdapterPlace(NamedTuple):
    """A module of a trunk whose output a parallel adapter adds to.

    Attributes:
        module (nn.Module): the module, with one input and an output of the same shape.
        channels (int): number of channels of both.
        channel_dim (int): dimension of the channels: 1 for maps (B, C, h, w), -1 for tokens (..., C).
    """

    module: nn.Module
    channels: int
    channel_dim: int = 1


class Trunk(nn.Module, ABC):
    """An image encoder without a sense of time, such as SAM's. Subclass it to add a trunk; docs/extending.md has an example.

    A subclass sets both attributes in its `__init__`. `ImageEncoder` checks them against the rest of the network.

    Attributes:
        channels (Sequence[int]): number of channels of each map that `forward` returns.
        strides (Sequence[int]): image pixels per cell of each of these maps.
        tail_channels (Sequence[int]): number of channels of the input of each block of the `tail`; empty if there is none.
    """

    channels: Sequence[int]
    strides: Sequence[int]
    tail_channels: Sequence[int] = ()

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

    def adapter_places(self) -> list[AdapterPlace]:
        """List where `ParallelAdapters` can add to the trunk, from input to output: the feed-forward networks of its blocks.

        By default there are none.
        """
        return []

    def before_tail(self, images: Tensor) -> list[Tensor]:
        """Compute the maps before the `tail`; arguments as for `forward`. Needed for `SpatioTemporalAdapters` alone."""
        raise NotImplementedError(f"{type(self).__name__} has no tail")

    def tail(
        self, maps: Sequence[Tensor], x: Tensor, before_block: Callable[[int, Tensor], Tensor] | None = None
    ) -> list[Tensor]:
        """Compute the maps from those of `before_tail`, through a row of blocks.

        Args:
            maps (Sequence[Tensor]): `before_tail` of the frames that the result is for.
            x (Tensor): input of the first block: the last of these maps, or that of more frames than the blocks return.
            before_block (Callable[[int, Tensor], Tensor] or None): from the index of a block, and the map that would be its
                input, to its input, which may be for fewer frames.

        Returns:
            list[Tensor]: all maps, as from `forward`.
        """
        raise NotImplementedError(f"{type(self).__name__} has no tail")
