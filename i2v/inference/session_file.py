"""What a session remembers, in a file: tracking that was stopped resumes from it as if it had not been."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import fields
from functools import cache
from pathlib import Path
from typing import Any, get_type_hints

import torch

from i2v.data.files import named_errors
from i2v.inference.memory_bank import FrameMemory, FrameOutput
from i2v.inference.state import TrackedObject, VideoState
from i2v.modeling.memory.selector import MemorySelector
from i2v.prompt import NetworkPrompt
from i2v.utils.checkpoints import checked_weights, read_checkpoint, save_checkpoint


def save_session(state: VideoState, path: Path, near: Iterable[int], selector: MemorySelector, **progress: int) -> None:
    """Write the objects of a session, with what tracking needs to resume.

    Args:
        state (VideoState): the session.
        path (Path): the file, which is written atomically.
        near (Iterable[int]): indices of the frames from which tracking will resume.
        selector (MemorySelector): the network's memory selector, which knows how far back it looks.
        progress: numbers that `load_session` returns.

    Raises:
        OSError: the file cannot be written.
    """
    near = list(near)
    objects = []
    with state.in_use():
        for obj in state.objects.values():
            tracked = {
                t: output
                for t, output in obj.bank.tracked.items()
                if any(abs(t - frame) <= selector.look_back for frame in near)
            }
            memories = {t: memory for t, memory in obj.bank.memories.items() if t in tracked or t in obj.bank.conditioning}
            objects.append(
                {
                    "id": obj.obj_id,
                    "prompts": {t: plain(prompt) for t, prompt in obj.prompts.items()},
                    "conditioning": {t: plain(output) for t, output in obj.bank.conditioning.items()},
                    "tracked": {t: plain(output) for t, output in tracked.items()},
                    "corrected": sorted(obj.bank.corrected),
                    "memories": {t: plain(memory) for t, memory in memories.items()},
                }
            )
    save_checkpoint(path, {"objects": objects, "progress": progress})


def load_session(state: VideoState, path: Path) -> dict[str, int]:
    """Replace the objects of a session by those in a file of `save_session`, which must have the same prompts.

    Args:
        state (VideoState): the session.
        path (Path): the file.

    Returns:
        The numbers that were saved as its progress.

    Raises:
        FileNotFoundError: no such file.
        ValueError: the file was not written by `save_session`, contains NaN or infinity, or belongs to a session with other
            prompts; the message names it.
    """
    content = read_checkpoint(path)
    objects = {}
    with named_errors(path):
        for entry in content["objects"]:
            for frame in (t for kind in ("prompts", "conditioning", "tracked", "memories") for t in entry[kind]):
                if type(frame) is not int or not state.frames.has(frame):
                    raise ValueError(f"there is no frame {frame}")
            obj = objects[entry["id"]] = TrackedObject(entry["id"])
            obj.prompts = restored(NetworkPrompt, entry["prompts"], path, torch.device("cpu"))
            obj.bank.conditioning = restored(FrameOutput, entry["conditioning"], path, state.storage_device)
            obj.bank.tracked = restored(FrameOutput, entry["tracked"], path, state.storage_device)
            obj.bank.corrected = set(entry["corrected"])
            obj.bank.memories = restored(FrameMemory, entry["memories"], path, state.storage_device)
        if _outline(objects) != _outline(state.objects):
            raise ValueError("its objects, prompts or mask sizes are not those of this session")
        progress = content["progress"]
        if not isinstance(progress, dict) or not all(type(value) is int for value in progress.values()):
            raise ValueError(f"its progress is {progress}, not whole numbers")
    with state.in_use():
        state.objects.clear()
        state.objects.update(objects)
    return progress


def plain(item: Any) -> dict[str, Any]:
    """The attributes of a dataclass; tensors are copied, because a view would be saved with its whole storage."""
    values = {field.name: getattr(item, field.name) for field in fields(item)}
    return {name: value.detach().cpu().clone() if isinstance(value, torch.Tensor) else value for name, value in values.items()}


def restored(kind: type, frames: dict[int, dict[str, Any]], path: Path, device: torch.device) -> dict[int, Any]:
    """The dataclasses, by frame, that `plain` was given; types and numbers are checked, and `path` is for messages."""
    types = _types_of(kind)
    restored = {}
    for t, saved in frames.items():
        values = {name: value for name, value in saved.items() if name != "ious"}  # earlier versions saved predicted IoUs
        for name, value in values.items():
            if not isinstance(value, types[name]):
                raise ValueError(f"{name} of frame {t} is of type {type(value).__name__}")
        tensors = {f"{name} of frame {t}": value for name, value in values.items() if isinstance(value, torch.Tensor)}
        if tensors:
            checked_weights(tensors, path)
        restored[t] = kind(
            **{name: value.to(device) if isinstance(value, torch.Tensor) else value for name, value in values.items()}
        )
    return restored


@cache
def _types_of(kind: type) -> dict[str, Any]:
    return get_type_hints(kind)


def _outline(objects: dict[int, TrackedObject]) -> dict[int, Any]:
    """What the objects of sessions with the same prompts have in common, however far they were tracked."""
    return {
        obj_id: (
            {t: [None if x is None else x.shape for x in (prompt.points, prompt.labels)] for t, prompt in obj.prompts.items()},
            set(obj.bank.conditioning),
            {
                (output.mask_logits.shape, output.score.shape, output.pointer.shape)
                for output in (*obj.bank.conditioning.values(), *obj.bank.tracked.values())
            },
        )
        for obj_id, obj in objects.items()
    }
