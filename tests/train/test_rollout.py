"""The network unrolled over clips: how clips are prompted, what is remembered, and what is learned."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import pytest
import torch

from i2v.modeling.memory.selector import History, MemoryPlan
from i2v.modeling.sam_i2v import SAMI2V
from tests.train.helpers import SIZE
from train.losses import ClipLoss
from train.model.rollout import ClipRollout, PromptedFrame, PromptPlan, PromptSampling


def make_clips(num_frames: int, num_clips: int = 2) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Noise with three discs, two of them in the first clip: frames, masks and clip of each object."""
    generator = torch.Generator().manual_seed(0)
    frames = torch.randn(num_clips, num_frames, 3, SIZE, SIZE, generator=generator)
    y, x = torch.meshgrid(torch.arange(SIZE), torch.arange(SIZE), indexing="ij")
    centres = [(20, 20), (40, 44), (30, 24)][: num_clips + 1]
    masks = torch.stack(
        [torch.stack([(x - cx - t) ** 2 + (y - cy) ** 2 < 100 for t in range(num_frames)]) for cx, cy in centres]
    )
    video = torch.tensor([0, 0, 1][: len(centres)])
    for member, clip in enumerate(video):
        frames[clip] += 2 * masks[member, :, None]
    return frames, masks, video


def run(rollout: ClipRollout, plan: PromptPlan, num_frames: int = 3, seed: int = 0) -> list[PromptedFrame]:
    return rollout(*make_clips(num_frames), torch.Generator().manual_seed(seed), plan)


def test_plans_of_clips() -> None:
    generator = torch.Generator().manual_seed(0)
    plans = [PromptSampling().sample(8, generator) for _ in range(4000)]
    first = Counter(plan.first[0] for plan in plans)
    assert first["mask"] / 4000 == pytest.approx(0.5, abs=0.03)
    assert first["click"] / 4000 == pytest.approx(0.25, abs=0.03)
    assert first["box"] / 4000 == pytest.approx(0.25, abs=0.03)
    for plan in plans:
        assert next(iter(plan.first)) == 0
        if plan.first[0] == "mask":
            assert set(plan.first.values()) == {"mask"}
            assert plan.corrected == {}
        else:
            assert "mask" not in plan.first.values()
            assert plan.first.keys() <= set(plan.corrected)
            assert set(plan.corrected.values()) == {7}
    by_mask = [plan for plan in plans if not plan.corrected]
    by_click = [plan for plan in plans if plan.corrected]
    assert Counter(len(plan.first) for plan in by_mask)[2] / len(by_mask) == pytest.approx(0.5, abs=0.05)
    kinds = Counter((len(plan.first), len(plan.corrected)) for plan in by_click)
    # One frame or two are prompted; of one, one frame or two are corrected.
    shares = {kind: count / len(by_click) for kind, count in kinds.items()}
    assert shares == pytest.approx({(1, 1): 0.25, (1, 2): 0.25, (2, 2): 0.5}, abs=0.05)
    second = Counter(frame for plan in plans for frame in plan.first if frame)
    assert second.keys() == set(range(1, 8))
    assert min(second.values()) > 0.7 * max(second.values())


def test_plans_of_images_and_short_clips() -> None:
    generator = torch.Generator().manual_seed(0)
    plans = [PromptSampling().sample(1, generator) for _ in range(1000)]
    assert all(plan.corrected == {0: 7} for plan in plans)
    assert Counter(plan.first[0] for plan in plans)["box"] / 1000 == pytest.approx(0.5, abs=0.06)
    assert {plan.first[0] for plan in plans} == {"box", "click"}
    assert all(len(PromptSampling().sample(2, generator).first) <= 2 for _ in range(50))
    many = PromptSampling(mask=0, max_prompted_frames=3, max_corrected_frames=6)
    plans = [many.sample(8, generator) for _ in range(300)]
    assert max(len(plan.corrected) for plan in plans) == 6
    assert all(plan.first.keys() <= set(plan.corrected) for plan in plans)


