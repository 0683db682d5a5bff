"""The predictor's methods, and properties that any tracker must have."""

from __future__ import annotations

import re
from collections import defaultdict

import numpy as np
import pytest
import torch
from torch import nn

from i2v.i2v_video_predictor import I2VVideoPredictor


def disc(video: np.ndarray, x: float, y: float, radius: float = 9) -> np.ndarray:
    height, width = video.shape[1:3]
    yy, xx = np.mgrid[:height, :width]
    return (xx - x) ** 2 + (yy - y) ** 2 < radius**2


def long_video(tiny_video: np.ndarray, length: int) -> np.ndarray:
    """Slowly changing noise, so that all frames differ."""
    rng = np.random.default_rng(0)
    a, b = rng.integers(0, 255, (2, *tiny_video.shape[1:]))
    weights = np.linspace(0, 3, length)[:, None, None, None]
    return (a * np.cos(weights) ** 2 + b * np.sin(weights) ** 2).astype(np.uint8)


def track(predictor, state, **arguments) -> dict[int, torch.Tensor]:
    return {frame: masks.clone() for frame, _, masks in predictor.propagate_in_video(state, **arguments)}


def start(predictor, video, prompts=("disc",), **arguments):
    """A session with object 1 prompted by a mask, 2 by a click, 3 by a box, as asked for."""
    state = predictor.init_state(video, **arguments)
    for prompt in prompts:
        if prompt == "disc":
            predictor.add_new_mask(state, 0, 1, disc(video, 20, 20))
        elif prompt == "click":
            predictor.add_new_points_or_box(state, 0, 2, points=[[40, 30]], labels=[1])
        else:
            predictor.add_new_points_or_box(state, 2, 3, box=[5, 5, 30, 40])
    return state


def assert_same(actual: dict[int, torch.Tensor], expected: dict[int, torch.Tensor], tolerance: float = 0.0) -> None:
    """Equal up to a share of the logits' standard deviation, because other matrix products round differently."""
    assert list(actual) == list(expected)
    for frame in actual:
        torch.testing.assert_close(actual[frame], expected[frame], atol=tolerance * float(expected[frame].std()), rtol=0)


PROMPTS = ("disc", "click", "box")


@pytest.mark.slow
def test_a_batch_of_objects_equals_separate_runs(tiny_predictor, tiny_video) -> None:
    together = track(tiny_predictor, start(tiny_predictor, tiny_video, PROMPTS), start_frame_idx=0)
    for i, prompt in enumerate(PROMPTS):
        alone = track(tiny_predictor, start(tiny_predictor, tiny_video, [prompt]), start_frame_idx=0)
        assert_same({frame: masks[i : i + 1] for frame, masks in together.items()}, alone, 0.01)


@pytest.mark.slow
def test_the_order_of_objects_does_not_matter(tiny_predictor, tiny_video) -> None:
    forward = track(tiny_predictor, start(tiny_predictor, tiny_video, PROMPTS), start_frame_idx=0)
    other = track(tiny_predictor, start(tiny_predictor, tiny_video, PROMPTS[::-1]), start_frame_idx=0)
    assert_same({frame: masks.flip(0) for frame, masks in other.items()}, forward, 0.01)


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["sample", "greedy", "uniform", "evenly_spaced", "consecutive"])
def test_backward_is_forward_of_the_reversed_video(mode, make_tiny_predictor, tiny_video) -> None:
    predictor = make_tiny_predictor(f"model/memory_selector={mode}", "model.image_encoder.trunk_video.window=1")
    video = long_video(tiny_video, 30)
    last = len(video) - 1

    def run(frames: np.ndarray, prompted: list[int], reverse: bool) -> dict[int, torch.Tensor]:
        state = predictor.init_state(frames)
        predictor.add_new_mask(state, prompted[0], 1, disc(video, 20, 20))
        predictor.add_new_points_or_box(state, prompted[1], 1, points=[[40, 30]], labels=[1])
        return track(predictor, state, reverse=reverse)

    forward = run(video[::-1].copy(), [0, 3], reverse=False)
    backward = run(video, [last, last - 3], reverse=True)
    assert_same({last - frame: masks for frame, masks in backward.items()}, forward)


