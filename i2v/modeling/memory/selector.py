"""The Memory Selective Associator's choice (SAM-I2V, section 3.3): which frames an object remembers at a given time.

A selector is plain arithmetic over points in time. Time runs in the direction of tracking: for backward tracking the caller
counts from the end of the video, so a video tracked backward and its reverse tracked forward get the same plan.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

# Multiplies the seed, so that the random numbers of consecutive seeds and times do not coincide (the golden ratio in 32 bits).
_SEED_STEP = 0x9E3779B1


@dataclass(frozen=True)
class PlannedMemory:
    """A frame whose memory is used.

    Attributes:
        time (int): time of the frame.
        position (int): temporal position, which selects the memory's encoding; 0 for conditioning frames.
        repeats (int): how many times the frame counts in the attention.
    """

    time: int
    position: int
    repeats: int = 1


@dataclass(frozen=True)
class PlannedPointer:
    """A frame whose object pointer is used.

    Attributes:
        time (int): time of the frame.
        distance (float): distance in time to the current frame, relative to the largest distance that is encoded.
        repeats (int): how many times the pointer counts in the attention.
    """

    time: int
    distance: float
    repeats: int = 1


@dataclass(frozen=True)
class MemoryPlan:
    """What an object remembers for one frame.

    Attributes:
        memories (tuple[PlannedMemory, ...]): the frames whose memories are used; at least one.
        pointers (tuple[PlannedPointer, ...]): the frames whose object pointers are used.
    """

    memories: tuple[PlannedMemory, ...]
    pointers: tuple[PlannedPointer, ...]

    @property
    def layout(self) -> tuple[tuple[tuple[int, int], ...], tuple[tuple[float, int], ...]]:
        """Everything but the frames: objects whose plans have the same layout can run as one batch."""
        memories = tuple((memory.position, memory.repeats) for memory in self.memories)
        return memories, tuple((pointer.distance, pointer.repeats) for pointer in self.pointers)


@dataclass(frozen=True)
class History:
    """What a selector knows about an object's past.

    Attributes:
        conditioning (Collection[int]): times of the prompted frames; at least one, which may be later than the current frame.
        tracked (Collection[int]): times of the frames that have a mask but no prompt.
        similarity (Callable[[Sequence[int]], Tensor] or None): returns the cosine similarity of the current frame to the
            frames at the given times, (N,) in [-1, 1]. Called only by selectors that compare frames.
        seed (int): seed for sampling. The sample at a given time depends only on the seed and the time, so runs are
            reproducible, and objects with the same history get the same frames.
        num_frames (int or None): number of frames of the video; None if unknown.
    """

    conditioning: Collection[int]
    tracked: Collection[int]
    similarity: Callable[[Sequence[int]], Tensor] | None = None
    seed: int = 0
    num_frames: int | None = None


class MemorySelector(ABC):
    """Decides which frames an object remembers. Subclass it to add a rule; docs/extending.md has an example.

    Args:
        max_pointers (int): number of frames, the current one included, whose object pointers `ConsecutiveSelector` uses. Live
            sessions keep the outputs of at least as many frames.
        max_cond_frames_in_attn (int): number of conditioning frames that are always remembered; -1 for all, or at least 2. As
            in SAM 2 these are the nearest one before the current frame, the nearest one at or after it, and the nearest of the
            rest. The others count as tracked frames.

    Raises:
        ValueError: an impossible number.
    """

    def __init__(self, max_pointers: int = 16, max_cond_frames_in_attn: int = -1) -> None:
        if max_cond_frames_in_attn != -1 and max_cond_frames_in_attn < 2:
            raise ValueError(f"max_cond_frames_in_attn must be at least 2, or -1 for all, not {max_cond_frames_in_attn}")
        if max_pointers < 1:
            raise ValueError(f"max_pointers must be at least 1, not {max_pointers}")
        self.max_pointers = max_pointers
        self.max_cond_frames_in_attn = max_cond_frames_in_attn

    @property
    @abstractmethod
    def num_tracked(self) -> int:
        """Largest number of tracked frames that are remembered; their temporal positions are 1 to `num_tracked`."""

    @property
    @abstractmethod
    def reach(self) -> int:
        """How far back a memory of a tracked frame can be used, in frames."""

    @property
    def look_back(self) -> int:
        """How far back a memory or an object pointer of a tracked frame can be used, in frames."""
        return max(self.reach, self.max_pointers)

    @property
    def frames_to_full_memory(self) -> int:
        """Number of frames, including the prompted one, after which an object remembers as many frames as it ever will."""
        return 1 + self.look_back

    @property
    def spacing(self) -> int:
        """Distance between two consecutive memories of tracked frames, in frames, at most."""
        return 1

    def plan(self, time: int, history: History) -> MemoryPlan:
        """Choose what to remember for the frame at `time`.

        Args:
            time (int): time of the current frame, at least 0.
            history (History): the object's past.

        Raises:
            ValueError: `select` returned something that cannot be a plan.
        """
        always, others = self._nearest(time, sorted(history.conditioning))
        history = replace(history, conditioning=always, tracked={*history.tracked, *others})
        plan = self.select(time, history)
        self._check(plan, history)
        return plan

    @abstractmethod
    def select(self, time: int, history: History) -> MemoryPlan:
        """Choose what to remember, when `plan` has decided about the conditioning frames.

        Args:
            time (int): time of the current frame, at least 0.
            history (History): the object's past; its `conditioning` frames are sorted, and all are to be remembered.
        """

    def for_training(self) -> MemorySelector:
        """Return the selector that is used in training, which by default is SAM 2's with the same number of frames."""
        most = self.max_cond_frames_in_attn
        return ConsecutiveSelector(self.num_tracked, self.max_pointers, max_cond_frames_in_attn=most, use_later_pointers=True)

    def _check(self, plan: MemoryPlan, history: History) -> None:
        """Raise a ValueError if a plan does not fit an object's past."""
        name = f"{type(self).__name__}.select"
        if not isinstance(plan, MemoryPlan) or not plan.memories:
            raise ValueError(f"{name} must return a MemoryPlan with at least one memory, not {plan}")
        for chosen in (*(memory.time for memory in plan.memories), *(pointer.time for pointer in plan.pointers)):
            if chosen not in history.conditioning and chosen not in history.tracked:
                raise ValueError(f"{name} chose frame {chosen}, which is neither prompted nor tracked")
        for memory in plan.memories:
            if not 0 <= memory.position <= self.num_tracked:
                raise ValueError(f"{name} gave the temporal position {memory.position} beyond num_tracked={self.num_tracked}")

    def _nearest(self, time: int, conditioning: list[int]) -> tuple[list[int], list[int]]:
        """Split sorted conditioning frames into those that are always remembered and the others, both sorted."""
        most = self.max_cond_frames_in_attn
        if most == -1 or len(conditioning) <= most:
            return conditioning, []
        before, after = [t for t in conditioning if t < time], [t for t in conditioning if t >= time]
        chosen = {*before[-1:], *after[:1]}
        rest = sorted(set(conditioning) - chosen, key=lambda t: abs(t - time))
        chosen |= {*rest[: most - len(chosen)]}
        return sorted(chosen), sorted(set(conditioning) - chosen)