@pytest.mark.slow
def test_plans_of_corrections() -> None:
    generator = torch.Generator().manual_seed(0)
    sampling = PromptSampling(
        correction_clicks=3, fewest_correction_clicks=1, corrected_tracking=0.5, corrected_masks=0.25, forgetful=0.5
    )
    plans = [sampling.sample(8, generator) for _ in range(4000)]
    numbers = Counter(count for plan in plans for count in plan.corrected.values())
    assert numbers.keys() == {1, 2, 3}
    assert min(numbers.values()) > 0.9 * max(numbers.values())
    by_mask = [plan for plan in plans if plan.first[0] == "mask"]
    share = {
        "given": sum(plan.first.keys() <= plan.corrected.keys() for plan in by_mask) / len(by_mask),
        "tracked": sum(bool(plan.corrected.keys() - plan.first.keys()) for plan in by_mask) / len(by_mask),
        "forgetful": sum(plan.forgetful for plan in plans) / len(plans),
    }
    assert share == pytest.approx({"given": 0.25, "tracked": 0.5, "forgetful": 0.25}, abs=0.03)
    rough = [PromptSampling(rough_masks=0.3).sample(1, generator).first[0] for _ in range(2000)]
    assert rough.count("rough") / 2000 == pytest.approx(0.3, abs=0.03)


@pytest.mark.slow
def test_masks_are_corrected(make_model: Callable[..., SAMI2V]) -> None:
    rollout = ClipRollout(make_model(), PromptSampling())
    with torch.no_grad():
        given = run(rollout, PromptPlan({0: "mask"}, {0: 2, 1: 1}))
        [rough] = run(rollout, PromptPlan({0: "rough"}, {0: 3}), num_frames=1)
    assert [len(frame.predictions) for frame in given] == [3, 2, 1]
    assert [frame.points.shape[1] for frame in given[:2]] == [2, 1]
    assert len(rough.predictions) == 3  # the rough mask itself is not the network's
    # The last correction is remembered, not the mask that was given.
    with torch.no_grad():
        as_given = run(rollout, PromptPlan({0: "mask"}))
    assert not torch.allclose(given[2].predictions[0].masks, as_given[2].predictions[0].masks, atol=1e-3)


@pytest.mark.slow
def test_forgetful_corrections_do_not_look_at_the_memory(make_model: Callable[..., SAMI2V]) -> None:
    model, calls = make_model(), []
    condition = model.condition
    model.condition = lambda features, memory, batch=1: calls.append(memory is None) or condition(features, memory, batch)
    with torch.no_grad():
        run(ClipRollout(model, PromptSampling()), PromptPlan({0: "mask"}, {1: 2}, forgetful=True))
    assert calls == [True, False, True, False]  # the given mask; tracking, then corrections in frame 1; frame 2


@pytest.mark.slow
def test_selected_memory_is_that_of_inference(make_model: Callable[..., SAMI2V]) -> None:
    model, plans = make_model(), {}
    plan = model.memory_selector.plan

    def spy(time: int, history: History) -> MemoryPlan:
        plans[time] = plan(time, history)
        return plans[time]

    model.memory_selector.plan = spy
    with torch.no_grad():
        run(ClipRollout(model, PromptSampling()), PromptPlan({0: "mask"}, selected_memory=True), num_frames=8)
    assert list(plans) == list(range(1, 8))
    last = plans[7]
    assert [memory.position for memory in last.memories] == [0, 1, 2, 5, 6]  # the global pool has frames 1 and 2
    assert [memory.time for memory in last.memories[:3]] == [0, 1, 2]
    assert {memory.time for memory in last.memories[3:]} <= {3, 4, 5, 6}


@pytest.mark.slow
def test_rounds_of_clicks(make_model: Callable[..., SAMI2V]) -> None:
    rollout = ClipRollout(make_model(), PromptSampling(correction_clicks=7))
    with torch.no_grad():
        frames = run(rollout, PromptPlan({0: "click", 2: "box"}, {0: 7, 1: 7, 2: 7}), num_frames=4)
    assert [len(frame.predictions) for frame in frames] == [8, 8, 8, 1]
    assert [None if frame.points is None else frame.points.shape[1] for frame in frames] == [8, 7, 9, None]
    assert frames[2].labels[:, :2].tolist() == [[2, 3]] * 3
    assert frames[0].labels[:, 0].tolist() == [1, 1, 1]
    # Several masks for a single click and without prompts, one for more clicks and for boxes.
    assert [[p.all_masks.shape[1] for p in frame.predictions[:2]] for frame in frames] == [[3, 1], [3, 3], [1, 1], [3]]
    with torch.no_grad():
        by_mask = run(rollout, PromptPlan({0: "mask"}))
    assert [len(frame.predictions) for frame in by_mask] == [1, 1, 1]
    masks = make_clips(3)[1]
    assert torch.equal(by_mask[0].predictions[0].all_masks[:, 0] > 0, masks[:, 0])


