"""Adapters in the trunk: without effect at first, then with one; what they see; what does not change."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from torch import Tensor

from i2v.build_i2v import build_i2v
from i2v.modeling.backbones.adapters import ParallelAdapters, SpatioTemporalAdapters
from i2v.modeling.backbones.efficientnet_lite import EfficientNetLite
from i2v.modeling.backbones.image_encoder import ImageEncoder
from i2v.modeling.backbones.tfi import TemporalFeatureIntegrator
from i2v.modeling.backbones.tiny_vit import TinyViT
from i2v.modeling.backbones.trunk import Trunk
from i2v.utils.checkpoints import save_checkpoint
from tests.modeling.test_sam_i2v import TINY, WITH_ADAPTERS, PlainTrunk
from train.model.initial_weights import from_checkpoint
from train.optimizer import OptimizerSettings, build_optimizer

Adapters = ParallelAdapters | SpatioTemporalAdapters
TRUNKS = ["tiny_vit", "efficientnet_lite"]
ADAPTERS = ["parallel", "spatio-temporal"]


def make_trunk(name: str) -> Trunk:
    if name == "efficientnet_lite":
        return EfficientNetLite(16)
    return TinyViT(16, embed_dims=[8, 8, 16, 16], depths=[1, 1, 2, 3], num_heads=[1, 1, 2, 2], window_sizes=[3, 3, 3, 3])


def make_adapters(name: str) -> Adapters:
    return ParallelAdapters(hidden=4, last=3) if name == "parallel" else SpatioTemporalAdapters()


def make_encoder(trunk: str, adapters: Adapters | None, seed: int = 0) -> ImageEncoder:
    torch.manual_seed(seed)
    return ImageEncoder(make_trunk(trunk), adapters=adapters).eval()


def clip_of(num_frames: int, batch: int = 2) -> Tensor:
    return torch.rand(batch, num_frames, 3, 64, 64, generator=torch.Generator().manual_seed(num_frames))


def stir(adapters: Adapters | None) -> None:
    """Give the adapters an effect."""
    assert adapters is not None
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in adapters.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))


@torch.no_grad()
@pytest.mark.parametrize("adapters", ADAPTERS)
@pytest.mark.parametrize("trunk", TRUNKS)
def test_no_effect_at_first(trunk: str, adapters: str, tmp_path: Path) -> None:
    plain = make_encoder(trunk, None)
    adapted = make_encoder(trunk, make_adapters(adapters), seed=1)
    of_trunk = [name for name in adapted.state_dict() if not name.startswith("adapters.")]
    assert of_trunk == list(plain.state_dict())  # so that checkpoints of image segmenters fit
    save_checkpoint(tmp_path / "plain.pt", {"model": plain.state_dict()})
    from_checkpoint(adapted, tmp_path / "plain.pt")
    clip = clip_of(3)
    expected = plain.encode_clip(clip)[0]
    torch.testing.assert_close(adapted.encode_clip(clip)[0], expected, rtol=0, atol=1e-6)
    stir(adapted.adapters)
    assert (adapted.encode_clip(clip)[0] - expected).abs().max() > 1e-3


@pytest.mark.parametrize("adapters", ADAPTERS)
@pytest.mark.parametrize("trunk", TRUNKS)
def test_gradients_reach_all_adapters(trunk: str, adapters: str) -> None:
    encoder = make_encoder(trunk, make_adapters(adapters)).train()
    weights = torch.randn(2, 3, 16, 4, 4, generator=torch.Generator().manual_seed(0))

    def with_gradient() -> set[str]:
        encoder.zero_grad()
        (encoder.encode_clip(clip_of(3))[0] * weights).sum().backward()
        assert encoder.adapters is not None
        return {name for name, p in encoder.adapters.named_parameters() if p.grad is not None and bool((p.grad != 0).any())}

    first = {name.split(".", 1)[1] for name in with_gradient()}
    assert first == ({"up.weight", "up.bias"} if adapters == "parallel" else {"conv.weight", "conv.bias", "up.bias"})
    stir(encoder.adapters)
    assert len(with_gradient()) == len(list(encoder.adapters.parameters()))


@torch.no_grad()
@pytest.mark.parametrize("trunk", TRUNKS)
@pytest.mark.parametrize("count", [1, 2])
def test_window_of_spatio_temporal_adapters(count: int, trunk: str) -> None:
    encoder = make_encoder(trunk, SpatioTemporalAdapters(count))
    stir(encoder.adapters)
    assert encoder.window == 1 + 2 * count
    clip = clip_of(8)
    features = encoder.encode_clip(clip)[0]
    # The last frame sees exactly its window, and no frame a later one.
    for changed in range(8):
        other = clip.clone()
        other[:, changed] = 1 - other[:, changed]
        same = (encoder.encode_clip(other)[0] - features).abs().amax((0, 2, 3, 4)) < 1e-6
        assert same.tolist() == [not changed <= t < changed + encoder.window for t in range(8)]
    # A part of the video that has the window is enough.
    part = encoder.encode_clip(clip[:, 7 - encoder.window + 1 :])[0][:, -1]
    torch.testing.assert_close(part, features[:, -1], rtol=1e-4, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("adapters", ADAPTERS)
@pytest.mark.parametrize("trunk", TRUNKS)
def test_frame_by_frame_equals_the_clip(trunk: str, adapters: str) -> None:
    encoder = make_encoder(trunk, make_adapters(adapters))
    stir(encoder.adapters)
    clip = clip_of(7, batch=1)
    expected = encoder.encode_clip(clip)[0][0]
    frames = encoder.normalize(clip[0])
    for t in (6, 0, 3, 4):
        window = range(max(t - encoder.window + 1, 0), t + 1)
        taps = [encoder.stem_taps(frames[i : i + 1]) for i in window]
        features = encoder.integrate(encoder.trunk_maps(frames[t : t + 1]), taps)
        torch.testing.assert_close(features[0], expected[t], rtol=1e-4, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("adapters", ADAPTERS)
def test_copies_have_adapters_of_their_own(adapters: str) -> None:
    """The moving average of a training is a copy."""
    encoder = make_encoder("tiny_vit", make_adapters(adapters))
    before = encoder.encode_clip(clip_of(3))[0]
    other = copy.deepcopy(encoder)
    stir(other.adapters)
    assert torch.equal(encoder.encode_clip(clip_of(3))[0], before)
    assert not torch.allclose(other.encode_clip(clip_of(3))[0], before)


def test_parallel_adapters_are_those_of_adaptformer() -> None:
    """x + MLP(LN x) + s * up(ReLU(down(x)))."""
    encoder = make_encoder("tiny_vit", ParallelAdapters(hidden=4, last=1, scale=0.1))
    stir(encoder.adapters)
    mlp, [adapter] = encoder.trunk_image.layers[-1].blocks[-1].mlp, encoder.adapters
    x = torch.randn(2, 4, 4, 16)
    expected = mlp.fc2(torch.nn.functional.gelu(mlp.fc1(mlp.norm(x)))) + 0.1 * adapter.up(adapter.down(x).relu())
    torch.testing.assert_close(mlp(x), expected)


def test_spatio_temporal_adapters_are_those_of_st_adapter() -> None:
    """x + up(convolution(down(x))), whose convolution is shifted into the past."""
    encoder = make_encoder("tiny_vit", SpatioTemporalAdapters())
    stir(encoder.adapters)
    adapter = encoder.adapters[0]
    clip = torch.randn(2, 6, 16, 4, 4)
    down, up = (torch.nn.Conv3d(layer.in_channels, layer.out_channels, 1) for layer in (adapter.down, adapter.up))
    conv = torch.nn.Conv3d(8, 8, (3, 1, 1), padding=(2, 0, 0), groups=8)
    for layer, own in ((down, adapter.down), (conv, adapter.conv), (up, adapter.up)):
        layer.load_state_dict({name: value.view_as(layer.state_dict()[name]) for name, value in own.state_dict().items()})
    expected = clip + up(conv(down(clip.transpose(1, 2)))[:, :, :6]).transpose(1, 2)
    for num_frames in (1, 5, 6):
        torch.testing.assert_close(adapter(clip, num_frames), expected[:, -num_frames:], rtol=1e-4, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("overrides", WITH_ADAPTERS.values(), ids=WITH_ADAPTERS)
def test_adapters_are_trained_as_new_parts(overrides: list[str]) -> None:
    """The trunk's learning rates are for what image segmenters have."""
    model = build_i2v(TINY, device="cpu", hydra_overrides_extra=overrides)
    settings = OptimizerSettings(learning_rate=1.0, trunk_learning_rate=0.1, layer_decay=0.9)
    rates = {p: group["lr"] for group in build_optimizer(model, settings).param_groups for p in group["params"]}
    adapters = [p for name, p in model.named_parameters() if name.startswith("image_encoder.adapters.")]
    assert {rates[parameter] for parameter in adapters} == {1.0}