class PoolSelector(MemorySelector):
    """Chooses frames from a local and a global pool of past frames; a subclass says how.

    Args:
        num_global (int): number of frames from the global pool.
        num_local (int): number of frames from the local pool.
        global_reach (int): the global pool has the frames at a distance of local_reach + 1 to global_reach.
        local_reach (int): the local pool has the frames at a distance of 1 to local_reach.
        max_pointers (int): see `MemorySelector`.
        max_cond_frames_in_attn (int): see `MemorySelector`.

    Raises:
        ValueError: numbers that do not fit together.
    """

    def __init__(
        self,
        num_global: int = 4,
        num_local: int = 2,
        global_reach: int = 20,
        local_reach: int = 4,
        max_pointers: int = 16,
        max_cond_frames_in_attn: int = -1,
    ) -> None:
        super().__init__(max_pointers, max_cond_frames_in_attn)
        if min(num_global, num_local) < 0 or num_global + num_local < 1:
            raise ValueError(f"num_global={num_global} and num_local={num_local} must not be negative and not both zero")
        if not 0 < local_reach <= global_reach:
            raise ValueError(f"the reaches must satisfy 0 < local_reach={local_reach} <= global_reach={global_reach}")
        if num_local > local_reach:
            raise ValueError(
                f"num_local={num_local} frames cannot be chosen from a local pool of local_reach={local_reach}: "
                "raise local_reach"
            )
        if num_global > global_reach - local_reach:
            raise ValueError(
                f"num_global={num_global} frames cannot be chosen from a global pool of {global_reach - local_reach} "
                f"(global_reach={global_reach} - local_reach={local_reach}): raise global_reach"
            )
        self.num_global = num_global
        self.num_local = num_local
        self.global_reach = global_reach
        self.local_reach = local_reach

    @property
    def num_tracked(self) -> int:
        return self.num_global + self.num_local

    @property
    def reach(self) -> int:
        return self.global_reach

    @property
    def frames_to_full_memory(self) -> int:
        # The global pool starts where the local one ends; one frame more, so that nothing is computed for the first time.
        return 1 + self.num_global + self.local_reach + 1

    @abstractmethod
    def choose(self, time: int, pool: list[int], count: int, history: History) -> list[int]:
        """Choose frames from a pool that has more than are wanted.

        Args:
            time (int): time of the current frame.
            pool (list[int]): times of the frames of the pool, sorted.
            count (int): number of frames to choose, at least 1.
            history (History): the object's past.
        """

    def select(self, time: int, history: History) -> MemoryPlan:
        far = self._from_pool(time, self.local_reach + 1, self.global_reach, self.num_global, history)
        near = self._from_pool(time, 1, self.local_reach, self.num_local, history)
        positions = list(range(1, len(far) + 1)) + [self.num_global + i for i in range(1, len(near) + 1)]
        tracked = list(zip(far + near, positions, strict=True))
        conditioning = list(history.conditioning)

        # As published, the first conditioning frame stands in for tracked frames that do not exist yet, and relative distances
        # are counted in positions of a memory of this length, which makes some of them negative in the first frames.
        length = max(min(time - 1, self.num_tracked), 0)
        missing = max(length - len(tracked), 0)
        memories = [PlannedMemory(t, 0, 1 + missing if i == 0 else 1) for i, t in enumerate(conditioning)]
        memories += [PlannedMemory(t, position) for t, position in tracked]

        past = [(t, 0) for t in conditioning if t <= time] + tracked
        pointers = [PlannedPointer(t, (length + 1 - position) / (length + 1)) for t, position in past]
        if pointers:
            fill = sum(memory.repeats for memory in memories) - len(pointers)
            pointers[0] = replace(pointers[0], repeats=1 + fill)
        return MemoryPlan(tuple(memories), tuple(pointers))

    def _from_pool(self, time: int, first: int, last: int, count: int, history: History) -> list[int]:
        """Choose from the tracked frames at distances `first` to `last`; the chosen times are sorted."""
        pool = [t for t in range(time - last, time - first + 1) if t in history.tracked]
        if not count or len(pool) <= count:
            return pool[:count]
        chosen = sorted(self.choose(time, pool, count, history))
        if len(set(chosen)) != count or len(chosen) != count or not set(chosen) <= set(pool):
            raise ValueError(f"{type(self).__name__}.choose must return {count} different frames of {pool}, not {chosen}")
        return chosen


