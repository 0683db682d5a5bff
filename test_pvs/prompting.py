"""Prompts a session with the clicks of a user."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from i2v.prompt import Prompt
from i2v.utils.jf import region_similarity
from test_pvs.clicks import Click, SimulatedUser
from test_pvs.systems import VideoSession


@dataclass(frozen=True)
class Clicked:
    """The result of clicks on an object in a frame.

    Attributes:
        clicks (list[Click]): the clicks in their order.
        ious (list[float]): IoU of the mask after each click.
        mask (np.ndarray or None): (H, W) bool, the mask after the last click; without a click the mask before, if there is one.
    """

    clicks: list[Click]
    ious: list[float]
    mask: np.ndarray | None

    def entries(self) -> list[dict[str, Any]]:
        """Return the clicks as entries of the output JSON, each with the "iou" of the mask after it."""
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
        session (VideoSession): session that is prompted.
        ground_truth (np.ndarray): (H, W) bool.
        frame (int): index of the frame.
        obj (int): number of the object.
        num_clicks (int): maximum number of clicks.
        user (SimulatedUser): who clicks.
        prediction (np.ndarray or None): (H, W) bool; None for an object that has no mask in this frame yet.
        earlier (Sequence[Click]): earlier clicks on the object in this frame, which are given again with the new ones.
    """
    clicks: list[Click] = []
    ious: list[float] = []
    while len(clicks) < num_clicks and (click := user.click(frame, obj, ground_truth, prediction)) is not None:
        clicks.append(click)
        prediction = session.prompt(frame, obj, as_prompt([*earlier, *clicks])) > 0
        ious.append(rounded_iou(ground_truth, prediction))
    return Clicked(clicks, ious, prediction)


def click_again(session: VideoSession, clicks: Sequence[Click]) -> None:
    """Repeat clicks on an object in a frame one by one, because a system starts from the mask of the clicks before."""
    for number in range(1, len(clicks) + 1):
        session.prompt(clicks[0].frame, clicks[0].obj, as_prompt(clicks[:number]))


def rounded_iou(ground_truth: np.ndarray, mask: np.ndarray) -> float:
    """Compute the IoU of two masks (H, W) bool, rounded as it is written to JSON."""
    return round(region_similarity(ground_truth, mask), 6)


def as_prompt(clicks: Sequence[Click]) -> Prompt:
    """Convert clicks to the prompt that a session takes."""
    return Prompt.of_clicks((click.x, click.y, click.label) for click in clicks)
