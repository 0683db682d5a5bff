"""Masks and prompts drawn over frames, and videos of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from i2v.data.mask_files import davis_palette
from i2v.data.video_file import count_frames
from i2v.utils.files import atomic_write


@dataclass(frozen=True)
class DrawnPrompt:
    """A prompt as a person gave it, in pixels of the video.

    Attributes:
        label: of the object in the label image, 1 to 255. points: (x, y, label) each. box: (x0, y0, x1, y1).
    """

    label: int
    points: Sequence[tuple[float, float, int]] = ()
    box: tuple[float, float, float, float] | None = None


def draw_overlay(frame: np.ndarray, labels: np.ndarray, prompts: Sequence[DrawnPrompt] = (), alpha: float = 0.5) -> np.ndarray:
    """Draw objects in DAVIS' colours with an outline, and prompts: green points are foreground, red ones background.

    Args:
        frame: (H, W, 3) uint8 RGB. labels: (H, W) uint8, 0 for no object. alpha: opacity of the masks.

    Returns:
        (H, W, 3) uint8 RGB.
    """
    palette = np.array(davis_palette(), np.uint8).reshape(256, 3)
    tinted = cv2.addWeighted(frame, 1 - alpha, palette[labels], alpha, 0)
    image = np.where(labels[..., None] > 0, tinted, frame)
    for label in np.unique(labels[labels > 0]):
        contours, _ = cv2.findContours((labels == label).astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
        cv2.drawContours(image, contours, -1, (255, 255, 255), 1)
    radius = max(min(frame.shape[:2]) // 80, 3)
    for prompt in prompts:
        if prompt.box is not None:
            corners = [(round(x), round(y)) for x, y in np.reshape(prompt.box, (2, 2))]
            cv2.rectangle(image, *corners, palette[prompt.label].tolist(), max(radius // 2, 2))
        for x, y, positive in prompt.points:
            centre = (round(x), round(y))
            cv2.circle(image, centre, radius + 2, (255, 255, 255), -1)
            cv2.circle(image, centre, radius, (0, 200, 0) if positive else (220, 0, 0), -1)
    return image


class VideoWriter:
    """Writes RGB frames to an MP4 file that browsers play (VP9, which OpenCV's wheels bring along), atomically: the file
    appears when the block ends and all frames can be read from it. Use as a context manager.

    Raises:
        OSError: OpenCV cannot write such a video here, or it could not be written whole.
    """

    def __init__(self, path: str | Path, frames_per_second: float, width: int, height: int) -> None:
        self._file = atomic_write(path)
        self._padding = (0, height % 2, 0, width % 2)  # the codec halves the resolution of colours: it needs even sides
        self._arguments = (frames_per_second, (width + width % 2, height + height % 2))
        self._path = path
        self._count = 0

    def __enter__(self) -> VideoWriter:
        self._temporary = self._file.__enter__().absolute()  # a relative "12:30.mp4" would be an address for FFmpeg
        self._writer = cv2.VideoWriter(str(self._temporary), cv2.CAP_FFMPEG, cv2.VideoWriter_fourcc(*"vp09"), *self._arguments)
        if not self._writer.isOpened():
            error = OSError(f"OpenCV cannot write {self._path}: no such folder, or OpenCV was built without FFmpeg or VP9")
            self._file.__exit__(OSError, error, None)
            raise error
        return self

    def write(self, frame: np.ndarray) -> None:
        """Add a frame, (height, width, 3) uint8 RGB."""
        image = cv2.copyMakeBorder(frame, *self._padding, cv2.BORDER_REPLICATE)
        self._writer.write(cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
        self._count += 1

    def __exit__(self, *error: Any) -> None:
        self._writer.release()
        try:
            if error[0] is None:
                self._require_whole()
        except OSError as failure:
            error = (type(failure), failure, None)
            raise
        finally:
            self._file.__exit__(*error)

    def _require_whole(self) -> None:
        """OpenCV says nothing of a disk that is full."""
        try:
            found = count_frames(self._temporary)
        except (ValueError, FileNotFoundError):
            found = 0
        if found != self._count:
            raise OSError(f"{self._path} could not be written whole ({found} of {self._count} frames): is the disk full?")
