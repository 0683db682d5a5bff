"""Folders of video frames and mask images, as in DAVIS, MOSE, YouTube-VOS and SA-V's validation set."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import torch

from i2v.utils.masks import check_mask_size, load_labels, load_mask
from train.dataset.sample import (
    ClipDataset,
    RawClip,
    draw_clip,
    list_names,
    read_image,
    require_any,
    sample_errors,
    stack_frames,
)


class VOSFolder(ClipDataset):
    """Clips of annotated frames: VIDEO/FRAME.jpg in one folder, VIDEO/FRAME.png or VIDEO/OBJECT/FRAME.png in another.

    A PNG of a video is a label image (a palette image, or 0 and 255); a PNG of an object is its mask, and where there is none
    the object is absent. Frames without PNG are left out.

    Args:
        frames, annotations: the two folders, such as JPEGImages/480p and Annotations/480p. file_list: names of videos, one per
            line; None for all. num_frames: of a clip; None for the whole video, and objects visible in any frame.
            max_objects: of a clip, drawn at random among those visible in its first frame; None for all of them.
            max_stride: the distance of a clip's frames, counted in annotated frames, is drawn from 1 to this.

    Raises:
        FileNotFoundError, NotADirectoryError, ValueError: a wrong or empty folder or list; the message names it.
    """

    def __init__(
        self,
        frames: str | Path,
        annotations: str | Path,
        file_list: str | Path | None = None,
        num_frames: int | None = 8,
        max_objects: int | None = 3,
        max_stride: int = 1,
    ) -> None:
        self.frames = Path(frames)
        self.annotations = Path(annotations)
        self.name = str(annotations)
        self.num_frames = num_frames
        self.max_objects = max_objects
        self.max_stride = max_stride
        self.names = list_names(self.annotations, ("",), file_list)
        images = (path for name in self.names for path in (self.frames / name).glob("*.jpg"))
        require_any(images, frames, f"no JPEG frames of any of the videos of {annotations}")
        masks = (path for name in self.names for path in (self.annotations / name).rglob("*.png"))
        require_any(masks, annotations, "no PNG files in any of its folders")

    def __len__(self) -> int:
        return len(self.names)

    def load(self, index: int, rng: np.random.Generator) -> RawClip:
        name = self.names[index]
        folder = self.annotations / name
        with sample_errors(folder):
            masks_of = _ObjectMasks(folder) if any(path.is_dir() for path in folder.iterdir()) else _LabelImages(folder)
            positions, objects = draw_clip(
                len(masks_of.frames), self.num_frames, self.max_stride, self.max_objects, masks_of.areas, rng
            )
        frames = [read_image(self.frames / name / f"{masks_of.frames[position]}.jpg") for position in positions]
        masks = [masks_of.read(position, objects, frames[0].shape[:2]) for position in positions]
        with sample_errors(self.frames / name):
            return RawClip(folder.as_posix(), stack_frames(frames), torch.from_numpy(np.stack(masks)))


class _LabelImages:
    """The masks of a video with one label image per frame; label i is object i - 1."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.frames = _in_order(path.stem for path in folder.glob("*.png"))

    def areas(self, position: int) -> np.ndarray:
        path = self._path(position)
        with sample_errors(path):
            return np.bincount(load_labels(path).ravel())[1:]

    def read(self, position: int, objects: np.ndarray, size: tuple[int, int]) -> np.ndarray:
        """Masks (O, H, W) bool of some objects."""
        path = self._path(position)
        with sample_errors(path):
            labels = load_labels(path)
            check_mask_size(labels.shape, size)
            return labels == objects[:, None, None] + 1

    def _path(self, position: int) -> Path:
        return self.folder / f"{self.frames[position]}.png"


class _ObjectMasks:
    """The masks of a video with one folder per object."""

    def __init__(self, folder: Path) -> None:
        self.folders = sorted(path for path in folder.iterdir() if path.is_dir())
        self.frames = _in_order({path.stem for path in folder.glob("*/*.png")})

    def areas(self, position: int) -> np.ndarray:
        return np.array([0 if mask is None else mask.sum() for mask in self._masks(position, range(len(self.folders)))])

    def read(self, position: int, objects: np.ndarray, size: tuple[int, int]) -> np.ndarray:
        """Masks (O, H, W) bool of some objects."""
        masks = self._masks(position, objects, size)
        return np.stack([np.zeros(size, bool) if mask is None else mask for mask in masks])

    def _masks(self, position: int, objects: Iterable[int], size: tuple[int, int] | None = None) -> Iterator[np.ndarray | None]:
        for i in objects:
            path = self.folders[i] / f"{self.frames[position]}.png"
            with sample_errors(path):
                mask = load_mask(path) if path.exists() else None
                if mask is not None and size is not None:
                    check_mask_size(mask.shape, size)
            yield mask


def _in_order(frames: Iterable[str]) -> list[str]:
    """Names of frames in the order of their numbers, with or without leading zeros."""
    return sorted(frames, key=lambda frame: (len(frame), frame))
