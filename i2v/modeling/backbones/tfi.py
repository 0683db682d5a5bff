"""The Temporal Feature Integrator (SAM-I2V, section 3.2): adds recent motion to the features of the image trunk."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from i2v.modeling.layers import LayerNorm2d, MapLayerNorm, QuickGELU
from i2v.modeling.precision import full_precision

# Rounds of each temporal net.
_NUM_ROUNDS = 3


class TemporalNet(nn.Module):
    """Three rounds of x = QuickGELU(x + conv_t(QuickGELU(conv_s(norm(x))))) with a spatial and a temporal convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.lns = nn.ModuleList(LayerNorm2d(channels) for _ in range(_NUM_ROUNDS))
        self.temporal_net = nn.ModuleList(
            nn.Sequential(
                OrderedDict(
                    [
                        (f"c_fc1_{i}", nn.Conv3d(channels, channels, (1, 3, 3), padding=(0, 1, 1))),
                        ("gelu", QuickGELU()),
                        (f"c_fc2_{i}", nn.Conv3d(channels, channels, (3, 1, 1), padding=(1, 0, 0))),
                    ]
                )
            )
            for i in range(_NUM_ROUNDS)
        )
        self.activation = QuickGELU()

    def forward(self, x: Tensor, num_slices: int) -> Tensor:
        """Compute the last slices.

        Args:
            x (Tensor): (B, T, C, h, w), the slices of the window in temporal order.
            num_slices (int): number of last slices that are wanted. A round looks one slice back and one ahead, so only one
                more slice per round has to be computed.

        Returns:
            (B, num_slices, C, h, w).
        """
        for i, (norm, block) in enumerate(zip(self.lns, self.temporal_net, strict=True)):
            spatial, activation, temporal = block.children()
            assert isinstance(spatial, nn.Conv3d) and isinstance(temporal, nn.Conv3d)
            wanted = num_slices + len(self.lns) - 1 - i
            x = x[:, -(wanted + 1) :]
            y = F.conv2d(norm(x.flatten(0, 1)), spatial.weight[:, :, 0], spatial.bias, padding=1)
            y = self._convolve_time(activation(y).unflatten(0, x.shape[:2]), temporal, wanted)
            x = self.activation(x[:, -y.shape[1] :] + y)
        return x

    @staticmethod
    def _convolve_time(x: Tensor, conv: nn.Conv3d, wanted: int) -> Tensor:
        """Return the last `wanted` slices of the 3-tap convolution over time of x (B, T, C, h, w).

        There are zeros after the last slice, and before the first one if x has all slices of the window.
        """
        wanted = min(wanted, x.shape[1])
        x = F.pad(x, (0, 0, 0, 0, 0, 0, 1 if wanted == x.shape[1] else 0, 1))
        # Three taps of a 1x1 convolution are one 1x1 convolution of three slices side by side.
        x = torch.cat([x[:, tap : tap + wanted] for tap in range(3)], dim=2)
        weight = conv.weight[..., 0, 0].transpose(1, 2).flatten(1)[..., None, None]
        return F.conv2d(x.flatten(0, 1), weight, conv.bias).unflatten(0, (-1, wanted))


class Fuse(nn.Module):
    """Concatenate maps, 1x1 convolution, normalisation, GELU."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.fuse = nn.Sequential(nn.Conv2d(in_channels, out_channels, 1), MapLayerNorm(out_channels), nn.GELU())

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        return self.fuse(torch.cat(list(maps), dim=1))


class Integrate(nn.Module):
    """3x3 convolution, normalisation, GELU."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.layer = nn.Sequential(nn.Conv2d(channels, channels, 3, padding=1), MapLayerNorm(channels), nn.GELU())

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x)


