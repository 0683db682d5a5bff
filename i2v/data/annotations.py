"""The masks of a video's objects in the forms that data sets have: label images, a folder per object, run-length encodings.

Frames go by the names of their files without suffix, objects by their numbers.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from i2v.data.files import entries, listed, subfolders
from i2v.data.frame_order import natural_key
from i2v.data.mask_files import MASK_VALUE, MAX_LABEL, Found, labels_in, mask_paths, open_labels, read_mask, same_colour
from i2v.data.rle import decode_mask
from i2v.utils.files import read_each


class Annotations(ABC):
    """Masks of a video's objects. Nothing is read before it is asked for.

    Attributes:
        source: the file or folder, for messages.
        exclusive: whether a pixel belongs to at most one object.
        void: the value of pixels in images that belong to no object, such as 255 in PASCAL VOC; by default there is none.
    """

    source: Path
    exclusive: bool
    void: int | None = None

    @property
    @abstractmethod
    def frames(self) -> list[str]:
        """Names of the annotated frames, in order."""

    @property
    @abstractmethod
    def objects(self) -> list[int]:
        """Numbers of all objects, in order."""

    def frames_of(self, obj: int) -> list[str]:
        """Names of the frames in which an object is annotated, in order; it may be annotated as absent."""
        return self.frames

    @abstractmethod
    def mask(self, frame: str, obj: int, size: tuple[int, int]) -> np.ndarray:
        """The mask of an object in an annotated frame.

        Args:
            frame: its name.
            obj: its number.
            size: (width, height) of the video.

        Returns:
            (H, W) bool; empty where the object is not.

        Raises:
            ValueError: a file that cannot be read, or is of another size; the message names it.
        """

    def masks(self, frame: str, objects: Sequence[int], size: tuple[int, int]) -> np.ndarray:
        """The masks of some objects in an annotated frame, (O, H, W) bool; otherwise as `mask`."""
        return np.stack([self.mask(frame, obj, size) for obj in objects])

    def gaps(self) -> list[str]:
        """What an object lacks that others have, one message each."""
        return []


class LabelImages(Annotations):
    """A label image per annotated frame, in one folder.

    `masks` and `areas` go by the labels in the frame alone, which saves reading others: where all masks are 0 and 255, the
    object has number 255 there.

    Args:
        folder: with the images.
        single: everything but 0 is the one object, number 1. Where the first image with an object has nothing but 255, that is
            so in any case, as in SA-V's evaluator.
        void: see `Annotations`.
    """

    exclusive = True

    def __init__(self, folder: Path, single: bool = False, void: int | None = None) -> None:
        self.source = folder
        self._single = single
        self.void = void
        self._colour: tuple[Path, tuple[int, int, int]] | None = None
        self._latest: tuple[str, int | None, Image.Image] | None = None

    @property
    def frames(self) -> list[str]:
        return list(self.paths)

    @property
    def objects(self) -> list[int]:
        return [1] if self.is_binary else sorted(set().union(*self._labels.values()))

    def mask(self, frame: str, obj: int, size: tuple[int, int]) -> np.ndarray:
        image = self.open(frame)
        _check_size(self.paths[frame], image.size, size)
        return np.asarray(image) != 0 if self.is_binary else np.asarray(image) == obj

    def masks(self, frame: str, objects: Sequence[int], size: tuple[int, int]) -> np.ndarray:
        image = self.open(frame)
        _check_size(self.paths[frame], image.size, size)
        return np.asarray(image) == np.reshape(objects, (-1, 1, 1))

    def areas(self, frame: str) -> np.ndarray:
        """Pixels of each object in an annotated frame, (largest number + 1,) or fewer, by number; 0 where one is not.

        Raises:
            ValueError: a file that cannot be read; the message names it.
        """
        counts = np.bincount(np.asarray(self.open(frame)).ravel())
        counts[0] = 0
        return counts

    def open(self, frame: str) -> Image.Image:
        """The label image of a frame, see `open_labels`.

        Raises:
            ValueError: see there; or objects are told by colours alone, and it has another one than the frames before.
        """
        if self._latest is not None and self._latest[:2] == (frame, self.void):
            return self._latest[2]
        path = self.paths[frame]
        image = open_labels(path, self.void)
        if (colour := image.info.get(Found.COLOUR)) is not None:
            first, known = self._colour = self._colour or (path, colour)
            if not same_colour(colour, known):
                raise ValueError(
                    f"{path} is an image in colour, in another one than {first.name}, which does not tell whether it is the "
                    "same object: expected a palette or grey image, whose values are the labels"
                )
        self._latest = frame, self.void, image
        return image

    @cached_property
    def paths(self) -> dict[str, Path]:
        """The images by the names of the frames, in order."""
        return mask_paths(self.source)

    @cached_property
    def is_binary(self) -> bool:
        """Whether everything but 0 is the one object."""
        # Decided without reading all images, where one suffices.
        return self._single or next(filter(None, map(self._labels_in, self.paths)), None) == {MASK_VALUE}

    @cached_property
    def _labels(self) -> dict[str, set[int]]:
        """The labels in each frame, without 0. All images are read for it, because an object may appear in any of them."""
        names = {path: name for name, path in self.paths.items()}
        labels = read_each(lambda path: self._labels_in(names[path]), names)
        return dict(zip(self.paths, labels, strict=True))

    def _labels_in(self, frame: str) -> set[int]:
        return set(labels_in(self.open(frame)))


class ObjectFolders(Annotations):
    """A folder per object, with a mask per annotated frame: SA-V. Without a file an object's mask is empty, and not scored.

    Args:
        folder: with the folders of the objects, named by their numbers.
        void: see `Annotations`.
    """

    exclusive = False

    def __init__(self, folder: Path, void: int | None = None) -> None:
        self.source = folder
        self.void = void

    @cached_property
    def frames(self) -> list[str]:
        return sorted(set().union(*self.paths.values()), key=natural_key)

    @property
    def objects(self) -> list[int]:
        return list(self.paths)

    def frames_of(self, obj: int) -> list[str]:
        return list(self.paths[obj])

    def mask(self, frame: str, obj: int, size: tuple[int, int]) -> np.ndarray:
        path = self.paths[obj].get(frame)
        if path is None:
            return np.zeros(size[::-1], bool)
        mask = read_mask(path, self.void)
        _check_size(path, mask.shape[::-1], size)
        return mask

    def areas(self, frame: str) -> np.ndarray:
        """As `LabelImages.areas`."""
        areas = np.zeros(max(self.paths, default=0) + 1, np.int64)
        for obj, paths in self.paths.items():
            if frame in paths:
                areas[obj] = read_mask(paths[frame], self.void).sum()
        return areas

    def gaps(self) -> list[str]:
        lacking = {obj: [frame for frame in self.frames if frame not in paths] for obj, paths in self.paths.items()}
        return [f"object {obj} has no mask of frame {listed(frames)}" for obj, frames in lacking.items() if frames]

    @cached_property
    def paths(self) -> dict[int, dict[str, Path]]:
        """The images by the objects' numbers, and by the names of the frames, each in order."""
        return {obj: mask_paths(folder) for obj, folder in self.folders.items()}

    @cached_property
    def folders(self) -> dict[int, Path]:
        """The folders by the objects' numbers, in order."""
        folders: dict[int, Path] = {}
        for path in sorted(entries(self.source), key=lambda path: natural_key(path.name)):
            if not path.is_dir() or not path.name.isdecimal() or len(path.name) > 9 or int(path.name) > MAX_LABEL:
                raise ValueError(
                    f"{self.source} must hold a folder per object, named by its number, which is at most {MAX_LABEL}, and "
                    f"nothing like {path.name}"
                )
            if folders.setdefault(int(path.name), path) is not path:
                raise ValueError(f"{self.source} has two folders of one number: {folders[int(path.name)].name} and {path.name}")
        return folders