@pytest.mark.slow
def test_backward_is_forward_up_to_the_window(tiny_predictor, tiny_video) -> None:
    """With the released window of 5, where all frames are equal and so all windows are."""
    video = np.repeat(tiny_video[:1], 14, axis=0)

    def run(prompted: int, reverse: bool) -> dict[int, torch.Tensor]:
        state = tiny_predictor.init_state(video)
        tiny_predictor.add_new_mask(state, prompted, 1, disc(video, 20, 20))
        return track(tiny_predictor, state, reverse=reverse)

    assert_same({13 - frame: masks for frame, masks in run(9, reverse=True).items()}, run(4, reverse=False))


@pytest.mark.slow
def test_a_run_repeats_bit_for_bit(tiny_predictor, tiny_video) -> None:
    video = long_video(tiny_video, 40)
    before = torch.get_rng_state(), np.random.get_state()[1].tolist()
    first = track(tiny_predictor, start(tiny_predictor, video, seed=5))
    assert_same(track(tiny_predictor, start(tiny_predictor, video, seed=5)), first)
    assert torch.equal(torch.get_rng_state(), before[0]) and np.random.get_state()[1].tolist() == before[1]
    other = track(tiny_predictor, start(tiny_predictor, video, seed=6))
    assert any(not torch.equal(other[frame], first[frame]) for frame in first), "the seed draws other memories"


@pytest.mark.slow
@pytest.mark.parametrize(
    "offload", [{"offload_video_to_cpu": True}, {"offload_state_to_cpu": True}, {"async_loading_frames": False}]
)
def test_where_things_are_kept_does_not_matter(offload, tiny_predictor, tiny_video) -> None:
    expected = track(tiny_predictor, start(tiny_predictor, tiny_video))
    assert_same(track(tiny_predictor, start(tiny_predictor, tiny_video, **offload)), expected)


@pytest.mark.slow
def test_memory_is_bounded_and_going_back_gives_the_same_masks(tiny_predictor, tiny_video) -> None:
    video = long_video(tiny_video, 70)
    state = start(tiny_predictor, video, PROMPTS)
    first = track(tiny_predictor, state)
    reach = tiny_predictor.model.memory_selector.reach
    assert all(len(obj.bank.memories) <= reach + 1 + len(obj.bank.conditioning) for obj in state.objects.values())
    assert len(state.features._features) <= reach + 4
    assert len(state.loader._futures) <= state.loader._futures.capacity < 10
    again = track(tiny_predictor, state, start_frame_idx=10, max_frame_num_to_track=5)
    assert_same(again, {frame: first[frame] for frame in range(10, 16)}, 0.001)


@pytest.mark.slow
def test_frames_directions_and_counts(tiny_predictor, tiny_video) -> None:
    state = tiny_predictor.init_state(tiny_video)
    tiny_predictor.add_new_mask(state, 4, 1, disc(tiny_video, 20, 20))
    tiny_predictor.add_new_mask(state, 6, 2, disc(tiny_video, 40, 20))
    last = len(tiny_video) - 1

    def frames(**arguments) -> list[int]:
        return list(track(tiny_predictor, state, **arguments))

    assert frames() == list(range(4, last + 1))
    assert frames(reverse=True) == [6, 5, 4, 3, 2, 1, 0]
    assert frames(start_frame_idx=1, max_frame_num_to_track=2) == [1, 2, 3]
    assert frames(start_frame_idx=2, max_frame_num_to_track=9, reverse=True) == [2, 1, 0]
    assert frames(max_frame_num_to_track=0) == [4]


