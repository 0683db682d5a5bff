"""SA-V's training videos: masklets in JSON files, frames in MP4 files or extracted."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from i2v.data.files import entries, expected_file, find_file, find_samples
from i2v.data.images import ALL_SUFFIXES, kind_of, read_rgb
from i2v.data.masklets import Masklets
from i2v.data.rle import check_mask_size
from i2v.data.video_file import read_frames
from train.dataset.sample import ClipDataset, RawClip, require_any, require_positive, sample_clip, sample_errors, stack_frames


class SAV(ClipDataset):
    """Clips of consecutive annotated frames: NAME_manual.json and NAME_auto.json with NAME.mp4 or NAME/00000.jpg, 00004.jpg ...

    Args:
        annotations (str or Path): folder of the JSON files, including sub-folders.
        frames (str or Path or None): folder of the extracted frames, numbered at 24 per second (tools/extract_sav_frames.py);
            None to decode the MP4 files beside the JSON files, which is slow.
        file_list (str or Path or None): file with names such as sav_000001, one per line; None for all videos.
        num_frames (int): number of frames of a clip.
        max_objects (int): largest number of objects, chosen at random among those visible in the first frame.
        masklets (Literal['manual', 'auto', 'both']): use manual masklets, automatic ones, or both (those that a video has).

    Raises:
        FileNotFoundError: a folder or list does not exist.
        NotADirectoryError: a folder is a file.
        ValueError: a folder or list is empty or the wrong one, or a number is below 1.
    """

    def __init__(
        self,
        annotations: str | Path,
        frames: str | Path | None = None,
        file_list: str | Path | None = None,
        num_frames: int = 8,
        max_objects: int = 3,
        masklets: Literal["manual", "auto", "both"] = "manual",
    ) -> None:
        if masklets not in ("manual", "auto", "both"):
            raise ValueError(f"masklets must be manual, auto or both, not {masklets}")
        require_positive(num_frames=num_frames, max_objects=max_objects)
        self.annotations = Path(annotations)
        self.frames = None if frames is None else Path(frames)
        self.name = str(annotations)
        self.num_frames = num_frames
        self.max_objects = max_objects
        self.suffixes = [f"_{kind}.json" for kind in ("manual", "auto") if masklets in (kind, "both")]
        self.names = find_samples(self.annotations, self.suffixes, file_list)
        if frames is None:
            require_any(map(self._video, self.names), annotations, "no MP4 file for any of the JSON files")
        else:
            folders = map(self._frames_folder, self.names)
            images = (path for folder in folders if folder.is_dir() for path in entries(folder) if kind_of(path))
            require_any(images, frames, "no extracted frames (NAME/00000.jpg) of any of the videos")

    def __len__(self) -> int:
        return len(self.names)

    def load(self, index: int, rng: np.random.Generator) -> RawClip:
        name = self.names[index]
        stem = self.annotations / name
        paths = [path for suffix in self.suffixes if (path := find_file(stem, (suffix,)))]
        paths = paths or [stem.with_name(f"{stem.name}{self.suffixes[0]}")]
        annotations = " and ".join(map(str, paths))
        with sample_errors(annotations):
            masklets = [Masklets(path) for path in paths]
            annotated = sorted(set.intersection(*(set(part.annotated_frames) for part in masklets)))

        def areas_in(position: int) -> np.ndarray:
            with sample_errors(annotations):
                return np.concatenate([part.areas(annotated[position]) for part in masklets])

        positions, objects = sample_clip(
            annotations,
            len(annotated),
            self.num_frames,
            max_stride=1,
            max_objects=self.max_objects,
            areas_in=areas_in,
            rng=rng,
        )
        indices = [annotated[position] for position in positions]
        frames = self._read_frames(name, indices)
        with sample_errors(annotations):
            check_mask_size((masklets[0].height, masklets[0].width), frames[0].shape[:2])
            masks = [_masks(masklets, index, objects) for index in indices]
        with sample_errors(f"a frame of {name}"):
            return RawClip(f"{self.name}/{name}", stack_frames(frames), torch.from_numpy(np.stack(masks)))

    def _video(self, name: str) -> Path:
        return expected_file(self.annotations / name, (".mp4",))

    def _read_frames(self, name: str, indices: Sequence[int]) -> list[np.ndarray]:
        if self.frames is None:
            with sample_errors(self._video(name)):
                return read_frames(self._video(name), indices)
        return [self._read_image(self._frames_folder(name) / f"{index:05d}") for index in indices]

    def _frames_folder(self, name: str) -> Path:
        """The folder of a video's frames, which may lie in other sub-folders than the JSON files."""
        assert self.frames is not None
        folder = self.frames / name
        flat = self.frames / Path(name).name
        return flat if flat.is_dir() and not folder.is_dir() else folder

    @staticmethod
    def _read_image(stem: Path) -> np.ndarray:
        path = expected_file(stem, ALL_SUFFIXES)
        with sample_errors(path):
            return read_rgb(path)


def _masks(masklets: Sequence[Masklets], frame: int, objects: np.ndarray) -> np.ndarray:
    """The masks of some objects in a frame.

    Args:
        masklets (Sequence[Masklets]): the files with masklets.
        frame (int): index of the frame.
        objects (np.ndarray): indices of the objects, counted through all files.

    Returns:
        (O, H, W) bool.
    """
    masks, first = [], 0
    for part in masklets:
        last = first + len(part.object_ids)
        masks.append(part.masks(frame, [obj - first for obj in objects if first <= obj < last]))
        first = last
    return np.concatenate(masks)