class RunLengths(Annotations):
    """Objects of a YouTube-VIS JSON.

    Args:
        source: the JSON file.
        frames: names of the video's frames, in the order of the file.
        entries: its annotations of this video, each with as many masks; an object's number is that of its annotation.
    """

    exclusive = False

    def __init__(self, source: Path, frames: Sequence[str], entries: Sequence[dict[str, Any]]) -> None:
        self.source = source
        self._positions = {frame: position for position, frame in enumerate(frames)}
        self._masks = {entry["id"]: entry["segmentations"] for entry in entries}

    @property
    def frames(self) -> list[str]:
        return sorted(self._positions, key=natural_key)

    @property
    def objects(self) -> list[int]:
        return sorted(self._masks)

    def mask(self, frame: str, obj: int, size: tuple[int, int]) -> np.ndarray:
        try:
            return decode_mask(self._masks[obj][self._positions[frame]], size[::-1])
        except (ValueError, LookupError, TypeError) as error:
            raise ValueError(f"{self.source}: annotation {obj}, frame {frame}: {error}") from error


def open_annotations(folder: Path, void: int | None = None) -> LabelImages | ObjectFolders:
    """The masks of a video in a folder: a folder per object if there are folders in it, otherwise label images.

    Args:
        folder: of the video.
        void: see the classes.

    Raises:
        ValueError: there are both.
    """
    folders = subfolders(folder)
    if folders and len(folders) < len(entries(folder)):
        raise ValueError(f"{folder} must hold either PNGs or a folder per object, not both")
    return ObjectFolders(folder, void) if folders else LabelImages(folder, void=void)


def object_mask_path(folder: Path, obj: int, frame: str) -> Path:
    """Where the mask of an object is in SA-V's layout: folder/OBJECT/FRAME.png, the object's number with three digits."""
    return folder / f"{obj:03d}" / f"{frame}.png"


def save_object_mask(folder: Path, obj: int, frame: str, mask: np.ndarray) -> None:
    """Write a mask in SA-V's layout (`object_mask_path`), 0 and 255.

    Args:
        folder: of the video.
        obj: number of the object.
        frame: name of the frame.
        mask: (H, W) bool.
    """
    path = object_mask_path(folder, obj, frame)
    path.parent.mkdir(exist_ok=True)
    Image.fromarray(mask).save(path)


def _check_size(path: Path, found: tuple[int, int], size: tuple[int, int]) -> None:
    if found != tuple(size):
        raise ValueError(f"{path} is {found[0]}x{found[1]} pixels, the video {size[0]}x{size[1]}")