def test_masks_have_the_videos_size_and_prompts_its_pixels(tiny_predictor, tiny_video) -> None:
    state = tiny_predictor.init_state(tiny_video)
    mask = disc(tiny_video, 40, 14, radius=12)
    frame, obj_ids, masks = tiny_predictor.add_new_mask(state, 3, 7, mask)
    assert (frame, obj_ids) == (3, [7]) and masks.shape == (1, 1, *tiny_video.shape[1:3]) and masks.dtype == torch.float32
    found = (masks[0, 0] > 0).numpy()
    assert (found & mask).sum() / (found | mask).sum() > 0.85, "a mask prompt comes back, at low resolution"
    relative = tiny_predictor.init_state(tiny_video)
    height, width = tiny_video.shape[1:3]
    by_fraction = tiny_predictor.add_new_points_or_box(
        relative, 3, 1, points=[[40 / width, 14 / height]], labels=[1], normalize_coords=False
    )
    by_pixel = tiny_predictor.add_new_points_or_box(state, 3, 1, points=[[40, 14]], labels=[1])
    torch.testing.assert_close(by_pixel[2][1:], by_fraction[2])


def test_points_add_up_or_replace(tiny_predictor, tiny_video) -> None:
    state = tiny_predictor.init_state(tiny_video)
    tiny_predictor.add_new_points_or_box(state, 0, 1, points=[[10, 10]], labels=[1])
    tiny_predictor.add_new_points_or_box(state, 0, 1, points=[[30, 30]], labels=[0], clear_old_points=False)
    assert state.objects[1].prompts[0].labels.tolist() == [1, 0]
    tiny_predictor.add_new_points_or_box(state, 0, 1, points=[[5, 5]], labels=[1], box=[0, 0, 64, 48])
    assert state.objects[1].prompts[0].labels.tolist() == [2, 3, 1]


@pytest.mark.slow
@pytest.mark.parametrize("frame", [0, 5])
def test_a_correction_after_tracking_takes_effect(frame, tiny_predictor, tiny_video) -> None:
    state = start(tiny_predictor, tiny_video)
    first = track(tiny_predictor, state)
    _, _, corrected = tiny_predictor.add_new_points_or_box(state, frame, 1, points=[[50, 40], [20, 20]], labels=[1, 0])
    assert not torch.equal(corrected, first[frame])
    assert (frame in state.objects[1].bank.tracked) == (frame != 0), "a tracked frame stays one, a prompted one too"
    second = track(tiny_predictor, state)
    assert torch.equal(second[frame], corrected), "the corrected mask stays"
    assert_same({f: second[f] for f in range(1, frame)}, {f: first[f] for f in range(1, frame)})
    assert any(not torch.equal(second[f], first[f]) for f in range(frame + 1, len(tiny_video)))


@pytest.fixture(params=[False, True], ids=["corrections are tracked", "corrections condition"])
def either_predictor(request, tiny_predictor) -> I2VVideoPredictor:
    """One for each place of corrected frames."""
    return I2VVideoPredictor(tiny_predictor.model, add_all_frames_to_correct_as_cond=request.param)


@pytest.mark.slow
def test_corrected_frames_are_always_remembered_if_asked_for(tiny_predictor, tiny_video, monkeypatch) -> None:
    predictor = I2VVideoPredictor(tiny_predictor.model, add_all_frames_to_correct_as_cond=True)
    state = start(predictor, tiny_video)
    first = track(predictor, state)
    _, _, corrected = predictor.add_new_points_or_box(state, 5, 1, points=[[50, 40]], labels=[1])
    assert set(state.objects[1].bank.conditioning) == {0, 5}
    second = track(predictor, state)
    assert torch.equal(second[5], corrected)
    assert not torch.equal(second[1], first[1]), "also in frames before it"
    # Another click in it looks at the other memories.
    remembered = []
    plan = type(predictor._tracker)._plan
    monkeypatch.setattr(type(predictor._tracker), "_plan", lambda *given: remembered.append(plan(*given)) or remembered[-1])
    predictor.add_new_points_or_box(state, 5, 1, points=[[50, 40], [1, 1]], labels=[1, 0])
    (plan,) = remembered
    assert 0 in {memory.time for memory in plan.memories} and 5 not in {memory.time for memory in plan.memories}


