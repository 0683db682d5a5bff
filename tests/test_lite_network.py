"""The Lite model's network in a session: what it adds to the published one must not break what holds for any tracker."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from i2v.i2v_video_predictor import I2VVideoPredictor
from i2v.inference.features import preprocess
from i2v.modeling.sam_i2v import MASK_SCALE
from tests.conftest import PROJECT
from tests.test_predictor import PROMPTS, assert_same, disc, start, track
from train.model.rollout import ClipRollout, PromptPlan, PromptSampling


@pytest.fixture(scope="module")
def predictor(make_tiny_predictor) -> I2VVideoPredictor:
    return make_tiny_predictor(config=PROJECT / "tests/configs/tiny-lite.yaml")


@pytest.mark.slow
def test_a_batch_of_objects_equals_separate_runs(predictor, tiny_video) -> None:
    together = track(predictor, start(predictor, tiny_video, PROMPTS), start_frame_idx=0)
    for i, prompt in enumerate(PROMPTS):
        alone = track(predictor, start(predictor, tiny_video, [prompt]), start_frame_idx=0)
        assert_same({frame: masks[i : i + 1] for frame, masks in together.items()}, alone, 0.01)


@pytest.mark.slow
def test_going_back_gives_the_same(predictor, tiny_video) -> None:
    state = start(predictor, tiny_video, PROMPTS)
    first = track(predictor, state, start_frame_idx=0)
    predictor.add_new_points_or_box(
        state, 11, 1, [[20, 20]], [1]
    )  # far from the frames whose high-resolution features are cached
    predictor.clear_all_prompts_in_frame(state, 11, 1)
    assert_same(track(predictor, state, start_frame_idx=0), first, 0.01)


@pytest.mark.slow
def test_offloaded_state_gives_the_same(predictor, tiny_video) -> None:
    plain = start(predictor, tiny_video, PROMPTS)
    offloaded = start(predictor, tiny_video, PROMPTS, offload_state_to_cpu=True, offload_video_to_cpu=True)
    assert_same(track(predictor, plain), track(predictor, offloaded))


@pytest.mark.slow
def test_drawn_clicks_act_where_they_are(predictor, tiny_video) -> None:
    """The encoder of drawn prompts is given weights that make it paint what was clicked."""
    state = start(predictor, tiny_video, ["disc"])
    track(predictor, state)
    encoder = predictor.model.dense_prompt_encoder
    _, _, plain = predictor.add_new_points_or_box(state, 4, 1, [[50, 10]], [1])
    finest = encoder.outputs[0]
    saved = finest.weight.clone()
    finest.weight.data.zero_()
    finest.weight.data[:, 1, 1, 1] = 50.0  # positive clicks
    try:
        _, _, painted = predictor.add_new_points_or_box(state, 4, 1, [[50, 10]], [1])
    finally:
        finest.weight.data.copy_(saved)
    changed = (painted - plain).abs()[0, 0]
    near = torch.from_numpy(disc(tiny_video, 50, 10, 4))
    assert changed[near].mean() > 5 * changed[~near].mean()


@pytest.mark.slow
def test_session_equals_training(make_tiny_predictor, tiny_video) -> None:
    """A mask in the first frame, then tracking: the clip's rollout and the session give the same masks.

    The session rounds memories to bfloat16 and fills the memory up, so that the second frame is compared, which sees the first
    one alone.
    """
    predictor = make_tiny_predictor("predictor.fill_hole_area=0", config=PROJECT / "tests/configs/tiny-lite.yaml")
    mask = disc(tiny_video, 20, 20)
    state = predictor.init_state(tiny_video[:2])
    predictor.add_new_mask(state, 0, 1, mask)
    session = predictor.propagate_in_video(state, 0)
    assert torch.equal(next(session)[2][0, 0] > 0, torch.from_numpy(mask))
    tracked = next(session)
    assert tracked[0] == 1
    frames = torch.stack([preprocess(frame, 128)[0] for frame in tiny_video[:2]])[None]
    size = (128, 128)
    resized = torch.nn.functional.interpolate(torch.from_numpy(mask).float()[None, None], size, mode="bilinear", antialias=True)
    given = torch.stack([resized[0] >= 0.5, torch.zeros(1, *size, dtype=torch.bool)], dim=1)
    plan = PromptPlan({0: "mask"}, selected_memory=True)
    with torch.no_grad():
        clip = ClipRollout(predictor.model, PromptSampling())(frames, given, torch.zeros(1).long(), torch.Generator(), plan)
    expected = clip[1].predictions[0].masks
    actual = state.objects[1].bank[1].mask_logits
    assert float((actual - expected[0]).abs().max()) < 0.02 * float(expected.std()) + 1e-3 * MASK_SCALE
    assert np.isfinite(actual.numpy()).all()