class SampledSelector(PoolSelector):
    """Samples without replacement, with probability softmax(similarity): the Memory Selective Associator as published."""

    def choose(self, time: int, pool: list[int], count: int, history: History) -> list[int]:
        return _largest(pool, self._noise(time, pool, history) + _similarities(pool, history), count)

    def _noise(self, time: int, pool: list[int], history: History) -> Tensor:
        """Gumbel noise: the k largest of log p + noise are a sample of k without replacement with probabilities p."""
        generator = torch.Generator().manual_seed((history.seed * _SEED_STEP + time) % 2**63)
        noise = -(-torch.rand(self.global_reach, generator=generator, dtype=torch.float64).log()).log()
        return noise[[time - t - 1 for t in pool]]


class UniformSelector(SampledSelector):
    """Samples all frames of a pool with equal probability (ablation)."""

    def choose(self, time: int, pool: list[int], count: int, history: History) -> list[int]:
        return _largest(pool, self._noise(time, pool, history), count)


class GreedySelector(PoolSelector):
    """Chooses the most similar frames of each pool."""

    def choose(self, time: int, pool: list[int], count: int, history: History) -> list[int]:
        return _largest(pool, _similarities(pool, history), count)


class EvenlySpacedSelector(PoolSelector):
    """Chooses evenly spaced frames of each pool, the oldest and the latest included ("UFS" in Table 5 of SAM-I2V).

    A single frame is the latest one of its pool.
    """

    def choose(self, time: int, pool: list[int], count: int, history: History) -> list[int]:
        step = (len(pool) - 1) / max(count - 1, 1)
        return [pool[len(pool) - 1 - round(i * step)] for i in range(count)]


