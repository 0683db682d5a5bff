"""Checks what user-defined systems return, so that a mistake fails a video instead of being scored.

Each check guards against a mistake that would otherwise change a score without an error: masks of another size, probabilities
thresholded to bool, NaN (which counts as background), frames skipped or shifted, objects left out.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from i2v.data.frames import ImageFolder
from test_pvs.systems.interface import Box, Point, VideoSession, VideoSystem


class CheckedSystem(VideoSystem):
    """A system whose sessions are checked.

    Args:
        system (VideoSystem): the system.
        name (str): its name in error messages.

    Raises:
        ValueError: `system` is not a `VideoSystem`.
    """

    def __init__(self, system: VideoSystem, name: str) -> None:
        if not isinstance(system, VideoSystem):
            raise ValueError(f"{name} must return a test_pvs.systems.VideoSystem, got {type(system).__name__}")
        self._system = system
        self._name = name
        self._shapes: dict[Path, tuple[int, int]] = {}  # of videos, some of which are started many times

    def start(self, frames: Path) -> VideoSession:
        session = self._system.start(frames)
        if not isinstance(session, VideoSession):
            raise ValueError(f"{self._name}: start() must return a test_pvs.systems.VideoSession, got {type(session).__name__}")
        if frames not in self._shapes:
            self._shapes[frames] = ImageFolder(frames).size[::-1]
        return _CheckedSession(session, self._name, self._shapes[frames])


class _CheckedSession(VideoSession):
    """A session whose scores are checked.

    Args:
        session (VideoSession): the session.
        name (str): name of the system in error messages.
        shape (tuple of int): (H, W) of the video.
    """

    def __init__(self, session: VideoSession, name: str, shape: tuple[int, int]) -> None:
        self._session = session
        self._name = name
        self._shape = shape
        self._prompted: defaultdict[int, set[int]] = defaultdict(set)  # frames by object

    def prompt(
        self, frame: int, obj: int, points: Sequence[Point] = (), box: Box | None = None, mask: np.ndarray | None = None
    ) -> np.ndarray:
        scores = self._session.prompt(frame, obj, points, box, mask)
        self._check(scores, f"prompt() returned for object {obj} in frame {frame}")
        self._prompted[obj].add(frame)
        return scores

    def clear(self, frame: int, obj: int) -> None:
        self._session.clear(frame, obj)
        self._prompted[obj].discard(frame)

    def reset(self) -> None:
        self._session.reset()
        self._prompted.clear()

    def propagate(self, first: int, last: int) -> Iterator[tuple[int, dict[int, np.ndarray]]]:
        expected = first
        for result in self._session.propagate(first, last):
            if not (isinstance(result, tuple) and len(result) == 2 and isinstance(result[1], dict)):
                raise self._error(f"propagate() yielded a {type(result).__name__}, expected (frame, {{object: scores}})")
            frame, scores = result
            if not isinstance(frame, (int, np.integer)) or frame != expected or frame > last:
                instead = f"instead of frame {expected}" if expected <= last else "after the last one"
                raise self._error(f"propagate({first}, {last}) yielded frame {frame!r} {instead}")
            known = {obj for obj, frames in self._prompted.items() if frames and min(frames) <= frame}
            if missing := sorted(known - set(scores)):
                raise self._error(f"propagate() yielded no scores for object {missing[0]} in frame {frame}")
            if unknown := [obj for obj in scores if obj not in self._prompted]:
                raise self._error(f"propagate() yielded scores for object {unknown[0]!r}, which was not prompted")
            for obj, score in scores.items():
                self._check(score, f"propagate() yielded for object {obj} in frame {frame}")
            yield frame, scores
            expected += 1
        if expected <= last:
            raise self._error(f"propagate({first}, {last}) ended before frame {expected}")

    def _check(self, scores: Any, where: str) -> None:
        if not isinstance(scores, np.ndarray):
            raise self._error(f"{where} a {type(scores).__name__}, expected a NumPy array (height, width) = {self._shape}")
        if scores.shape != self._shape or scores.dtype.kind != "f":
            raise self._error(
                f"{where} an array {scores.shape} of {scores.dtype}, expected (height, width) = {self._shape}, floating point"
            )
        if np.isnan(scores).any():
            raise self._error(f"{where} an array with NaN")

    def _error(self, text: str) -> ValueError:
        return ValueError(f"{self._name}: {text}")
