"""EfficientNet-Lite0 (Tan and Le, "EfficientNet", ICML 2019, without squeeze-and-excitation): the trunk of the Lite model."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from i2v.modeling.backbones.trunk import AdapterPlace, Trunk
from i2v.modeling.layers import Conv2dBN, LayerNorm2d

# Kernel size, stride, expansion, channels and number of the blocks of each stage.
_STAGES = (
    (3, 1, 1, 16, 1),
    (3, 2, 6, 24, 2),
    (5, 2, 6, 40, 2),
    (3, 2, 6, 80, 3),
    (5, 1, 6, 112, 3),
    (5, 2, 6, 192, 4),
    (3, 1, 6, 320, 1),
)
_STEM_CHANNELS = 32
# Index of the last block at each stride 2, 4, 8, 16 and 32, and its channels.
_TAPS = {0: 16, 2: 24, 4: 40, 10: 112, 15: 320}
# Index of the first block of the tail, all of which are at 1/32.
_TAIL = 11
# Index among these maps of the first one that the neck joins, by the stride of the neck.
_FIRST_LEVEL = {8: 2, 16: 3}


class SameConvBN(nn.Module):
    """Convolution, batch normalisation, and optionally ReLU6.

    It is padded as in TensorFlow, as the ImageNet weights expect: with stride 2, the odd row and column are at the end.
    """

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: int, stride: int = 1, groups: int = 1, activation: bool = True
    ) -> None:
        super().__init__()
        total = kernel_size - stride
        self.padding = (total // 2, total - total // 2)
        symmetric = self.padding[0] == self.padding[1]
        self.conv = Conv2dBN(
            in_channels, out_channels, kernel_size, stride, self.padding[0] if symmetric else 0, groups, eps=1e-3
        )
        self.pad_first = not symmetric
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        if self.pad_first:
            x = F.pad(x, self.padding * 2)
        x = self.conv(x)
        return F.relu6(x) if self.activation else x


class InvertedBottleneck(nn.Module):
    """Expansion, depthwise convolution, projection, and a residual if the shape stays: (B, C, H, W) -> (B, D, H/s, W/s)."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = in_channels * expansion
        self.expand = SameConvBN(in_channels, hidden, 1) if expansion > 1 else nn.Identity()
        self.depthwise = SameConvBN(hidden, hidden, kernel_size, stride, groups=hidden)
        self.project = SameConvBN(hidden, out_channels, 1, activation=False)
        self.residual = stride == 1 and in_channels == out_channels

    def forward(self, x: Tensor) -> Tensor:
        y = self.project(self.depthwise(self.expand(x)))
        return x + y if self.residual else y


class EfficientNetLite(Trunk):
    """The feature layers of EfficientNet-Lite0, and a neck that joins the maps at one stride.

    Args:
        out_channels (int): number of channels of the neck.
        stride (int): image pixels per cell of the neck's map: 8 or 16.

    Raises:
        ValueError: another stride.
    """

    def __init__(self, out_channels: int, stride: int = 16) -> None:
        super().__init__()
        self.stem = SameConvBN(3, _STEM_CHANNELS, 3, stride=2)
        self.blocks = nn.ModuleList()
        channels = _STEM_CHANNELS
        self.tail_channels = []
        for kernel_size, first_stride, expansion, stage_channels, depth in _STAGES:
            for i in range(depth):
                block_stride = first_stride if i == 0 else 1
                if len(self.blocks) >= _TAIL:
                    self.tail_channels.append(channels)
                self.blocks.append(InvertedBottleneck(channels, stage_channels, kernel_size, block_stride, expansion))
                channels = stage_channels
        if stride not in _FIRST_LEVEL:
            raise ValueError(f"stride must be 8 or 16, not {stride}")
        # The neck joins the maps at its stride and at coarser ones.
        self.first_level = _FIRST_LEVEL[stride]
        self.laterals = nn.ModuleList(nn.Conv2d(c, out_channels, 1) for c in list(_TAPS.values())[self.first_level :])
        self.neck = nn.Sequential(
            LayerNorm2d(out_channels),
            nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False),
            LayerNorm2d(out_channels),
        )
        self.channels = [*_TAPS.values(), out_channels]
        self.strides = [2, 4, 8, 16, 32, stride]

    def depth_groups(self) -> list[list[nn.Module]]:
        """See `Trunk`: the stem, each block, and the neck."""
        return [[self.stem], *([block] for block in self.blocks), [self.laterals, self.neck]]

    def adapter_places(self) -> list[AdapterPlace]:
        """See `Trunk`: the blocks with a residual, which are its counterpart of a feed-forward network."""
        blocks = [block for block in self.blocks if isinstance(block, InvertedBottleneck)]
        return [AdapterPlace(block, block.project.conv.c.out_channels) for block in blocks if block.residual]

    def forward(self, images: Tensor) -> list[Tensor]:
        """See `Trunk`; the sides of the images are multiples of 32 pixels.

        Returns:
            list[Tensor]: six maps: 16 channels at 1/2, 24 at 1/4, 40 at 1/8, 112 at 1/16, 320 at 1/32, and the neck's.
        """
        maps = self.before_tail(images)
        return self.tail(maps, maps[-1])

    def before_tail(self, images: Tensor) -> list[Tensor]:
        """See `Trunk`: everything up to the last block at 1/16."""
        x = self.stem(images)
        maps = []
        for i, block in enumerate(list(self.blocks)[:_TAIL]):
            x = block(x)
            if i in _TAPS:
                maps.append(x)
        return maps

    def tail(
        self, maps: Sequence[Tensor], x: Tensor, before_block: Callable[[int, Tensor], Tensor] | None = None
    ) -> list[Tensor]:
        """See `Trunk`: the blocks at 1/32, and the neck."""
        for i, block in enumerate(list(self.blocks)[_TAIL:]):
            x = block(x if before_block is None else before_block(i, x))
        maps = [*maps, x]
        inputs = maps[self.first_level :]
        joined = self.laterals[0](inputs[0])
        for lateral, coarse in zip(self.laterals[1:], inputs[1:], strict=True):
            # 1x1 convolutions and resizing commute; this order is cheaper.
            joined = joined + F.interpolate(lateral(coarse), size=joined.shape[-2:], mode="bilinear", align_corners=False)
        return [*maps, self.neck(joined)]
