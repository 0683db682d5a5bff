"""What one video's session holds."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import wraps
from typing import Any, NoReturn

import torch
from torch import Tensor

from i2v.data.frames import ForkSafeLock, Frames
from i2v.inference.features import FeatureStore, FrameLoader
from i2v.inference.memory_bank import MemoryBank
from i2v.prompt import NetworkPrompt


@dataclass
class TrackedObject:
    """One object: its prompts by frame, and what it remembers.

    Attributes:
        newly_prompted: frames that were prompted since objects were tracked, around which memories are to be cleared.
    """

    obj_id: int
    prompts: dict[int, NetworkPrompt] = field(default_factory=dict)
    bank: MemoryBank = field(default_factory=MemoryBank)
    newly_prompted: list[int] = field(default_factory=list)

    def forget_tracked(self, before: int) -> None:
        """Forget all about the tracked frames before a frame, also if they were corrected."""
        for frame in [frame for frame in self.bank.tracked if frame < before]:
            self.bank.remove(frame)
            self.prompts.pop(frame, None)


@dataclass
class VideoState:
    """One video and the objects in it. A context manager, which closes the session.

    Several threads may use a session: each call waits for the others to end.

    Attributes:
        frames: the source.
        loader: frames that are at hand.
        features: features that are at hand.
        storage_device: where results are kept.
        seed: of the memory selector's drawing.
        owns_frames: whether the session opened the source, and closes it.
        objects: by id, in the order in which they were added.
    """

    frames: Frames
    loader: FrameLoader
    features: FeatureStore
    storage_device: torch.device
    seed: int
    owns_frames: bool = True
    objects: dict[int, TrackedObject] = field(default_factory=dict)
    _lock: ForkSafeLock = field(default_factory=ForkSafeLock, repr=False)
    _is_closed: bool = False

    def __enter__(self) -> VideoState:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """End the session: its threads, open files, temporary folders and results are gone when this returns."""
        with self._lock:
            self._is_closed = True
            self.objects.clear()
            self.features.clear()
            self.loader.close()
            if self.owns_frames:
                self.frames.close()

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """Keep other threads out of the session.

        Raises:
            ValueError: it was closed.
        """
        with self._lock:
            if self._is_closed:
                raise ValueError("this session was closed: start another one with init_state")
            yield

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            "a session (VideoState) cannot be pickled or copied, because it holds an open video and a thread: start one in "
            "each process with init_state"
        )

    @property
    def obj_ids(self) -> list[int]:
        """Ids of the objects, in the order of the masks that are returned."""
        return list(self.objects)

    @property
    def num_frames(self) -> int | None:
        """Number of frames, None while it is not known (an iterator)."""
        return self.frames.num_frames

    def __getitem__(self, name: str) -> Any:
        """What scripts for SAM 2 read of its dictionary of a state.

        Raises:
            KeyError: another name; the message has the known ones.
        """
        known: dict[str, Callable[[], Any]] = {
            "num_frames": self.loader.count,
            "video_height": lambda: self.frames.height,
            "video_width": lambda: self.frames.width,
            "obj_ids": lambda: self.obj_ids,
            "images": lambda: NetworkInputs(self),
            "device": lambda: self.loader.device,
            "storage_device": lambda: self.storage_device,
        }
        if name not in known:
            raise KeyError(f"a session has no {name!r}; it has {', '.join(known)}")
        with self.in_use():
            return known[name]()

    def time(self, frame: int, reverse: bool) -> int:
        """A frame's place in the direction of tracking; its own inverse."""
        if not reverse:
            return frame
        return (self.num_frames or self.loader.count()) - 1 - frame


class NetworkInputs(Sequence[Tensor]):
    """The frames of a session as the network sees them: (3, image_size, image_size) float32 each, normalised, made when they
    are asked for."""

    def __init__(self, state: VideoState) -> None:
        self._state = state

    def __len__(self) -> int:
        with self._state.in_use():
            return self._state.loader.count()

    def __getitem__(self, index: int) -> Tensor:
        with self._state.in_use():
            loader = self._state.loader
            if index < 0:
                index += loader.count()  # nothing else needs the end, which an iterator may not have
            if not loader.has(index):
                raise self._state.frames.no_frame(index)
            return loader.load(index)[0]


def in_session(method: Callable[..., Any]) -> Callable[..., Any]:
    """A method of the predictor, (self, inference_state, ...), that has the session for itself while it runs.

    Raises:
        TypeError: by the method, at anything but a session.
    """

    @wraps(method)
    def exclusive(self: Any, inference_state: VideoState, *arguments: Any, **options: Any) -> Any:
        if not isinstance(inference_state, VideoState):
            what = type(inference_state).__name__
            raise TypeError(f"inference_state must be the session (VideoState) that init_state returned, not of type {what}")
        with inference_state.in_use():
            return method(self, inference_state, *arguments, **options)

    return exclusive
