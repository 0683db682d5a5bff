"""Folders of video frames and mask images, as in DAVIS, MOSE, YouTube-VOS and SA-V's validation set."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from i2v.data.annotations import open_annotations
from i2v.data.files import entries, find_samples, listed, walk
from i2v.data.frame_order import match_frames
from i2v.data.frames import frame_paths
from i2v.data.images import ValueRange, check_value_range, kind_of, read_rgb, value_bounds
from i2v.data.mask_files import check_void
from train.dataset.sample import (
    ClipDataset,
    RawClip,
    SampleError,
    require_any,
    require_positive,
    sample_clip,
    sample_errors,
    stack_frames,
)


class VOSFolder(ClipDataset):
    """Clips of annotated frames: VIDEO/FRAME.jpg in one folder, VIDEO/FRAME.png or VIDEO/OBJECT/FRAME.png in another.

    A PNG of a video is a label image (a palette image, or 0 and 255; see `i2v.data.mask_files`); a PNG of an object is its
    mask; the object is absent in frames without one. Frames without any PNG are left out.

    Args:
        frames (str or Path): folder such as JPEGImages/480p.
        annotations (str or Path): folder such as Annotations/480p.
        file_list (str or Path or None): file with the names of videos, one per line; None for all videos.
        num_frames (int or None): number of frames of a clip; None for the whole video, and objects visible in any frame.
        max_objects (int or None): largest number of objects, chosen at random among those visible in the first frame; None for
            all.
        max_stride (int): largest distance between the frames of a clip, in annotated frames; the distance is chosen at random.
        void (int or None): label, such as 255, of pixels that belong to no object; none by default.
        value_range (ValueRange): the values that become black and white in frames of more than 8 bits, or "data" for the
            smallest and the largest value in a video; by default the range of their type. See `i2v.data.images.to_rgb`.

    Raises:
        FileNotFoundError: a folder or list does not exist.
        NotADirectoryError: a folder is a file.
        ValueError: a folder or list is empty or the wrong one, or a number is below 1.
    """

    def __init__(
        self,
        frames: str | Path,
        annotations: str | Path,
        file_list: str | Path | None = None,
        num_frames: int | None = 8,
        max_objects: int | None = 3,
        max_stride: int = 1,
        void: int | None = None,
        value_range: ValueRange = None,
    ) -> None:
        require_positive(num_frames=num_frames, max_objects=max_objects, max_stride=max_stride)
        self.frames = Path(frames)
        self.annotations = Path(annotations)
        self.name = str(annotations)
        self.num_frames = num_frames
        self.max_objects = max_objects
        self.max_stride = max_stride
        self.void = check_void(void)
        self.value_range = check_value_range(value_range)
        self._found_bounds: dict[str, tuple[float, float] | None] = {}
        self.names = find_samples(self.annotations, ("",), file_list)
        folders = (self.frames / name for name in self.names)
        images = (path for folder in folders if folder.is_dir() for path in entries(folder) if kind_of(path))
        require_any(images, frames, f"no frames, JPEG or other, of any of the videos of {annotations}")
        if self.frames.resolve() == self.annotations.resolve():
            raise ValueError(f"{annotations} has no PNG files with masks, it is the folder of the frames")
        masks = (path for name in self.names for path in walk(self.annotations / name) if kind_of(path))
        require_any(masks, annotations, "no PNG files in any of its folders")

    def __len__(self) -> int:
        return len(self.names)

    def load(self, index: int, rng: np.random.Generator) -> RawClip:
        name = self.names[index]
        folder = self.annotations / name
        with sample_errors(folder):
            annotations = open_annotations(folder, self.void)
            names = annotations.frames
        with sample_errors(self.frames / name):
            paths = frame_paths(self.frames / name)
        with sample_errors(folder):
            indices = match_frames(names, [path.stem for path in paths])
        if lacking := [name for name in names if name not in indices]:
            raise SampleError(f"{folder}: masks for frame {listed(lacking)}, but {self.frames / name} has no such frame")
        names = sorted(names, key=indices.__getitem__)

        def areas_in(position: int) -> np.ndarray:
            with sample_errors(folder):
                return annotations.areas(names[position])

        positions, objects = sample_clip(folder, len(names), self.num_frames, self.max_stride, self.max_objects, areas_in, rng)
        chosen = [names[position] for position in positions]
        with sample_errors(self.frames / name):
            bounds = self._bounds(name, paths)
        frames = [self._read_frame(paths[indices[name]], bounds) for name in chosen]
        with sample_errors(self.frames / name):
            stacked = stack_frames(frames)
        size = frames[0].shape[1::-1]
        with sample_errors(folder):
            masks = np.stack([annotations.masks(name, objects.tolist(), size) for name in chosen])
        return RawClip(folder.as_posix(), stacked, torch.from_numpy(masks))

    def _bounds(self, name: str, paths: Sequence[Path]) -> tuple[float, float] | None:
        """The values that become black and white in a video; its frames are only read once for it."""
        if self.value_range != "data":
            return self.value_range
        if name not in self._found_bounds:
            self._found_bounds[name] = value_bounds(paths)
        return self._found_bounds[name]

    @staticmethod
    def _read_frame(path: Path, value_range: tuple[float, float] | None) -> np.ndarray:
        with sample_errors(path):
            return read_rgb(path, value_range)
