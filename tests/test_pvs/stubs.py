"""Systems with known behaviour. Environment variables control those that run in other processes."""

from __future__ import annotations

import os
import time
import weakref
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from test_pvs.datasets import EvaluationVideo
from test_pvs.systems import Box, Point, StaticMask, SystemSettings, VideoSession, VideoSystem


class RecordingSystem(VideoSystem):
    """Records every call, answers points with given masks, and predicts what was prompted last.

    Args:
        shape (tuple of int): (H, W) of the video.
        answers (dict or None): masks (H, W) bool by object and number of points.

    Attributes:
        calls (list of tuple): ("prompt", frame, object, what), ("clear", frame, object), ("propagate", first, last).
    """

    def __init__(self, shape: tuple[int, int], answers: dict[tuple[int, int], np.ndarray] | None = None) -> None:
        self.shape = shape
        self.answers = answers or {}
        self.calls: list[tuple[Any, ...]] = []

    def start(self, frames: Path) -> VideoSession:
        return _RecordingSession(self)


class _RecordingSession(VideoSession):
    def __init__(self, system: RecordingSystem) -> None:
        self._system = system
        self._masks: dict[int, np.ndarray] = {}

    def prompt(
        self, frame: int, obj: int, points: Sequence[Point] = (), box: Box | None = None, mask: np.ndarray | None = None
    ) -> np.ndarray:
        if mask is not None:
            what, answer = "mask", mask
        elif box is not None:
            x0, y0, x1, y1 = box
            what, answer = box, np.zeros(self._system.shape, bool)
            answer[y0 : y1 + 1, x0 : x1 + 1] = True
        else:
            what, answer = list(points), self._system.answers[obj, len(points)]
        self._system.calls.append(("prompt", frame, obj, what))
        self._masks[obj] = answer
        return self._scores(obj)

    def clear(self, frame: int, obj: int) -> None:
        self._system.calls.append(("clear", frame, obj))
        del self._masks[obj]

    def reset(self) -> None:
        self._masks.clear()

    def propagate(self, first: int, last: int) -> Iterator[tuple[int, dict[int, np.ndarray]]]:
        self._system.calls.append(("propagate", first, last))
        for frame in range(first, last + 1):
            yield frame, {obj: self._scores(obj) for obj in self._masks}

    def _scores(self, obj: int) -> np.ndarray:
        # The higher number wins where objects overlap.
        return np.where(self._masks[obj], np.float32(1 + obj), np.float32(-1))


@dataclass(frozen=True)
class Error:
    """An error of an `ErringSystem`; a prompt in one of its frames ends it.

    Attributes:
        obj (int): number of the object.
        first (int): index of the first frame.
        last (int): index of the last frame, included.
        mask (np.ndarray): (H, W) bool, predicted instead of the object.
    """

    obj: int
    first: int
    last: int
    mask: np.ndarray


class ErringSystem(VideoSystem):
    """Predicts the ground truth with given errors.

    Args:
        labels (np.ndarray): (T, H, W), the ground truth of all frames.
        errors (sequence of Error): errors of tracking.
        needed (int or dict): number of clicks in a frame that make the mask right, or such numbers by frame (1 in all others).
            With fewer clicks the mask is the tracked one, or empty.

    Attributes:
        sessions (int): number of sessions started.
        calls (list of tuple): ("prompt", frame, object, what), ("reset",), ("propagate", first, last).
    """

    def __init__(self, labels: np.ndarray, errors: Sequence[Error] = (), needed: int | dict[int, int] = 1) -> None:
        self.labels = labels
        self.errors = errors
        self.needed = needed
        self.sessions = 0
        self.calls: list[tuple[Any, ...]] = []

    def start(self, frames: Path) -> VideoSession:
        self.sessions += 1
        return _ErringSession(self)


