"""Scripts for SAM 2 run unchanged: the calls of its notebooks and demos, and the entries of a state that they read."""

from __future__ import annotations

import itertools
import operator

import numpy as np
import pytest
import torch

from i2v.build_i2v import build_i2v, build_i2v_video_predictor
from tests.conftest import TINY_CONFIG


@pytest.mark.slow
def test_the_calls_of_a_video_notebook(tiny_predictor, png_folder, tiny_video):
    predictor = tiny_predictor
    inference_state = predictor.init_state(video_path=str(png_folder))
    predictor.reset_state(inference_state)
    prompts = {}
    ann_frame_idx, ann_obj_id = 0, 1
    points = np.array([[20, 20], [25, 24]], dtype=np.float32)
    labels = np.array([1, 1], np.int32)
    prompts[ann_obj_id] = points, labels
    _, out_obj_ids, out_mask_logits = predictor.add_new_points_or_box(
        inference_state=inference_state, frame_idx=ann_frame_idx, obj_id=ann_obj_id, points=points, labels=labels
    )
    assert (out_mask_logits[0] > 0.0).cpu().numpy().shape == (1, *tiny_video.shape[1:3])
    box = np.array([30, 20, 50, 40], dtype=np.float32)
    _, out_obj_ids, _ = predictor.add_new_points_or_box(inference_state=inference_state, frame_idx=0, obj_id=2, box=box)
    predictor.add_new_points(inference_state, 0, 2, points=np.array([[40, 30]], np.float32), labels=np.array([1], np.int32))
    predictor.propagate_in_video_preflight(inference_state)
    video_segments = {}
    for out_frame_idx, out_obj_ids, out_mask_logits in predictor.propagate_in_video(inference_state):
        video_segments[out_frame_idx] = {
            out_obj_id: (out_mask_logits[i] > 0.0).cpu().numpy() for i, out_obj_id in enumerate(out_obj_ids)
        }
    assert sorted(video_segments) == list(range(inference_state["num_frames"]))
    assert video_segments[3].keys() == set(inference_state["obj_ids"]) == {1, 2}
    predictor.remove_object(inference_state, 2)
    assert inference_state["obj_ids"] == [1]


def test_entries_of_a_state(tiny_predictor, tiny_video):
    state = tiny_predictor.init_state(tiny_video, offload_state_to_cpu=True)
    assert (state["num_frames"], state["video_height"], state["video_width"]) == tiny_video.shape[:3]
    images = state["images"]
    assert len(images) == len(tiny_video)
    assert images[-1].shape == (3, tiny_predictor.image_size, tiny_predictor.image_size)
    torch.testing.assert_close(images[2], state.loader.load(2)[0])
    assert state["device"] == tiny_predictor.device
    with pytest.raises(IndexError):
        images[len(tiny_video)]
    with pytest.raises(KeyError, match=r"no 'output_dict'; it has num_frames, video_height"):
        state["output_dict"]


def test_images_of_an_endless_source_are_read_on_demand(tiny_predictor, tiny_video):
    with tiny_predictor.init_state(itertools.cycle(tiny_video)) as state:
        assert state["images"][2].equal(state.loader.load(2)[0])
        assert state.frames.extent() == "0 to 2 so far"


@pytest.mark.slow
def test_a_predictor_is_used_like_a_module(make_tiny_predictor):
    predictor = make_tiny_predictor("predictor.fill_hole_area=3")
    assert predictor.to("cpu") is predictor and predictor.eval() is predictor
    assert predictor.fill_hole_area == 3
    predictor.fill_hole_area = 0
    assert predictor.fill_hole_area == 0
    with pytest.raises(ValueError, match="fill_hole_area must be 0 or more cells, got -1"):
        predictor.fill_hole_area = -1
    assert predictor.state_dict().keys() == predictor.model.state_dict().keys()


@pytest.mark.slow
def test_arguments_of_sam2_that_change_nothing(caplog):
    build_i2v_video_predictor(TINY_CONFIG, device="cpu", vos_optimized=True)
    assert "arguments that have no effect here: vos_optimized" in caplog.text
    model = build_i2v(TINY_CONFIG, device="cpu", apply_postprocessing=False)
    assert not model.sam_mask_decoder.dynamic_multimask_via_stability


def test_a_box_as_two_labelled_points(tiny_predictor, tiny_video):
    def mask(**prompt):
        return tiny_predictor.add_new_points_or_box(tiny_predictor.init_state(tiny_video), 0, 1, **prompt)[2]

    expected = mask(points=[[20, 20]], labels=[1], box=[10, 8, 40, 30])
    assert mask(points=[[20, 20], [10, 8], [40, 30], [0, 0]], labels=[1, 2, 3, -1]).equal(expected)
    for prompt in ({"labels": [2, 2]}, {"labels": [2, 1]}, {"labels": [2, 3], "box": [1, 1, 5, 5]}):
        with pytest.raises(ValueError, match="give a box once"):
            mask(points=[[10, 8], [40, 30]], **prompt)


