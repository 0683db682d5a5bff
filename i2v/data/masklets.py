"""SA-V's masklets: a JSON file with the run-length encoded masks of a video's objects."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from i2v.data.files import listed, read_json
from i2v.data.images import MAX_PIXELS
from i2v.data.rle import decode_mask, rle_area
from i2v.utils.numbers import whole_number

ANNOTATION_STRIDE = 4  # SA-V's videos have 24 frames per second, its masklets 6


class Masklets:
    """The masklets of a video from SA-V's JSON, or from that of `i2v.segment`, which has a stride of 1.

    Args:
        path (str or Path): path of the JSON file.
        stride (int): distance between annotated frames, in frames of the video.

    Attributes:
        object_ids (list of int): ids of the objects, in the order of their masklets.
        height (int): height of the video in pixels.
        width (int): width of the video in pixels.
        annotated_frames (list of int): indices of the annotated frames in the video.

    Raises:
        FileNotFoundError: no such file.
        ValueError: the file is not a JSON file of masklets.
    """

    def __init__(self, path: str | Path, stride: int = ANNOTATION_STRIDE) -> None:
        self._path = Path(path)
        if not self._path.exists():
            raise FileNotFoundError(f"no such file: {path}")
        try:
            annotation = read_json(self._path)
            self.object_ids = [whole_number(obj_id, "a masklet_id") for obj_id in annotation["masklet_id"]]
            if repeated := [obj_id for obj_id, count in Counter(self.object_ids).items() if count > 1]:
                raise ValueError(f"masklet_id has {listed(repeated)} more than once")
            self.height, self.width = (_side(annotation[key], key) for key in ("video_height", "video_width"))
            # The masks of absent objects have this size, which nothing else in the file limits.
            if self.height * self.width > MAX_PIXELS:
                raise ValueError(
                    f"video_height and video_width are {self.height} and {self.width}, more than {MAX_PIXELS} pixels"
                )
            frames = dict(zip(range(0, stride * len(annotation["masklet"]), stride), annotation["masklet"], strict=True))
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{path} is not a JSON file of SA-V's masklets: {error!r}") from error
        self._rles = {frame: rles for frame, rles in frames.items() if rles is not None}
        self.annotated_frames = list(self._rles)

    def areas(self, frame: int) -> np.ndarray:
        """The areas of all objects in an annotated frame.

        Args:
            frame (int): index of the frame in the video.

        Returns:
            (objects,) int64 areas in pixels; 0 for an absent object.

        Raises:
            TypeError: `frame` is not an integer.
            ValueError: the frame is not annotated, or a mask in the file is malformed.
        """
        frame = whole_number(frame, "a frame")
        with self._errors(frame):
            return np.array([rle_area(rle) for rle in self._masks_in(frame)], np.int64)

    def masks(self, frame: int, positions: Iterable[int] | None = None) -> np.ndarray:
        """The masks of objects in an annotated frame.

        Args:
            frame (int): index of the frame in the video.
            positions (Iterable[int] or None): positions of the objects in `object_ids`, from 0; all objects by default.

        Returns:
            (objects, height, width) bool.

        Raises:
            TypeError: `frame` or a position is not an integer.
            ValueError: the frame is not annotated, there is no such position, or a mask in the file is malformed.
        """
        frame = whole_number(frame, "a frame")
        rles, shape = self._masks_in(frame), (self.height, self.width)
        chosen = range(len(rles)) if positions is None else [whole_number(place, "an object's position") for place in positions]
        if unknown := [place for place in chosen if not 0 <= place < len(rles)]:
            raise ValueError(f"there is no object at position {unknown[0]} in {self._path}: it has {len(rles)} objects")
        with self._errors(frame):
            return np.array([decode_mask(rles[place], shape) for place in chosen], bool).reshape(-1, *shape)

    def _masks_in(self, frame: int) -> list[Any]:
        if frame not in self._rles:
            raise ValueError(f"{self._path} has no masks of frame {frame}: see `annotated_frames`")
        rles = self._rles[frame]
        if len(rles) != len(self.object_ids):
            raise ValueError(f"{self._path}, frame {frame}: {len(rles)} masks of {len(self.object_ids)} objects")
        return rles

    @contextmanager
    def _errors(self, frame: int) -> Iterator[None]:
        try:
            yield
        except (LookupError, TypeError, ValueError, OverflowError, MemoryError) as error:
            if str(self._path) in str(error):
                raise
            raise ValueError(f"{self._path}, frame {frame}: {error}") from error


def _side(value: Any, key: str) -> int:
    """The height or width of the video in pixels. SA-V's own files have floats, such as 848.0."""
    side = whole_number(int(value) if isinstance(value, float) and value.is_integer() else value, key)
    if side < 1:
        raise ValueError(f"{key} must be at least 1, not {side}")
    return side
