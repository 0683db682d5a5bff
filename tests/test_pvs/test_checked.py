"""test_pvs.systems.checked: what user-defined systems return is checked."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from test_pvs.systems import CheckedSystem, VideoSession, VideoSystem
from tests.test_pvs.stubs import RecordingSystem

SHAPE = (4, 6)
MASK = np.eye(*SHAPE, dtype=bool)
Given = list[tuple[int, dict[int, Any]]]  # what propagate yields
Change = Callable[[Given], Given]


@pytest.fixture
def frames(tmp_path: Path) -> Path:
    Image.new("RGB", SHAPE[::-1]).save(tmp_path / "00000.png")
    return tmp_path


class Mistaken(RecordingSystem):
    """A system whose tracked frames are changed by a function."""

    def __init__(self, change: Change) -> None:
        super().__init__(SHAPE)
        self._change = change

    def start(self, frames: Path) -> VideoSession:
        session = super().start(frames)
        propagate = session.propagate
        session.propagate = lambda first, last: iter(self._change(list(propagate(first, last))))
        return session


def start(system: VideoSystem, frames: Path) -> VideoSession:
    """A checked session with object 7 prompted in frame 0 and object 8 in frame 1."""
    session = CheckedSystem(system, "my:function").start(frames)
    session.prompt(0, 7, mask=MASK)
    session.prompt(1, 8, mask=MASK)
    return session


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda given: given[:-1], r"propagate\(1, 4\) ended before frame 4"),
        (lambda given: given[:1] + given[2:], r"propagate\(1, 4\) yielded frame 3 instead of frame 2"),
        (lambda given: given[1:], "yielded frame 2 instead of frame 1"),
        (lambda given: [(frame, {7: scores[7]}) for frame, scores in given], "no scores for object 8 in frame 1"),
        (
            lambda given: [(frame, {obj: score[:3] for obj, score in scores.items()}) for frame, scores in given],
            r"for object 7 in frame 1 an array \(3, 6\) of float32, expected \(height, width\) = \(4, 6\)",
        ),
        (
            lambda given: [(frame, {obj: score > 0 for obj, score in scores.items()}) for frame, scores in given],
            "of bool, expected .* floating point",
        ),
        (lambda given: [(frame, dict.fromkeys(scores)) for frame, scores in given], "a NoneType, expected a NumPy array"),
        (lambda given: [*given, (5, given[0][1])], r"propagate\(1, 4\) yielded frame 5 after the last one"),
        (lambda given: [(torch.tensor(frame), scores) for frame, scores in given], r"yielded frame tensor\(1\)"),
        (
            lambda given: [(frame, scores | {9: scores[7]}) for frame, scores in given],
            "object 9, which was not prompted",
        ),
        (
            lambda given: [(frame, list(scores.values())) for frame, scores in given],
            r"a tuple, expected \(frame, \{object: scores",
        ),
        (lambda given: [scores for frame, scores in given], "yielded a dict, expected"),
        (
            lambda given: [
                (frame, {obj: score * np.float32(np.nan) for obj, score in scores.items()}) for frame, scores in given
            ],
            "an array with NaN",
        ),
    ],
)
def test_mistakes_of_a_system_are_errors(change: Change, message: str, frames: Path) -> None:
    session = start(Mistaken(change), frames)
    with pytest.raises(ValueError, match=f"my:function: .*{message}"):
        list(session.propagate(1, 4))


def test_correct_results_are_passed_through(frames: Path) -> None:
    given = list(start(RecordingSystem(SHAPE), frames).propagate(1, 4))
    assert [(frame, list(scores)) for frame, scores in given] == [(frame, [7, 8]) for frame in (1, 2, 3, 4)]
    assert all(np.array_equal(score > 0, MASK) for _, scores in given for score in scores.values())


def test_scores_of_prompts_are_checked(frames: Path) -> None:
    system = RecordingSystem(SHAPE, {(7, 1): MASK[:3]})
    with pytest.raises(ValueError, match=r"prompt\(\) returned for object 7 in frame 2 an array \(3, 6\)"):
        CheckedSystem(system, "my:function").start(frames).prompt(2, 7, [(0, 0, 1)])


def test_tracking_may_stop_and_continue(frames: Path) -> None:
    session = start(RecordingSystem(SHAPE), frames)
    for frame, _ in session.propagate(1, 4):
        if frame == 2:
            break
    session.prompt(2, 7, mask=~MASK)
    given = dict(session.propagate(2, 4))
    assert list(given) == [2, 3, 4]
    assert np.array_equal(given[4][7] > 0, ~MASK)


def test_objects_without_the_methods_are_refused(frames: Path) -> None:
    with pytest.raises(ValueError, match=r"my:function must return a test_pvs.systems.VideoSystem, got int"):
        CheckedSystem(3, "my:function")
    system = RecordingSystem(SHAPE)
    system.start = lambda frames: None
    with pytest.raises(ValueError, match=r"my:function: start\(\) must return .*VideoSession, got NoneType"):
        CheckedSystem(system, "my:function").start(frames)


def test_an_object_that_was_forgotten_may_be_missing(frames: Path) -> None:
    session = start(RecordingSystem(SHAPE), frames)
    session.prompt(1, 8, mask=MASK)
    session.clear(0, 7)
    assert [list(scores) for _, scores in session.propagate(1, 2)] == [[8]] * 2
    session.reset()
    assert [list(scores) for _, scores in session.propagate(1, 2)] == [[]] * 2


def test_a_system_need_not_inherit(frames: Path) -> None:
    class Session:
        def prompt(self, frame: int, obj: int, points: Any = (), box: Any = None, mask: Any = None) -> np.ndarray:
            return np.ones(SHAPE)

        def clear(self, frame: int, obj: int) -> None: ...

        def reset(self) -> None: ...

        def propagate(self, first: int, last: int) -> Iterator[tuple[int, dict[int, np.ndarray]]]:
            yield from ((frame, {7: np.ones(SHAPE)}) for frame in range(first, last + 1))

    class System:
        def start(self, frames: Path) -> Session:
            return Session()

    session = CheckedSystem(System(), "my:function").start(frames)
    session.prompt(0, 7, points=[(1, 1, 1)])
    assert [frame for frame, _ in session.propagate(0, 2)] == [0, 1, 2]


def test_a_system_that_lacks_a_method_cannot_be_built() -> None:
    class Incomplete(VideoSystem):
        pass

    with pytest.raises(TypeError, match="abstract"):
        Incomplete()
