"""What one video's session holds."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NoReturn

import torch
from torch import Tensor

from i2v.data.frames import Frames
from i2v.inference.features import FeatureStore, FrameLoader
from i2v.inference.memory_bank import MemoryBank


@dataclass
class Prompt:
    """The prompt for one object in one frame: points (a box is two of them) or a mask.

    Attributes:
        points: (N, 2) float32, (x, y) in pixels of the network's input. labels: (N,) int32: 1 foreground, 0 background, 2
            and 3 the box's corners. mask: (1, 1, S, S) float32 of 0 and 1.
    """

    points: Tensor | None = None
    labels: Tensor | None = None
    mask: Tensor | None = None


@dataclass
class TrackedObject:
    """One object: its prompts by frame, and what it remembers."""

    obj_id: int
    prompts: dict[int, Prompt] = field(default_factory=dict)
    bank: MemoryBank = field(default_factory=MemoryBank)


@dataclass
class VideoState:
    """One video and the objects in it.

    Attributes:
        frames: the source. loader, features: frames and features that are at hand. storage_device: where results are kept.
        seed: of the memory selector's drawing. objects: by id, in the order in which they were added.
    """

    frames: Frames
    loader: FrameLoader
    features: FeatureStore
    storage_device: torch.device
    seed: int
    objects: dict[int, TrackedObject] = field(default_factory=dict)

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            "a session (VideoState) cannot be pickled or copied, because it holds an open video and a thread: start one in "
            "each process with init_state"
        )

    @property
    def obj_ids(self) -> list[int]:
        """Ids of the objects, in the order of the masks that are returned."""
        return list(self.objects)

    @property
    def num_frames(self) -> int | None:
        """Number of frames, None while it is not known (an iterator)."""
        return self.frames.num_frames

    def time(self, frame: int, reverse: bool) -> int:
        """A frame's place in the direction of tracking; its own inverse."""
        if not reverse:
            return frame
        return (self.num_frames or self.loader.count()) - 1 - frame
