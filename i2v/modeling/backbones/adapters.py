"""Adapters for an image trunk, the paper's alternatives to the TFI (SAM-I2V, Table 4). Both start without any effect.

They are modules of their own beside the trunk: its parameters keep the names in image segmenters' checkpoints, and the adapters
are trained at the learning rate of new parts.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial

import torch.nn.functional as F
from torch import Tensor, nn

from i2v.modeling.backbones.trunk import Trunk

# Frames that a temporal convolution spans: the current one and those before it.
_KERNEL = 3


class ParallelAdapter(nn.Module):
    """scale * up(ReLU(down(x))), to be added to the output of a feed-forward network with the same input.

    Args:
        channels (int): number of channels of the input and output.
        hidden (int): number of channels between the two layers.
        scale (float): factor of the output.
        channel_dim (int): dimension of the channels: 1 for maps (B, C, h, w), -1 for tokens (..., C).
    """

    def __init__(self, channels: int, hidden: int, scale: float, channel_dim: int) -> None:
        super().__init__()
        self.scale = scale
        self.channel_dim = channel_dim
        self.down = nn.Linear(channels, hidden)
        self.up = nn.Linear(hidden, channels)
        nn.init.kaiming_uniform_(self.down.weight, a=math.sqrt(5))
        for zero in (self.down.bias, self.up.weight, self.up.bias):
            nn.init.zeros_(zero)

    def forward(self, x: Tensor) -> Tensor:
        tokens = x.movedim(self.channel_dim, -1)
        return self.scale * self.up(F.relu(self.down(tokens))).movedim(-1, self.channel_dim)


class ParallelAdapters(nn.ModuleList):
    """AdaptFormer's adapters (Chen et al., 2022): x + MLP(LN x) + scale * up(ReLU(down(x))) in the trunk's blocks.

    Args:
        hidden (int): number of channels between the two layers of an adapter.
        last (int or None): number of adapters, in the last of the trunk's `adapter_places`; None for all places.
        scale (float): factor of an adapter's output; 0.1 in AdaptFormer.

    Raises:
        ValueError: `hidden` or `last` is not above 0.
    """

    def __init__(self, hidden: int = 64, last: int | None = None, scale: float = 0.1) -> None:
        super().__init__()
        if hidden < 1 or (last is not None and last < 1):
            raise ValueError(f"adapters: hidden={hidden} and last={last} must be above 0")
        self.hidden = hidden
        self.last = last
        self.scale = scale

    def attach(self, trunk: Trunk) -> None:
        """Build the adapters of a trunk. From now on, they add to the outputs of its modules.

        Raises:
            ValueError: the trunk has fewer places.
        """
        places = trunk.adapter_places()
        if len(places) < (self.last or 1):
            raise ValueError(
                f"adapters: last={self.last} needs as many places for them, and {type(trunk).__name__}.adapter_places() lists "
                f"{len(places)}"
            )
        for place in places[-self.last :] if self.last else places:
            adapter = ParallelAdapter(place.channels, self.hidden, self.scale, place.channel_dim)
            self.append(adapter)
            # A function with its argument, unlike a closure, is copied together with the network.
            place.module.register_forward_hook(partial(_add_to_output, adapter))


def _add_to_output(adapter: ParallelAdapter, module: nn.Module, inputs: tuple[Tensor], output: Tensor) -> Tensor:
    return output + adapter(inputs[0])


class SpatioTemporalAdapter(nn.Module):
    """x + up(convolution over time(down(x))), depthwise and causal, on clips.

    Args:
        channels (int): number of channels of the input and output.
        hidden (int): number of channels of the convolution.
    """

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.down = nn.Conv2d(channels, hidden, 1)
        self.conv = nn.Conv3d(hidden, hidden, (_KERNEL, 1, 1), groups=hidden)
        self.up = nn.Conv2d(hidden, channels, 1)
        for layer in (self.down, self.conv, self.up):
            assert layer.bias is not None
            nn.init.zeros_(layer.bias)
        nn.init.zeros_(self.conv.weight)

    def forward(self, clip: Tensor, num_frames: int) -> Tensor:
        """Compute the last frames.

        Args:
            clip (Tensor): (B, T, C, h, w), frames in temporal order.
            num_frames (int): number of last frames that are wanted, at most T. There are zeros before the first frame.

        Returns:
            Tensor: (B, num_frames, C, h, w).
        """
        before = _KERNEL - 1
        reached = clip[:, -(num_frames + before) :]
        hidden = self.down(reached.flatten(0, 1)).unflatten(0, reached.shape[:2]).transpose(1, 2)
        hidden = self.conv(F.pad(hidden, (0, 0, 0, 0, num_frames + before - reached.shape[1], 0)))
        added = self.up(hidden.transpose(1, 2).flatten(0, 1)).unflatten(0, (len(clip), num_frames))
        return clip[:, -num_frames:] + added


class SpatioTemporalAdapters(nn.ModuleList):
    """ST-Adapters (Pan et al., 2022) before the first blocks of the trunk's tail.

    Everything before depends on one frame, so a video needs it once per frame. Each adapter sees two frames further back.

    Args:
        count (int): number of adapters; two see a window of five frames, that of the TFI.
        reduction (int): quotient of the channels of a block and of its adapter's convolution; 2 in ST-Adapter.

    Raises:
        ValueError: an option is not above 0.
    """

    def __init__(self, count: int = 2, reduction: int = 2) -> None:
        super().__init__()
        if count < 1 or reduction < 1:
            raise ValueError(f"adapters: count={count} and reduction={reduction} must be above 0")
        self.count = count
        self.reduction = reduction

    @property
    def window(self) -> int:
        """Number of frames that the features of one frame depend on."""
        return 1 + self.count * (_KERNEL - 1)

    def attach(self, trunk: Trunk) -> None:
        """Build the adapters of a trunk.

        Raises:
            ValueError: the trunk's tail has fewer blocks.
        """
        if len(trunk.tail_channels) < self.count:
            raise ValueError(
                f"adapters: count={self.count} needs as many blocks in the trunk's tail, and {type(trunk).__name__} has "
                f"{len(trunk.tail_channels)}: see Trunk.tail"
            )
        for channels in trunk.tail_channels[: self.count]:
            self.append(SpatioTemporalAdapter(channels, max(1, channels // self.reduction)))

    def run_tail(self, trunk: Trunk, maps: Sequence[Tensor], window: Tensor, num_frames: int) -> Tensor:
        """Compute the trunk's last map with the adapters.

        Args:
            trunk (Trunk): the trunk.
            maps (Sequence[Tensor]): its maps before the tail of the last `num_frames` frames, (B * num_frames, C_l, h_l, w_l).
            window (Tensor): (B, T, C, h, w), the last of these maps for these frames and those before them.
            num_frames (int): number of last frames that are wanted, at most T.

        Returns:
            Tensor: (B * num_frames, out_channels, h, w).
        """

        def adapt(index: int, x: Tensor) -> Tensor:
            if index >= self.count:
                return x
            clip = x.unflatten(0, (len(window), -1))
            # The later adapters look back, too.
            wanted = num_frames + (self.count - 1 - index) * (_KERNEL - 1)
            return self[index](clip, min(wanted, clip.shape[1])).flatten(0, 1)

        return trunk.tail(maps, window.flatten(0, 1), adapt)[-1]
