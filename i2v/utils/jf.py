"""Region similarity J and boundary accuracy F of masks, as defined by DAVIS and averaged by the SA-V evaluator.

Only the box around both masks is looked at: the pixels outside of it are background in both and change neither score.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import NamedTuple

import cv2
import numpy as np

TOLERANCE = 0.008  # distance at which boundary pixels still match, as a fraction of the frame's diagonal


class JF(NamedTuple):
    """Mean scores of one object over its frames, in percent; NaN if no frame of the ground truth shows the object.

    Attributes:
        j (float): region similarity.
        f (float): boundary accuracy.
    """

    j: float
    f: float

    @property
    def j_and_f(self) -> float:
        """The mean of J and F."""
        return (self.j + self.f) / 2


def tolerance_in_pixels(height: int, width: int) -> int:
    """The distance in pixels at which boundary pixels still match in a frame of this size."""
    return math.ceil(TOLERANCE * math.sqrt(height**2 + width**2))


def region_similarity(ground_truth: np.ndarray, prediction: np.ndarray) -> float:
    """Intersection over union.

    Args:
        ground_truth (np.ndarray): (H, W) bool.
        prediction (np.ndarray): (H, W) bool.

    Returns:
        J in [0, 1]; 1 if both masks are empty.

    Raises:
        ValueError: the masks are not bool, or differ in size.
    """
    _check_masks(ground_truth, prediction)
    union = np.count_nonzero(ground_truth | prediction)
    return float(np.count_nonzero(ground_truth & prediction) / union) if union else 1.0


def boundary_accuracy(ground_truth: np.ndarray, prediction: np.ndarray, tolerance: int | None = None) -> float:
    """Harmonic mean of precision and recall of the boundary pixels.

    A boundary pixel is matched if the other mask has a boundary pixel at most `tolerance` away.

    Args:
        ground_truth (np.ndarray): (H, W) bool.
        prediction (np.ndarray): (H, W) bool.
        tolerance (int or None): distance in pixels; by default that of a frame of the masks' size, so masks that were cropped
            from a frame need it.

    Returns:
        F in [0, 1]. If one of the masks has no boundary, because it is empty or full: 1 if neither has one, else 0.

    Raises:
        ValueError: the masks are not bool, or differ in size.
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
    """J and F of one object, accumulated frame by frame.

    The first frame that counts is the first one to show the object in the ground truth or in the prediction. From then on, a
    frame in which both are empty scores 1.

    Attributes:
        in_ground_truth (bool): whether any frame showed the object in the ground truth.
    """

    def __init__(self) -> None:
        self.in_ground_truth = False
        self._j: list[float] = []
        self._f: list[float] = []

    def add(self, ground_truth: np.ndarray, prediction: np.ndarray, tolerance: int | None = None) -> None:
        """Add a frame; see `boundary_accuracy` for arguments and errors."""
        _check_masks(ground_truth, prediction)
        self.in_ground_truth |= bool(ground_truth.any())
        if self.in_ground_truth or self._j or prediction.any():
            self._j.append(region_similarity(ground_truth, prediction))
            self._f.append(boundary_accuracy(ground_truth, prediction, tolerance))

    def percent(self, num_missing: int = 0) -> JF:
        """Average the scores over the frames.

        Args:
            num_missing (int): number of frames without a prediction, which score 0.

        Returns:
            The mean scores in percent (JF).
        """
        if not self.in_ground_truth:
            return JF(math.nan, math.nan)
        count = len(self._j) + num_missing
        return JF(100 * sum(self._j) / count, 100 * sum(self._f) / count)


def jf_scores(ground_truth: np.ndarray, prediction: np.ndarray, skip_first_and_last: bool = True) -> list[JF]:
    """Score the objects of one video.

    Args:
        ground_truth (np.ndarray): (T, O, H, W) bool.
        prediction (np.ndarray): (T, O, H, W) bool.
        skip_first_and_last (bool): leave out these two frames, as SA-V's evaluator does.

    Returns:
        One JF per object, in percent; NaN for an object that is empty in the ground truth of all scored frames.

    Raises:
        ValueError: an array has another type or shape, or no frame is left to score.
    """
    if ground_truth.ndim != 4 or ground_truth.shape != prediction.shape:
        shapes = f"{ground_truth.shape} of the ground truth and {prediction.shape} of the prediction"
        raise ValueError(f"expected two arrays (T, O, H, W) of the same shape, got {shapes}")
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
        raise ValueError(f"expected two masks (H, W) of the same size, got {sizes}")
    if ground_truth.dtype != bool or prediction.dtype != bool:
        types = f"{ground_truth.dtype} of the ground truth and {prediction.dtype} of the prediction"
        raise ValueError(f"expected bool masks, got {types}")


def _crop(ground_truth: np.ndarray, prediction: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Crop both masks to the box around them, with a margin of one pixel.

    The box holds all boundary pixels, since these lie in the mask or directly before it. The tolerance needs no margin: there
    is nothing to match outside of the box.
    """
    x, y, width, height = cv2.boundingRect((ground_truth | prediction).view(np.uint8))
    window = np.s_[max(y - 1, 0) : y + height + 1, max(x - 1, 0) : x + width + 1]
    return ground_truth[window], prediction[window]


def _boundary(mask: np.ndarray) -> np.ndarray:
    """Where a mask (H, W) bool differs from its right, lower or lower right neighbour.

    The last row and column are replicated, so the border of the frame is not a boundary.
    """
    padded = cv2.copyMakeBorder(mask.view(np.uint8), 0, 1, 0, 1, cv2.BORDER_REPLICATE).view(bool)
    return (mask != padded[:-1, 1:]) | (mask != padded[1:, :-1]) | (mask != padded[1:, 1:])


def _dilate(mask: np.ndarray, radius: int) -> np.ndarray:
    """Where a mask (H, W) bool has a pixel at most `radius` away."""
    return cv2.dilate(mask.view(np.uint8), _disc(radius)).view(bool)


@lru_cache(maxsize=16)
def _disc(radius: int) -> np.ndarray:
    y, x = np.ogrid[-radius : radius + 1, -radius : radius + 1]
    return (x * x + y * y <= radius * radius).astype(np.uint8)
