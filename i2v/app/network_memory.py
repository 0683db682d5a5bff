"""What the network remembers of an object in a frame, as bytes for the session's file."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import torch

from i2v.inference.memory_bank import FrameOutput
from i2v.inference.session_file import plain, restored
from i2v.inference.state import TrackedObject
from i2v.prompt import NetworkPrompt


def to_bytes(tracked: TrackedObject, frame: int) -> bytes:
    """The output and the prompt of a frame; logits in half precision, memories are left out, because they can be recomputed."""
    bank, prompt = tracked.bank, tracked.prompts.get(frame)
    output = plain(bank[frame])
    content = {
        "output": output | {"mask_logits": output["mask_logits"].half()},
        "prompt": None if prompt is None else plain(prompt),
        "conditioning": frame in bank.conditioning,
        "corrected": frame in bank.corrected,
    }
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


def restore(tracked: TrackedObject, frame: int, data: bytes, path: Path, device: torch.device) -> None:
    """Add to an object what `to_bytes` returned for a frame.

    Args:
        tracked (TrackedObject): the object.
        frame (int): index of the frame.
        data (bytes): the bytes.
        path (Path): the file that they are from, for messages.
        device (torch.device): device for the output.

    Raises:
        ValueError: NaN, or other types than `to_bytes` writes.
    """
    content = torch.load(io.BytesIO(data), weights_only=True, map_location="cpu")
    content["output"]["mask_logits"] = content["output"]["mask_logits"].float()
    output = restored(FrameOutput, {frame: content["output"]}, path, device)[frame]
    (tracked.bank.conditioning if content["conditioning"] else tracked.bank.tracked)[frame] = output
    if content["corrected"]:
        tracked.bank.corrected.add(frame)
    if content["prompt"] is not None:
        tracked.prompts[frame] = restored(NetworkPrompt, {frame: content["prompt"]}, path, torch.device("cpu"))[frame]


def identity(tracked: TrackedObject, frame: int) -> tuple[Any, ...]:
    """Equal for two states of an object if `to_bytes` is."""
    bank = tracked.bank
    return id(bank.get(frame)), id(tracked.prompts.get(frame)), frame in bank.conditioning, frame in bank.corrected
