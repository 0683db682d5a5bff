"""The state of one video's session."""

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
        obj_id (int): the user's id.
        prompts (dict[int, NetworkPrompt]): prompts by frame, without masks.
        bank (MemoryBank): outputs and memories by frame.
        newly_prompted (list[int]): frames that were prompted since objects were last tracked, around which memories will be
            cleared.
    """

    obj_id: int
    prompts: dict[int, NetworkPrompt] = field(default_factory=dict)
    bank: MemoryBank = field(default_factory=MemoryBank)
    newly_prompted: list[int] = field(default_factory=list)

    def forget_tracked(self, before: int) -> None:
        """Remove all tracked frames before a frame, including corrected ones."""
        for frame in [frame for frame in self.bank.tracked if frame < before]:
            self.bank.remove(frame)
            self.prompts.pop(frame, None)


@dataclass
class VideoState:
    """One video and the objects in it: a context manager, which closes the session.

    Several threads may share a session: each call waits for the others to finish.

    Attributes:
        frames (Frames): the source of frames.
        loader (FrameLoader): cache of decoded frames.
        features (FeatureStore): cache of image features.
        storage_device (torch.device): device on which results are kept.
        seed (int): random seed of the memory selector.
        owns_frames (bool): whether the session opened the source, and so closes it.
        objects (dict[int, TrackedObject]): objects by id, in the order in which they were added.
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
        """End the session, with its threads, open files, temporary folders and results."""
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
            ValueError: the session was closed.
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
        """Ids of the objects, in the order of the returned masks."""
        return list(self.objects)

    @property
    def num_frames(self) -> int | None:
        """Number of frames, or None while it is unknown (an iterator)."""
        return self.frames.num_frames

    def __getitem__(self, name: str) -> Any:
        """The entries of SAM 2's state dictionary that scripts read.

        Raises:
            KeyError: an unknown name; the message lists the known ones.
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
        """Position of a frame in the direction of tracking; its own inverse."""
        if not reverse:
            return frame
        return (self.num_frames or self.loader.count()) - 1 - frame


class NetworkInputs(Sequence[Tensor]):
    """The frames of a session as the network sees them, loaded on access: (3, image_size, image_size) float32 in [0, 1]."""

    def __init__(self, state: VideoState) -> None:
        self._state = state

    def __len__(self) -> int:
        with self._state.in_use():
            return self._state.loader.count()

    def __getitem__(self, index: int) -> Tensor:  # type: ignore[override]  # slices would hold a whole video
        with self._state.in_use():
            loader = self._state.loader
            if index < 0:
                index += loader.count()  # only here, because an iterator may have no end
            if not loader.has(index):
                raise self._state.frames.missing_frame_error(index)
            return loader.load(index)[0]


def in_session(method: Callable[..., Any]) -> Callable[..., Any]:
    """Decorate a method of the predictor, (self, inference_state, ...), to have exclusive use of the session.

    The method raises a TypeError if `inference_state` is not a session.
    """

    @wraps(method)
    def exclusive(self: Any, inference_state: VideoState, *arguments: Any, **options: Any) -> Any:
        if not isinstance(inference_state, VideoState):
            what = type(inference_state).__name__
            raise TypeError(f"inference_state must be the session (VideoState) that init_state returned, not of type {what}")
        with inference_state.in_use():
            return method(self, inference_state, *arguments, **options)

    return exclusive