@pytest.mark.slow
def test_correction_clicks_are_on_errors(make_model: Callable[..., SAMI2V]) -> None:
    masks = make_clips(1)[1][:, 0]

    def clicks_on_errors(ground_truth_clicks: float) -> list[bool]:
        prompts = PromptSampling(correction_clicks=4, ground_truth_clicks=ground_truth_clicks)
        rollout, wrong = ClipRollout(make_model(), prompts), []
        for seed in range(4):
            with torch.no_grad():
                [frame] = run(rollout, PromptPlan({0: "click"}, {0: 4}), num_frames=1, seed=seed)
            for number, prediction in enumerate(frame.predictions[:-1], start=1):
                shown = rollout.model.upsample(prediction.masks)[:, 0] > 0
                x, y = frame.points[:, number].long().unbind(1)
                members = torch.arange(len(masks))
                wrong += (shown[members, y, x] != masks[members, y, x]).tolist()
        return wrong

    assert all(clicks_on_errors(0))
    assert not all(clicks_on_errors(1))


def remembered(model: SAMI2V, plan: PromptPlan, num_frames: int) -> dict[int, MemoryPlan]:
    """What is used from the memory in each frame, in the order in which the frames are processed."""
    rollout = ClipRollout(model, PromptSampling(correction_clicks=1))
    plans, selector = {}, rollout.memory_selector.plan

    def spy(time: int, history: History) -> MemoryPlan:
        plans[time] = selector(time, history)
        return plans[time]

    rollout.memory_selector.plan = spy
    with torch.no_grad():
        run(rollout, plan, num_frames)
    return plans


@pytest.mark.slow
def test_memory(make_model: Callable[..., SAMI2V]) -> None:
    plans = remembered(make_model(), PromptPlan({0: "click", 5: "click"}, {0: 1, 3: 1, 5: 1}), num_frames=8)
    assert list(plans) == [1, 2, 3, 4, 6, 7]  # the prompted ones are first, and remember nothing
    expected = {
        # frame: memories and their temporal positions; pointers and how many frames ago
        1: ({0: 0, 5: 0}, {0: 1, 5: -4}),
        2: ({0: 0, 5: 0, 1: 6}, {0: 2, 5: -3, 1: 1}),
        3: ({0: 0, 5: 0, 1: 5, 2: 6}, {0: 3, 5: -2, 2: 1, 1: 2}),
        4: ({0: 0, 3: 0, 5: 0, 1: 4, 2: 5}, {0: 4, 3: 1, 5: -1, 2: 2, 1: 3}),  # 3 was corrected
        6: ({0: 0, 3: 0, 5: 0, 1: 2, 2: 3, 4: 5}, {0: 6, 3: 3, 5: 1, 4: 2, 2: 4, 1: 5}),
        7: ({0: 0, 3: 0, 5: 0, 1: 1, 2: 2, 4: 4, 6: 6}, {0: 7, 3: 4, 5: 2, 6: 1, 4: 3, 2: 5, 1: 6}),
    }
    for time, (memories, pointers) in expected.items():
        plan = plans[time]
        assert {memory.time: memory.position for memory in plan.memories} == memories
        assert all(memory.repeats == 1 for memory in plan.memories)
        assert {p.time: p.distance * 7 for p in plan.pointers} == pytest.approx(pointers)


