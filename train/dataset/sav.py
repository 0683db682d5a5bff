"""SA-V's training videos: masklets in JSON files, frames in MP4 files or extracted ones."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
import torch

from i2v.utils.masks import decode_mask
from sav_dataset.sav_utils import ANNOTATION_STRIDE
from train.dataset.sample import (
    ClipDataset,
    RawClip,
    SampleError,
    draw_clip,
    list_names,
    read_image,
    read_json,
    require_any,
    rle_area,
    sample_errors,
    stack_frames,
)


class SAV(ClipDataset):
    """Clips of consecutive annotated frames: NAME_manual.json and NAME_auto.json with NAME.mp4 or NAME/00000.jpg, 00004.jpg ...

    Args:
        annotations: folder of the JSON files, sub-folders included. frames: folder of the extracted frames, numbered at 24 per
            second (tools/extract_sav_frames.py); None to decode the MP4 beside the JSON, which is slow.
        file_list: names such as sav_000001, one per line; None for all. num_frames: of a clip.
        max_objects: of a clip, drawn at random among those visible in its first frame.
        masklets: made by hand, automatically, or both (what a video has of them).

    Raises:
        FileNotFoundError, NotADirectoryError, ValueError: a wrong or empty folder or list; the message names it.
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
        self.annotations = Path(annotations)
        self.frames = None if frames is None else Path(frames)
        self.name = str(annotations)
        self.num_frames = num_frames
        self.max_objects = max_objects
        self.suffixes = [f"_{kind}.json" for kind in ("manual", "auto") if masklets in (kind, "both")]
        self.names = list_names(self.annotations, self.suffixes, file_list)
        if self.frames is None:
            videos = (self.annotations / f"{name}.mp4" for name in self.names)
            require_any(videos, annotations, "no MP4 file to any of the JSON files")
        else:
            images = (path for name in self.names for path in (self.frames / name).glob("*.jpg"))
            require_any(images, frames, "no extracted frames (NAME/00000.jpg) of any of the videos")

    def __len__(self) -> int:
        return len(self.names)

    def load(self, index: int, rng: np.random.Generator) -> RawClip:
        name = self.names[index]
        paths = [self.annotations / f"{name}{suffix}" for suffix in self.suffixes]
        paths = [path for path in paths if path.exists()] or paths[:1]
        annotations = " and ".join(map(str, paths))
        with sample_errors(annotations):
            masklets = _merge([read_json(path)["masklet"] for path in paths])
            positions, objects = draw_clip(
                len(masklets),
                self.num_frames,
                max_stride=1,
                max_objects=self.max_objects,
                areas_in=lambda position: np.array([rle_area(rle) for rle in masklets[position]]),
                rng=rng,
            )
        frames = self._read_frames(name, [position * ANNOTATION_STRIDE for position in positions])
        with sample_errors(annotations):
            masks = [[decode_mask(masklets[i][j], frames[0].shape[:2]) for j in objects] for i in positions]
        with sample_errors(f"a frame of {name}"):
            return RawClip(f"{self.name}/{name}", stack_frames(frames), torch.from_numpy(np.array(masks)))

    def _read_frames(self, name: str, indices: Sequence[int]) -> list[np.ndarray]:
        if self.frames is None:
            return _read_video(self.annotations / f"{name}.mp4", indices)
        return [read_image(self.frames / name / f"{index:05d}.jpg") for index in indices]


def _merge(files: list[list[list[Any]]]) -> list[list[Any]]:
    """The masklets of several files, each a list over frames of a list over masklets, as one such list: of common frames."""
    return [list(chain.from_iterable(parts)) for parts in zip(*files, strict=False)]


def _read_video(path: Path, indices: Sequence[int]) -> list[np.ndarray]:
    """Some frames of a video as (H, W, 3) uint8 RGB. It is read from its start, because seeking is not always exact."""
    if not path.exists():
        raise SampleError(f"no such file: {path}")
    capture = cv2.VideoCapture(str(path))
    try:
        if not capture.isOpened():
            raise SampleError(f"{path} is not a video that OpenCV can open")
        images = []
        for index in range(indices[-1] + 1):
            if not capture.grab():
                raise SampleError(f"{path} ends at frame {index}, its masklets reach at least to frame {indices[-1]}")
            if index in indices:
                _, image = capture.retrieve()
                images.append(cv2.cvtColor(image, cv2.COLOR_BGR2RGB))
        return images
    finally:
        capture.release()