class _ErringSession(VideoSession):
    def __init__(self, system: ErringSystem) -> None:
        self._system = system
        self._prompts: dict[tuple[int, int], np.ndarray] = {}  # by object and frame

    def prompt(
        self, frame: int, obj: int, points: Sequence[Point] = (), box: Box | None = None, mask: np.ndarray | None = None
    ) -> np.ndarray:
        self._system.calls.append(("prompt", frame, obj, "mask" if mask is not None else list(points)))
        if mask is None:
            needed = self._system.needed
            enough = len(points) >= (needed.get(frame, 1) if isinstance(needed, dict) else needed)
            mask = self._system.labels[frame] == obj if enough else self._tracked(frame, obj)
        self._prompts[obj, frame] = mask
        return self._scores(mask)

    def clear(self, frame: int, obj: int) -> None:
        raise NotImplementedError

    def reset(self) -> None:
        self._system.calls.append(("reset",))
        self._prompts.clear()

    def propagate(self, first: int, last: int) -> Iterator[tuple[int, dict[int, np.ndarray]]]:
        self._system.calls.append(("propagate", first, last))
        for frame in range(first, last + 1):
            objects = {obj for obj, prompted in self._prompts if prompted <= frame}
            masks = {obj: self._prompts.get((obj, frame), self._tracked(frame, obj)) for obj in objects}
            yield frame, {obj: self._scores(mask) for obj, mask in masks.items()}

    def _tracked(self, frame: int, obj: int) -> np.ndarray:
        prompted = [other for known, other in self._prompts if known == obj and other < frame]
        if not prompted:
            return np.zeros_like(self._system.labels[frame], bool)
        for error in self._system.errors:
            if error.obj == obj and error.first <= frame <= error.last and max(prompted) < error.first:
                return error.mask
        return self._system.labels[frame] == obj

    def _scores(self, mask: np.ndarray) -> np.ndarray:
        return np.where(mask, np.float32(1), np.float32(-1))


class _Unusual(StaticMask):
    """A static mask that appends the name of each started video, and its process, to the file $STUB_LOG.

    In the middle of the video $STUB_HANG it hangs; at the video $STUB_DIE it ends the process.
    """

    def start(self, frames: Path) -> VideoSession:
        with Path(os.environ["STUB_LOG"]).open("a") as log:
            log.write(f"{frames.name} {os.getpid()}\n")
        if frames.name == os.environ.get("STUB_DIE"):
            os._exit(9)
        session = super().start(frames)
        if frames.name == os.environ.get("STUB_HANG"):
            propagate = session.propagate

            def hang(first: int, last: int) -> Iterator[tuple[int, dict[int, np.ndarray]]]:
                for frame, scores in propagate(first, last):
                    yield frame, scores
                    if frame == 3:
                        Path(os.environ["STUB_LOG"]).with_suffix(".hangs").touch()
                        time.sleep(60)

            session.propagate = hang
        return session


def unusual(settings: SystemSettings) -> VideoSystem:
    return _Unusual()


def overtaken(settings: SystemSettings) -> VideoSystem:
    """Build a static mask while another run finishes the video with the folder $STUB_FINISHED."""
    folder = Path(os.environ["STUB_FINISHED"])
    folder.mkdir(parents=True)
    (folder / "result.json").write_text('{"prompts": ["of another run"]}')
    return StaticMask()


def broken(settings: SystemSettings) -> VideoSystem:
    raise ValueError(f"there is no such thing as {settings.config}")


_SESSIONS: list[weakref.ref[VideoSession]] = []


def out_of_memory(system: VideoSystem, video: EvaluationVideo, options: dict[str, Any], folder: Path) -> dict[str, Any]:
    """A protocol that fails with the number of sessions of earlier videos still in memory."""
    alive = sum(session() is not None for session in _SESSIONS)
    session = system.start(video.frames)
    session.itself = session  # freed by the garbage collector alone, like the sessions of predictors
    _SESSIONS.append(weakref.ref(session))
    raise MemoryError(f"beside {alive} earlier sessions")


def painter(settings: SystemSettings) -> Any:
    """A segmenter by colour.

    Pixels like the one under the last click, or in the middle of the box, are added to the mask before. For a background
    click they are removed from it.
    """

    def segment(image: np.ndarray, points: list[Point], box: Box | None, before: np.ndarray) -> np.ndarray:
        x, y, label = points[-1] if points else ((box[0] + box[2]) // 2, (box[1] + box[3]) // 2, 1)
        alike = np.abs(image.astype(int) - image[y, x]).sum(axis=2) < 120
        return before | alike if label else before & ~alike

    return segment


class FakeSamPredictor:
    """A stand-in for segment-anything's SamPredictor; masks are full except for the last row, which identifies them."""

    def __init__(self) -> None:
        self.images: list[np.ndarray] = []
        self.calls: list[dict[str, Any]] = []

    def set_image(self, image: np.ndarray) -> None:
        self.images.append(image)

    def predict(self, **arguments: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        self.calls.append(arguments)
        count = 3 if arguments["multimask_output"] else 1
        masks = np.ones((count, *self.images[-1].shape[:2]), bool)
        masks[:, -1] = np.arange(masks.shape[2]) < np.arange(count)[:, None]
        low = np.full((count, 256, 256), len(self.calls), np.float32) + np.arange(count)[:, None, None] / 10
        return masks, np.array([0.1, 0.9, 0.5])[:count], low


FAKE_SAM = FakeSamPredictor()


def fake_sam(settings: SystemSettings) -> FakeSamPredictor:
    FAKE_SAM.__init__()
    return FAKE_SAM
