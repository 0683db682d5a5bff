"""The simulated user: where a person would click, given what the object is and what was predicted.

Clicks are deterministic by default; with a random generator they are sampled near those places, reproducibly for a given seed.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable
from dataclasses import dataclass, fields
from typing import Any

import cv2
import numpy as np

from i2v.prompt import NEGATIVE, POSITIVE
from i2v.utils.regions import depth, largest_component

# Which error a correction clicks on: the deepest, as in the published code and SAM 2, or the one with the most pixels.
DEEPEST, LARGEST = "deepest", "largest"
# Where the right and lower sides of a box lie: past the object's last column and row, as in the published code, or on them.
OUTER, INNER = "outer", "inner"
# A sampled click is at least this deep inside its region, as a share of the depth of the deepest pixel.
_SAMPLED_DEPTH = 0.5


@dataclass(frozen=True)
class Click:
    """A click on an object in a frame.

    `dataclasses.asdict` turns it into JSON, and `Click.of` back.

    Attributes:
        frame (int): index of the frame.
        obj (int): number of the object.
        x (int): column of the pixel.
        y (int): row of the pixel.
        label (int): 1 for foreground, 0 for background.
    """

    frame: int
    obj: int
    x: int
    y: int
    label: int

    @classmethod
    def of(cls, entry: dict[str, Any]) -> Click:
        """Read a click from an entry of the output JSON, which may have more keys."""
        return cls(**{field.name: entry[field.name] for field in fields(cls)})


@dataclass
class SimulatedUser:
    """Clicks on objects.

    Attributes:
        rng (np.random.Generator or None): samples the places of clicks; None for the deterministic places.
        correct (str): which error a correction clicks on, `DEEPEST` or `LARGEST`.
    """

    rng: np.random.Generator | None = None
    correct: str = DEEPEST

    @classmethod
    def of_run(cls, options: dict[str, Any], video: str) -> SimulatedUser:
        """Make the user that the options of a run describe.

        Args:
            options (dict[str, Any]): options of the run. With "seed", clicks are sampled, the same in every run with this seed
                whichever other videos it has; without it, or with None, they are at the deterministic places. "correct" is the
                attribute, by default `DEEPEST`.
            video (str): name of the video.
        """
        seed = options.get("seed")
        rng = None if seed is None else np.random.default_rng([seed, zlib.crc32(video.encode())])
        return cls(rng, options.get("correct", DEEPEST))

    def click(self, frame: int, obj: int, ground_truth: np.ndarray, prediction: np.ndarray | None = None) -> Click | None:
        """Click on the object, or on an error of its predicted mask.

        Args:
            frame (int): index of the frame.
            obj (int): number of the object.
            ground_truth (np.ndarray): (H, W) bool.
            prediction (np.ndarray or None): (H, W) bool; None if the object has no mask yet.

        Returns:
            The click; None if the prediction has no error.

        Raises:
            ValueError: there is neither a prediction nor an object, or the masks differ in size.
        """
        if prediction is None:
            return Click(frame, obj, *first_click(ground_truth, self.rng), POSITIVE)
        found = correction_click(ground_truth, prediction, self.rng, self.correct)
        return None if found is None else Click(frame, obj, *found)


class LoggedUser(SimulatedUser):
    """Repeats given clicks in their order, regardless of the predictions."""

    def __init__(self, clicks: Iterable[Click]) -> None:
        super().__init__()
        self._clicks = iter(clicks)

    def click(self, frame: int, obj: int, ground_truth: np.ndarray, prediction: np.ndarray | None = None) -> Click | None:
        """Return the next click; None after the last one."""
        return next(self._clicks, None)


def first_click(mask: np.ndarray, rng: np.random.Generator | None = None) -> tuple[int, int]:
    """Find the pixel of a mask nearest to its centre of mass; among equals the upper, then the left one.

    Args:
        mask (np.ndarray): (H, W) bool.
        rng (np.random.Generator or None): samples a pixel well inside the mask instead.

    Returns:
        (x, y) in pixels.

    Raises:
        ValueError: the mask is empty.
    """
    y, x = np.nonzero(mask)
    if not len(y):
        raise ValueError("there is no object to click on: the mask is empty")
    if rng is not None:
        return _inside(depth(mask), rng)
    nearest = np.argmin((x - x.mean()) ** 2 + (y - y.mean()) ** 2)
    return int(x[nearest]), int(y[nearest])


def correction_click(
    ground_truth: np.ndarray, prediction: np.ndarray, rng: np.random.Generator | None = None, correct: str = DEEPEST
) -> tuple[int, int, int] | None:
    """Click on an error of a mask.

    There are two kinds of errors: false negatives and false positives. With `DEEPEST`, the click is at the error farthest from
    the border of the errors of its kind; it is positive only if the deepest false negative is strictly deeper than the
    deepest false positive. With `LARGEST`, it is at the deepest pixel of the largest connected component (8 neighbours) of
    errors; it is positive if the largest component of false negatives has at least as many pixels as that of false positives.
    The border of the frame counts as a border of errors.

    Args:
        ground_truth (np.ndarray): (H, W) bool.
        prediction (np.ndarray): (H, W) bool.
        rng (np.random.Generator or None): samples a pixel well inside the errors instead.
        correct (str): `DEEPEST`, the rule of the published code and of SAM 2, or `LARGEST`.

    Returns:
        (x, y, label) with label 1 on a false negative and 0 on a false positive; None if the masks are equal (the published
        code clicks on the background then).

    Raises:
        ValueError: the masks differ in size.
    """
    if ground_truth.shape != prediction.shape:
        sizes = f"{ground_truth.shape} of the ground truth and {prediction.shape} of the prediction"
        raise ValueError(f"the masks differ in size: {sizes}")
    missed, mistaken = ground_truth & ~prediction, prediction & ~ground_truth
    if correct == LARGEST:
        missed, mistaken = largest_component(missed), largest_component(mistaken)
    missed_depth, mistaken_depth = depth(missed), depth(mistaken)
    if correct == LARGEST:
        positive = np.count_nonzero(missed) >= np.count_nonzero(mistaken)
    else:
        positive = missed_depth.max() > mistaken_depth.max()
    depths, label = (missed_depth, POSITIVE) if positive else (mistaken_depth, NEGATIVE)
    return (*_inside(depths, rng), label) if depths.any() else None


def box_around(mask: np.ndarray, edges: str = OUTER) -> tuple[int, int, int, int]:
    """Compute the bounding box of a mask.

    Args:
        mask (np.ndarray): (H, W) bool.
        edges (str): with `OUTER`, x1 and y1 are one past the last column and row of the mask, at most the width and height of
            the frame. With `INNER` they are the last column and row, except that the box of an object one pixel wide or high
            ends at the next pixel, because a box has an area.

    Returns:
        The corners (x0, y0, x1, y1) in pixels.

    Raises:
        ValueError: the mask is empty.
    """
    x, y, width, height = cv2.boundingRect(mask.astype(np.uint8))
    if not width:
        raise ValueError("there is no object to draw a box around: the mask is empty")
    if edges == INNER:
        width, height = max(width - 1, 1), max(height - 1, 1)
    return x, y, x + width, y + height


def _inside(depths: np.ndarray, rng: np.random.Generator | None) -> tuple[int, int]:
    """Choose the deepest pixel (x, y) of a region by its `depth` (H, W), or sample one of the deep ones."""
    chosen = depths.argmax() if rng is None else rng.choice(np.flatnonzero(depths >= _SAMPLED_DEPTH * depths.max()))
    y, x = np.unravel_index(chosen, depths.shape)
    return int(x), int(y)
