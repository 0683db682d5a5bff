"""RepViT (Wang et al., "RepViT: Revisiting Mobile CNN From ViT Perspective", CVPR 2024), the trunk of EdgeSAM.

EdgeSAM (Zhou et al., "EdgeSAM: Prompt-In-the-Loop Distillation for On-Device Deployment of SAM", 2023) adds a neck that joins
the last two stages.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import SqueezeExcitation

from i2v.modeling.backbones.trunk import Trunk
from i2v.modeling.layers import Conv2dBN, segmenter_neck


class RepVGGDepthwise(nn.Module):
    """The sum of a 3x3 and a 1x1 depthwise convolution and a residual: (B, C, H, W) -> the same."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = Conv2dBN(channels, channels, 3, padding=1, groups=channels)
        self.conv1 = Conv2dBN(channels, channels, 1, groups=channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x) + self.conv1(x) + x


class ChannelMixer(nn.Module):
    """Two 1x1 convolutions with GELU and a residual: (B, C, H, W) -> the same."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.m = nn.Sequential(Conv2dBN(channels, 2 * channels, 1), nn.GELU(), Conv2dBN(2 * channels, channels, 1))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.m(x)


class RepViTBlock(nn.Module):
    """Mixes positions, then channels: (B, C, H, W) -> (B, D, H / stride, W / stride).

    Args:
        in_channels (int): number of channels of the input.
        out_channels (int): number of channels of the output; with stride 1, that of the input.
        stride (int): 1 or 2.
        squeeze (bool): weigh channels by squeeze-and-excitation.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int, squeeze: bool) -> None:
        super().__init__()
        # A quarter of the channels, rounded to a multiple of 8.
        squeezed = max(8, (in_channels // 4 + 4) // 8 * 8)
        weigh = SqueezeExcitation(in_channels, squeezed) if squeeze else nn.Identity()
        if stride == 1:
            self.token_mixer = nn.Sequential(RepVGGDepthwise(in_channels), weigh)
        else:
            downsample = Conv2dBN(in_channels, in_channels, 3, stride, padding=1, groups=in_channels)
            self.token_mixer = nn.Sequential(downsample, weigh, Conv2dBN(in_channels, out_channels, 1))
        self.channel_mixer = ChannelMixer(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.channel_mixer(self.token_mixer(x))


class Upsampled1x1(nn.Module):
    """1x1 convolution, then twice the resolution: (B, C, H, W) -> (B, D, 2 H, 2 W)."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.op_list = nn.ModuleList([nn.Conv2d(in_channels, out_channels, 1, bias=False)])  # a list as in EdgeSAM

    def forward(self, x: Tensor) -> Tensor:
        return F.interpolate(self.op_list[0](x), scale_factor=2, mode="bicubic", align_corners=False)


class RepViT(Trunk):
    """RepViT-M1 as in EdgeSAM, whose neck joins the last two stages at the stride of the third.

    The paper (Figure 6, Table 3) does not say which maps of EdgeSAM the TFI uses. The config here chooses the last two stages
    and the neck's; the TFI enlarges the last stage, which is at half the resolution of the others.

    Args:
        out_channels (int): number of channels of the neck.
        embed_dims (Sequence[int]): number of channels of each of the four stages.
        depths (Sequence[int]): number of blocks of each stage without its downsampling. Every other block, from the first one
            on but for the last of a stage, has squeeze-and-excitation.

    Raises:
        ValueError: the number of stages is not four.
    """

    def __init__(
        self,
        out_channels: int = 256,
        embed_dims: Sequence[int] = (48, 96, 192, 384),
        depths: Sequence[int] = (3, 3, 15, 2),
    ) -> None:
        super().__init__()
        if not len(embed_dims) == len(depths) == 4:
            raise ValueError(f"embed_dims={list(embed_dims)} and depths={list(depths)} of RepViT need four stages each")
        first, *_ = embed_dims
        stem = nn.Sequential(
            Conv2dBN(3, first // 2, 3, stride=2, padding=1), nn.GELU(), Conv2dBN(first // 2, first, 3, stride=2, padding=1)
        )
        self.features = nn.ModuleList([stem])
        # Index in `features` of the last block of each stage.
        self.ends: list[int] = []
        channels = first
        for stage, (dim, depth) in enumerate(zip(embed_dims, depths, strict=True)):
            if stage:
                self.features.append(RepViTBlock(channels, dim, 2, squeeze=False))
            self.features.extend(RepViTBlock(dim, dim, 1, squeeze=i % 2 == 0 and i < depth - 1) for i in range(depth))
            self.ends.append(len(self.features) - 1)
            channels = dim
        *_, third, fourth = embed_dims
        self.fuse_stage2 = nn.Conv2d(third, out_channels, 1, bias=False)
        self.fuse_stage3 = Upsampled1x1(fourth, out_channels)
        self.neck = segmenter_neck(out_channels, out_channels)
        self.channels = [*embed_dims, out_channels]
        self.strides = [4, 8, 16, 32, 16]

    def depth_groups(self) -> list[list[nn.Module]]:
        """See `Trunk`: the stem, each block, and the neck with what it joins."""
        return [*([feature] for feature in self.features), [self.fuse_stage2, self.fuse_stage3, self.neck]]

    def forward(self, images: Tensor) -> list[Tensor]:
        """See `Trunk`; the sides of the images are multiples of 32 pixels.

        Returns:
            list[Tensor]: five maps: those of the four stages and the neck's. EdgeSAM has 48 channels at 1/4, 96 at 1/8, 192 at
            1/16 and 384 at 1/32, and 256 at 1/16.
        """
        x = images
        maps = []
        for i, feature in enumerate(self.features):
            x = feature(x)
            if i in self.ends:
                maps.append(x)
        *_, third, fourth = maps
        return [*maps, self.neck(self.fuse_stage2(third) + self.fuse_stage3(fourth))]
