"""What a system must do to be compared: start a video, prompt, propagate. A protocol needs nothing else."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

Point = tuple[float, float, int]  # x, y, label (1 for foreground, 0 for background)
Box = tuple[float, float, float, float]  # x0, y0, x1, y1


class VideoSession(ABC):
    """One video in a system. Coordinates are pixels of the video, frames are counted from 0.

    Masks are returned as scores (H, W), floating point, at the video's size, foreground where positive (logits, not
    probabilities; never NaN); where objects must not overlap, the highest score decides.
    """

    @abstractmethod
    def prompt(
        self, frame: int, obj: int, points: Sequence[Point] = (), box: Box | None = None, mask: np.ndarray | None = None
    ) -> np.ndarray:
        """Prompt an object, a new or a known one, in any frame and at any time, with points and a box, or with a mask.

        The prompt replaces the one that the object has in this frame; a correction gives all points again, and the system may
        start from the mask that it had. In a frame in which the object was tracked it is a correction.

        Args:
            mask: (H, W) bool.

        Returns:
            The object's scores in this frame.
        """

    @abstractmethod
    def clear(self, frame: int, obj: int) -> None:
        """Forget an object's prompt in a frame."""

    @abstractmethod
    def reset(self) -> None:
        """Forget all prompts and objects. The video stays open: another pass begins."""

    @abstractmethod
    def propagate(self, first: int, last: int) -> Iterator[tuple[int, dict[int, np.ndarray]]]:
        """Track all objects forward.

        Args:
            first, last: frames, both included. Tracking goes on from frame `first` - 1, if that was tracked, so that a protocol
                may stop, prompt in the frame that it has just seen, and go on from there. Objects that were prompted in it
                keep the scores of the prompt, and the following frames are tracked with them in memory.

        Yields:
            The index of each frame from `first` to `last`, in order, and the scores of the objects in it; one that was
            prompted in later frames alone may be missing.
        """


class VideoSystem(ABC):
    """A method of promptable video segmentation."""

    @abstractmethod
    def start(self, frames: Path) -> VideoSession:
        """Open a video, a folder of images.

        Raises:
            ValueError, OSError: the folder or an image of it cannot be used.
        """


@dataclass(frozen=True)
class SystemSettings:
    """Which system to run, and how.

    Attributes:
        system: one of `SYSTEMS`, or "package.module:function" of one's own, which is called with these settings and returns a
            VideoSystem. config, checkpoint, precision, overrides: of systems that have such; None for their defaults.
    """

    system: str = "sam-i2v"
    config: str | None = None
    checkpoint: str | None = None
    device: str = "cpu"
    precision: str | None = None
    overrides: tuple[str, ...] = ()
