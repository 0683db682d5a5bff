"""The Memory Selective Associator's choice (SAM-I2V, section 3.3): which frames an object remembers at a given time.

The selector is plain arithmetic over points in time. Time runs in the direction of tracking: for backward tracking the caller
counts from the video's end, so that a video tracked backward and its reverse tracked forward get the same plan.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

MODES = ("sample", "greedy", "uniform", "consecutive")


@dataclass(frozen=True)
class PlannedMemory:
    """A frame whose memory is used.

    Attributes:
        time: of the frame. position: temporal position, the index of its encoding; 0 for conditioning frames.
        repeats: how often the frame counts in the attention.
    """

    time: int
    position: int
    repeats: int = 1


@dataclass(frozen=True)
class PlannedPointer:
    """A frame whose object pointer is used.

    Attributes:
        time: of the frame. distance: in time, relative to the largest one that is encoded. repeats: as in PlannedMemory.
    """

    time: int
    distance: float
    repeats: int = 1


@dataclass(frozen=True)
class MemoryPlan:
    """What an object remembers for one frame."""

    memories: tuple[PlannedMemory, ...]
    pointers: tuple[PlannedPointer, ...]

    @property
    def layout(self) -> tuple[tuple[tuple[int, int], ...], tuple[tuple[float, int], ...]]:
        """Everything but the frames: objects whose plans have the same layout can run as one batch."""
        memories = tuple((memory.position, memory.repeats) for memory in self.memories)
        return memories, tuple((pointer.distance, pointer.repeats) for pointer in self.pointers)


class MemorySelector:
    """Draws frames from a local and a global pool of past frames, by their similarity to the current frame.

    Args:
        mode: "sample" draws without replacement with probability softmax(similarity), "greedy" takes the most similar,
            "uniform" draws with equal probability, "consecutive" takes the last frames without a drawing (SAM 2).
        num_global, num_local: frames drawn from each pool. Their sum is the number of tracked frames remembered.
        global_reach, local_reach: the pools are the frames at a distance of [1, local_reach] and
            [local_reach + 1, global_reach].
        max_pointers: object pointers used in the mode "consecutive", SAM 2's rule; in every mode, how far back a tracked
            frame's outputs are kept, in frames, if that is more than `reach`.
        max_cond_frames_in_attn: conditioning frames that are always remembered; -1 for all, or at least 2. As in SAM 2 these
            are the nearest one before, the nearest one at or after the current frame, and the nearest of the rest. The others
            count as tracked frames.
        memory_temporal_stride_for_eval: in the mode "consecutive" of SAM 2, the last frame and then every such frame are
            remembered.

    Raises:
        ValueError: numbers that do not fit together.
    """

    def __init__(
        self,
        mode: str = "sample",
        num_global: int = 4,
        num_local: int = 2,
        global_reach: int = 20,
        local_reach: int = 4,
        max_pointers: int = 16,
        max_cond_frames_in_attn: int = -1,
        memory_temporal_stride_for_eval: int = 1,
    ) -> None:
        if mode not in MODES:
            raise ValueError(f"unknown memory selection mode {mode!r}; known: {', '.join(MODES)}")
        if min(num_global, num_local) < 0 or num_global + num_local < 1:
            raise ValueError(f"num_global={num_global} and num_local={num_local} must not be negative and not both zero")
        if not 0 < local_reach <= global_reach:
            raise ValueError(f"the reaches must satisfy 0 < local_reach={local_reach} <= global_reach={global_reach}")
        if max_cond_frames_in_attn != -1 and max_cond_frames_in_attn < 2:
            raise ValueError(f"max_cond_frames_in_attn must be at least 2, or -1 for all, not {max_cond_frames_in_attn}")
        if memory_temporal_stride_for_eval < 1:
            raise ValueError(f"memory_temporal_stride_for_eval must be at least 1, not {memory_temporal_stride_for_eval}")
        if memory_temporal_stride_for_eval > 1 and mode != "consecutive":
            raise ValueError(
                f"memory_temporal_stride_for_eval is for the mode 'consecutive', not {mode!r}: set mode=consecutive"
            )
        self.mode = mode
        self.num_global = num_global
        self.num_local = num_local
        self.global_reach = global_reach
        self.local_reach = local_reach
        self.max_pointers = max_pointers
        self.max_cond_frames_in_attn = max_cond_frames_in_attn
        self.temporal_stride = memory_temporal_stride_for_eval

    @property
    def num_tracked(self) -> int:
        """Number of tracked frames that are remembered at most."""
        return self.num_global + self.num_local

    @property
    def reach(self) -> int:
        """How far back a memory of a tracked frame can be used, in frames."""
        return self.num_tracked * self.temporal_stride if self.mode == "consecutive" else self.global_reach

    @property
    def look_back(self) -> int:
        """How far back a memory or a pointer of a tracked frame can be used, in frames."""
        return max(self.reach, self.max_pointers)

    def plan(
        self,
        time: int,
        conditioning: Collection[int],
        tracked: Collection[int],
        similarity: Callable[[Sequence[int]], Tensor] | None = None,
        seed: int = 0,
        num_frames: int | None = None,
        look_ahead: bool = False,
    ) -> MemoryPlan:
        """Choose what to remember at a point in time.

        Args:
            time: of the current frame, at least 0. conditioning: times of the prompted frames, at least one.
            tracked: times of the frames that have a mask but no prompt.
            similarity: of the current frame to the frames at the given times, in [-1, 1]; used by "sample" and "greedy".
            seed: of the drawing. The drawing at a given time depends on nothing else, so it repeats, and two objects with
                the same history get the same frames.
            num_frames: of the video, None if unknown; bounds the pointers' distances in the mode "consecutive".
            look_ahead: pointers of conditioning frames after this one count, at negative distances ("consecutive" only: SAM 2
                does so in training).
        """
        conditioning, others = self._nearest(time, sorted(conditioning))
        tracked = {*tracked, *others}
        if self.mode == "consecutive":
            return self._plan_consecutive(time, conditioning, tracked, num_frames, look_ahead)
        return self._plan_selected(time, conditioning, tracked, similarity, seed)

    def _nearest(self, time: int, conditioning: list[int]) -> tuple[list[int], list[int]]:
        """The conditioning frames that are always remembered, and the others, both in their order."""
        most = self.max_cond_frames_in_attn
        if most == -1 or len(conditioning) <= most:
            return conditioning, []
        before, after = [t for t in conditioning if t < time], [t for t in conditioning if t >= time]
        chosen = {*before[-1:], *after[:1]}
        rest = sorted(set(conditioning) - chosen, key=lambda t: abs(t - time))
        chosen |= {*rest[: most - len(chosen)]}
        return sorted(chosen), sorted(set(conditioning) - chosen)

    def _plan_selected(self, time, conditioning, tracked, similarity, seed) -> MemoryPlan:
        generator = torch.Generator().manual_seed((seed * 0x9E3779B1 + time) % 2**63)
        # Gumbel noise: the k largest of log p + noise are a draw of k without replacement with probabilities p.
        noise = -(-torch.rand(self.global_reach, generator=generator, dtype=torch.float64).log()).log()

        def draw(first: int, last: int, count: int) -> list[int]:
            pool = [t for t in range(time - last, time - first + 1) if t in tracked]
            if len(pool) <= count:
                return pool
            scores = torch.zeros(len(pool), dtype=torch.float64)
            if self.mode != "uniform":
                scores += similarity(pool).cpu().double()  # MPS has no float64
            if self.mode != "greedy":
                scores += noise[[time - t - 1 for t in pool]]
            return sorted(pool[i] for i in scores.topk(count).indices.tolist())

        far = draw(self.local_reach + 1, self.global_reach, self.num_global)
        near = draw(1, self.local_reach, self.num_local)
        positions = list(range(1, len(far) + 1)) + [self.num_global + i for i in range(1, len(near) + 1)]

        length = max(min(time - 1, self.num_tracked), 0)
        missing = max(length - len(far) - len(near), 0)
        memories = [PlannedMemory(t, 0) for t in conditioning]
        memories[0] = PlannedMemory(conditioning[0], 0, 1 + missing)
        memories += [PlannedMemory(t, p) for t, p in zip(far + near, positions, strict=True)]

        past = [(t, 0) for t in conditioning if t <= time] + list(zip(far + near, positions, strict=True))
        pointers = [PlannedPointer(t, (length + 1 - p) / (length + 1)) for t, p in past]
        if pointers:
            fill = sum(memory.repeats for memory in memories) - len(pointers)
            pointers[0] = PlannedPointer(pointers[0].time, pointers[0].distance, 1 + fill)
        return MemoryPlan(tuple(memories), tuple(pointers))

    def _plan_consecutive(self, time, conditioning, tracked, num_frames, look_ahead) -> MemoryPlan:
        limit = self.max_pointers if num_frames is None else min(num_frames, self.max_pointers)
        # The last frame, and those before it whose times are multiples of the stride, the oldest first.
        stride = self.temporal_stride
        before = (time - 2) // stride * stride
        previous = [before - k * stride for k in reversed(range(self.num_tracked - 1))] + [time - 1]
        memories = [PlannedMemory(t, 0) for t in conditioning]
        memories += [PlannedMemory(t, position) for position, t in enumerate(previous, 1) if t in tracked]
        past = [t for t in conditioning if t <= time or look_ahead]
        past += [t for t in range(time - 1, time - limit, -1) if t in tracked]
        pointers = [PlannedPointer(t, (time - t) / max(limit - 1, 1)) for t in past]
        return MemoryPlan(tuple(memories), tuple(pointers))