@pytest.mark.parametrize(
    ("trunk", "adapters", "message"),
    [
        ("plain", ParallelAdapters(), r"last=None needs as many places for them, and PlainTrunk.adapter_places\(\) lists 0"),
        ("tiny_vit", ParallelAdapters(last=7), r"last=7 needs as many places .* TinyViT.adapter_places\(\) lists 6"),
        ("plain", SpatioTemporalAdapters(), "count=2 needs as many blocks in the trunk's tail, and PlainTrunk has 0"),
        ("tiny_vit", SpatioTemporalAdapters(4), "count=4 needs as many blocks in the trunk's tail, and TinyViT has 3"),
    ],
)
def test_adapters_that_do_not_fit(trunk: str, adapters: Adapters, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ImageEncoder(PlainTrunk(16, 16) if trunk == "plain" else make_trunk(trunk), levels=[-1], adapters=adapters)


def test_impossible_options() -> None:
    with pytest.raises(ValueError, match="hidden=0 and last=None must be above 0"):
        ParallelAdapters(hidden=0)
    with pytest.raises(ValueError, match="hidden=64 and last=0 must be above 0"):
        ParallelAdapters(last=0)
    with pytest.raises(ValueError, match="count=0 and reduction=2 must be above 0"):
        SpatioTemporalAdapters(0)


def test_temporal_adapters_replace_the_tfi() -> None:
    tfi = TemporalFeatureIntegrator([16], out_channels=16, temporal_channels=4)
    with pytest.raises(ValueError, match="SpatioTemporalAdapters take the place of the TFI: set trunk_video to null"):
        ImageEncoder(make_trunk("tiny_vit"), tfi, levels=[-1], adapters=SpatioTemporalAdapters())
    ImageEncoder(make_trunk("tiny_vit"), tfi, levels=[-1], adapters=ParallelAdapters())  # fits both
