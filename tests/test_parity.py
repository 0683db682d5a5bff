"""The network and the predictor against the published model (fixtures in ../shared/reference).

The tolerances are those of docs/numbers.md. `test_tiny_parity.py` needs nothing of ../shared.
"""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from i2v import build_i2v_video_predictor
from i2v.modeling.position_encoding import axial_rotation, sine_encoding_2d
from i2v.modeling.precision import has_fast_bf16
from i2v.utils.checkpoints import load_image_segmenter, load_weights, save_checkpoint
from tests.conftest import recorded_ious

REFERENCE = Path(__file__).resolve().parents[2] / "shared" / "reference"
# Of the largest value of a component's output.
COMPONENT_TOLERANCE = 2e-5
# Of the deviation of a frame's low-resolution logits.
LOGIT_TOLERANCE = 1e-3
SCORE_TOLERANCE = 2e-4
# Of object pointers and predicted IoUs.
POINTER_TOLERANCE = 1e-3
LEAST_IOU = 0.9998
LEAST_BF16_IOU = 0.98
pytestmark = pytest.mark.skipif(not REFERENCE.exists(), reason="needs the parity fixtures in ../shared/reference")


@pytest.fixture(scope="module")
def seeded():
    """The module that makes the fixtures' weights and inputs."""
    spec = importlib.util.spec_from_file_location("seeded_weights", REFERENCE / "seeded_weights.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def manifest(name: str) -> dict[str, list[int]]:
    return json.loads((REFERENCE / "checkpoints" / f"{name}_state_dict.json").read_text())


@pytest.fixture(scope="module")
def weights(seeded, tmp_path_factory) -> Path:
    """The fixtures' weights in a checkpoint file like a user's."""
    path = tmp_path_factory.mktemp("weights") / "sam_i2v.pt"
    save_checkpoint(path, {"model": seeded.seeded_state_dict(manifest("sam_i2v"))})
    return path


@pytest.fixture(scope="module")
def predictor(weights):
    """The full model with the fixtures' weights."""
    overrides = ["model/memory_selector=greedy", "predictor.fill_hole_area=0"]
    return build_i2v_video_predictor("i2v-infer", weights, device="cpu", hydra_overrides_extra=overrides)


@pytest.mark.slow
def test_published_names_and_size(predictor) -> None:
    assert {name: list(value.shape) for name, value in predictor.model.state_dict().items()} == manifest("sam_i2v")
    assert round(sum(p.numel() for p in predictor.model.parameters()) / 1e6, 1) == 18.9


@pytest.mark.slow
@pytest.mark.parametrize("name", ["tinysam", "mobilesam"])
def test_image_segmenter_initialises_the_network(name, predictor, seeded, tmp_path) -> None:
    weights = seeded.seeded_state_dict(manifest(name))
    save_checkpoint(tmp_path / "sam.pth", weights)
    before = {key: value.clone() for key, value in predictor.model.state_dict().items()}
    try:
        load_image_segmenter(predictor.model, tmp_path / "sam.pth")
        after = predictor.model.state_dict()
        torch.testing.assert_close(after["image_encoder.trunk_image.neck.0.weight"], weights["image_encoder.neck.0.weight"])
        torch.testing.assert_close(
            after["sam_mask_decoder.transformer.layers.1.mlp.layers.1.weight"],
            weights["mask_decoder.transformer.layers.1.mlp.lin2.weight"],
        )
        torch.testing.assert_close(
            after["sam_prompt_encoder.no_mask_embed.weight"], weights["prompt_encoder.no_mask_embed.weight"]
        )
        torch.testing.assert_close(after["memory_encoder.out_proj.weight"], before["memory_encoder.out_proj.weight"])
    finally:
        predictor.model.load_state_dict(before)


@pytest.mark.slow
def test_other_segmenter_is_refused(predictor, seeded, tmp_path) -> None:
    save_checkpoint(tmp_path / "sam_b.pth", seeded.seeded_state_dict(manifest("sam_b")))
    with pytest.raises(ValueError, match=r"sam_b\.pth is not a checkpoint of this model's image segmenter.*blocks"):
        load_image_segmenter(predictor.model, tmp_path / "sam_b.pth")
    with pytest.raises(ValueError, match=r"733 missing: maskmem_tpos_enc.*unknown: image_encoder\.pos_embed"):
        load_weights(predictor.model, tmp_path / "sam_b.pth")


@pytest.mark.slow
@torch.inference_mode()
def test_components(predictor, seeded) -> None:
    model, make = predictor.model, seeded.seeded_input
    expected = np.load(REFERENCE / "fixtures" / "components.npz")
    actual = {}

    maps = model.image_encoder.trunk_image(make("image", (1, 3, 1024, 1024)))
    actual |= {f"trunk_image.{i}": x[:, ::8, ::8, ::8] for i, x in enumerate(maps)}
    # The fixture's trunk saw `image`, its temporal stem the clip `video`.
    taps = model.image_encoder.stem_taps(make("video", (1, 3, 5, 1024, 1024))[0].transpose(0, 1))
    features = model.image_encoder.integrate(maps, taps.split(1))
    actual["image_encoder.features"] = features[:, ::4, ::4, ::4]
    actual["image_encoder.position"] = sine_encoding_2d(256, 64, 64)[:, ::4, ::4, ::4]

    memory = model.memory_encoder(make("pix_feat", (2, 256, 64, 64)), make("mask", (2, 1, 1024, 1024)))
    actual["memory_encoder.features"] = memory[:, ::4, ::2, ::2]
    actual["memory_encoder.position"] = sine_encoding_2d(64, 64, 64)[:, ::4, ::2, ::2].expand(2, -1, -1, -1)

    def tokens(name: str, *shape: int) -> torch.Tensor:
        return make(name, shape).transpose(0, 1)

    rotation = axial_rotation(256, 64, 64)
    memory, position = tokens("memory", 8200, 2, 64), tokens("memory_pos", 8200, 2, 64)
    attended = model.memory_attention(
        tokens("curr", 4096, 2, 256), tokens("curr_pos", 4096, 2, 256), memory, position, rotation
    )
    actual["memory_attention.output"] = attended.transpose(0, 1)[::16, :, ::4]
    foreground = tokens("memory_mask", 8200, 2, 1)[..., 0] > 1
    foreground[:, -8:] = True
    generator = model.memory_prompt_generator
    actual["memory_prompt_generator.output"] = generator(memory, position, foreground, rotation)
    actual["memory_prompt_generator.no_memory"] = generator.no_memory(2)

    points, labels = torch.tensor([[[300.0, 200.0], [700.0, 900.0]]]), torch.tensor([[1, 0]])
    prompt_tokens, dense = model.sam_prompt_encoder(points, labels)
    actual["prompt_encoder.points"], actual["prompt_encoder.dense"] = prompt_tokens, dense[:, :, ::16, ::16]
    _, mask_map = model.sam_prompt_encoder(points, labels, make("low_res_mask", (1, 1, 256, 256)))
    actual["prompt_encoder.mask"] = mask_map[:, ::4, ::4, ::4]
    decoded = model.sam_mask_decoder(
        make("image_embedding", (1, 256, 64, 64)),
        model.sam_prompt_encoder.image_position(),
        prompt_tokens,
        dense,
        make("memory_prompt", (1, 3, 256)),
        multimask=True,
    )
    actual["mask_decoder.masks"] = decoded.masks[:, :, ::4, ::4]
    actual["mask_decoder.ious"], actual["mask_decoder.tokens"] = decoded.ious, decoded.tokens
    actual["mask_decoder.object_score_logits"] = decoded.object_score_logits

    assert set(actual) == set(expected.files)
    for name in expected.files:
        reference = torch.from_numpy(expected[name])
        assert actual[name].shape == reference.shape, name
        error = (actual[name] - reference).abs().max() / reference.abs().max()
        assert error < COMPONENT_TOLERANCE, f"{name}: {error:.1e}"


def prompt_mask(predictor, state) -> None:
    predictor.add_new_mask(state, 0, 1, np.asarray(Image.open(REFERENCE / "clip" / "00000.png")) > 0)


def prompt_click(predictor, state) -> None:
    predictor.add_new_points_or_box(state, 0, 1, points=[[300, 200]], labels=[1])
    predictor.add_new_points_or_box(state, 0, 1, points=[[300, 200], [420, 330], [60, 60]], labels=[1, 1, 0])


def prompt_box(predictor, state) -> None:
    predictor.add_new_points_or_box(state, 0, 1, box=[200, 120, 520, 420])


def expected_masks(prompt: str) -> np.ndarray:
    """The published masks at the video's size, a bool array per frame."""
    expected = np.load(REFERENCE / "fixtures" / f"{prompt}_prompt.npz")
    shape = expected["video_masks_shape"]
    return np.unpackbits(expected["video_masks"])[: np.prod(shape)].reshape(shape).astype(bool)


def mask_iou(mask: np.ndarray, expected: np.ndarray) -> float:
    mask = mask.reshape(expected.shape)
    return (mask & expected).sum() / (mask | expected).sum()


@pytest.mark.slow
@pytest.mark.parametrize("prompt", [prompt_box, prompt_click, prompt_mask])
def test_clips(prompt, predictor) -> None:
    name = prompt.__name__.removeprefix("prompt_")
    expected = np.load(REFERENCE / "fixtures" / f"{name}_prompt.npz")
    published = expected_masks(name)
    state = predictor.init_state(REFERENCE / "clip")
    with recorded_ious() as ious:
        prompt(predictor, state)
        frames = expected["frames"].tolist()
        for i, (frame, obj_ids, masks) in enumerate(
            predictor.propagate_in_video(state, max_frame_num_to_track=len(frames) - 1)
        ):
            assert (frame, obj_ids) == (frames[i], [1])
            output = state.objects[1].bank[frame]
            logits = expected["low_res_logits"][i, 0]
            error = np.abs(output.mask_logits.numpy() - logits).max() / logits.std()
            assert error < LOGIT_TOLERANCE, f"frame {frame}: logits differ by {error:.1e} of their deviation"
            error = abs(output.score.item() - expected["object_score_logits"][i].item())
            assert error < SCORE_TOLERANCE, f"frame {frame}: scores differ by {error:.1e}"
            np.testing.assert_allclose(output.pointer, expected["obj_ptr"][i, 0], atol=POINTER_TOLERANCE)
            np.testing.assert_allclose(np.broadcast_to(ious[-1], 3), expected["ious"][i, 0], atol=POINTER_TOLERANCE)
            iou = mask_iou((masks > 0).numpy(), published[i])
            assert iou >= LEAST_IOU, f"frame {frame}: IoU {iou:.4f}"
    assert i == len(frames) - 1


@pytest.mark.slow
@pytest.mark.skipif(not has_fast_bf16(), reason="this CPU emulates bfloat16: a full-size frame takes many minutes")
def test_bfloat16_is_close_to_the_published_masks(weights) -> None:
    overrides = ["model/memory_selector=greedy", "predictor.fill_hole_area=0", "predictor.precision=bf16"]
    predictor = build_i2v_video_predictor("i2v-infer", weights, device="cpu", hydra_overrides_extra=overrides)
    state = predictor.init_state(REFERENCE / "clip")
    prompt_click(predictor, state)
    expected = expected_masks("click")
    for frame, _, masks in predictor.propagate_in_video(state, max_frame_num_to_track=1):
        assert mask_iou((masks > 0).numpy(), expected[frame]) >= LEAST_BF16_IOU, f"frame {frame}"
