"""What the tests of training share: tiny clips, programs to start, comparisons."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import torch
from PIL import Image
from torch import nn

from i2v.data.mask_files import save_label_image
from tests.conftest import fixed_weight

PROJECT = Path(__file__).parents[2]
TINY_TRAINING = PROJECT / "tests" / "configs" / "tiny-train.yaml"
SIZE = 64
# No dropout, no augmentation, one kind of prompt: a step depends on nothing but weights and data.
PLAIN = (
    "model.memory_attention.dropout=0",
    "model.memory_prompt_generator.dropout=0",
    "data.parts.clips.transform._target_=train.dataset.transforms.PlainTransform",
    "prompts.mask=1",
    "prompts.max_prompted_frames=1",
    "trainer.freeze_batch_norm=true",
)


def disc_clip(kind: int, num_frames: int = 6) -> tuple[np.ndarray, np.ndarray]:
    """Two coloured discs that move over a patterned background: frames (T, S, S, 3) uint8, labels (T, S, S) uint8."""
    y, x = np.mgrid[:SIZE, :SIZE]
    frames = np.empty((num_frames, SIZE, SIZE, 3), np.uint8)
    labels = np.zeros((num_frames, SIZE, SIZE), np.uint8)
    for t in range(num_frames):
        frames[t] = (60 + 30 * ((x // 8 + y // 8) % 2) + 20 * kind)[..., None]
        for label, (cx, cy, colour) in enumerate(
            [(16 + 3 * t, 18 + 2 * kind, (230, 40, 40)), (46 - 3 * t, 46 - 2 * kind, (40, 40, 230))], start=1
        ):
            disc = (x - cx) ** 2 + (y - cy) ** 2 <= (11 + 2 * kind) ** 2
            frames[t][disc] = colour
            labels[t][disc] = label
    return frames, labels


def write_clips(folder: Path, num_clips: int = 2) -> Path:
    """Write clips as JPEGImages/clip0/00000.jpg and Annotations/clip0/00000.png; returns the folder."""
    for kind in range(num_clips):
        for name in ("JPEGImages", "Annotations"):
            (folder / name / f"clip{kind}").mkdir(parents=True)
        for t, (frame, labels) in enumerate(zip(*disc_clip(kind), strict=True)):
            Image.fromarray(frame).save(folder / "JPEGImages" / f"clip{kind}" / f"{t:05d}.jpg", quality=95)
            save_label_image(folder / "Annotations" / f"clip{kind}" / f"{t:05d}.png", labels)
    return folder


def environment() -> dict[str, str]:
    """For processes that train: this Python first, as many threads (they change results), nothing of another torchrun."""
    own = {name: value for name, value in os.environ.items() if name not in ("RANK", "WORLD_SIZE", "LOCAL_RANK")}
    return own | {"PATH": f"{Path(sys.executable).parent}:{own['PATH']}", "OMP_NUM_THREADS": str(torch.get_num_threads())}


def start(*arguments: str | Path, cwd: Path = PROJECT) -> subprocess.Popen:
    """Start a program; its output, errors included, is text in `stdout`. It leads a process group of its own."""
    return subprocess.Popen(
        [str(argument) for argument in arguments],
        cwd=cwd,
        env=environment(),
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )


def finish(process: subprocess.Popen, timeout: float = 120) -> str:
    """Wait for a program, and return its output."""
    try:
        return process.communicate(timeout=timeout)[0]
    finally:
        process.kill()


def same(a: object, b: object) -> bool:
    """Whether two nested structures of tensors and values are equal, bit for bit."""
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return isinstance(b, dict) and a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    return a == b


def load_seeded_weights(shared: Path) -> ModuleType:
    """The module that makes weights and inputs of the fixtures in ../shared."""
    spec = importlib.util.spec_from_file_location("seeded_weights", shared / "reference" / "seeded_weights.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def use_fixed_weights(model: nn.Module) -> nn.Module:
    """Give a network the weights of the tiny predictor's tests; with them, objects count as present."""
    model.load_state_dict({name: fixed_weight(name, value) for name, value in model.state_dict().items()})
    return model


def difference(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> float:
    """Largest difference between two sets of gradients, relative to the largest gradient of the same parameter.

    The latter is taken as at least a thousandth of the largest of all: some gradients are zero up to rounding.
    """
    assert a.keys() == b.keys()
    least = 1e-3 * max(float(value.abs().max()) for value in a.values())
    return max(float((a[name] - b[name]).abs().max() / a[name].abs().max().clamp(min=least)) for name in a)