@pytest.mark.slow
def test_clearing_a_correction_brings_tracking_back(either_predictor, tiny_video) -> None:
    predictor = either_predictor
    state = start(predictor, tiny_video)
    first = track(predictor, state)
    predictor.add_new_points_or_box(state, 5, 1, points=[[50, 40]], labels=[1])
    predictor.add_new_points_or_box(state, 5, 1, points=[[50, 40], [1, 1]], labels=[1, 0])
    frame, obj_ids, masks = predictor.clear_all_prompts_in_frame(state, 5, 1)
    assert (frame, obj_ids) == (5, [1])
    torch.testing.assert_close(masks, first[5], atol=1e-4, rtol=1e-4)
    assert_same(track(predictor, state), first, 0.001)
    assert predictor.clear_all_prompts_in_frame(state, 0, 1, need_output=False) is None
    with pytest.raises(ValueError, match="nothing to track"):
        predictor.propagate_in_video(state)


@pytest.mark.slow
def test_objects_come_and_go_while_tracking(tiny_predictor, tiny_video) -> None:
    alone = track(tiny_predictor, start(tiny_predictor, tiny_video))
    state = start(tiny_predictor, tiny_video)
    seen = {}
    for frame, obj_ids, masks in tiny_predictor.propagate_in_video(state):
        seen[frame] = obj_ids
        torch.testing.assert_close(masks[:1], alone[frame], atol=1e-3, rtol=1e-3)
        if frame == 3:
            tiny_predictor.add_new_points_or_box(state, 3, 9, points=[[40, 30]], labels=[1])
        if frame == 7:
            obj_ids, updated = tiny_predictor.remove_object(state, 9)
            assert obj_ids == [1] and [f for f, _ in updated] == [3] and updated[0][1].shape[0] == 1
    assert seen == {f: [1, 9] if 4 <= f <= 7 else [1] for f in range(len(tiny_video))}
    assert tiny_predictor.remove_object(state, 9) == ([1], [])
    tiny_predictor.reset_state(state)
    assert state.obj_ids == []


@pytest.mark.slow
def test_live_frames_give_what_the_video_gives(tiny_predictor, tiny_video) -> None:
    video = long_video(tiny_video, 40)
    expected = track(tiny_predictor, start(tiny_predictor, video))
    state = tiny_predictor.init_state()
    live = {}
    for i, image in enumerate(video):
        frame, obj_ids, masks = tiny_predictor.track_frame(state, image)
        assert frame == i and obj_ids == ([] if i == 0 else [1])
        if i == 0:
            assert masks.shape == (0, 1, *video.shape[1:3])
            _, _, masks = tiny_predictor.add_new_mask(state, 0, 1, disc(video, 20, 20))
        live[frame] = masks.clone()
    assert_same(live, expected)
    with pytest.raises(IndexError, match=r"no frame 2 in the live video: it has frames 19 to 39"):
        tiny_predictor.add_new_points_or_box(state, 2, 5, points=[[1, 1]], labels=[1])
    assert state.obj_ids == [1]
    # The oldest frame that can be asked for needs features, and windows, of frames before it.
    tiny_predictor.add_new_points_or_box(state, 19, 1, points=[[1, 1]], labels=[0])
    assert not torch.equal(tiny_predictor.add_new_points_or_box(state, 19, 5, points=[[40, 30]], labels=[1])[2][:1], live[19])
    _, _, masks = tiny_predictor.clear_all_prompts_in_frame(state, 19, 1)
    assert_same({19: masks[:1]}, {19: live[19]}, 0.001)
    with pytest.raises(ValueError, match="track_frame is for live video"):
        tiny_predictor.track_frame(tiny_predictor.init_state(video), video[0])


