"""What an object remembers, and for how long."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from torch import Tensor


@dataclass
class FrameOutput:
    """The result for one object in one frame. It is kept for the whole video.

    Attributes:
        mask_logits: (1, mask_size, mask_size) float32, as decoded. score: (1,) object score logit.
        pointer: (width,) object pointer. ious: (M,) predicted IoUs of the masks that were decoded.
        prompted: whether it comes from a prompt. reverse: whether it was tracked backward.
        given: (height, width) bool, the mask that a user gave in this frame, if it is to be returned as it is.
    """

    mask_logits: Tensor
    score: Tensor
    pointer: Tensor
    ious: Tensor
    prompted: bool
    reverse: bool = False
    given: Tensor | None = None


@dataclass
class FrameMemory:
    """The memory of one object in one frame. It can be made again from the output and the frame's features.

    Attributes:
        features: (memory_channels, h, w) bfloat16. foreground: (h, w) bool.
    """

    features: Tensor
    foreground: Tensor


@dataclass
class MemoryBank:
    """The outputs and memories of one object.

    Attributes:
        conditioning: outputs of frames that are always remembered: those that were prompted before they were tracked, and
            corrected ones if they shall condition. tracked: outputs of all others. No frame is in both. corrected: the
            frames of `conditioning` that had been tracked. memories: of some of these frames.
    """

    conditioning: dict[int, FrameOutput] = field(default_factory=dict)
    tracked: dict[int, FrameOutput] = field(default_factory=dict)
    corrected: set[int] = field(default_factory=set)
    memories: dict[int, FrameMemory] = field(default_factory=dict)

    def __getitem__(self, frame: int) -> FrameOutput:
        return self.conditioning[frame] if frame in self.conditioning else self.tracked[frame]

    def get(self, frame: int) -> FrameOutput | None:
        """The output of a frame; None if there is none."""
        return self.conditioning.get(frame) or self.tracked.get(frame)

    def __contains__(self, frame: int) -> bool:
        return frame in self.conditioning or frame in self.tracked

    def __iter__(self) -> Iterator[int]:
        yield from self.conditioning
        yield from self.tracked

    def was_tracked(self, frame: int) -> bool:
        """Whether a frame was tracked, and perhaps corrected since."""
        return frame in self.tracked or frame in self.corrected

    def store(self, frame: int, output: FrameOutput, conditioning: bool) -> None:
        """Set the output of a frame; a memory of the former one is dropped."""
        corrected = conditioning and self.was_tracked(frame)
        self.remove(frame)
        (self.conditioning if conditioning else self.tracked)[frame] = output
        if corrected:
            self.corrected.add(frame)

    def remove(self, frame: int) -> None:
        """Forget all about a frame."""
        for frames in (self.conditioning, self.tracked, self.memories):
            frames.pop(frame, None)
        self.corrected.discard(frame)

    def forget_tracked_around(self, frame: int, reach: int) -> None:
        """Forget the frames within `reach` of one that were tracked and not prompted."""
        for other in [t for t, output in self.tracked.items() if abs(t - frame) <= reach and not output.prompted]:
            self.remove(other)

    def start_from_corrections(self) -> None:
        """Begin anew where no frame is left that was prompted at first: from those that were corrected, if there are any."""
        if self.conditioning.keys() - self.corrected:
            return
        self.conditioning |= {frame: output for frame, output in self.tracked.items() if output.prompted}
        self.tracked = {}
        self.corrected = set()
        self.memories = {frame: memory for frame, memory in self.memories.items() if frame in self.conditioning}

    def drop_memories(self, frame: int, reach: int) -> None:
        """Drop the memories of tracked frames further than `reach` from `frame`: the selector cannot choose them there."""
        for other in [other for other in self.memories if abs(other - frame) > reach and other in self.tracked]:
            del self.memories[other]
