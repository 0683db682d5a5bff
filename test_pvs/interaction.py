"""Who interacts with a session in the interactive benchmarks: a simulated user, or the log of one."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from i2v.data.rle import mask_to_rle, rle_to_mask
from i2v.utils.jf import ObjectScores, region_similarity
from test_pvs.clicks import Click, LoggedUser, SimulatedUser
from test_pvs.datasets import EvaluationVideo
from test_pvs.prompting import click_object, rounded_iou
from test_pvs.systems import VideoSession

# Which annotated frames of an object are scored, from the first one that shows it: all, prompted ones included, as in SAM 2's
# interactive evaluation. slice(1, -1) would leave out the first and the last, as SA-V's evaluator does.
SCORED_FRAMES = slice(None)

EncodedMasks = dict[int, dict[str, Any]]  # run-length encoded masks by frame


@dataclass(frozen=True)
class Target:
    """An object to segment, from the first frame that shows it to the end of the video.

    Attributes:
        video (EvaluationVideo): the video.
        obj (int): number of the object.
        first (int): index of the first annotated frame that shows the object.
    """

    video: EvaluationVideo
    obj: int
    first: int

    @cached_property
    def last(self) -> int:
        """Index of the last frame of the video."""
        return self.video.images.count() - 1

    @cached_property
    def frames(self) -> list[int]:
        """Indices of the frames with ground truth of this object, from `first`, in order."""
        return [frame for frame in self.video.frames_of(self.obj) if frame >= self.first]

    def truth(self, frame: int) -> np.ndarray:
        """Return the ground truth in an annotated frame, (H, W) bool."""
        return self.video.mask(frame, self.obj)

    def iou(self, frame: int, mask: np.ndarray) -> float:
        """Compute the IoU of a mask (H, W) bool with the ground truth; 1 if both are empty."""
        return region_similarity(self.truth(frame), mask)

    def scores(self, masks: EncodedMasks) -> dict[str, float]:
        """Compute J&F, J and F in percent, averaged over the scored frames (`SCORED_FRAMES`).

        Args:
            masks (EncodedMasks): masks of all annotated frames.
        """
        scores = ObjectScores()
        for frame in self.frames[SCORED_FRAMES]:
            scores.add(self.truth(frame), rle_to_mask(masks[frame]))
        found = scores.percent()
        return {name: round(number, 6) for name, number in (("j_and_f", found.j_and_f), ("j", found.j), ("f", found.f))}

    def track(self, session: VideoSession, first: int) -> Iterator[tuple[int, np.ndarray]]:
        """Track to the end of the video.

        Yields:
            (frame, mask): index of each annotated frame, and the mask of the object in it, (H, W) bool.
        """
        annotated = set(self.frames)
        for frame, scores in session.propagate(first, self.last):
            if frame in annotated:
                yield frame, scores[self.obj] > 0


@dataclass(frozen=True)
class Interaction:
    """Clicks on an object in a frame.

    Attributes:
        frame (int): index of the frame.
        iou (float or None): IoU before the clicks; None if the object had no mask yet.
        clicks (list[dict[str, Any]]): clicks of this interaction, as entries of the output JSON.
        all_clicks (list[Click]): all clicks on the object in this frame, earlier ones included.
        mask (dict[str, Any]): mask after the clicks, run-length encoded.
    """

    frame: int
    iou: float | None
    clicks: list[dict[str, Any]]
    all_clicks: list[Click]
    mask: dict[str, Any]

    def entry(self) -> dict[str, Any]:
        """Return the entry of the output JSON."""
        return {"frame": self.frame, "iou": self.iou, "clicks": self.clicks}


class Annotator(ABC):
    """Decides in which frames to interact, and clicks there."""

    @abstractmethod
    def pauses(self, frame: int, iou: float) -> bool:
        """Decide, online, whether to correct a frame that has just been tracked.

        Args:
            frame (int): index of the frame.
            iou (float): IoU of the mask in it.
        """

    @abstractmethod
    def worst(self, ious: dict[int, float]) -> int | None:
        """Choose, offline, the frame to correct after a pass; None if there is nothing to correct.

        Args:
            ious (dict[int, float]): IoU by index of the frame, for all annotated frames.
        """

    def interact(
        self,
        session: VideoSession,
        target: Target,
        frame: int,
        prediction: np.ndarray | None = None,
        earlier: Sequence[Click] = (),
    ) -> Interaction:
        """Click on an object in a frame.

        Args:
            session (VideoSession): session that is prompted.
            target (Target): the object.
            frame (int): index of the frame.
            prediction (np.ndarray or None): (H, W) bool; None for a new object.
            earlier (Sequence[Click]): earlier clicks on the object in this frame.
        """
        user, num_clicks = self._clicker()
        truth = target.truth(frame)
        clicked = click_object(session, truth, frame, target.obj, num_clicks, user, prediction, earlier)
        assert clicked.mask is not None  # a new object is clicked on at least once
        iou = None if prediction is None else rounded_iou(truth, prediction)
        return Interaction(frame, iou, clicked.entries(), [*earlier, *clicked.clicks], mask_to_rle(clicked.mask))

    @abstractmethod
    def _clicker(self) -> tuple[SimulatedUser, int]:
        """Return who makes the clicks of the next interaction, and their maximum number."""


class SimulatedAnnotator(Annotator):
    """Compares masks with the ground truth.

    Args:
        user (SimulatedUser): who clicks.
        num_clicks (int): maximum number of clicks per interaction.
        threshold (float): IoU below which tracking is paused, from 0 to 1.
    """

    def __init__(self, user: SimulatedUser, num_clicks: int, threshold: float = 0.0) -> None:
        self._user = user
        self._num_clicks = num_clicks
        self._threshold = threshold

    def pauses(self, frame: int, iou: float) -> bool:
        return iou < self._threshold

    def worst(self, ious: dict[int, float]) -> int | None:
        wrong = [(iou, frame) for frame, iou in ious.items() if iou < 1]  # the first of equally bad frames
        return min(wrong)[-1] if wrong else None

    def _clicker(self) -> tuple[SimulatedUser, int]:
        return self._user, self._num_clicks


class LoggedAnnotator(Annotator):
    """Repeats the interactions of a log, regardless of the predictions.

    Args:
        interactions (Sequence[dict[str, Any]]): entries of the output JSON.
    """

    def __init__(self, interactions: Sequence[dict[str, Any]]) -> None:
        self._rest = deque(interactions)

    def pauses(self, frame: int, iou: float) -> bool:
        return bool(self._rest) and self._rest[0]["frame"] == frame

    def worst(self, ious: dict[int, float]) -> int | None:
        return self._rest[0]["frame"] if self._rest else None

    def _clicker(self) -> tuple[SimulatedUser, int]:
        clicks = [Click.of(entry) for entry in self._rest.popleft()["clicks"]]
        return LoggedUser(clicks), len(clicks)