class TemporalFeatureIntegrator(nn.Module):
    """Exchanges information between maps of the image trunk and a light temporal branch, level by level.

    Args:
        in_channels (Sequence[int]): number of channels of each of the trunk's maps that are used, one per level.
        out_channels (int): number of channels of the integrated features.
        temporal_channels (int): number of channels of the temporal branch.
        window (int): number of frames that one feature depends on: the frame itself and those before it.
        patch_size (int): patch size of the temporal stem, in pixels; equal to the stride of the features.
        stem_kernel (int): length of the temporal stem in frames, odd.
        residual_scale (float or None): add the result to the trunk's last map, times a learned scale per channel that starts
            at this value. An image segmenter that is upgraded to video then starts with nearly the features it was trained
            with (with 0, exactly those). None, as published, replaces them.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        out_channels: int = 256,
        temporal_channels: int = 96,
        window: int = 5,
        patch_size: int = 16,
        stem_kernel: int = 5,
        residual_scale: float | None = None,
    ) -> None:
        super().__init__()
        levels = range(len(in_channels))
        both = out_channels + temporal_channels
        self.in_channels = list(in_channels)
        self.out_channels = out_channels
        self.window = window
        self.patch_size = patch_size
        self.temporal_stem = nn.Conv3d(
            3,
            temporal_channels,
            (stem_kernel, patch_size, patch_size),
            stride=(1, patch_size, patch_size),
            padding=(stem_kernel // 2, 0, 0),
        )
        self.input_linears = nn.ModuleList(nn.Conv2d(c, out_channels, 1) for c in in_channels)
        self.temporal_nets = nn.ModuleList(TemporalNet(temporal_channels) for _ in levels)
        self.integration2temporal_nets = nn.ModuleList(Fuse(both, temporal_channels) for _ in levels)
        self.temporal2integration_nets = nn.ModuleList(Fuse(both, out_channels) for _ in levels)
        self.integration_nets = nn.ModuleList(Integrate(out_channels) for _ in levels)
        self.apply(_init_weights)
        # The last level's update of the temporal branch is unused; it is kept frozen for checkpoint compatibility.
        self.integration2temporal_nets[-1].requires_grad_(False)
        self.residual_scale = None if residual_scale is None else nn.Parameter(torch.full((out_channels,), residual_scale))

    def stem_taps(self, images: Tensor) -> Tensor:
        """Apply each tap of the temporal stem to each frame. The result depends on one frame only, so windows share it.

        Args:
            images (Tensor): (N, 3, H, W), normalised.

        Returns:
            Tensor: (N, stem_kernel, temporal_channels, h, w).
        """
        weight = self.temporal_stem.weight.movedim(2, 0)
        with full_precision(images):
            taps = F.conv2d(images, weight.flatten(0, 1), stride=self.temporal_stem.stride[1:])
        return taps.unflatten(1, weight.shape[:2])

    def forward(self, maps: Sequence[Tensor], taps: Sequence[Tensor]) -> Tensor:
        """Compute the features of the current frame.

        Args:
            maps (Sequence[Tensor]): the trunk's maps of the current frame, (B, C_l, h_l, w_l) per level.
            taps (Sequence[Tensor]): `stem_taps` (B, stem_kernel, temporal_channels, h, w) of each frame of the window, in
                temporal order; the current frame is the last one or is followed by copies of itself.

        Returns:
            Tensor: (B, out_channels, h, w).
        """
        x = self._stem(taps)
        size = x.shape[-2:]
        res = 0.0
        for level, net in enumerate(self.temporal_nets):
            # The slices that later levels depend on: each of their rounds looks one slice further back.
            wanted = 1 + _NUM_ROUNDS * (len(self.temporal_nets) - 1 - level)
            wanted = min(wanted, len(taps))
            x = net(x, wanted)
            # Everything after depends on this sum over the levels: with the random weights of the parity tests, rounding it to
            # bfloat16 alone costs 2 % of mask IoU.
            with full_precision(x):
                current = x[:, -1].float()
                level_map = maps[level].float()
                if level_map.shape[-2:] != size:
                    level_map = F.interpolate(level_map, size=size, mode="bilinear", align_corners=False)
                mid = self.input_linears[level](level_map) + res
                up = self.temporal2integration_nets[level]([mid, current])
                if level + 1 < len(self.temporal_nets):
                    updated = self.integration2temporal_nets[level]([mid, current])
                    x = torch.cat([x[:, :-1], updated.unsqueeze(1).to(x.dtype)], dim=1)
                res = self.integration_nets[level](up)
        if self.residual_scale is None:
            return res + up
        return maps[-1] + self.residual_scale[:, None, None] * (res + up)

    def _stem(self, taps: Sequence[Tensor]) -> Tensor:
        """Sum the taps to the temporal stem's output, (B, T, temporal_channels, h, w), with zeros outside of the window.

        It equals `self.temporal_stem` over the window, as test_tfi.py proves.
        """
        kernel, bias = taps[0].shape[1], self.temporal_stem.bias
        assert bias is not None
        slices = []
        for t in range(len(taps)):
            frames = [(tap, t + tap - kernel // 2) for tap in range(kernel)]
            inside = [taps[frame][:, tap] for tap, frame in frames if 0 <= frame < len(taps)]
            slices.append(sum(inside[1:], inside[0]) + bias[:, None, None])
        return torch.stack(slices, dim=1)


def _init_weights(module: nn.Module) -> None:
    if isinstance(module, (nn.Conv2d, nn.Conv3d, nn.Linear)):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