class ConsecutiveSelector(MemorySelector):
    """Remembers the last frames and their object pointers, as SAM 2 does.

    Args:
        num_tracked (int): number of tracked frames that are remembered.
        max_pointers (int): see `MemorySelector`.
        memory_temporal_stride_for_eval (int): the last frame is remembered, and before it those frames whose times are
            multiples of this.
        max_cond_frames_in_attn (int): see `MemorySelector`.
        use_later_pointers (bool): use the pointers of conditioning frames after the current one too, at negative distances, as
            SAM 2 does in training.

    Raises:
        ValueError: an impossible number.
    """

    def __init__(
        self,
        num_tracked: int = 6,
        max_pointers: int = 16,
        memory_temporal_stride_for_eval: int = 1,
        max_cond_frames_in_attn: int = -1,
        use_later_pointers: bool = False,
    ) -> None:
        super().__init__(max_pointers, max_cond_frames_in_attn)
        if num_tracked < 1:
            raise ValueError(f"num_tracked must be at least 1, not {num_tracked}")
        if memory_temporal_stride_for_eval < 1:
            raise ValueError(f"memory_temporal_stride_for_eval must be at least 1, not {memory_temporal_stride_for_eval}")
        self._num_tracked = num_tracked
        self.temporal_stride = memory_temporal_stride_for_eval
        self.use_later_pointers = use_later_pointers

    @property
    def num_tracked(self) -> int:
        return self._num_tracked

    @property
    def reach(self) -> int:
        return self.num_tracked * self.temporal_stride

    @property
    def frames_to_full_memory(self) -> int:
        return 1 + max(self.num_tracked, self.max_pointers)

    @property
    def spacing(self) -> int:
        return self.temporal_stride

    def select(self, time: int, history: History) -> MemoryPlan:
        most = self.max_pointers if history.num_frames is None else min(history.num_frames, self.max_pointers)
        # The last frame, and those before it whose times are multiples of the stride, the oldest first.
        stride = self.temporal_stride
        before = (time - 2) // stride * stride
        previous = [before - k * stride for k in reversed(range(self.num_tracked - 1))] + [time - 1]
        memories = [PlannedMemory(t, 0) for t in history.conditioning]
        memories += [PlannedMemory(t, position) for position, t in enumerate(previous, 1) if t in history.tracked]
        past = [t for t in history.conditioning if t <= time or self.use_later_pointers]
        past += [t for t in range(time - 1, time - most, -1) if t in history.tracked]
        pointers = [PlannedPointer(t, (time - t) / max(most - 1, 1)) for t in past]
        return MemoryPlan(tuple(memories), tuple(pointers))


def _similarities(pool: Sequence[int], history: History) -> Tensor:
    """Similarities of the current frame to those of a pool, (N,) float64 on the CPU."""
    if history.similarity is None:
        raise ValueError("this selector compares frames, so the history needs `similarity`")
    return history.similarity(pool).cpu().double()  # MPS has no float64


def _largest(pool: Sequence[int], scores: Tensor, count: int) -> list[int]:
    return [pool[i] for i in scores.topk(count).indices.tolist()]
