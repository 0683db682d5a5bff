"""Which frames are remembered: the rules of design.md, on plain numbers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import pytest
import torch

from i2v.modeling.memory.selector import (
    ConsecutiveSelector,
    EvenlySpacedSelector,
    GreedySelector,
    History,
    MemoryPlan,
    MemorySelector,
    PlannedMemory,
    PlannedPointer,
    SampledSelector,
    UniformSelector,
)


def similar_to(times: list[int]):
    """A similarity that prefers the given times, the first most."""
    return lambda pool: torch.tensor([1.0 - 0.1 * times.index(t) if t in times else -1.0 for t in pool])


def memories(plan: MemoryPlan) -> list[tuple[int, int, int]]:
    return [(memory.time, memory.position, memory.repeats) for memory in plan.memories]


def pointers(plan: MemoryPlan) -> list[tuple[int, float, int]]:
    return [(pointer.time, pointer.distance, pointer.repeats) for pointer in plan.pointers]


def test_greedy_takes_the_most_similar_of_both_pools() -> None:
    plan = GreedySelector().plan(30, History([0], range(1, 30), similar_to([12, 25, 20, 11, 10, 26, 29])))
    # Global pool [10, 25], local pool [26, 29]; in the order of time, global ones from position 1, local ones from 5.
    assert memories(plan) == [(0, 0, 1), (11, 1, 1), (12, 2, 1), (20, 3, 1), (25, 4, 1), (26, 5, 1), (29, 6, 1)]
    assert pointers(plan) == [(t, (7 - p) / 7, 1) for t, p, _ in memories(plan)]


def test_short_memory_is_filled_with_the_first_conditioning_frame() -> None:
    plan = GreedySelector().plan(6, History([2, 4], {5}))
    assert memories(plan) == [(2, 0, 5), (4, 0, 1), (5, 5, 1)]  # min(6 - 1, 6) = 5 tracked entries, one was found
    assert pointers(plan) == [(2, 1.0, 5), (4, 1.0, 1), (5, 1 / 6, 1)]


def test_few_frames_have_negative_distances_as_published() -> None:
    assert pointers(GreedySelector().plan(3, History([0], {1, 2}))) == [(0, 1.0, 1), (1, -2 / 3, 1), (2, -1.0, 1)]


def test_later_conditioning_frames_have_no_pointer() -> None:
    plan = GreedySelector().plan(3, History([5, 1], {2}))
    assert [memory.time for memory in plan.memories] == [1, 5, 2]
    assert [pointer.time for pointer in plan.pointers] == [1, 2]
    assert GreedySelector().plan(0, History([5], set())).pointers == ()


def test_consecutive_is_the_memory_of_sam_2() -> None:
    plan = ConsecutiveSelector().plan(30, History([0], range(1, 30)))
    assert memories(plan) == [(0, 0, 1)] + [(t, t - 23, 1) for t in range(24, 30)]
    assert pointers(plan) == [(0, 2.0, 1)] + [(t, (30 - t) / 15, 1) for t in range(29, 14, -1)]
    assert memories(ConsecutiveSelector().plan(3, History([0], {1, 2}))) == [(0, 0, 1), (1, 5, 1), (2, 6, 1)]


def test_stride_of_sam_2() -> None:
    selector = ConsecutiveSelector(memory_temporal_stride_for_eval=3)
    # The last frame, and multiples of 3 before it; the older, the smaller the position.
    assert memories(selector.plan(31, History([0], range(1, 31)))) == [(0, 0, 1)] + [
        (t, position, 1) for position, t in enumerate((15, 18, 21, 24, 27, 30), 1)
    ]
    assert [t for t, *_ in memories(selector.plan(33, History([0], range(1, 33))))] == [0, 18, 21, 24, 27, 30, 32]
    assert memories(selector.plan(5, History([0], {2, 3, 4}))) == [(0, 0, 1), (3, 5, 1), (4, 6, 1)]
    assert selector.reach == 18 and selector.look_back == 18


@pytest.mark.parametrize("kind", [GreedySelector, ConsecutiveSelector])
def test_the_nearest_conditioning_frames(kind: type[MemorySelector]) -> None:
    prompted = [0, 3, 20, 26, 40, 60]
    history = History(prompted, {29}, similar_to([20]))
    plan = kind(max_cond_frames_in_attn=3).plan(30, history)
    # The nearest one before, the nearest one after, and the nearest of the rest. Others count as tracked frames where in reach.
    assert [(t, position) for t, position, _ in memories(plan)][:3] == [(20, 0), (26, 0), (40, 0)]
    assert [t for t, position, _ in memories(plan) if position] == [29]
    plan = kind(max_cond_frames_in_attn=2).plan(24, History([0, 19, 22, 26], {23}, similar_to([])))
    assert [t for t, position, _ in memories(plan) if not position] == [22, 26]
    assert [t for t, position, _ in memories(plan) if position] == [19, 23]
    # A frame that is prompted itself is the nearest one at or after.
    plan = kind(max_cond_frames_in_attn=2).plan(26, History([0, 22, 26, 27], set(), similar_to([])))
    assert [t for t, position, _ in memories(plan) if not position] == [22, 26]
    assert kind(max_cond_frames_in_attn=6).plan(30, history) == kind().plan(30, history)


def test_sample_repeats_with_its_seed_and_leaves_the_global_generator_alone() -> None:
    selector = SampledSelector()

    def sample(seed: int) -> MemoryPlan:
        return selector.plan(40, History([0], range(1, 40), lambda pool: torch.zeros(len(pool)), seed))

    before = torch.get_rng_state()
    assert sample(3) == sample(3)
    assert len({sample(seed) for seed in range(20)}) > 10
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.slow
def test_sample_draws_with_the_softmax_of_the_similarity() -> None:
    selector = SampledSelector(num_global=0, num_local=1, local_reach=3, global_reach=3)
    similarity = torch.tensor([0.0, 1.0, -1.0])
    runs = 4000
    histories = (History([0], {7, 8, 9}, lambda pool: similarity, seed) for seed in range(runs))
    drawn = Counter(selector.plan(10, history).memories[-1].time for history in histories)
    share = torch.tensor([drawn[t] / runs for t in (7, 8, 9)])
    torch.testing.assert_close(share, similarity.softmax(0), atol=0.03, rtol=0)


def test_uniform_ignores_the_similarity() -> None:
    selector = UniformSelector(num_global=0, num_local=1, local_reach=4)
    drawn = Counter(selector.plan(10, History([0], {6, 7, 8, 9}, None, seed)).memories[-1].time for seed in range(2000))
    assert all(abs(drawn[t] / 2000 - 0.25) < 0.05 for t in (6, 7, 8, 9))


def test_evenly_spaced_frames_of_both_pools() -> None:
    plan = EvenlySpacedSelector().plan(30, History([0], range(1, 30)))
    assert [t for t, position, _ in memories(plan) if position] == [10, 15, 20, 25, 26, 29]
    plan = EvenlySpacedSelector(num_global=1, num_local=1).plan(30, History([0], range(1, 30)))
    assert [t for t, position, _ in memories(plan) if position] == [25, 29]
    # With frames missing, what is left is spaced evenly.
    plan = EvenlySpacedSelector(num_global=3, num_local=1).plan(30, History([0], {10, 11, 12, 13, 25}))
    assert [t for t, position, _ in memories(plan) if position] == [10, 12, 25]


def test_training_uses_sam_2s_memory() -> None:
    selector = SampledSelector(3, 2, max_cond_frames_in_attn=4).for_training()
    assert isinstance(selector, ConsecutiveSelector)
    assert (selector.num_tracked, selector.max_pointers, selector.max_cond_frames_in_attn) == (5, 16, 4)
    # Conditioning frames after the current one have pointers, at negative distances.
    assert pointers(selector.plan(2, History([0, 5], {1}, num_frames=8))) == [(0, 2 / 7, 1), (5, -3 / 7, 1), (1, 1 / 7, 1)]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SampledSelector(num_global=0, num_local=0), "must not be negative and not both zero"),
        (lambda: GreedySelector(local_reach=30), "local_reach=30 <= global_reach=20"),
        # Rows of Table 5 whose local frames do not fit into the pool of the released model.
        (
            lambda: SampledSelector(1, 5),
            "num_local=5 frames cannot be chosen from a local pool of local_reach=4: raise local_reach",
        ),
        (lambda: SampledSelector(0, 6), "num_local=6 frames cannot be chosen"),
        (lambda: EvenlySpacedSelector(17, 0), r"num_global=17 frames .* pool of 16 \(global_reach=20 - local_reach=4\)"),
        (lambda: ConsecutiveSelector(max_pointers=0), "max_pointers must be at least 1, not 0"),
        (lambda: ConsecutiveSelector(0), "num_tracked must be at least 1, not 0"),
        (lambda: ConsecutiveSelector(memory_temporal_stride_for_eval=0), "memory_temporal_stride_for_eval must be at least 1"),
        (lambda: GreedySelector(max_cond_frames_in_attn=1), "max_cond_frames_in_attn must be at least 2, or -1 for all, not 1"),
        (lambda: GreedySelector().plan(30, History([0], range(30))), "compares frames, so the history needs `similarity`"),
    ],
)
def test_impossible_settings(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_a_selector_that_chooses_wrong_frames_is_named() -> None:
    class Everything(GreedySelector):
        def choose(self, time: int, pool: list[int], count: int, history: History) -> list[int]:
            return pool

    with pytest.raises(ValueError, match=r"Everything.choose must return 4 different frames of \[10, 11, "):
        Everything().plan(30, History([0], range(30)))


@pytest.mark.parametrize(
    ("plan", "message"),
    [
        (MemoryPlan((PlannedMemory(0, 7),), ()), "Planned.select gave the temporal position 7 beyond num_tracked=6"),
        (MemoryPlan((PlannedMemory(31, 0),), ()), "Planned.select chose frame 31, which is neither prompted nor tracked"),
        (MemoryPlan((PlannedMemory(0, 0),), (PlannedPointer(40, 0.5),)), "Planned.select chose frame 40, which is neither"),
        (MemoryPlan((), ()), "Planned.select must return a MemoryPlan with at least one memory, not MemoryPlan"),
        ([0, 1], r"Planned.select must return a MemoryPlan with at least one memory, not \[0, 1\]"),
    ],
)
def test_a_selector_whose_plan_cannot_be_followed_is_named(plan: object, message: str) -> None:
    class Planned(ConsecutiveSelector):
        def select(self, time: int, history: History) -> MemoryPlan:
            return plan

    with pytest.raises(ValueError, match=message):
        Planned().plan(30, History([0], range(1, 30)))


def test_rows_of_table_5() -> None:
    for num_global, num_local in [(0, 6), (1, 5), (2, 4), (3, 3)]:
        selector = SampledSelector(num_global, num_local, local_reach=max(num_local, 4))
        plan = selector.plan(30, History([0], range(1, 30), lambda pool: torch.zeros(len(pool))))
        assert len(plan.memories) == 7