def test_points_on_the_border(tiny_predictor, tiny_video):
    height, width = tiny_video.shape[1:3]
    state = tiny_predictor.init_state(tiny_video)
    tiny_predictor.add_new_points_or_box(state, 0, 1, points=[[width, height]], labels=[1])
    with pytest.raises(ValueError, match="outside of the frame"):
        tiny_predictor.add_new_points_or_box(state, 0, 1, points=[[width + 0.5, 0]], labels=[1])


@pytest.mark.slow
def test_a_mask_of_another_size_is_resized_with_a_warning(make_tiny_predictor, tiny_video, caplog):
    predictor = make_tiny_predictor("+predictor.keep_given_masks=true")
    height, width = tiny_video.shape[1:3]
    mask = np.zeros((height, width), bool)
    mask[8:24, 10:40] = True
    small = predictor.add_new_mask(predictor.init_state(tiny_video), 0, 1, mask[::2, ::2])[2]
    assert f"the mask is {width // 2}x{height // 2} pixels, the video {width}x{height}: the mask is resized" in caplog.text
    np.testing.assert_array_equal(small[0, 0] > 0, mask)
    dot = np.zeros((4 * height, 4 * width), bool)
    dot[101, 77] = True
    assert (predictor.add_new_mask(predictor.init_state(tiny_video), 0, 1, dot)[2] > 0).sum() == 1
    if height != width:
        with pytest.raises(ValueError, match="the mask has shape"):
            predictor.add_new_mask(predictor.init_state(tiny_video), 0, 1, mask.T)


def overlapping(predictor, video):
    """Two objects that share pixels, and their masks when they are prompted."""
    height, width = video.shape[1:3]
    masks = np.zeros((2, height, width), bool)
    masks[0, 8:24, 10:40] = masks[1, 16:32, 20:50] = True
    state = predictor.init_state(video)
    for obj_id, mask in enumerate(masks):
        _, _, logits = predictor.add_new_mask(state, 0, obj_id, mask)
    return state, logits


@pytest.mark.slow
def test_masks_that_do_not_overlap(make_tiny_predictor, tiny_video):
    options = ("++model.non_overlap_masks=true", "predictor.fill_hole_area=0")
    logits = overlapping(make_tiny_predictor(*options), tiny_video)[1]
    free = overlapping(make_tiny_predictor("predictor.fill_hole_area=0"), tiny_video)[1]
    assert ((free > 0).sum(0) == 2).any()
    assert ((logits > 0).sum(0) <= 1).all()
    np.testing.assert_array_equal((logits > 0).any(0), (free > 0).any(0))
    own = free == free.max(0, keepdim=True).values
    assert logits[own & (logits > -10)].equal(free[own & (logits > -10)])
    assert (logits[~own] <= -10).all()


@pytest.mark.slow
def test_a_prompt_clears_the_memory_around_it(make_tiny_predictor, tiny_video):
    def frames_of(bank):
        return sorted(bank.conditioning | bank.tracked)

    def remembered(*options):
        predictor = make_tiny_predictor("model/memory_selector=consecutive", *options)
        state, _ = overlapping(predictor, tiny_video)
        list(predictor.propagate_in_video(state))
        for point in ([20, 20], [24, 20]):  # the second one still sees the memory
            predictor.add_new_points_or_box(state, 3, 0, points=[point], labels=[1], clear_old_points=False)
            assert frames_of(state.objects[0].bank) == list(range(len(tiny_video)))
        list(predictor.propagate_in_video(state, start_frame_idx=3, max_frame_num_to_track=0))
        return [frames_of(state.objects[obj_id].bank) for obj_id in (0, 1)]

    everything = list(range(len(tiny_video)))
    assert len(everything) > 10
    assert remembered() == [everything, everything]
    # As in SAM 2, as many frames as are remembered, and one; those of the other object stay.
    cleared = [0, 3, *everything[11:]]
    assert remembered("++model.clear_non_cond_mem_around_input=true") == [cleared, everything]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("override", "attribute", "value"),
    [
        ("model.num_maskmem_global=3", "model.memory_selector.num_global", 3),
        ("++model.num_maskmem_local=1", "model.memory_selector.num_local", 1),
        ("++model.max_cond_frames_in_attn=4", "model.memory_selector.max_cond_frames_in_attn", 4),
        ("++model.fill_hole_area=5", "fill_hole_area", 5),
        ("++model.add_all_frames_to_correct_as_cond=true", "_add_all_frames_to_correct_as_cond", True),
        ("++model.binarize_mask_from_pts_for_mem_enc=false", "_tracker.binarize_prompted_masks", False),
    ],
)
def test_overrides_by_their_published_keys(make_tiny_predictor, override, attribute, value):
    assert operator.attrgetter(attribute)(make_tiny_predictor(override)) == value


@pytest.mark.slow
def test_stride_by_its_published_key(make_tiny_predictor):
    options = ("model/memory_selector=consecutive", "model.memory_temporal_stride_for_eval=2")
    assert make_tiny_predictor(*options).model.memory_selector.temporal_stride == 2
    with pytest.raises(
        ValueError, match="memory_temporal_stride_for_eval is for SAM 2's selector: set model/memory_selector=cons"
    ):
        make_tiny_predictor("model.memory_temporal_stride_for_eval=2")
