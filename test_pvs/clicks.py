"""The simulated user: where a person would click, given what the object is and what was predicted.

Everything is deterministic; with a random generator clicks are drawn near those places, and repeat with its seed.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable
from dataclasses import dataclass, fields
from typing import Any

import cv2
import numpy as np

from i2v.utils.regions import depth, largest_component

FOREGROUND, BACKGROUND = 1, 0
# What a correction clicks on: the deepest error, as the published code and SAM 2 do, or the one with the most pixels.
DEEPEST, LARGEST = "deepest", "largest"
# Where the sides of a box lie: past the object's last column and row, as in the published code, or on them.
OUTER, INNER = "outer", "inner"
# A drawn click is at least this far inside its region, in parts of the largest possible distance from the region's border.
_DRAWN_DEPTH = 0.5


@dataclass(frozen=True)
class Click:
    """A click: the frame's index, the object's number, the pixel (x, y), and 1 for foreground or 0 for background.

    `dataclasses.asdict` turns it into JSON, and `Click.of` back.
    """

    frame: int
    obj: int
    x: int
    y: int
    label: int

    @classmethod
    def of(cls, entry: dict[str, Any]) -> Click:
        """The click of an entry of the output JSON, which may hold more."""
        return cls(**{field.name: entry[field.name] for field in fields(cls)})


@dataclass
class SimulatedUser:
    """Clicks on objects.

    Attributes:
        rng: None for the deterministic places.
        correct: which error a correction clicks on, `DEEPEST` or `LARGEST`.
    """

    rng: np.random.Generator | None = None
    correct: str = DEEPEST

    @classmethod
    def of_run(cls, options: dict[str, Any], video: str) -> SimulatedUser:
        """The user of a run's options "seed" and "correct".

        With a seed the clicks are drawn: the same in every run with this seed, whatever other videos there are. Without one, or
        with None, they are at the deterministic places.
        """
        seed = options.get("seed")
        rng = None if seed is None else np.random.default_rng([seed, zlib.crc32(video.encode())])
        return cls(rng, options.get("correct", DEEPEST))

    def click(self, frame: int, obj: int, ground_truth: np.ndarray, prediction: np.ndarray | None = None) -> Click | None:
        """Click on the object, or, given its predicted mask, on what is wrong there.

        Args:
            frame, obj: of the click. ground_truth, prediction: (H, W) bool.

        Returns:
            The click; None if nothing is wrong.

        Raises:
            ValueError: no prediction and no object, or masks of two sizes.
        """
        if prediction is None:
            found = (*first_click(ground_truth, self.rng), FOREGROUND)
        else:
            found = correction_click(ground_truth, prediction, self.rng, self.correct)
        return None if found is None else Click(frame, obj, *found)


class LoggedUser(SimulatedUser):
    """Makes given clicks again, in their order, whatever is predicted."""

    def __init__(self, clicks: Iterable[Click]) -> None:
        super().__init__()
        self._clicks = iter(clicks)

    def click(self, frame: int, obj: int, ground_truth: np.ndarray, prediction: np.ndarray | None = None) -> Click | None:
        """The next click; None after the last one."""
        return next(self._clicks, None)


def first_click(mask: np.ndarray, rng: np.random.Generator | None = None) -> tuple[int, int]:
    """The pixel (x, y) of a mask (H, W) bool nearest to its centre of mass; the upper, then left one of several.

    Args:
        rng: to draw a pixel well inside the mask instead.

    Raises:
        ValueError: an empty mask.
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
    """A click on what is wrong with a mask.

    With `DEEPEST`, at the wrong pixel that is farthest from the border of the errors of its kind (missed, or foreground by
    mistake); the click is positive only if the deepest missed pixel is strictly deeper than the deepest mistaken one. With
    `LARGEST`, at that pixel of the largest connected component (8 neighbours) of errors; positive where the largest ones of
    both kinds have as many pixels. Beyond the frame nothing is wrong, so that its border counts as the errors' border.

    Args:
        ground_truth: (H, W) bool.
        prediction: (H, W) bool.
        rng: to draw a pixel well inside the errors instead.
        correct: `DEEPEST`, the rule of the published code and of SAM 2, or `LARGEST`.

    Returns:
        (x, y, label): label 1 where the object was missed, 0 where it is not; None if the masks are equal, where the published
        code clicks on the background.

    Raises:
        ValueError: masks of two sizes.
    """
    if ground_truth.shape != prediction.shape:
        sizes = f"{ground_truth.shape} of the ground truth and {prediction.shape} of the prediction"
        raise ValueError(f"the masks have two sizes: {sizes}")
    missed, mistaken = ground_truth & ~prediction, prediction & ~ground_truth
    if correct == LARGEST:
        missed, mistaken = largest_component(missed), largest_component(mistaken)
    missed_depth, mistaken_depth = depth(missed), depth(mistaken)
    if correct == LARGEST:
        positive = np.count_nonzero(missed) >= np.count_nonzero(mistaken)
    else:
        positive = missed_depth.max() > mistaken_depth.max()
    depths, label = (missed_depth, FOREGROUND) if positive else (mistaken_depth, BACKGROUND)
    return (*_inside(depths, rng), label) if depths.any() else None


def box_around(mask: np.ndarray, edges: str = OUTER) -> tuple[int, int, int, int]:
    """The corners (x0, y0, x1, y1) of the box of a mask (H, W) bool, in pixels.

    Args:
        edges: with `OUTER`, x1 and y1 are the column and row after the last ones of the mask, and may be the frame's width and
            height. With `INNER` they are the last ones; an object that is one pixel wide has a box from that pixel to the next,
            because boxes have an area.

    Raises:
        ValueError: an empty mask.
    """
    x, y, width, height = cv2.boundingRect(mask.astype(np.uint8))
    if not width:
        raise ValueError("there is no object to draw a box around: the mask is empty")
    if edges == INNER:
        width, height = max(width - 1, 1), max(height - 1, 1)
    return x, y, x + width, y + height


def _inside(depths: np.ndarray, rng: np.random.Generator | None) -> tuple[int, int]:
    """The deepest pixel (x, y) of a region by its `depth` (H, W), or one that is drawn among the deep ones."""
    chosen = depths.argmax() if rng is None else rng.choice(np.flatnonzero(depths >= _DRAWN_DEPTH * depths.max()))
    y, x = np.unravel_index(chosen, depths.shape)
    return int(x), int(y)
