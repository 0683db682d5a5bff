"""The TFI computes only what reaches the current frame; here is the whole of it."""

from __future__ import annotations

import pytest
import torch

from i2v.modeling.backbones.tfi import TemporalFeatureIntegrator


def every_slice(tfi: TemporalFeatureIntegrator, maps: list[torch.Tensor], clip: torch.Tensor) -> torch.Tensor:
    """The TFI as design.md words it, with plain layers on a clip (B, 3, T, H, W)."""
    x = tfi.temporal_stem(clip)
    res = 0.0
    for level, net in enumerate(tfi.temporal_nets):
        for norm, block in zip(net.lns, net.temporal_net, strict=True):
            x = net.activation(x + block(norm(x)))
        current = x[:, :, -1]
        mid = tfi.input_linears[level](maps[level]) + res
        up = tfi.temporal2integration_nets[level]([mid, current])
        updated = tfi.integration2temporal_nets[level]([mid, current])
        x = torch.cat([x[:, :, :-1], updated.unsqueeze(2)], dim=2)
        res = tfi.integration_nets[level](up)
    return res + up


@torch.no_grad()
@pytest.mark.parametrize("window", range(1, 9))
def test_only_the_slices_that_matter(window: int) -> None:
    generator = torch.Generator().manual_seed(window)
    tfi = TemporalFeatureIntegrator([4, 6, 8], out_channels=8, temporal_channels=4, window=window, patch_size=4)
    for parameter in tfi.parameters():
        parameter.copy_(0.5 * torch.randn(parameter.shape, generator=generator))
    clip = torch.randn(2, 3, window, 16, 16, generator=generator)
    maps = [torch.randn(2, channels, 4, 4, generator=generator) for channels in (4, 6, 8)]
    taps = [tfi.stem_taps(frame) for frame in clip.unbind(2)]
    torch.testing.assert_close(tfi(maps, taps), every_slice(tfi, maps, clip), atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_maps_of_another_resolution_are_resized() -> None:
    tfi = TemporalFeatureIntegrator([4, 6], out_channels=8, temporal_channels=4, window=2, patch_size=4)
    maps = [torch.zeros(1, 4, 8, 8), torch.zeros(1, 6, 4, 4)]
    assert tfi(maps, [tfi.stem_taps(torch.zeros(1, 3, 16, 16))] * 2).shape == (1, 8, 4, 4)


@torch.no_grad()
def test_residual_starts_as_the_trunks_last_map() -> None:
    tfi = TemporalFeatureIntegrator([4, 8], out_channels=8, temporal_channels=4, window=2, patch_size=4, residual_scale=0.0)
    maps = [torch.randn(1, 4, 4, 4), torch.randn(1, 8, 4, 4)]
    taps = [tfi.stem_taps(torch.randn(1, 3, 16, 16))] * 2
    assert torch.equal(tfi(maps, taps), maps[1])
    tfi.residual_scale.fill_(1)
    added = tfi(maps, taps) - maps[1]
    tfi.residual_scale = None
    torch.testing.assert_close(added, tfi(maps, taps))
