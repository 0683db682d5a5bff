"""Which frames are remembered: the rules of design.md, on plain numbers."""

from __future__ import annotations

from collections import Counter

import pytest
import torch

from i2v.modeling.memory.selector import MemoryPlan, MemorySelector


def similar_to(times: list[int]):
    """A similarity that prefers the given times, the first most."""
    return lambda pool: torch.tensor([1.0 - 0.1 * times.index(t) if t in times else -1.0 for t in pool])


def memories(plan: MemoryPlan) -> list[tuple[int, int, int]]:
    return [(memory.time, memory.position, memory.repeats) for memory in plan.memories]


def pointers(plan: MemoryPlan) -> list[tuple[int, float, int]]:
    return [(pointer.time, pointer.distance, pointer.repeats) for pointer in plan.pointers]


def test_greedy_takes_the_most_similar_of_both_pools() -> None:
    plan = MemorySelector("greedy").plan(30, [0], range(1, 30), similar_to([12, 25, 20, 11, 10, 26, 29]))
    # Global pool [10, 25], local pool [26, 29]; in the order of time, global ones from position 1, local ones from 5.
    assert memories(plan) == [(0, 0, 1), (11, 1, 1), (12, 2, 1), (20, 3, 1), (25, 4, 1), (26, 5, 1), (29, 6, 1)]
    assert pointers(plan) == [(t, (7 - p) / 7, 1) for t, p, _ in memories(plan)]


def test_short_memory_is_filled_with_the_first_conditioning_frame() -> None:
    plan = MemorySelector("greedy").plan(6, [2, 4], {5})
    assert memories(plan) == [(2, 0, 5), (4, 0, 1), (5, 5, 1)]  # min(6 - 1, 6) = 5 tracked entries, one was found
    assert pointers(plan) == [(2, 1.0, 5), (4, 1.0, 1), (5, 1 / 6, 1)]


def test_few_frames_have_negative_distances_as_published() -> None:
    assert pointers(MemorySelector("greedy").plan(3, [0], {1, 2})) == [(0, 1.0, 1), (1, -2 / 3, 1), (2, -1.0, 1)]


def test_later_conditioning_frames_have_no_pointer() -> None:
    plan = MemorySelector("greedy").plan(3, [5, 1], {2})
    assert [memory.time for memory in plan.memories] == [1, 5, 2]
    assert [pointer.time for pointer in plan.pointers] == [1, 2]
    assert MemorySelector("greedy").plan(0, [5], set()).pointers == ()


def test_consecutive_is_the_memory_of_sam_2() -> None:
    plan = MemorySelector("consecutive").plan(30, [0], range(1, 30))
    assert memories(plan) == [(0, 0, 1)] + [(t, t - 23, 1) for t in range(24, 30)]
    assert pointers(plan) == [(0, 2.0, 1)] + [(t, (30 - t) / 15, 1) for t in range(29, 14, -1)]
    assert memories(MemorySelector("consecutive").plan(3, [0], {1, 2})) == [(0, 0, 1), (1, 5, 1), (2, 6, 1)]


def test_stride_of_sam_2() -> None:
    selector = MemorySelector("consecutive", memory_temporal_stride_for_eval=3)
    # The last frame, and multiples of 3 before it; the older, the smaller the position.
    assert memories(selector.plan(31, [0], range(1, 31))) == [(0, 0, 1)] + [
        (t, position, 1) for position, t in enumerate((15, 18, 21, 24, 27, 30), 1)
    ]
    assert [t for t, *_ in memories(selector.plan(33, [0], range(1, 33)))] == [0, 18, 21, 24, 27, 30, 32]
    assert memories(selector.plan(5, [0], {2, 3, 4})) == [(0, 0, 1), (3, 5, 1), (4, 6, 1)]
    assert selector.reach == 18 and selector.look_back == 18


@pytest.mark.parametrize("mode", ["greedy", "consecutive"])
def test_the_nearest_conditioning_frames(mode: str) -> None:
    prompted = [0, 3, 20, 26, 40, 60]
    selector = MemorySelector(mode, max_cond_frames_in_attn=3)
    plan = selector.plan(30, prompted, {29}, similar_to([20]))
    # The nearest one before, the nearest one after, and the nearest of the rest. Others count as tracked frames where in reach.
    assert [(t, position) for t, position, _ in memories(plan)][:3] == [(20, 0), (26, 0), (40, 0)]
    assert [t for t, position, _ in memories(plan) if position] == [29]
    plan = MemorySelector(mode, max_cond_frames_in_attn=2).plan(24, [0, 19, 22, 26], {23}, similar_to([]))
    assert [t for t, position, _ in memories(plan) if not position] == [22, 26]
    assert [t for t, position, _ in memories(plan) if position] == [19, 23]
    # A frame that is prompted itself is the nearest one at or after.
    plan = MemorySelector(mode, max_cond_frames_in_attn=2).plan(26, [0, 22, 26, 27], set(), similar_to([]))
    assert [t for t, position, _ in memories(plan) if not position] == [22, 26]
    assert MemorySelector(mode, max_cond_frames_in_attn=6).plan(30, prompted, {29}) == MemorySelector(mode).plan(
        30, prompted, {29}
    )


def test_sample_repeats_with_its_seed_and_leaves_the_global_generator_alone() -> None:
    selector = MemorySelector("sample")

    def draw(seed: int) -> MemoryPlan:
        return selector.plan(40, [0], range(1, 40), lambda pool: torch.zeros(len(pool)), seed)

    before = torch.get_rng_state()
    assert draw(3) == draw(3)
    assert len({draw(seed) for seed in range(20)}) > 10
    assert torch.equal(torch.get_rng_state(), before)


def test_sample_draws_with_the_softmax_of_the_similarity() -> None:
    selector = MemorySelector("sample", num_global=0, num_local=1, local_reach=3, global_reach=3)
    similarity = torch.tensor([0.0, 1.0, -1.0])
    runs = 4000
    drawn = Counter(selector.plan(10, [0], {7, 8, 9}, lambda pool: similarity, seed).memories[-1].time for seed in range(runs))
    share = torch.tensor([drawn[t] / runs for t in (7, 8, 9)])
    torch.testing.assert_close(share, similarity.softmax(0), atol=0.03, rtol=0)


def test_uniform_ignores_the_similarity() -> None:
    selector = MemorySelector("uniform", num_global=0, num_local=1, local_reach=4)
    drawn = Counter(selector.plan(10, [0], {6, 7, 8, 9}, None, seed).memories[-1].time for seed in range(2000))
    assert all(abs(drawn[t] / 2000 - 0.25) < 0.05 for t in (6, 7, 8, 9))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"mode": "best"}, "unknown memory selection mode 'best'; known: sample, greedy, uniform, consecutive"),
        ({"num_global": 0, "num_local": 0}, "must not be negative and not both zero"),
        ({"local_reach": 30}, "local_reach=30 <= global_reach=20"),
    ],
)
def test_impossible_settings(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MemorySelector(**arguments)
