"""Drawing masks and prompts over frames, and writing videos."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np

from i2v.data.mask_files import label_colours
from i2v.data.sound import copy_sound
from i2v.data.video_file import VideoFile, require_whole
from i2v.prompt import POSITIVE, Prompt
from i2v.utils.files import atomic_write

log = logging.getLogger(__name__)

# A grid's least longer side and its possible spacings, in pixels, and the most lines along a side.
_GRID_SIDE, _GRID_STEPS, _GRID_LINES = 640, (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000), 16


def draw_overlay(
    frame: np.ndarray,
    labels: np.ndarray,
    prompts: Mapping[int, Prompt] | None = None,
    alpha: float = 0.5,
    colours: Mapping[int, tuple[int, int, int]] | None = None,
) -> np.ndarray:
    """Draw objects in their colours with an outline, and prompts: green points are foreground, red ones background.

    Args:
        frame (np.ndarray): (H, W, 3) uint8 RGB.
        labels (np.ndarray): (H, W) uint8, the object of each pixel; 0 for none.
        prompts (Mapping[int, Prompt] or None): points and boxes to draw, by the object's label (1 to 255).
        alpha (float): opacity of the masks, 0 to 1.
        colours (Mapping[int, tuple[int, int, int]] or None): RGB colours by label, 1 to 255; DAVIS' for those left out.

    Returns:
        (H, W, 3) uint8 RGB.
    """
    palette = label_colours(colours)
    tinted = cv2.addWeighted(frame, 1 - alpha, palette[labels], alpha, 0)
    image = np.where(labels[..., None] > 0, tinted, frame)
    for label in np.unique(labels[labels > 0]):
        contours, _ = cv2.findContours((labels == label).astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
        cv2.drawContours(image, contours, -1, (255, 255, 255), 1)
    radius = max(min(frame.shape[:2]) // 80, 3)
    for label, prompt in (prompts or {}).items():
        if prompt.box is not None:
            x0, y0, x1, y1 = map(round, prompt.box.tolist())
            cv2.rectangle(image, (x0, y0), (x1, y1), palette[label].tolist(), max(radius // 2, 2))
        for x, y, kind in prompt.clicks:
            centre = (round(x), round(y))
            cv2.circle(image, centre, radius + 2, (255, 255, 255), -1)
            cv2.circle(image, centre, radius, (0, 200, 0) if kind == POSITIVE else (220, 0, 0), -1)
    return image


def draw_grid(frame: np.ndarray) -> np.ndarray:
    """Draw grid lines over a frame, with their pixel coordinates at the upper and left border.

    A small frame is enlarged by an integer factor to make the numbers legible; they refer to the original frame.

    Args:
        frame (np.ndarray): (H, W, 3) uint8 RGB.

    Returns:
        (H', W', 3) uint8 RGB.
    """
    factor = max(1, -(-_GRID_SIDE // max(frame.shape[:2])))
    image = frame.repeat(factor, axis=0).repeat(factor, axis=1)
    step = next((step for step in _GRID_STEPS if max(frame.shape[:2]) <= step * _GRID_LINES), _GRID_STEPS[-1])
    lines = image.copy()
    numbers = []
    for axis, side in enumerate(frame.shape[1::-1]):  # x, then y
        for place in range(0, side, step):
            middle = place * factor + factor // 2
            start, end = ((middle, 0), (middle, image.shape[0])) if axis == 0 else ((0, middle), (image.shape[1], middle))
            cv2.line(lines, start, end, (255, 255, 255), 1)
            if place:
                numbers.append((str(place), (middle + 2, 12) if axis == 0 else (2, middle - 2)))
    image = cv2.addWeighted(image, 0.5, lines, 0.5, 0)
    for text, origin in numbers:
        for colour, thickness in (((0, 0, 0), 3), ((255, 255, 255), 1)):
            cv2.putText(image, text, origin, cv2.FONT_HERSHEY_SIMPLEX, 0.4, colour, thickness, cv2.LINE_AA)
    return image


class VideoWriter:
    """Writes RGB frames to an MP4 file that browsers play (VP9, which OpenCV's wheels include). A context manager.

    The file appears when the block ends and all frames can be read back from it.

    Args:
        path (str or Path): the file to write.
        frames_per_second (float): frame rate.
        width (int): width of the frames, in pixels.
        height (int): height of the frames, in pixels.
        sound (tuple[VideoFile, Sequence[int]] or None): the video file whose sound is copied, and the indices of its frames
            that are written. A warning is logged if the sound cannot be copied.

    Raises:
        OSError: OpenCV cannot write such a video here, or the file is incomplete.
    """

    def __init__(
        self,
        path: str | Path,
        frames_per_second: float,
        width: int,
        height: int,
        sound: tuple[VideoFile, Sequence[int]] | None = None,
    ) -> None:
        self._file = atomic_write(path)
        self._padding = (0, height % 2, 0, width % 2)  # the codec subsamples colours, so it needs even sides
        self._arguments = (frames_per_second, (width + width % 2, height + height % 2))
        self._path = path
        self._sound = sound
        self._count = 0

    def __enter__(self) -> VideoWriter:
        self._temporary = self._file.__enter__().absolute()  # a relative "12:30.mp4" would be an address for FFmpeg
        self._writer = cv2.VideoWriter(str(self._temporary), cv2.CAP_FFMPEG, cv2.VideoWriter.fourcc(*"vp09"), *self._arguments)
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
                require_whole(self._temporary, self._count, self._path)  # OpenCV does not report a full disk
                if self._sound is not None:
                    self._add_sound(*self._sound)
        except BaseException as failure:
            error = (type(failure), failure, failure.__traceback__)
            raise
        finally:
            self._file.__exit__(*error)

    def _add_sound(self, source: VideoFile, indices: Sequence[int]) -> None:
        """Replace the temporary file by one with sound, or leave it as it is."""
        name = Path(self._path).name
        audible = self._temporary.with_name(f"{self._temporary.name.removesuffix(name)}audible.{name}")
        try:
            if copy_sound(source, indices, self._arguments[0], self._temporary, audible):
                audible.replace(self._temporary)
        except (av.FFmpegError, OSError, ValueError) as error:
            log.warning("%s has no sound: that of %s cannot be copied: %s", self._path, source.name, error)
        finally:
            audible.unlink(missing_ok=True)