@pytest.mark.slow
def test_object_starts_over_from_its_corrections(either_predictor, tiny_video) -> None:
    state = start(either_predictor, tiny_video)
    track(either_predictor, state)
    _, _, corrected = either_predictor.add_new_points_or_box(state, 5, 1, points=[[1, 1]], labels=[0])
    either_predictor.clear_all_prompts_in_frame(state, 0, 1)
    assert list(state.objects[1].prompts) == list(state.objects[1].bank.conditioning) == [5]
    masks = track(either_predictor, state)
    assert list(masks) == list(range(5, 12))
    torch.testing.assert_close(masks[5], corrected)
    assert all((frame > -1024).any() for frame in masks.values())


@pytest.mark.slow
def test_clearing_that_fails_loses_nothing(tiny_predictor, tiny_video, monkeypatch) -> None:
    state = start(tiny_predictor, tiny_video)
    track(tiny_predictor, state)
    _, _, corrected = tiny_predictor.add_new_points_or_box(state, 5, 1, points=[[1, 1]], labels=[0])

    def fail(*_):
        raise OSError("the disk is gone")

    monkeypatch.setattr(tiny_predictor.model, "condition", fail)
    with pytest.raises(OSError, match="disk"):
        tiny_predictor.clear_all_prompts_in_frame(state, 5, 1)
    assert set(state.objects[1].prompts) == {0, 5}
    torch.testing.assert_close(tiny_predictor._tracker.masks_at_video_size(state, 5), corrected)


def test_mask_prompts_are_not_kept(tiny_predictor, tiny_video) -> None:
    state = start(tiny_predictor, tiny_video)
    assert state.objects[1].prompts[0].mask is None


@pytest.mark.slow
def test_holes_are_filled_and_postprocessing_can_be_off(make_tiny_predictor, tiny_video) -> None:
    mask = disc(tiny_video, 30, 24, radius=16)
    mask[22:26, 28:32] = False
    filled, raw = (make_tiny_predictor(f"predictor.fill_hole_area={area}") for area in (8, 0))
    results = [p.add_new_mask(p.init_state(tiny_video), 0, 1, mask)[2][0, 0] > 0 for p in (filled, raw)]
    assert results[0][24, 30] and not results[1][24, 30]
    assert (results[0] | results[1]).equal(results[0])


@pytest.mark.slow
def test_bfloat16_is_close(make_tiny_predictor, tiny_video) -> None:
    runs = []
    for precision in ("fp32", "bf16"):
        predictor = make_tiny_predictor(f"predictor.precision={precision}", "model/memory_selector=greedy")
        runs.append(track(predictor, start(predictor, tiny_video)))
    for frame in runs[0]:
        scale = runs[0][frame].abs().max()
        assert (runs[1][frame] - runs[0][frame]).abs().mean() < 0.05 * scale
    assert any(not torch.equal(runs[0][frame], runs[1][frame]) for frame in runs[0])


