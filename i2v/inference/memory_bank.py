"""What an object remembers, and for how long."""

from __future__ import annotations

from collections.abc import Container
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor


@dataclass
class FrameOutput:
    """The result for one object in one frame, kept for the whole video.

    Attributes:
        mask_logits (Tensor): (1, mask_size, mask_size) float32, as decoded.
        score (Tensor): (1,) float32, logit of the object being in the frame.
        pointer (Tensor): (embed_dim,) float32, the object pointer.
        prompted (bool): whether it comes from a prompt.
        reverse (bool): whether it was tracked backward.
        given (Tensor or None): (height, width) bool, the mask that a user gave in this frame, if it is to be returned
            unchanged.
        iou (Tensor or None): () float32, the predicted IoU of the mask; None in sessions that were saved by earlier versions.
    """

    mask_logits: Tensor
    score: Tensor
    pointer: Tensor
    prompted: bool
    reverse: bool = False
    given: Tensor | None = None
    iou: Tensor | None = None


@dataclass
class FrameMemory:
    """The memory of one object in one frame; it can be recomputed from the output and the frame's features.

    Attributes:
        features (Tensor): (memory_channels, h, w) bfloat16.
        foreground (Tensor): (h, w) bool, the cells that the memory prompt generator may attend to.
    """

    features: Tensor
    foreground: Tensor


@dataclass
class MemoryBank:
    """The outputs and memories of one object, by frame.

    Attributes:
        conditioning (dict[int, FrameOutput]): outputs of the conditioning frames, which are always remembered: those that were
            prompted before they were tracked, and optionally those that were corrected afterwards.
        tracked (dict[int, FrameOutput]): outputs of all other frames; no frame is in both.
        corrected (set[int]): the conditioning frames that had been tracked before.
        memories (dict[int, FrameMemory]): memories of some of these frames.
    """

    conditioning: dict[int, FrameOutput] = field(default_factory=dict)
    tracked: dict[int, FrameOutput] = field(default_factory=dict)
    corrected: set[int] = field(default_factory=set)
    memories: dict[int, FrameMemory] = field(default_factory=dict)

    def __getitem__(self, frame: int) -> FrameOutput:
        return self.conditioning[frame] if frame in self.conditioning else self.tracked[frame]

    def get(self, frame: int) -> FrameOutput | None:
        """The output of a frame, or None."""
        return self.conditioning.get(frame) or self.tracked.get(frame)

    def __contains__(self, frame: int) -> bool:
        return frame in self.conditioning or frame in self.tracked

    def was_tracked(self, frame: int) -> bool:
        """Whether a frame was tracked, even if it was corrected afterwards."""
        return frame in self.tracked or frame in self.corrected

    def store(self, frame: int, output: FrameOutput, conditioning: bool) -> None:
        """Set the output of a frame, and drop the memory of its previous one."""
        corrected = conditioning and self.was_tracked(frame)
        self.remove(frame)
        (self.conditioning if conditioning else self.tracked)[frame] = output
        if corrected:
            self.corrected.add(frame)

    def remove(self, frame: int) -> None:
        """Remove a frame's output and memory."""
        for frames in (self.conditioning, self.tracked, self.memories):
            frames.pop(frame, None)
        self.corrected.discard(frame)

    def part(self, frames: Container[int]) -> MemoryBank:
        """A bank with what this one has of some frames; the outputs and memories are shared."""
        own: tuple[dict[int, Any], ...] = (self.conditioning, self.tracked, self.memories)
        conditioning, tracked, memories = ({t: item for t, item in items.items() if t in frames} for items in own)
        return MemoryBank(conditioning, tracked, {t for t in self.corrected if t in frames}, memories)

    def put_back(self, frame: int, part: MemoryBank) -> None:
        """Set what the bank has of a frame to what an earlier part of it had."""
        self.remove(frame)
        for items, former in (
            (self.conditioning, part.conditioning),
            (self.tracked, part.tracked),
            (self.memories, part.memories),
        ):
            if frame in former:
                items[frame] = former[frame]  # type: ignore[index,assignment]
        self.corrected |= part.corrected & {frame}

    def forget_tracked_around(self, frame: int, reach: int) -> None:
        """Remove the frames within `reach` of a frame that were tracked and not prompted."""
        for other in [t for t, output in self.tracked.items() if abs(t - frame) <= reach and not output.prompted]:
            self.remove(other)

    def start_from_corrections(self) -> None:
        """If no frame is left that was prompted before tracking, start over from the corrected ones, if any."""
        if self.conditioning.keys() - self.corrected:
            return
        self.conditioning |= {frame: output for frame, output in self.tracked.items() if output.prompted}
        self.tracked = {}
        self.corrected = set()
        self.memories = {frame: memory for frame, memory in self.memories.items() if frame in self.conditioning}

    def drop_memories(self, frame: int, reach: int) -> None:
        """Drop the memories of tracked frames further than `reach` from a frame, where the selector cannot choose them."""
        for other in [other for other in self.memories if abs(other - frame) > reach and other in self.tracked]:
            del self.memories[other]
