"""The masks of a video in the layouts of data sets: label images, a folder per object, run-length encodings.

Frames are identified by the names of their files without suffix, objects by their numbers.
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
from i2v.data.mask_files import MASK_VALUE, MAX_LABEL, colour_of, labels_in, mask_paths, open_labels, read_mask, same_colour
from i2v.data.rle import decode_mask
from i2v.utils.files import read_each


class Annotations(ABC):
    """The masks of a video's objects, read on access.

    Attributes:
        source (Path): file or folder of the masks, for messages.
        exclusive (bool): whether a pixel belongs to at most one object.
        void (int or None): label of pixels that belong to no object, such as 255 in PASCAL VOC; None for no such label.
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
        """Numbers of all objects, in ascending order."""

    def frames_of(self, obj: int) -> list[str]:
        """Names of the frames in which an object is annotated, possibly as absent, in order."""
        return self.frames

    @abstractmethod
    def mask(self, frame: str, obj: int, size: tuple[int, int]) -> np.ndarray:
        """Read the mask of an object in an annotated frame.

        Args:
            frame (str): name of the frame.
            obj (int): number of the object.
            size (tuple of int): (width, height) of the video in pixels.

        Returns:
            (H, W) bool; empty if the object is absent.

        Raises:
            ValueError: a file is unreadable or has another size; the message names it.
        """

    def masks(self, frame: str, objects: Sequence[int], size: tuple[int, int]) -> np.ndarray:
        """Read the masks of several objects in an annotated frame.

        Args:
            frame (str): name of the frame.
            objects (Sequence[int]): numbers of the objects.
            size (tuple of int): (width, height) of the video in pixels.

        Returns:
            (O, H, W) bool.

        Raises:
            ValueError: see `mask`.
        """
        return np.stack([self.mask(frame, obj, size) for obj in objects])

    def gaps(self) -> list[str]:
        """Messages about frames in which only some of the objects are annotated, one per object."""
        return []


class LabelImages(Annotations):
    """A label image per annotated frame, in one folder.

    `masks` and `areas` use the labels of the frame as they are, without reading other frames: in a video whose masks are 0 and
    255, the object has number 255 there, but number 1 in `objects` and `mask`.

    Args:
        folder (Path): folder of the images.
        single (bool): whether every value but 0 is the one object, number 1. This is always so if the first image with an
            object has no other label than 255, as in SA-V's evaluator.
        void (int or None): see `Annotations`.
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
        """Count the pixels of each object in an annotated frame.

        Args:
            frame (str): name of the frame.

        Returns:
            (N,) int64 areas by the object's number, 0 for an absent object; N is at most the largest number + 1.

        Raises:
            ValueError: a file is unreadable; the message names it.
        """
        counts = np.bincount(np.asarray(self.open(frame)).ravel())
        counts[0] = 0
        return counts

    def open(self, frame: str) -> Image.Image:
        """Open the label image of a frame; see `open_labels`.

        Args:
            frame (str): name of the frame.

        Returns:
            The label image.

        Raises:
            ValueError: see `open_labels`; or objects differ only in colour, and this frame has another one than earlier frames.
        """
        if self._latest is not None and self._latest[:2] == (frame, self.void):
            return self._latest[2]
        path = self.paths[frame]
        image = open_labels(path, self.void)
        if (colour := colour_of(image)) is not None:
            first, known = self._colour = self._colour or (path, colour)
            if not same_colour(colour, known):
                raise ValueError(
                    f"{path} shows an object in another colour than {first.name}, so it is unknown whether it is the same "
                    "object: expected a palette or grayscale image, whose values are the labels"
                )
        self._latest = frame, self.void, image
        return image

    @cached_property
    def paths(self) -> dict[str, Path]:
        """Paths of the images by the name of the frame, in order."""
        return mask_paths(self.source)

    @cached_property
    def is_binary(self) -> bool:
        """Whether every value but 0 is the one object."""
        # Images are read only up to the first one that shows an object.
        return self._single or next(filter(None, map(self._labels_in, self.paths)), None) == {MASK_VALUE}

    @cached_property
    def _labels(self) -> dict[str, set[int]]:
        """The labels in each frame, without 0. All images are read, since an object may appear in any of them."""
        names = {path: name for name, path in self.paths.items()}
        labels = read_each(lambda path: self._labels_in(names[path]), names)
        return dict(zip(self.paths, labels, strict=True))

    def _labels_in(self, frame: str) -> set[int]:
        return set(labels_in(self.open(frame)))


class ObjectFolders(Annotations):
    """A folder per object with a mask per annotated frame, as in SA-V. A mask without a file is empty and not scored.

    Args:
        folder (Path): folder that holds the objects' folders, which are named by their numbers.
        void (int or None): see `Annotations`.
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
        """Count the pixels of each object in an annotated frame; see `LabelImages.areas`."""
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
        """Paths of the images by the object's number and the name of the frame, each in order."""
        return {obj: mask_paths(folder) for obj, folder in self.folders.items()}

    @cached_property
    def folders(self) -> dict[int, Path]:
        """Paths of the folders by the object's number, in order."""
        folders: dict[int, Path] = {}
        for path in sorted(entries(self.source), key=lambda path: natural_key(path.name)):
            if not path.is_dir() or not path.name.isdecimal() or len(path.name) > 9 or int(path.name) > MAX_LABEL:
                raise ValueError(
                    f"{self.source} must hold nothing but a folder per object, named by its number (at most {MAX_LABEL}), "
                    f"but it has {path.name}"
                )
            if folders.setdefault(int(path.name), path) is not path:
                raise ValueError(
                    f"{self.source} has two folders of the same number: {folders[int(path.name)].name} and {path.name}"
                )
        return folders


class RunLengths(Annotations):
    """Run-length encoded masks from a YouTube-VIS JSON file.

    Args:
        source (Path): path of the JSON file.
        frames (Sequence[str]): names of the video's frames, in the order of the file.
        entries (Sequence[dict[str, Any]]): the file's annotations of this video, each with a mask per frame; the number of an
            object is the id of its annotation.
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
    """Open the masks of a video: a folder per object if its folder has subfolders, otherwise label images.

    Args:
        folder (Path): folder of the video.
        void (int or None): see `Annotations`.

    Returns:
        The masks.

    Raises:
        ValueError: the folder holds both subfolders and files.
    """
    folders = subfolders(folder)
    if folders and len(folders) < len(entries(folder)):
        raise ValueError(f"{folder} must hold either PNGs or a folder per object, not both")
    return ObjectFolders(folder, void) if folders else LabelImages(folder, void=void)


def object_mask_path(folder: Path, obj: int, frame: str) -> Path:
    """The path of a mask in SA-V's layout: folder/OBJECT/FRAME.png, with a three-digit object number."""
    return folder / f"{obj:03d}" / f"{frame}.png"


def save_object_mask(folder: Path, obj: int, frame: str, mask: np.ndarray) -> None:
    """Write a mask with values 0 and 255 in SA-V's layout; see `object_mask_path`.

    Args:
        folder (Path): folder of the video.
        obj (int): number of the object.
        frame (str): name of the frame.
        mask (np.ndarray): (H, W) bool.
    """
    path = object_mask_path(folder, obj, frame)
    path.parent.mkdir(exist_ok=True)
    Image.fromarray(mask).save(path)


def _check_size(path: Path, found: tuple[int, int], size: tuple[int, int]) -> None:
    if found != tuple(size):
        raise ValueError(f"{path} is {found[0]}x{found[1]} pixels, but the video is {size[0]}x{size[1]}")
