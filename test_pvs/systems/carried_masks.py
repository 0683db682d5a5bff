"""Methods that know masks alone and carry them from frame to frame; the floors of the comparison are such."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from i2v.data.frames import ImageFolder
from i2v.data.rle import mask_to_rle, rle_to_mask
from i2v.utils.numbers import whole_number
from test_pvs.clicks import FOREGROUND
from test_pvs.systems.interface import Box, Point, VideoSession, VideoSystem


class CarriedMaskSession(VideoSession):
    """A session of a method that knows masks alone: it carries the mask of a frame to the next one.

    A prompt other than a mask is turned into one (`to_mask`).

    Args:
        frames: of the video. carry: a function (the index of a frame, masks (O, H, W) bool in the frame before) -> masks
            (O, H, W) bool in it. to_mask: a function (frame's index, points, box, mask (H, W) bool that the object has by
            tracking, empty without) -> mask (H, W) bool; by default ellipses and discs.
    """

    def __init__(
        self,
        frames: ImageFolder,
        carry: Callable[[int, np.ndarray], np.ndarray],
        to_mask: Callable[[int, Sequence[Point], Box | None, np.ndarray], np.ndarray] | None = None,
    ) -> None:
        self._frames = frames
        self._carry = carry
        self._to_mask = to_mask or _shape_from_prompt
        self._prompts: dict[tuple[int, int], dict[str, Any]] = {}  # by frame and object; run-length encoded masks
        self._results: dict[tuple[int, int], dict[str, Any]] = {}

    def prompt(
        self, frame: int, obj: int, points: Sequence[Point] = (), box: Box | None = None, mask: np.ndarray | None = None
    ) -> np.ndarray:
        obj = whole_number(obj, "an object id")
        if not 0 <= frame < self._frames.count():
            raise self._frames.missing_frame_error(frame)
        if mask is None:
            tracked = self._results.get((frame, obj))
            before = np.zeros(self._frames.size[::-1], bool) if tracked is None else rle_to_mask(tracked)
            mask = self._to_mask(frame, points, box, before)
        if mask.shape != self._frames.size[::-1]:
            raise ValueError(f"the mask has shape {mask.shape}, the frames (height, width) = {self._frames.size[::-1]}")
        self._prompts[frame, obj] = mask_to_rle(mask)
        return _as_scores(mask != 0)

    def clear(self, frame: int, obj: int) -> None:
        self._prompts.pop((frame, whole_number(obj, "an object id")), None)

    def reset(self) -> None:
        self._prompts.clear()
        self._results.clear()

    def propagate(self, first: int, last: int) -> Iterator[tuple[int, dict[int, np.ndarray]]]:
        if not self._prompts:
            raise ValueError("nothing to track: prompt an object first")
        for frame in range(first, min(last, self._frames.count() - 1) + 1):
            masks = self._track(frame, self._given(frame))
            self._results.update({(frame, obj): mask_to_rle(mask) for obj, mask in masks.items()})
            yield frame, {obj: _as_scores(masks[obj]) for obj in sorted(masks)}

    def _track(self, frame: int, given: dict[int, np.ndarray]) -> dict[int, np.ndarray]:
        """The masks (H, W) bool of all objects in a frame, by object, `given` those of the prompts in it."""
        before = _in_frame(self._results, frame - 1)
        if not before:
            return given
        return dict(zip(before, self._carry(frame, np.stack(list(before.values()))), strict=True)) | given

    def _given(self, frame: int) -> dict[int, np.ndarray]:
        """The masks of the prompts in a frame."""
        return _in_frame(self._prompts, frame)


def _in_frame(masks: dict[tuple[int, int], dict[str, Any]], frame: int) -> dict[int, np.ndarray]:
    return {obj: rle_to_mask(rle) for (other, obj), rle in masks.items() if other == frame}


def _as_scores(mask: np.ndarray) -> np.ndarray:
    return np.where(mask, np.float32(1), np.float32(-1))


# Of the disc that stands for a click, in parts of the frame's shorter side.
_CLICK_RADIUS = 0.05


def _shape_from_prompt(frame: int, points: Sequence[Point], box: Box | None, before: np.ndarray) -> np.ndarray:
    """What a prompt says without looking at the image: the ellipse that touches a box's sides, or else the mask before, and a
    disc around each click, added for foreground and taken away for background, in their order."""
    if box is None and not points:
        raise ValueError("give points, a box or a mask")
    y, x = np.mgrid[: before.shape[0], : before.shape[1]]
    mask = before.copy()
    if box is not None:
        x0, y0, x1, y1 = box
        mask = ((2 * x - x0 - x1) / (x1 - x0)) ** 2 + ((2 * y - y0 - y1) / (y1 - y0)) ** 2 <= 1
    for px, py, label in points:
        mask[(x - px) ** 2 + (y - py) ** 2 <= (_CLICK_RADIUS * min(before.shape)) ** 2] = label == FOREGROUND
    return mask


class StaticMask(VideoSystem):
    """A floor: the mask stays where it was prompted. A box is taken for its ellipse, a click for a small disc."""

    def start(self, frames: Path) -> VideoSession:
        return CarriedMaskSession(ImageFolder(frames), lambda frame, masks: masks)


class OpticalFlow(VideoSystem):
    """A floor: the mask is moved along with dense optical flow (OpenCV's DIS), frame by frame. A box is taken for its ellipse,
    a click for a small disc."""

    def start(self, frames: Path) -> VideoSession:
        images = ImageFolder(frames)
        return CarriedMaskSession(images, flow_carry(images))


def flow_carry(images: ImageFolder) -> Callable[[int, np.ndarray], np.ndarray]:
    """Moves masks along with the optical flow of a video: what a `CarriedMaskSession` wants."""
    flow = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    grey = lru_cache(maxsize=2)(lambda index: cv2.cvtColor(images[index], cv2.COLOR_RGB2GRAY))
    y, x = np.mgrid[: images.height, : images.width].astype(np.float32)

    def carry(frame: int, masks: np.ndarray) -> np.ndarray:
        back = flow.calc(grey(frame), grey(frame - 1), None)  # where each pixel was in the frame before
        sources = x + back[..., 0], y + back[..., 1]
        moved = [cv2.remap(mask.astype(np.float32), *sources, cv2.INTER_LINEAR) for mask in masks]
        return np.stack(moved) >= 0.5

    return carry