@pytest.mark.slow
def test_memory_reaches_six_frames_back(make_model: Callable[..., SAMI2V]) -> None:
    last = remembered(make_model(), PromptPlan({0: "mask"}), num_frames=20)[19]
    assert {memory.time: memory.position for memory in last.memories} == {0: 0, **{13 + p: p for p in range(6)}} | {
        13: 1, 14: 2, 15: 3, 16: 4, 17: 5, 18: 6
    }  # fmt: skip
    assert [pointer.time for pointer in last.pointers] == [0, *range(18, 3, -1)]
    assert last.pointers[0].distance == pytest.approx(19 / 15)


@pytest.mark.slow
def test_each_object_as_if_it_were_alone(make_model: Callable[..., SAMI2V]) -> None:
    rollout = ClipRollout(make_model(), PromptSampling())
    plan = PromptPlan({0: "mask", 2: "mask"})
    frames, masks, video = make_clips(4)
    with torch.no_grad():
        together = rollout(frames, masks, video, torch.Generator(), plan)
        for member, clip in enumerate(video.tolist()):
            one = rollout(frames[clip : clip + 1], masks[member : member + 1], torch.zeros(1).long(), torch.Generator(), plan)
            for a, b in zip(together, one, strict=True):
                for name in ("masks", "all_masks", "ious", "pointers", "object_score_logits"):
                    batch, alone = getattr(a.predictions[0], name), getattr(b.predictions[0], name)
                    assert torch.allclose(batch[member], alone[0], atol=1e-4), name
    # The memory matters, so that the comparison means something.
    assert not torch.allclose(together[3].predictions[0].masks[0], together[3].predictions[0].masks[1], atol=0.1)


@pytest.mark.slow
def test_later_frames_depend_on_the_prompt(make_model: Callable[..., SAMI2V]) -> None:
    rollout = ClipRollout(make_model(), PromptSampling())
    frames, masks, video = make_clips(3)
    with torch.no_grad():
        a = rollout(frames, masks, video, torch.Generator(), PromptPlan({0: "mask"}))
        b = rollout(frames, masks.flip(-1), video, torch.Generator(), PromptPlan({0: "mask"}))
    assert not torch.allclose(a[2].predictions[0].masks, b[2].predictions[0].masks, atol=1e-2)


def gradients_of(rollout: ClipRollout, plan: PromptPlan, num_frames: int = 4, empty: bool = False) -> dict[str, torch.Tensor]:
    """The gradients of the loss; `empty`: the first object is absent in the first frame."""
    frames, masks, video = make_clips(num_frames)
    masks[0, 0] &= not empty
    rollout.zero_grad()
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(1)  # of dropout
        results = rollout(frames, masks, video, torch.Generator().manual_seed(0), plan)
        ClipLoss()([frame.predictions for frame in results], masks, 3)["total"].backward()
    return {name: p.grad.clone() for name, p in rollout.named_parameters() if p.grad is not None}


@pytest.mark.slow
def test_gradients_reach_every_trained_parameter(make_model: Callable[..., SAMI2V]) -> None:
    rollout = ClipRollout(make_model(), PromptSampling(correction_clicks=2)).train()
    plans = {
        "mask": PromptPlan({0: "mask"}),
        "click": PromptPlan({0: "click"}, {0: 2, 2: 2}),
        "box": PromptPlan({0: "box", 2: "click"}, {0: 2, 2: 2}),
    }
    reached = set()
    for name, plan in plans.items():
        gradients = gradients_of(rollout, plan, empty=name == "mask")
        assert all(gradient.isfinite().all() for gradient in gradients.values())
        reached |= {parameter for parameter, gradient in gradients.items() if gradient.abs().sum() > 0}
    assert {name for name, p in rollout.named_parameters() if p.requires_grad} - reached == set()


@pytest.mark.slow
def test_random_numbers_are_the_generators_own(make_model: Callable[..., SAMI2V]) -> None:
    rollout = ClipRollout(make_model(), PromptSampling(mask=0, correction_clicks=2))
    clips = make_clips(3)
    before = torch.get_rng_state()
    with torch.no_grad():
        runs = [rollout(*clips, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)]
    assert torch.equal(before, torch.get_rng_state())
    points = [[frame.points for frame in result if frame.points is not None] for result in runs]
    assert all(torch.equal(a, b) for a, b in zip(points[0], points[1], strict=True))
    assert len(points[0]) != len(points[2]) or not torch.equal(points[0][0], points[2][0])
