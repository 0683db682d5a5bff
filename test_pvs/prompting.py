"""Prompting a session with the clicks of a user."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from sav_dataset.jf import region_similarity
from test_pvs.clicks import Click, SimulatedUser
from test_pvs.systems import VideoSession


@dataclass(frozen=True)
class Clicked:
    """What clicks on an object in a frame did.

    Attributes:
        clicks, ious: in their order, and the IoU of the mask after each. mask: (H, W) bool, after the last one; None without
            any click.
    """

    clicks: list[Click]
    ious: list[float]
    mask: np.ndarray | None

    def entries(self) -> list[dict[str, Any]]:
        """The clicks for the output JSON, each with the "iou" of the mask after it."""
        return [{**asdict(click), "iou": iou} for click, iou in zip(self.clicks, self.ious, strict=True)]


def click_object(
    session: VideoSession,
    ground_truth: np.ndarray,
    frame: int,
    obj: int,
    num_clicks: int,
    user: SimulatedUser,
    prediction: np.ndarray | None = None,
    earlier: Sequence[Click] = (),
) -> Clicked:
    """Click on an object until the clicks are used up or nothing is wrong.

    Args:
        ground_truth, prediction: (H, W) bool; None for an object that has no mask in this frame yet. earlier: clicks that it
            has in this frame already, which are given again with the new ones.
    """
    clicks, ious = [], []
    while len(clicks) < num_clicks and (click := user.click(frame, obj, ground_truth, prediction)) is not None:
        clicks.append(click)
        prediction = session.prompt(frame, obj, points=as_points([*earlier, *clicks])) > 0
        ious.append(rounded_iou(ground_truth, prediction))
    return Clicked(clicks, ious, prediction)


def click_again(session: VideoSession, clicks: Sequence[Click]) -> None:
    """Make clicks on an object in a frame again: one by one, because a system starts from the mask of the clicks before."""
    for number in range(1, len(clicks) + 1):
        session.prompt(clicks[0].frame, clicks[0].obj, points=as_points(clicks[:number]))


def rounded_iou(ground_truth: np.ndarray, mask: np.ndarray) -> float:
    """IoU of two masks (H, W) bool as it is written to JSON."""
    return round(region_similarity(ground_truth, mask), 6)


def as_points(clicks: Sequence[Click]) -> list[tuple[int, int, int]]:
    """Clicks as a session takes them: (x, y, label)."""
    return [(click.x, click.y, click.label) for click in clicks]
