"""Methods that only know masks and carry them from frame to frame, among them the baselines of the comparison."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from i2v.data.frames import ImageFolder
from i2v.data.rle import mask_to_rle, rle_to_mask
from i2v.prompt import POSITIVE, Prompt
from i2v.utils.numbers import whole_number
from test_pvs.systems.interface import VideoSession, VideoSystem


class CarriedMaskSession(VideoSession):
    """A session of a method that carries masks from a frame to the next one.

    Points and boxes are converted to masks.

    Args:
        frames (ImageFolder): frames of the video.
        carry (Callable[[int, np.ndarray], np.ndarray]): (index of a frame, masks (O, H, W) bool in the frame before) -> masks
            (O, H, W) bool in the frame.
        to_mask (Callable or None): (index of a frame, prompt, tracked mask (H, W) bool of the object, empty if
            it was not tracked) -> mask (H, W) bool; by default boxes become ellipses and clicks become discs.
    """

    def __init__(
        self,
        frames: ImageFolder,
        carry: Callable[[int, np.ndarray], np.ndarray],
        to_mask: Callable[[int, Prompt, np.ndarray], np.ndarray] | None = None,
    ) -> None:
        self._frames = frames
        self._carry = carry
        self._to_mask = to_mask or _shape_from_prompt
        # Run-length encoded masks by frame and object.
        self._prompts: dict[tuple[int, int], dict[str, Any]] = {}
        self._results: dict[tuple[int, int], dict[str, Any]] = {}

    def prompt(self, frame: int, obj: int, prompt: Prompt) -> np.ndarray:
        obj = whole_number(obj, "an object id")
        if not 0 <= frame < self._frames.count():
            raise self._frames.missing_frame_error(frame)
        if prompt.mask is not None:
            mask = prompt.mask.numpy()
        else:
            tracked = self._results.get((frame, obj))
            before = np.zeros(self._frames.size[::-1], bool) if tracked is None else rle_to_mask(tracked)
            mask = self._to_mask(frame, prompt, before)
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
        """Compute the masks of all objects in a frame.

        Args:
            frame (int): index of the frame.
            given (dict[int, np.ndarray]): masks (H, W) bool of the prompts in it, by object.

        Returns:
            Masks (H, W) bool by object.
        """
        before = _in_frame(self._results, frame - 1)
        if not before:
            return given
        return dict(zip(before, self._carry(frame, np.stack(list(before.values()))), strict=True)) | given

    def _given(self, frame: int) -> dict[int, np.ndarray]:
        """Return the masks of the prompts in a frame, by object."""
        return _in_frame(self._prompts, frame)


def _in_frame(masks: dict[tuple[int, int], dict[str, Any]], frame: int) -> dict[int, np.ndarray]:
    return {obj: rle_to_mask(rle) for (other, obj), rle in masks.items() if other == frame}


def _as_scores(mask: np.ndarray) -> np.ndarray:
    return np.where(mask, np.float32(1), np.float32(-1))


# Radius of the disc that stands for a click, as a share of the shorter side of the frame.
_CLICK_RADIUS = 0.05


def _shape_from_prompt(frame: int, prompt: Prompt, before: np.ndarray) -> np.ndarray:
    """Convert a prompt to a mask without looking at the image.

    The mask is the ellipse inscribed in the box, or the mask before if there is no box. A disc around each click is then added
    (foreground) or removed (background), in their order.
    """
    y, x = np.mgrid[: before.shape[0], : before.shape[1]]
    mask = before.copy()
    if prompt.box is not None:
        x0, y0, x1, y1 = prompt.box.tolist()
        mask = ((2 * x - x0 - x1) / (x1 - x0)) ** 2 + ((2 * y - y0 - y1) / (y1 - y0)) ** 2 <= 1
    for px, py, label in prompt.clicks:
        mask[(x - px) ** 2 + (y - py) ** 2 <= (_CLICK_RADIUS * min(before.shape)) ** 2] = label == POSITIVE
    return mask


class StaticMask(VideoSystem):
    """A baseline: the mask stays where it was prompted. A box becomes an ellipse, a click a small disc."""

    def start(self, frames: Path) -> VideoSession:
        return CarriedMaskSession(ImageFolder(frames), lambda frame, masks: masks)


class OpticalFlow(VideoSystem):
    """A baseline: dense optical flow (OpenCV's DIS) moves the mask frame by frame.

    A box becomes an ellipse, a click a small disc.
    """

    def start(self, frames: Path) -> VideoSession:
        images = ImageFolder(frames)
        return CarriedMaskSession(images, flow_carry(images))


def flow_carry(images: ImageFolder) -> Callable[[int, np.ndarray], np.ndarray]:
    """Make the `carry` of a `CarriedMaskSession` that moves masks with the optical flow of a video."""
    flow = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    grey = lru_cache(maxsize=2)(lambda index: cv2.cvtColor(images[index], cv2.COLOR_RGB2GRAY))
    y, x = np.mgrid[: images.height, : images.width].astype(np.float32)
    no_guess: Any = None  # OpenCV's types ask for an array

    def carry(frame: int, masks: np.ndarray) -> np.ndarray:
        back = flow.calc(grey(frame), grey(frame - 1), no_guess)  # where each pixel was in the frame before
        sources = x + back[..., 0], y + back[..., 1]
        moved = [cv2.remap(mask.astype(np.float32), *sources, cv2.INTER_LINEAR) for mask in masks]
        return np.stack(moved) >= 0.5

    return carry
