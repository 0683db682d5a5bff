"""The network as a whole, at a tiny size: what can be switched, and what must not matter."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import nn

from i2v.build_i2v import build_i2v
from i2v.modeling.backbones.image_encoder import ImageEncoder
from i2v.modeling.backbones.trunk import Trunk
from i2v.modeling.sam_i2v import ObjectMemory

TINY, TINY_LITE = "tests/configs/tiny.yaml", "tests/configs/tiny-lite.yaml"
# Overrides of the tiny network for each baseline with adapters. The tiny config has values for parts that baselines leave out.
WITH_ADAPTERS = {
    upgrade: [
        f"model/upgrade={upgrade}",
        "model.image_encoder.trunk_image.depths=[1,2,4,2]",
        "model.image_encoder.trunk_video=null",
        "model.memory_prompt_generator=null",
    ]
    for upgrade in ("sa_ta", "st_adapter_ta")
}


class PlainTrunk(Trunk):
    """Another trunk than TinyViT: one convolution."""

    def __init__(self, out_channels: int, stride: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, out_channels, stride, stride)
        self.channels = [out_channels]
        self.strides = [stride]

    def forward(self, images: torch.Tensor) -> list[torch.Tensor]:
        return [self.conv(images)]


class WrongMaps(PlainTrunk):
    """Announces other maps than it returns."""

    def __init__(self, maps: str) -> None:
        super().__init__(32, 16)
        self.maps = maps

    def forward(self, images: torch.Tensor) -> list[torch.Tensor]:
        [features] = super().forward(images)
        return {"tensor": features, "two": [features] * 2, "narrow": [features[:, :8]], "large": [features.repeat(1, 1, 2, 2)]}[
            self.maps
        ]


class NotATrunk(nn.Module):
    """Has all that a trunk has but its base class."""

    channels, strides = (32,), (16,)


class TrunkWithoutStrides(Trunk):
    """Lacks one of the two attributes."""

    def __init__(self) -> None:
        super().__init__()
        self.channels = [32]

    def forward(self, images: torch.Tensor) -> list[torch.Tensor]:
        raise NotImplementedError


def with_trunk(description: str) -> list[str]:
    """Overrides that put another trunk of one map into the tiny model."""
    return [
        "~model.image_encoder.trunk_image",
        f"+model.image_encoder.trunk_image={{_target_: test_sam_i2v.{description}}}",
        "model.image_encoder.levels=[0]",
        "model.image_encoder.trunk_video.in_channels=[32]",
    ]


def memory_of(model, batch: int = 2, frames: int = 3, pointers: int = 2) -> ObjectMemory:
    generator = torch.Generator().manual_seed(0)
    size = model.feature_size
    return ObjectMemory(
        features=torch.randn(batch, frames, model.memory_channels, size, size, generator=generator),
        foreground=torch.rand(batch, frames, size, size, generator=generator) > 0.5,
        positions=torch.tensor([0, 2, 5]),
        repeats=torch.ones(frames, dtype=torch.long),
        pointers=torch.randn(batch, pointers, model.embed_dim, generator=generator),
        distances=torch.tensor([1.0, 0.25]),
        pointer_repeats=torch.ones(pointers, dtype=torch.long),
    )


@pytest.mark.slow
@torch.inference_mode()
@pytest.mark.parametrize(
    "overrides",
    [
        [],
        ["model.image_size=192", "model.embed_dim=48", "model.image_encoder.trunk_video.in_channels=[16,32,48]"],
        ["model.image_encoder.trunk_video=null"],
        ["model.image_encoder.trunk_video.window=3"],
        ["model.memory_prompt_generator=null"],
        ["model.memory_prompt_generator.masked_attention=false"],
        ["model.memory_prompt_generator.num_tokens=5"],
        ["model.memory_selector.num_global=1", "model.memory_selector.num_local=1", "model.num_maskmem=3"],
        with_trunk("PlainTrunk, out_channels: 32, stride: 16"),
        *WITH_ADAPTERS.values(),
    ],
)
def test_variants_build_and_run(overrides: list[str]) -> None:
    build_and_run(TINY, overrides)


@pytest.mark.slow
@torch.inference_mode()
@pytest.mark.parametrize(
    "overrides",
    [
        [],
        ["model.image_encoder.trunk_video=null"],
        ["model.image_encoder.trunk_video.residual_scale=null"],
        ["model.dense_prompt_encoder=null"],
        [
            "model.dense_prompt_encoder=null",
            "model.image_encoder.high_res_levels=[]",
            "model.image_encoder.high_res_channels=[]",
        ],
        [
            "model.sam_mask_decoder.upscaling=4",
            "model.image_encoder.high_res_levels=[2,1]",
            "model.image_encoder.high_res_channels=[8,4]",
        ],
    ],
)
def test_variants_of_the_lite_model(overrides: list[str]) -> None:
    build_and_run(TINY_LITE, overrides)


def build_and_run(config: str, overrides: list[str]) -> None:
    model = build_i2v(config, device="cpu", hydra_overrides_extra=overrides)
    features, high_res = model.image_encoder.encode_clip(torch.zeros(1, 2, 3, model.image_size, model.image_size))
    features, high_res = features[:, -1], [level[:, -1] for level in high_res]
    assert features.shape == (1, model.embed_dim, model.feature_size, model.feature_size)
    memory = memory_of(model)
    memory.positions.clamp_(max=len(model.maskmem_tpos_enc) - 1)
    conditioned, memory_prompts = model.condition(features, memory)
    prompt = {"points": torch.full((2, 1, 2), 40.0), "labels": torch.ones(2, 1, dtype=torch.int32)}
    former = model.decode(conditioned, memory_prompts, 2, **prompt, high_res_features=high_res).masks
    prediction = model.decode(conditioned, memory_prompts, 2, mask_logits=former, high_res_features=high_res)
    assert prediction.masks.shape == (2, 1, model.mask_size, model.mask_size)
    assert prediction.pointers.shape == (2, model.embed_dim)
    mask = model.upsample(prediction.masks).sigmoid()
    encoded = model.encode_memory(features, mask, prediction.object_score_logits)
    assert encoded.shape == (2, model.memory_channels, model.feature_size, model.feature_size)


@pytest.mark.slow
@torch.inference_mode()
def test_high_resolution_features_and_drawn_prompts_reach_the_masks() -> None:
    with torch.random.fork_rng(devices=[]):  # with some weights, a level changes the masks by next to nothing
        torch.manual_seed(0)
        model = build_i2v(TINY_LITE, device="cpu")
    model.sam_mask_decoder.pred_obj_score_head.layers[-1].bias.fill_(10)  # the object is in the frame
    generator = torch.Generator().manual_seed(0)
    features, high_res = model.image_encoder.encode_clip(torch.randn(1, 1, 3, 128, 128, generator=generator))
    features, high_res = features[:, 0], [level[:, 0] for level in high_res]
    assert [tuple(level.shape) for level in high_res] == [(1, 8, 16, 16), (1, 4, 32, 32), (1, 2, 64, 64)]
    prompt = {"points": torch.full((1, 1, 2), 40.0), "labels": torch.ones(1, 1, dtype=torch.int32)}

    def masks(levels: list[torch.Tensor]) -> torch.Tensor:
        return model.decode(features, None, 1, **prompt, high_res_features=levels).all_masks

    plain = masks(high_res)
    for level in range(3):
        changed = [x + (i == level) for i, x in enumerate(high_res)]
        assert not torch.allclose(masks(changed), plain), level
    # Before it is trained, the encoder of drawn prompts adds nothing; each of its outputs can change the masks.
    encoder, model.dense_prompt_encoder = model.dense_prompt_encoder, None
    assert torch.equal(masks(high_res), plain)
    model.dense_prompt_encoder = encoder
    for output in encoder.outputs:
        output.bias.fill_(1)
        assert not torch.allclose(masks(high_res), plain)
        output.bias.zero_()
    # Without a prompt nothing is drawn.
    encoder.outputs[0].bias.fill_(1)
    tracked = model.decode(features, None, 1, high_res_features=high_res).all_masks
    encoder.outputs[0].bias.zero_()
    assert torch.equal(model.decode(features, None, 1, high_res_features=high_res).all_masks, tracked)


@torch.inference_mode()
def test_repeats_are_copies() -> None:
    model = build_i2v(TINY, device="cpu")
    features = torch.randn(1, model.embed_dim, 8, 8, generator=torch.Generator().manual_seed(1))
    memory = memory_of(model)
    repeated = dataclasses.replace(memory, repeats=torch.tensor([3, 1, 1]), pointer_repeats=torch.tensor([1, 4]))
    frames, pointers = torch.tensor([0, 0, 0, 1, 2]), torch.tensor([0, 1, 1, 1, 1])
    copied = ObjectMemory(
        features=memory.features[:, frames],
        foreground=memory.foreground[:, frames],
        positions=memory.positions[frames],
        repeats=torch.ones(5, dtype=torch.long),
        pointers=memory.pointers[:, pointers],
        distances=memory.distances[pointers],
        pointer_repeats=torch.ones(5, dtype=torch.long),
    )
    for actual, expected in zip(model.condition(features, repeated), model.condition(features, copied), strict=True):
        torch.testing.assert_close(actual, expected, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(model.condition(features, repeated)[0], model.condition(features, memory)[0], atol=1e-5)


@torch.inference_mode()
def test_memory_prompts_look_at_the_foreground_only() -> None:
    model = build_i2v(TINY, device="cpu")
    features = torch.zeros(1, model.embed_dim, 8, 8)
    memory = memory_of(model)
    changed = dataclasses.replace(memory, features=memory.features + 5.0 * ~memory.foreground.unsqueeze(2))
    torch.testing.assert_close(model.condition(features, changed)[1], model.condition(features, memory)[1])
    nowhere = dataclasses.replace(memory, foreground=torch.zeros_like(memory.foreground), pointers=memory.pointers[:, :0])
    nowhere = dataclasses.replace(nowhere, distances=memory.distances[:0], pointer_repeats=memory.pointer_repeats[:0])
    assert model.condition(features, nowhere)[1].isfinite().all()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("config", "override", "message"),
    [
        (TINY, "model.image_size=100", "image_size=100 must be a multiple of feature_stride=16"),
        (TINY, "model.memory_channels=12", "embed_dim=32 must be a multiple of memory_channels=12"),
        (TINY, "model.memory_selector.num_global=9", "remembers up to 11 tracked frames, num_maskmem=7"),
        (TINY_LITE, "model.sam_mask_decoder.upscaling=4", r"high_res_channels=\[8, 4, 2\] must equal .* \[8, 4\]"),
        (TINY_LITE, "model.dense_prompt_encoder.channels=[8,4]", "the channels of the mask decoder's levels"),
        (TINY_LITE, "model.sam_mask_decoder.upscaling=5", "upscaling must be 4 or 8, not 5"),
    ],
)
def test_sizes_that_do_not_fit(config: str, override: str, message: str) -> None:
    with pytest.raises(Exception, match=message):
        build_i2v(config, device="cpu", hydra_overrides_extra=[override])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["levels=[2,3,7]"], r"levels=\[2, 3, 7\]: TinyViT has 5 maps, so there is no level 7"),
        (["levels=[0,3,4]"], r"in_channels=\[16, 32, 32\] must be .* levels=\[0, 3, 4\] of TinyViT have \[8, 32, 32\]"),
        (["trunk_video.in_channels=[16,32]"], r"trunk_video.in_channels=\[16, 32\] must be"),
        (["trunk_image.strides=[2,2,2]"], "patch_size=16 must be the trunk's stride, which is 32 for TinyViT"),
        (["trunk_image.out_channels=16", "trunk_video=null"], "16 channels, not embed_dim=32"),
        (["trunk_image.strides=[2,1,1]", "trunk_video=null"], "the trunk's stride is 8 pixels, not feature_stride=16"),
        (["pixel_std=[1,1,0]"], r"pixel_std=\[1.0, 1.0, 0.0\] need 3 numbers each, pixel_std above 0"),
        (["trunk_image.depths=[1,1]"], "must have one value per stage"),
        (
            ["high_res_levels=[2,1]", "high_res_channels=[8,4]"],
            r"TinyViT have the strides \[16, 8\], but .* \[8, 4\]",
        ),
        (["high_res_levels=[0]"], r"high_res_levels=\[0\] and high_res_channels=\[\] must have the same length"),
    ],
)
def test_trunks_that_do_not_fit(overrides: list[str], message: str) -> None:
    overrides = [f"++model.image_encoder.{override}" for override in overrides]
    with pytest.raises(ValueError, match=message):
        build_i2v(TINY, device="cpu", hydra_overrides_extra=overrides)


@pytest.mark.parametrize(
    ("trunk", "message"),
    [
        ("PlainTrunk, out_channels: 32, stride: 8", "patch_size=16 must be the trunk's stride, which is 8 for PlainTrunk"),
        ("NotATrunk", "NotATrunk must be a subclass of i2v.modeling.backbones.trunk.Trunk"),
        ("TrunkWithoutStrides", "TrunkWithoutStrides must set `strides` in its __init__"),
    ],
)
def test_trunks_that_break_the_interface(trunk: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build_i2v(TINY, device="cpu", hydra_overrides_extra=with_trunk(trunk))


@pytest.mark.parametrize(
    ("maps", "message"),
    [
        ("tensor", "WrongMaps.forward must return a list of 1 maps, one per `channels`, not one tensor"),
        ("two", "WrongMaps.forward must return a list of 1 maps, one per `channels`, not 2 maps"),
        ("narrow", r"map 0 of WrongMaps has the shape \(1, 8, 8, 8\), but .* it must be \(1, 32, 8, 8\) for images of 128x128"),
        ("large", r"map 0 of WrongMaps has the shape \(1, 32, 16, 16\), but .* it must be \(1, 32, 8, 8\)"),
    ],
)
def test_trunks_whose_maps_are_others_than_announced(maps: str, message: str) -> None:
    encoder = ImageEncoder(WrongMaps(maps), levels=[0])
    with pytest.raises(ValueError, match=message):
        encoder.trunk_maps(torch.zeros(1, 3, 128, 128))


@pytest.mark.slow
@torch.inference_mode()
def test_pixels_are_normalised_by_the_model() -> None:
    images = torch.rand(1, 1, 3, 128, 128, generator=torch.Generator().manual_seed(0))
    own = [f"++model.image_encoder.pixel_{name}=[{value},{value},{value}]" for name, value in (("mean", 0.5), ("std", 0.25))]
    plain = ["++model.image_encoder.pixel_mean=[0,0,0]", "++model.image_encoder.pixel_std=[1,1,1]"]
    first, second = (build_i2v(TINY, device="cpu", hydra_overrides_extra=overrides) for overrides in (own, plain))
    second.load_state_dict(first.state_dict())  # the two numbers are not in checkpoints
    expected = second.image_encoder.encode_clip((images - 0.5) / 0.25)[0]
    torch.testing.assert_close(first.image_encoder.encode_clip(images)[0], expected)


@pytest.mark.slow
@pytest.mark.parametrize("config", ["i2v-infer", "i2v-lite"])
@pytest.mark.parametrize(
    ("trunk", "name"),
    [
        ("tiny_vit", "TinyViT"),
        ("efficientnet_lite", "EfficientNetLite"),
        ("rep_vit", "RepViT"),
        ("vit_base", "ViT"),
        ("vit_slim_50", "ViT"),
        ("vit_slim_77", "ViT"),
    ],
)
def test_trunks_are_a_choice_of_the_config(config: str, trunk: str, name: str) -> None:
    nothing_more = ("model.image_encoder.high_res_levels=[]", "model.image_encoder.high_res_channels=[]")
    overrides = [
        f"model/trunk={trunk}",
        *(f"++{x}" for x in (*nothing_more, "model.dense_prompt_encoder=null", "checkpoint=null")),
    ]
    with torch.device("meta"):
        model = build_i2v(config, device="meta", hydra_overrides_extra=overrides)
    assert type(model.image_encoder.trunk_image).__name__ == name


@pytest.mark.slow
def test_the_training_graph_reaches_every_used_parameter() -> None:
    model = build_i2v(TINY, device="cpu", mode="train")
    images = torch.randn(2, 3, 3, 128, 128, generator=torch.Generator().manual_seed(2))
    features = model.image_encoder.encode_clip(images)[0][:, -1]
    first = model.use_mask(features, torch.ones(2, 1, 128, 128))
    conditioned, prompts = model.condition(features, None, batch_size=2)
    second = model.decode(conditioned, prompts, 2, points=torch.ones(2, 1, 2), labels=torch.ones(2, 1, dtype=torch.long))
    encoded = model.encode_memory(features, model.upsample(second.masks).sigmoid(), second.object_score_logits)
    memory = dataclasses.replace(memory_of(model), features=torch.stack([encoded] * 3, dim=1))
    memory = dataclasses.replace(memory, pointers=torch.stack([first.pointers, second.pointers], dim=1))
    conditioned, prompts = model.condition(features, memory)
    third = model.decode(conditioned, prompts, 2, mask_logits=second.masks)
    (third.all_masks.sum() + third.ious.sum() + third.object_score_logits.sum() + third.pointers.sum()).backward()
    without = {name for name, p in model.named_parameters() if p.requires_grad and p.grad is None}
    # Points 1 to 3 were not prompted, and the padding mask embedding was.
    assert {name for name in without if "point_embeddings" not in name} == set()