HEAVY = ("image_encoder.", "memory_attention.", "memory_encoder.", "memory_prompt_generator.", "obj_ptr_tpos_proj")
# Their sensitive parts, see `full_precision`: the trunk's transformers, and all of TFI but the temporal networks.
SENSITIVE = re.compile(r"image_encoder\.(trunk_image\.(layers\.[123]|neck)|trunk_video\.(?!temporal_nets))")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("precision", "surrounding", "expected"),
    [
        (None, None, torch.float32),
        (None, torch.bfloat16, torch.bfloat16),  # the published README's snippet
        (None, torch.float16, torch.float16),
        ("fp32", torch.bfloat16, torch.float32),
        ("bf16", None, torch.bfloat16),
        ("fp16", torch.bfloat16, torch.float16),
    ],
)
def test_each_layer_computes_in_the_wanted_precision(precision, surrounding, expected, make_tiny_predictor, tiny_video) -> None:
    """Set for the predictor, or by the caller's autocast; the decoder never leaves float32."""
    predictor = make_tiny_predictor(f"predictor.precision={precision or 'null'}", "model/memory_selector=greedy")
    seen: defaultdict[str, set[torch.dtype]] = defaultdict(set)
    for name, module in predictor.model.named_modules():
        if isinstance(module, nn.Linear | nn.Conv2d | nn.ConvTranspose2d):
            module.register_forward_hook(lambda module, inputs, output, name=name: seen[name].add(output.dtype))
    with torch.inference_mode(), torch.autocast("cpu", surrounding, enabled=surrounding is not None):
        state = start(predictor, tiny_video)
        frames = track(predictor, state)
        predictor.add_new_points_or_box(state, 3, 1, [[30, 30]], [0])
        predictor.add_new_mask(state, 4, 2, np.ones(tiny_video.shape[1:3], bool))
    assert all(frame.dtype == torch.float32 for frame in frames.values())
    heavy = {name: dtypes for name, dtypes in seen.items() if name.startswith(HEAVY) and not SENSITIVE.match(name)}
    light = {name: dtypes for name, dtypes in seen.items() if not name.startswith(HEAVY)}
    assert heavy and light
    assert {name: dtypes for name, dtypes in heavy.items() if dtypes != {expected}} == {}
    assert {name: dtypes for name, dtypes in light.items() if dtypes != {torch.float32}} == {}


@pytest.mark.slow
def test_given_masks_are_returned_unchanged(make_tiny_predictor, tiny_video) -> None:
    cord = np.zeros(tiny_video.shape[1:3], bool)
    cord[::7] = True  # thinner than a cell of the network's masks
    keeping, losing = make_tiny_predictor("+predictor.keep_given_masks=true"), make_tiny_predictor()
    for predictor, same in ((keeping, True), (losing, False)):
        state = predictor.init_state(tiny_video)
        _, _, masks = predictor.add_new_mask(state, 0, 1, cord)
        assert np.array_equal(masks[0, 0].numpy() > 0, cord) == same
        tracked = track(predictor, state)
        assert np.array_equal(tracked[0][0, 0].numpy() > 0, cord) == same
    # The memory, and what follows from it, are the same.
    states = [predictor.init_state(tiny_video) for predictor in (keeping, losing)]
    for predictor, state in zip((keeping, losing), states, strict=True):
        predictor.add_new_mask(state, 0, 1, cord)
    first, second = (track(p, s) for p, s in zip((keeping, losing), states, strict=True))
    assert torch.equal(first[3], second[3])
    # A click replaces the mask.
    clicked = [p.add_new_points_or_box(s, 0, 1, [[20, 20]], [1])[2] for p, s in zip((keeping, losing), states, strict=True)]
    assert torch.equal(*clicked)


@pytest.mark.slow
@pytest.mark.parametrize("with_memory", [True, False])
def test_corrections_with_and_without_memory(with_memory: bool, make_tiny_predictor, tiny_video, monkeypatch) -> None:
    predictor = make_tiny_predictor(f"+predictor.correct_with_memory={str(with_memory).lower()}")
    state = start(predictor, tiny_video)
    track(predictor, state)
    seen, condition = [], predictor.model.condition
    monkeypatch.setattr(predictor.model, "condition", lambda x, memory: seen.append(memory) or condition(x, memory))
    predictor.add_new_points_or_box(state, 3, 1, [[30, 30]], [0])
    assert [memory is not None for memory in seen] == [with_memory]


@pytest.mark.slow
@pytest.mark.parametrize(("capability", "warns"), [("AVX2", True), ("AVX512", False)])
def test_a_cpu_that_emulates_bfloat16_is_worth_a_warning(capability, warns, make_tiny_predictor, monkeypatch, caplog) -> None:
    monkeypatch.setattr("torch.backends.cpu.get_cpu_capability", lambda: capability)
    make_tiny_predictor("predictor.precision=bf16")
    assert ("bf16 is many times slower than fp32 on this CPU" in caplog.text) == warns
