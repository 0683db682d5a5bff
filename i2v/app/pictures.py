"""Frames as JPEGs, for the page."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Generator
from pathlib import Path

import cv2
import numpy as np

from i2v.data.frames import Frames
from i2v.data.video_file import iterate_frames

_QUALITY = 90  # of JPEG, 0 to 100
_THUMBNAIL_HEIGHT, _PREVIEW_HEIGHT = 64, 360  # pixels
_PREVIEW_STRIDE = 5  # frames
_MAX_BYTES = 64 * 2**20  # of the pictures that are kept in memory


class Pictures:
    """JPEGs of a video's frames. Several threads may use it; they take turns.

    Args:
        frames (Frames): the video. Reading here and there must not disturb the tracker, so this is a source of its own.
    """

    def __init__(self, frames: Frames) -> None:
        self._frames = frames
        self._lock = threading.Lock()
        self._kept: OrderedDict[tuple[int, bool], bytes] = OrderedDict()
        self._num_bytes = 0

    def close(self) -> None:
        """Close the video."""
        with self._lock:
            self._frames.close()

    def jpeg(self, index: int, thumbnail: bool = False) -> bytes:
        """A frame as a JPEG.

        Args:
            index (int): index of the frame.
            thumbnail (bool): 64 pixels high instead of full size.

        Raises:
            IndexError: no such frame.
            ValueError: the frame can no longer be decoded.
        """
        with self._lock:
            if (index, thumbnail) not in self._kept:
                if not self._frames.has(index):
                    raise self._frames.missing_frame_error(index)
                self._keep(index, thumbnail, _encode(self._frames[index], _THUMBNAIL_HEIGHT if thumbnail else None))
            self._kept.move_to_end((index, thumbnail))
            return self._kept[index, thumbnail]

    def _keep(self, index: int, thumbnail: bool, data: bytes) -> None:
        self._kept[index, thumbnail] = data
        self._num_bytes += len(data)
        while self._num_bytes > _MAX_BYTES and len(self._kept) > 1:
            _, oldest = self._kept.popitem(last=False)
            self._num_bytes -= len(oldest)


def preview(path: Path) -> Generator[bytes, None, None]:
    """Frames of a video file as JPEGs, as they are decoded, to look at while the file is opened.

    Args:
        path (Path): path of the file.

    Yields:
        Every fifth frame, at most 360 pixels high.

    Raises:
        FileNotFoundError: no such file.
        ValueError: the file is not a video.
    """
    for _, image in iterate_frames(path, lambda index: index % _PREVIEW_STRIDE == 0, threads=1):
        yield _encode(image, min(_PREVIEW_HEIGHT, len(image)))


def _encode(image: np.ndarray, height: int | None) -> bytes:
    """A JPEG, `height` pixels high; None for its own height."""
    if height is not None:
        size = (max(round(image.shape[1] * height / len(image)), 1), height)
        image = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    _, data = cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, _QUALITY])
    return data.tobytes()
