"""Who interacts with a session during the interactive benchmarks: the simulated user, or the log of one."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from i2v.data.rle import mask_to_rle, rle_to_mask
from sav_dataset.jf import ObjectScores, region_similarity
from test_pvs.clicks import Click, LoggedUser, SimulatedUser
from test_pvs.datasets import EvaluationVideo
from test_pvs.prompting import click_object, rounded_iou
from test_pvs.systems import VideoSession

# Which of an object's annotated frames are scored, from the first one that shows it on: all, as in SAM 2's interactive
# evaluation, the prompted ones included. slice(1, -1) would leave out the first and the last, as SA-V's evaluator does.
SCORED_FRAMES = slice(None)

EncodedMasks = dict[int, dict[str, Any]]  # run-length encoded, by frame


@dataclass(frozen=True)
class Target:
    """An object that is to be segmented from the first frame that shows it to the end of the video.

    Attributes:
        first: that frame.
    """

    video: EvaluationVideo
    obj: int
    first: int

    @cached_property
    def last(self) -> int:
        """The video's last frame."""
        return self.video.images.count() - 1

    @cached_property
    def frames(self) -> list[int]:
        """The frames that have ground truth of this object, from the first one on, in order."""
        return [frame for frame in self.video.frames_of(self.obj) if frame >= self.first]

    def truth(self, frame: int) -> np.ndarray:
        """The ground truth in an annotated frame: (H, W) bool."""
        return self.video.mask(frame, self.obj)

    def iou(self, frame: int, mask: np.ndarray) -> float:
        """IoU of a mask (H, W) bool with the ground truth; 1 if both are empty."""
        return region_similarity(self.truth(frame), mask)

    def scores(self, masks: EncodedMasks) -> dict[str, float]:
        """J&F, J and F in percent, averaged over the frames that are scored (`SCORED_FRAMES`).

        Args:
            masks: of all annotated frames.
        """
        scores = ObjectScores()
        for frame in self.frames[SCORED_FRAMES]:
            scores.add(self.truth(frame), rle_to_mask(masks[frame]))
        found = scores.percent()
        return {name: round(number, 6) for name, number in (("j_and_f", found.j_and_f), ("j", found.j), ("f", found.f))}

    def track(self, session: VideoSession, first: int) -> Iterator[tuple[int, np.ndarray]]:
        """Track to the end. Yields the annotated frames and the object's masks in them, (H, W) bool."""
        annotated = set(self.frames)
        for frame, scores in session.propagate(first, self.last):
            if frame in annotated:
                yield frame, scores[self.obj] > 0


@dataclass(frozen=True)
class Interaction:
    """The clicks on an object in a frame.

    Attributes:
        iou: before them; None if the object had no mask yet. clicks: those of this interaction. all_clicks: with those that it
            had in this frame before. mask: after them, run-length encoded.
    """

    frame: int
    iou: float | None
    clicks: list[dict[str, Any]]
    all_clicks: list[Click]
    mask: dict[str, Any]

    def entry(self) -> dict[str, Any]:
        """For the output JSON."""
        return {"frame": self.frame, "iou": self.iou, "clicks": self.clicks}


class Annotator(ABC):
    """Decides in which frames to interact, and clicks there."""

    @abstractmethod
    def pauses(self, frame: int, iou: float) -> bool:
        """Online: whether to correct a frame that has just been tracked."""

    @abstractmethod
    def worst(self, ious: dict[int, float]) -> int | None:
        """Offline: the frame to correct after a pass; None if there is nothing to correct.

        Args:
            ious: of all annotated frames.
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
            prediction: (H, W) bool; None for a new object. earlier: the clicks that it has in this frame.
        """
        user, num_clicks = self._clicker()
        truth = target.truth(frame)
        clicked = click_object(session, truth, frame, target.obj, num_clicks, user, prediction, earlier)
        iou = None if prediction is None else rounded_iou(truth, prediction)
        return Interaction(frame, iou, clicked.entries(), [*earlier, *clicked.clicks], mask_to_rle(clicked.mask))

    @abstractmethod
    def _clicker(self) -> tuple[SimulatedUser, int]:
        """Who makes the clicks of the next interaction, and how many at most."""


class SimulatedAnnotator(Annotator):
    """Looks at the ground truth.

    Args:
        user: who clicks. num_clicks: per frame. threshold: the IoU below which tracking is paused.
    """

    def __init__(self, user: SimulatedUser, num_clicks: int, threshold: float = 0.0) -> None:
        self._user = user
        self._num_clicks = num_clicks
        self._threshold = threshold

    def pauses(self, frame: int, iou: float) -> bool:
        return iou < self._threshold

    def worst(self, ious: dict[int, float]) -> int | None:
        wrong = [(iou, frame) for frame, iou in ious.items() if iou < 1]  # of equally bad frames the first
        return min(wrong)[-1] if wrong else None

    def _clicker(self) -> tuple[SimulatedUser, int]:
        return self._user, self._num_clicks


class LoggedAnnotator(Annotator):
    """Does again what is in a log, whatever is predicted.

    Args:
        interactions: entries of the output JSON.
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
