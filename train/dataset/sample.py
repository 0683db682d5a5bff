"""What a data set gives: clips with masks, read when they are asked for."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from i2v.data.files import named_errors


class SampleError(ValueError):
    """A sample cannot be used: a file of it is missing, unreadable or does not fit. The message names the file."""


@dataclass
class RawClip:
    """T frames of a video, as they lie on the disk, and O objects in them. An image is a clip of one frame.

    Attributes:
        name: for messages. frames: (T, 3, H, W) uint8 RGB. masks: (T, O, H, W) bool; an object may be absent in some frames.
    """

    name: str
    frames: Tensor
    masks: Tensor


# What makes a sample a bad one, which is replaced; the two last ones also where it is absurdly large or deep.
BAD_SAMPLE = (SampleError, OSError, MemoryError, RecursionError)


class ClipDataset(ABC):
    """A collection of images or videos.

    Attributes:
        name: of the data set, for messages.
    """

    name: str

    @abstractmethod
    def __len__(self) -> int:
        """Number of images or videos."""

    @abstractmethod
    def load(self, index: int, rng: np.random.Generator) -> RawClip:
        """Read a clip of image or video `index`. What is left to chance, such as its first frame, is drawn from `rng`.

        Raises:
            SampleError: it cannot be read, or has no object; the message names the file.
        """


def require_any(paths: Iterable[Path], folder: str | Path, what: str) -> None:
    """Check that a folder fits to the other files of a data set: a ValueError, if none of these paths exists."""
    if not any(path.exists() for path in paths):
        raise ValueError(f"{folder} has {what}: is it the right folder?")


def require_positive(**counts: int | None) -> None:
    """Check numbers of frames and the like, given by the names of the arguments that they are: a ValueError that names one
    below 1. None, for no limit, is fine."""
    for name, count in counts.items():
        if count is not None and count < 1:
            raise ValueError(f"{name} must be at least 1, not {count}")


def sample_errors(source: Path | str) -> AbstractContextManager[None]:
    """Turn what a missing or malformed file raises into a SampleError that names it."""
    return named_errors(source, SampleError)


def draw_clip(
    num_available: int,
    num_frames: int | None,
    max_stride: int,
    max_objects: int | None,
    areas_in: Callable[[int], np.ndarray],
    rng: np.random.Generator,
) -> tuple[range, np.ndarray]:
    """Choose frames of a video, and objects that are visible in the first of them.

    Args:
        num_available: frames to choose from. num_frames: of the clip; None for all frames, and objects visible in any of them.
        max_stride: the distance of frames is drawn from 1 to this, as far as it fits. max_objects: None for all.
        areas_in: the areas (O,) in pixels of all objects in a frame.

    Returns:
        The positions of the frames among the available ones, and sorted indices of up to `max_objects` objects.

    Raises:
        ValueError: too few frames, or no clip begins with a visible object.
    """
    if num_frames is None:
        seen = [np.flatnonzero(areas_in(position)) for position in range(num_available)]
        objects = draw_objects(np.bincount(np.concatenate([np.empty(0, np.intp), *seen])), max_objects, rng)
        if not len(objects):
            raise ValueError("no frame has a visible object")
        return range(num_available), objects
    if num_available < num_frames:
        raise ValueError(f"{num_available} annotated frames are too few for a clip of {num_frames}")
    fitting = (num_available - 1) // max(num_frames - 1, 1)
    stride = int(rng.integers(1, max(min(max_stride, fitting), 1) + 1))
    length = (num_frames - 1) * stride + 1
    for start in rng.permutation(num_available - length + 1).tolist():
        objects = draw_objects(areas_in(start), max_objects, rng)
        if len(objects):
            return range(start, start + length, stride), objects
    raise ValueError(f"no clip of {num_frames} frames begins with a visible object")


def draw_objects(areas: np.ndarray, max_objects: int | None, rng: np.random.Generator) -> np.ndarray:
    """Choose up to `max_objects` of the objects that are visible somewhere; all of them for None.

    Args:
        areas: (O,) pixels of each object in the whole clip.

    Returns:
        Sorted indices of the objects; none if no object is visible.
    """
    visible = np.flatnonzero(areas > 0)
    if max_objects is None:
        return visible
    return np.sort(rng.choice(visible, min(max_objects, len(visible)), replace=False))


def stack_frames(frames: list[np.ndarray]) -> Tensor:
    """Images (H, W, 3) uint8 RGB of one size as (T, 3, H, W); a ValueError if their sizes differ."""
    return torch.from_numpy(np.stack(frames)).permute(0, 3, 1, 2)
