"""The contract between the benchmarks and the systems that they compare.

`VideoSystem` opens videos, `VideoSession` takes prompts and returns masks; a benchmark uses nothing else. Both are protocols:
any class with these methods will do. The built-in systems inherit from them, so that mypy checks their signatures and Python
refuses to build one that lacks a method; what user-defined systems return is checked as they run (`checked.py`).

Conventions:

- Frames are indices from 0. Objects are integers >= 0, the numbers of the data set.
- Coordinates are pixels of the video, x to the right and y down; the click (x, y) is on the pixel in column x and row y.
- Scores are a NumPy array (H, W), floating point, at the size of the video: foreground where positive, that is, logits rather
  than probabilities. NaN is not allowed. Where objects must not overlap, the highest score decides.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np

Point = tuple[float, float, int]  # x, y, label (1 for foreground, 0 for background)
Box = tuple[float, float, float, float]  # x0, y0, x1, y1


@runtime_checkable
class VideoSession(Protocol):
    """One video in a system: its prompts, and what was tracked. Conventions: see the module."""

    @abstractmethod
    def prompt(
        self, frame: int, obj: int, points: Sequence[Point] = (), box: Box | None = None, mask: np.ndarray | None = None
    ) -> np.ndarray:
        """Prompt an object with points, a box and points, or a mask.

        The object may be new or known, and the frame any of the video, at any time. The prompt replaces the one that the object
        has in this frame: further clicks come with all earlier ones. The system may start from the mask that it predicted
        there. In a frame in which the object was tracked, the prompt is a correction.

        Args:
            frame (int): index of the frame.
            obj (int): number of the object.
            points (sequence of (x, y, label)): clicks in the order in which they were made, in pixels; label 1 for foreground,
                0 for background.
            box ((x0, y0, x1, y1) or None): corners of a box, in pixels.
            mask (np.ndarray or None): (H, W) bool, at the size of the video; without points and box.

        Returns:
            The scores of the object in this frame, (H, W) floating point.
        """
        ...

    @abstractmethod
    def clear(self, frame: int, obj: int) -> None:
        """Forget the prompt of an object in a frame.

        Args:
            frame (int): index of the frame.
            obj (int): number of the object.
        """
        ...

    @abstractmethod
    def reset(self) -> None:
        """Forget all prompts, objects and tracked frames. The video stays open for another pass."""
        ...

    @abstractmethod
    def propagate(self, first: int, last: int) -> Iterator[tuple[int, dict[int, np.ndarray]]]:
        """Track all objects forward.

        If frame `first - 1` was tracked, tracking continues from there: a benchmark may stop at any frame, prompt in it, and
        continue from it. Objects prompted in that frame keep the scores of the prompt, and the following frames are tracked
        with the correction in memory.

        Args:
            first (int): index of the first frame.
            last (int): index of the last frame, included.

        Yields:
            (frame, scores): the index of each frame from `first` to `last`, in order, and the scores (H, W) of the objects by
            number. Every object that was prompted in this frame or before it must be there; one that is only prompted in
            later frames may be missing.
        """
        ...


@runtime_checkable
class VideoSystem(Protocol):
    """A method of promptable video segmentation, built once and used for many videos."""

    @abstractmethod
    def start(self, frames: Path) -> VideoSession:
        """Open a video.

        Args:
            frames (Path): folder of the images, in the order of `i2v.data.frames.ImageFolder`.

        Raises:
            ValueError, OSError: the folder or an image in it cannot be used.
        """
        ...


@dataclass(frozen=True)
class SystemSettings:
    """Which system to run, and how.

    Attributes:
        system (str): a name in `SYSTEMS`, or "package.module:function", a `SystemBuilder`.
        config (str or None): name or path of a config; None for the system's default.
        checkpoint (str or None): path of the weights; None for the system's default.
        device (str): PyTorch device to run on.
        precision (str or None): fp32, bf16 or fp16; None for the system's default.
        overrides (tuple of str): KEY=VALUE, applied to the config.
    """

    system: str = "sam-i2v"
    config: str | None = None
    checkpoint: str | None = None
    device: str = "cpu"
    precision: str | None = None
    overrides: tuple[str, ...] = ()


# Builds a system where it runs: in every worker process, on the worker's device.
SystemBuilder = Callable[[SystemSettings], VideoSystem]
