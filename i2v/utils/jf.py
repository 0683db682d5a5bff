"""Region similarity J and boundary accuracy F of masks, as DAVIS defines them and the SA-V evaluator averages them.

Everything happens in the box around both masks: pixels outside it are background in both, and add nothing to either number.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import NamedTuple

import cv2
import numpy as np

TOLERANCE = 0.008  # how far apart boundaries may be, in parts of the frame's diagonal


class JF(NamedTuple):
    """Scores of one object over its frames, in percent; NaN where the object is in no frame of the ground truth."""

    j: float
    f: float

    @property
    def j_and_f(self) -> float:
        """The mean of both."""
        return (self.j + self.f) / 2


def tolerance_in_pixels(height: int, width: int) -> int:
    """How far apart boundaries may be in a frame of this size."""
    return math.ceil(TOLERANCE * math.sqrt(height**2 + width**2))


def region_similarity(ground_truth: np.ndarray, prediction: np.ndarray) -> float:
    """Intersection over union.

    Args:
        ground_truth, prediction: (H, W) bool.

    Returns:
        J in [0, 1]; 1 if both masks are empty.

    Raises:
        ValueError: not two bool masks of one size.
    """
    _check_masks(ground_truth, prediction)
    union = np.count_nonzero(ground_truth | prediction)
    return float(np.count_nonzero(ground_truth & prediction) / union) if union else 1.0


def boundary_accuracy(ground_truth: np.ndarray, prediction: np.ndarray, tolerance: int | None = None) -> float:
    """Harmonic mean of precision and recall of the boundary pixels; a pixel counts as found where the other mask has a boundary
    pixel at most `tolerance` away.

    Args:
        ground_truth, prediction: (H, W) bool. tolerance: in pixels; by default that of a frame of the masks' size, so that
            masks that are cut out of a frame need it.

    Returns:
        F in [0, 1]. Without boundary in one of the masks (it is empty or full): 1 if there is none in the other either, else 0.

    Raises:
        ValueError: not two bool masks of one size.
    """
    _check_masks(ground_truth, prediction)
    radius = tolerance_in_pixels(*ground_truth.shape) if tolerance is None else tolerance
    true, found = (_boundary(mask) for mask in _crop(ground_truth, prediction))
    num_true, num_found = np.count_nonzero(true), np.count_nonzero(found)
    if not num_true or not num_found:
        return float(num_true == num_found)
    precision = np.count_nonzero(found & _dilate(true, radius)) / num_found
    recall = np.count_nonzero(true & _dilate(found, radius)) / num_true
    return float(2 * precision * recall / (precision + recall)) if precision + recall else 0.0


class ObjectScores:
    """J and F of one object, added up frame by frame.

    Counting starts with the first frame that has the object in the ground truth or in the prediction. From then on, a frame
    without it in both scores 1.

    Attributes:
        in_ground_truth: whether a frame had the object in the ground truth.
    """

    def __init__(self) -> None:
        self.in_ground_truth = False
        self._j: list[float] = []
        self._f: list[float] = []

    def add(self, ground_truth: np.ndarray, prediction: np.ndarray, tolerance: int | None = None) -> None:
        """Add a frame. Arguments and errors as of `boundary_accuracy`."""
        _check_masks(ground_truth, prediction)
        self.in_ground_truth |= bool(ground_truth.any())
        if self.in_ground_truth or self._j or prediction.any():
            self._j.append(region_similarity(ground_truth, prediction))
            self._f.append(boundary_accuracy(ground_truth, prediction, tolerance))

    def percent(self, num_missing: int = 0) -> JF:
        """The means over the frames.

        Args:
            num_missing: frames without a prediction, which score 0.
        """
        if not self.in_ground_truth:
            return JF(math.nan, math.nan)
        count = len(self._j) + num_missing
        return JF(100 * sum(self._j) / count, 100 * sum(self._f) / count)


def jf_scores(ground_truth: np.ndarray, prediction: np.ndarray, skip_first_and_last: bool = True) -> list[JF]:
    """Scores of the objects of one video.

    Args:
        ground_truth, prediction: (T, O, H, W) bool. skip_first_and_last: leave out these two frames, as SA-V's evaluator does.

    Returns:
        One entry per object, in percent; NaN where the ground truth of all frames that count is empty.

    Raises:
        ValueError: arrays of another type or shape, or no frame is left.
    """
    if ground_truth.ndim != 4 or ground_truth.shape != prediction.shape:
        shapes = f"{ground_truth.shape} of the ground truth and {prediction.shape} of the prediction"
        raise ValueError(f"expected two arrays (T, O, H, W) of one shape, got {shapes}")
    frames = slice(1, -1) if skip_first_and_last else slice(None)
    objects = [ObjectScores() for _ in range(ground_truth.shape[1])]
    pairs = list(zip(ground_truth[frames], prediction[frames], strict=True))
    if not pairs:
        raise ValueError(f"no frame to evaluate: the video has {len(ground_truth)}, and the first and last one do not count")
    for true_masks, found_masks in pairs:
        for scores, true, found in zip(objects, true_masks, found_masks, strict=True):
            scores.add(true, found)
    return [scores.percent() for scores in objects]


def _check_masks(ground_truth: np.ndarray, prediction: np.ndarray) -> None:
    if ground_truth.ndim != 2 or not ground_truth.size or ground_truth.shape != prediction.shape:
        sizes = f"{ground_truth.shape} of the ground truth and {prediction.shape} of the prediction"
        raise ValueError(f"expected two masks (H, W) of one size, got {sizes}")
    if ground_truth.dtype != bool or prediction.dtype != bool:
        types = f"{ground_truth.dtype} of the ground truth and {prediction.dtype} of the prediction"
        raise ValueError(f"expected bool masks, got {types}")


def _crop(ground_truth: np.ndarray, prediction: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The part of the masks that holds all their boundary pixels: the box around both, and one pixel more on each side.

    A boundary pixel is in the mask, or just before it. The tolerance needs no margin, because what is further away than that
    is matched against nothing.
    """
    x, y, width, height = cv2.boundingRect((ground_truth | prediction).view(np.uint8))
    window = np.s_[max(y - 1, 0) : y + height + 1, max(x - 1, 0) : x + width + 1]
    return ground_truth[window], prediction[window]


def _boundary(mask: np.ndarray) -> np.ndarray:
    """Where a mask (H, W) bool differs from its neighbour to the right, below or diagonally between; beyond the last row and
    column it goes on unchanged, so that the border of the frame is no boundary."""
    padded = cv2.copyMakeBorder(mask.view(np.uint8), 0, 1, 0, 1, cv2.BORDER_REPLICATE).view(bool)
    return (mask != padded[:-1, 1:]) | (mask != padded[1:, :-1]) | (mask != padded[1:, 1:])


def _dilate(mask: np.ndarray, radius: int) -> np.ndarray:
    """Where a mask (H, W) bool has a pixel at most `radius` away."""
    return cv2.dilate(mask.view(np.uint8), _disc(radius)).view(bool)


@lru_cache(maxsize=16)
def _disc(radius: int) -> np.ndarray:
    y, x = np.ogrid[-radius : radius + 1, -radius : radius + 1]
    return (x * x + y * y <= radius * radius).astype(np.uint8)
