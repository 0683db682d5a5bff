"""The ground truth of a video, in the three forms that data sets have: label images, a folder per object, run-length encodings.

Frames go by the number in their files' names, which is the same for an image and its mask; objects by their number.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from i2v.inference.frames import by_frame_number
from i2v.utils.files import read_each
from i2v.utils.masks import decode_mask, load_labels, load_mask
from sav_dataset.sav_evaluator import DAVIS_2016_FOREGROUND, visible


class Annotations(ABC):
    """Masks of a video's objects. Nothing is read before it is asked for.

    Attributes:
        source: the file or folder, for messages. exclusive: whether a pixel belongs to at most one object.
    """

    source: Path
    exclusive: bool

    @property
    @abstractmethod
    def frames(self) -> list[int]:
        """Numbers of the annotated frames, in order."""

    @property
    @abstractmethod
    def objects(self) -> list[int]:
        """Numbers of all objects, in order."""

    def frames_of(self, obj: int) -> list[int]:
        """Numbers of the frames in which an object is annotated, in order; it may be annotated as absent."""
        return self.frames

    @abstractmethod
    def mask(self, frame: int, obj: int, size: tuple[int, int]) -> np.ndarray:
        """The mask (H, W) bool of an object in an annotated frame; empty where the object is not.

        Args:
            size: (width, height) of the video.

        Raises:
            ValueError: a file that cannot be read, or is of another size; the message names it.
        """

    def gaps(self) -> list[str]:
        """What an object lacks that others have, one message each."""
        return []


class LabelImages(Annotations):
    """A label image per annotated frame, in one folder.

    Args:
        single: everything but 0 is the one object, number 1. Where the first image with an object has nothing but 255, that is
            so in any case, as in the evaluator. Otherwise images in colour are an error: they do not tell objects
            apart.
    """

    exclusive = True

    def __init__(self, folder: Path, single: bool = False) -> None:
        self.source = folder
        self._single = single

    @property
    def frames(self) -> list[int]:
        return list(self._paths)

    @property
    def objects(self) -> list[int]:
        return [1] if self._is_binary else sorted(set().union(*self._labels.values()))

    def mask(self, frame: int, obj: int, size: tuple[int, int]) -> np.ndarray:
        path = self._paths[frame]
        labels = self._load(path)
        _check_size(path, labels, size)
        return labels != 0 if self._is_binary else labels == obj

    @cached_property
    def _paths(self) -> dict[int, Path]:
        return numbered_files(self.source, ".png")

    @cached_property
    def _labels(self) -> dict[int, set[int]]:
        """The labels in each frame, without 0. All images are read for it, because an object may appear in any of them."""
        return dict(zip(self._paths, read_each(self._labels_in, self._paths.values()), strict=True))

    @cached_property
    def _is_binary(self) -> bool:
        # What differs from the labels is decided without reading all images, where one suffices.
        return self._single or next(filter(None, map(self._labels_in, self._paths.values())), None) == {DAVIS_2016_FOREGROUND}

    def _labels_in(self, path: Path) -> set[int]:
        """The labels of a label image, without 0."""
        return set(np.unique(self._load(path)).tolist()) - {0}

    def _load(self, path: Path) -> np.ndarray:
        return load_labels(path, colour=self._single)


class ObjectFolders(Annotations):
    """A folder per object, with a mask per annotated frame: SA-V. Without a file an object's mask is empty, and not scored."""

    exclusive = False

    def __init__(self, folder: Path) -> None:
        self.source = folder

    @cached_property
    def frames(self) -> list[int]:
        return sorted(set().union(*self._paths.values()))

    @property
    def objects(self) -> list[int]:
        return list(self._paths)

    def frames_of(self, obj: int) -> list[int]:
        return list(self._paths[obj])

    def mask(self, frame: int, obj: int, size: tuple[int, int]) -> np.ndarray:
        path = self._paths[obj].get(frame)
        if path is None:
            return np.zeros(size[::-1], bool)
        mask = load_mask(path)
        _check_size(path, mask, size)
        return mask

    def gaps(self) -> list[str]:
        lacking = {obj: [frame for frame in self.frames if frame not in paths] for obj, paths in self._paths.items()}
        return [f"object {obj} has no mask of frame {listed(frames)}" for obj, frames in lacking.items() if frames]

    @cached_property
    def _paths(self) -> dict[int, dict[int, Path]]:
        paths: dict[int, dict[int, Path]] = {}
        for path in visible(self.source):
            if not path.is_dir() or not path.name.isdigit() or int(path.name) in paths:
                raise ValueError(
                    f"{self.source} must hold a folder per object, named by its number, and nothing like {path.name}"
                )
            paths[int(path.name)] = numbered_files(path, ".png")
        return paths


class RunLengths(Annotations):
    """Objects of a YouTube-VIS JSON.

    Args:
        source: the JSON file. frames: numbers of the video's frames, in the order of the file. entries: its annotations of this
            video; an object's number is that of its annotation.
    """

    exclusive = False

    def __init__(self, source: Path, frames: Sequence[int], entries: Sequence[dict[str, Any]]) -> None:
        self.source = source
        self._positions = {frame: position for position, frame in enumerate(frames)}
        self._masks = {int(entry["id"]): entry["segmentations"] for entry in entries}

    @property
    def frames(self) -> list[int]:
        return sorted(self._positions)

    @property
    def objects(self) -> list[int]:
        return sorted(self._masks)

    def mask(self, frame: int, obj: int, size: tuple[int, int]) -> np.ndarray:
        try:
            return decode_mask(self._masks[obj][self._positions[frame]], size[::-1])
        except (ValueError, LookupError, TypeError) as error:
            raise ValueError(f"{self.source}: annotation {obj}, frame {frame}: {error}") from error

    def gaps(self) -> list[str]:
        return [
            f"annotation {obj} has {len(masks)} masks, the video has {len(self._positions)} frames"
            for obj, masks in self._masks.items()
            if len(masks) != len(self._positions)
        ]


def numbered_files(folder: Path, suffix: str) -> dict[int, Path]:
    """The files of a kind in a folder by their numbers, in their order.

    Raises:
        ValueError: a name without a number, or two with the same.
    """
    return by_frame_number(path for path in visible(folder) if path.suffix.lower() == suffix)


def listed(items: Sequence[Any], shown: int = 5) -> str:
    """A list for a message, cut off where it is long."""
    more = f", ... ({len(items)} in all)" if len(items) > shown else ""
    return ", ".join(map(str, items[:shown])) + more


def _check_size(path: Path, mask: np.ndarray, size: tuple[int, int]) -> None:
    if mask.shape[::-1] != tuple(size):
        raise ValueError(f"{path} is {mask.shape[1]}x{mask.shape[0]} pixels, the video {size[0]}x{size[1]}")
