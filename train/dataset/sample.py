"""Clips with masks, and the data sets that read them."""

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
    """A sample cannot be used: one of its files is missing or unreadable, or does not fit the others.

    The message names the file.
    """


@dataclass
class RawClip:
    """T frames of a video at their original size, and O objects in them. An image is a clip of one frame.

    Attributes:
        name (str): name of the clip, for messages.
        frames (Tensor): (T, 3, H, W) uint8, RGB.
        masks (Tensor): (T, O, H, W) bool; an object may be absent in some frames.

    Raises:
        ValueError: the shapes or types are others.
    """

    name: str
    frames: Tensor
    masks: Tensor

    def __post_init__(self) -> None:
        frames, masks = self.frames, self.masks
        given = f"frames {_kind(frames)} and masks {_kind(masks)}"
        if frames.ndim != 4 or frames.shape[1] != 3 or frames.dtype != torch.uint8:
            raise ValueError(f"{self.name}: {given}, but frames must be (T, 3, H, W) uint8")
        if masks.ndim != 4 or masks.dtype != torch.bool or (len(masks), *masks.shape[2:]) != (len(frames), *frames.shape[2:]):
            raise ValueError(f"{self.name}: {given}, but masks must be (T, O, H, W) bool, with T, H and W of the frames")


def _kind(tensor: Tensor) -> str:
    return f"{tuple(tensor.shape)} {str(tensor.dtype).removeprefix('torch.')}"


# A sample that raises one of these is replaced by another one; the last two are raised for absurdly large or deep files.
BAD_SAMPLE = (SampleError, OSError, MemoryError, RecursionError)


class ClipDataset(ABC):
    """A collection of images or videos for training or validation.

    Subclasses set `name`, and implement `__len__` and `load`; a config names them by `_target_`. They are pickled to the
    processes that read data, and every process reads any index, in any order.

    Attributes:
        name (str): name of the data set, for messages.
    """

    name: str

    @abstractmethod
    def __len__(self) -> int:
        """Number of images or videos."""

    @abstractmethod
    def load(self, index: int, rng: np.random.Generator) -> RawClip:
        """Read a clip.

        Args:
            index (int): index of the image or video, below the length.
            rng (np.random.Generator): source of every random choice, such as the first frame: the same index and state must
                give the same clip.

        Returns:
            At least one frame and one object. For training, every object should be visible in the first frame, where it is
            prompted; clips of one batch must have equally many frames.

        Raises:
            SampleError: the clip cannot be read or has no object; the message names the file. Another sample is then read
                instead. Any other error but OSError ends the training.
        """


def require_any(paths: Iterable[Path], folder: str | Path, what: str) -> None:
    """Check that a folder matches the other files of a data set.

    Args:
        paths (Iterable[Path]): paths in the folder, one of which must exist.
        folder (str or Path): the folder, for the message.
        what (str): what the folder lacks otherwise, such as "no JSON file for any image".

    Raises:
        ValueError: none of the paths exists.
    """
    if not any(path.exists() for path in paths):
        raise ValueError(f"{folder} has {what}: is it the right folder?")


def require_positive(**counts: int | None) -> None:
    """Check arguments that count something.

    Args:
        counts: values by the names of the arguments; None for no limit.

    Raises:
        ValueError: a value is below 1.
    """
    for name, count in counts.items():
        if count is not None and count < 1:
            raise ValueError(f"{name} must be at least 1, not {count}")


def sample_errors(source: Path | str) -> AbstractContextManager[None]:
    """Turn the errors of reading a missing or malformed file into a SampleError that names it.

    It belongs around the reading alone, so that a bug in other code is not reported as an unreadable file.
    """
    return named_errors(source, SampleError)


def sample_clip(
    name: Path | str,
    num_available: int,
    num_frames: int | None,
    max_stride: int,
    max_objects: int | None,
    areas_in: Callable[[int], np.ndarray],
    rng: np.random.Generator,
) -> tuple[range, np.ndarray]:
    """Choose frames of a video, and objects that are visible in the first of them.

    Args:
        name (Path or str): the file with the annotations, for messages.
        num_available (int): number of frames to choose from.
        num_frames (int or None): number of frames of the clip; None for all frames, and objects visible in any of them.
        max_stride (int): largest distance between frames, which is chosen at random as far as it fits.
        max_objects (int or None): largest number of objects; None for all.
        areas_in (Callable[[int], np.ndarray]): a function from the position of a frame to the areas (O,) of all objects in it,
            in pixels.
        rng (np.random.Generator): source of the random choices.

    Returns:
        The positions of the frames among the available ones, and sorted indices of up to `max_objects` objects.

    Raises:
        SampleError: too few frames, or no clip begins with a visible object.
    """
    if num_frames is None:
        seen = [np.flatnonzero(areas_in(position)) for position in range(num_available)]
        objects = sample_objects(np.bincount(np.concatenate([np.empty(0, np.intp), *seen])), max_objects, rng)
        if not len(objects):
            raise SampleError(f"{name}: no frame has a visible object")
        return range(num_available), objects
    if num_available < num_frames:
        raise SampleError(f"{name}: {num_available} annotated frames are too few for a clip of {num_frames}")
    fitting = (num_available - 1) // max(num_frames - 1, 1)
    stride = int(rng.integers(1, max(min(max_stride, fitting), 1) + 1))
    length = (num_frames - 1) * stride + 1
    for start in rng.permutation(num_available - length + 1).tolist():
        objects = sample_objects(areas_in(start), max_objects, rng)
        if len(objects):
            return range(start, start + length, stride), objects
    raise SampleError(f"{name}: no clip of {num_frames} frames begins with a visible object")


def sample_objects(areas: np.ndarray, max_objects: int | None, rng: np.random.Generator) -> np.ndarray:
    """Choose objects at random among those that are visible.

    Args:
        areas (np.ndarray): (O,) area of each object, in pixels.
        max_objects (int or None): largest number of objects; None for all.
        rng (np.random.Generator): source of the random choice.

    Returns:
        Sorted indices of the objects; empty if no object is visible.
    """
    visible = np.flatnonzero(areas > 0)
    if max_objects is None:
        return visible
    return np.sort(rng.choice(visible, min(max_objects, len(visible)), replace=False))


def stack_frames(frames: list[np.ndarray]) -> Tensor:
    """Stack images (H, W, 3) uint8 RGB of one size to (T, 3, H, W).

    Raises:
        ValueError: the sizes differ.
    """
    return torch.from_numpy(np.stack(frames)).permute(0, 3, 1, 2)
