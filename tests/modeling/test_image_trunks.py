"""The trunks of SAM-Base, SlimSAM and EdgeSAM at a small size. tests/test_image_sam_parity.py has the full-size ones."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from i2v import I2VVideoPredictor, build_i2v
from i2v.modeling.backbones.rep_vit import RepViT
from i2v.modeling.backbones.trunk import Trunk
from i2v.modeling.backbones.vit import RelativeAttention, ViT, ViTBlock
from i2v.utils.checkpoints import load_image_segmenter, load_weights, save_checkpoint
from tests.conftest import TINY_CONFIG, seeded_predictor, small_trunk


def small_vit() -> ViT:
    return ViT(16, embed_dim=12, mlp_dim=24, depth=3, num_heads=2, window_size=3, global_blocks=[0, 2], image_size=64).eval()


def small_rep_vit() -> RepViT:
    return RepViT(16, embed_dims=[8, 8, 12, 16], depths=[1, 1, 3, 1]).eval()


def random(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("trunk", [small_vit(), small_rep_vit()], ids=["ViT", "RepViT"])
def test_depth_groups_hold_every_parameter_once(trunk: Trunk) -> None:
    grouped = [p for modules in trunk.depth_groups() for module in modules for p in module.parameters()]
    assert sorted(map(id, grouped)) == sorted(map(id, trunk.parameters()))


@torch.inference_mode()
@pytest.mark.parametrize("size", [(64, 64), (96, 64), (160, 224)])
@pytest.mark.parametrize("trunk", [small_vit(), small_rep_vit()], ids=["ViT", "RepViT"])
def test_maps_of_several_sizes(trunk: Trunk, size: tuple[int, int]) -> None:
    maps = trunk(random(2, 3, *size))
    expected = [(2, c, size[0] // s, size[1] // s) for c, s in zip(trunk.channels, trunk.strides, strict=True)]
    assert [tuple(x.shape) for x in maps] == expected
    assert all(x.isfinite().all() for x in maps)


@torch.inference_mode()
def test_attention_adds_embeddings_of_offsets_to_the_scores() -> None:
    attention = RelativeAttention(6, 2, 3)
    for parameter in attention.parameters():
        parameter.copy_(random(*parameter.shape))
    x = random(1, 3, 3, 6)
    q, k, v = attention.qkv(x).view(9, 3, 2, 3).unbind(1)
    expected = torch.zeros(9, 2, 3)
    for head in range(2):
        for query in range(9):
            scores = torch.stack(
                [
                    q[query, head] @ k[key, head] / 3**0.5
                    + q[query, head] @ attention.rel_pos_h[query // 3 - key // 3 + 2]
                    + q[query, head] @ attention.rel_pos_w[query % 3 - key % 3 + 2]
                    for key in range(9)
                ]
            )
            expected[query, head] = scores.softmax(0) @ v[:, head]
    torch.testing.assert_close(attention(x), attention.proj(expected.flatten(1)).view(1, 3, 3, 6), rtol=1e-4, atol=1e-5)


@torch.inference_mode()
def test_windows_do_not_see_each_other() -> None:
    block = ViTBlock(8, 2, 16, window_size=4, map_size=8).eval()
    x = random(1, 8, 7, 8)
    changed = x.clone()
    changed[:, 4:] += 1
    assert torch.equal(block(x)[:, :4], block(changed)[:, :4])
    torch.testing.assert_close(block(x)[:, :4, :4], block(x[:, :4, :4]))


@torch.inference_mode()
def test_position_embeddings_are_interpolated_for_other_sizes() -> None:
    trunk = small_vit()
    larger = small_vit()
    weights = trunk.state_dict()
    ramp = torch.arange(4.0)[None, :, None, None].expand(1, 4, 4, 12).clone()
    trunk.pos_embed.copy_(ramp)
    larger.pos_embed = torch.nn.Parameter(
        F.interpolate(ramp.permute(0, 3, 1, 2), size=(8, 8), mode="bicubic").permute(0, 2, 3, 1)
    )
    larger.load_state_dict({name: value for name, value in weights.items() if name != "pos_embed"}, strict=False)
    image = random(1, 3, 128, 128)
    for given, expected in zip(trunk(image), larger(image), strict=True):
        torch.testing.assert_close(given, expected)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ViT(embed_dim=20, num_heads=3), "embed_dim=20 of the ViT must be a multiple of num_heads=3"),
        (
            lambda: ViT(depth=2, embed_dim=4, num_heads=2),
            r"global_blocks=\[2, 5, 8, 11\] must be increasing indices of the 2 blocks",
        ),
        (lambda: RepViT(embed_dims=[8, 8]), r"embed_dims=\[8, 8\] and depths=\[3, 3, 15, 2\] of RepViT need four stages each"),
    ],
)
def test_arguments_that_do_not_fit(make, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("trunk", "size", "message"),
    [
        ("rep_vit", 144, "image_size=144 must be a multiple of 32, the coarsest stride of RepViT, such as 128 or 160"),
        ("rep_vit", 16, "image_size=16 must be a multiple of 32, the coarsest stride of RepViT, such as 32$"),
        ("vit_base", 100, "image_size=100 must be a multiple of 16, the coarsest stride of ViT, such as 96 or 112"),
    ],
)
def test_image_sizes_that_do_not_fit(trunk: str, size: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build_i2v(TINY_CONFIG, device="cpu", hydra_overrides_extra=[*small_trunk(trunk), f"model.image_size={size}"])


@pytest.mark.slow
@pytest.mark.parametrize("trunk", ["vit_base", "rep_vit"])
def test_a_video_is_segmented(trunk: str, tiny_video) -> None:
    predictor: I2VVideoPredictor = seeded_predictor(*small_trunk(trunk))
    with predictor.init_state(tiny_video[:4]) as state:
        predictor.add_new_points_or_box(state, 0, 1, points=[[16, 24]], labels=[1])
        results = [logits for *_, logits in predictor.propagate_in_video(state)]
    assert [x.shape for x in results] == [(1, 1, 48, 64)] * 4
    assert all(x.isfinite().all() for x in results)
    assert len({x.sum().item() for x in results}) == 4


@pytest.mark.slow
@pytest.mark.parametrize(
    ("trunk", "weights", "message"),
    [
        (
            "tiny_vit",
            {"pos_embed": (1, 4, 4, 168)},
            r"SlimSAM-77 \(168 channels\); choose model/trunk=vit_slim_77, or .* slimsam_77;",
        ),
        (
            "rep_vit",
            {"pos_embed": (1, 4, 4, 384)},
            r"SlimSAM-50 \(384 channels\); choose model/trunk=vit_slim_50, or .* slimsam_50;",
        ),
        ("rep_vit", {"pos_embed": (1, 4, 4, 768)}, r"SAM-Base \(768 channels\); choose model/trunk=vit_base, or .* sam_b;"),
        ("rep_vit", {"pos_embed": (1, 4, 4, 1280)}, r"SAM-Huge \(1280 channels\); no trunk here fits it;"),
        (
            "vit_base",
            {"fuse_stage2.weight": (256, 192, 1, 1)},
            "EdgeSAM; choose model/trunk=rep_vit, or the image segmenter edge_sam;",
        ),
        (
            "rep_vit",
            {"patch_embed.seq.0.c.weight": (32, 3, 3, 3)},
            "TinySAM or MobileSAM; choose model/trunk=tiny_vit, or .*mobilesam;",
        ),
        ("rep_vit", {"trunk.blocks.0.norm1.weight": (96,)}, "SAM 2; no trunk here fits it;"),
        ("rep_vit", {"trunk_image.neck.0.weight": (1,)}, "SAM-I2V itself; load it as a video model;"),
    ],
)
def test_a_checkpoint_of_another_family_is_named(
    trunk: str, weights: dict[str, tuple[int, ...]], message: str, tmp_path
) -> None:
    overrides = [] if trunk == "tiny_vit" else small_trunk(trunk)
    model = build_i2v(TINY_CONFIG, device="cpu", hydra_overrides_extra=overrides)
    given = {f"image_encoder.{name}": torch.zeros(shape) for name, shape in weights.items()}
    save_checkpoint(tmp_path / "sam.pth", given)
    with pytest.raises(ValueError, match=rf"sam\.pth is not a checkpoint of .* it looks like {message}"):
        load_image_segmenter(model, tmp_path / "sam.pth")


@pytest.mark.parametrize(
    ("name", "shape", "message"),
    [
        (
            "patch_embed.seq.0.c.weight",
            (32, 3, 3, 3),
            "TinySAM or MobileSAM; use it with .*build_sam, or as init",
        ),
        ("fuse_stage2.weight", (256, 192, 1, 1), "EdgeSAM; use it with"),
        ("pos_embed", (1, 4, 4, 768), r"SAM-Base \(768 channels\); use it with"),
        ("trunk.blocks.0.norm1.weight", (96,), "SAM 2; no trunk here fits it;"),
    ],
)
def test_an_image_segmenter_is_not_a_video_model(
    name: str, shape: tuple[int, ...], message: str, tiny_predictor, tmp_path
) -> None:
    save_checkpoint(tmp_path / "sam.pth", {f"image_encoder.{name}": torch.zeros(shape)})
    with pytest.raises(ValueError, match=rf"sam\.pth is not a checkpoint of this config's model: it looks like {message}"):
        load_weights(tiny_predictor.model, tmp_path / "sam.pth")


def test_a_damaged_checkpoint_of_the_right_family_is_not_called_another_one(tiny_predictor, tmp_path) -> None:
    save_checkpoint(tmp_path / "sam.pth", {"image_encoder.patch_embed.seq.0.c.weight": torch.zeros(1)})
    with pytest.raises(ValueError, match="missing") as error:
        load_image_segmenter(tiny_predictor.model, tmp_path / "sam.pth")
    assert "looks like" not in str(error.value)
