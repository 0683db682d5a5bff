"""What a benchmark writes: masks in SA-V's layout, in folders that are there whole or not at all."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image


@contextmanager
def whole_folder(target: Path) -> Iterator[Path]:
    """Give a new, hidden folder beside `target` to write to, and rename it to `target` when the block ends without an error."""
    partial = target.with_name(f".{target.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)  # of a run that was killed
    partial.mkdir(parents=True)
    try:
        yield partial
        partial.replace(target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def save_mask(folder: Path, obj: int, frame_name: str, mask: np.ndarray) -> None:
    """Write a mask (H, W) bool as folder/OBJECT/FRAME.png, 0 and 255, the object's number with three digits as in SA-V."""
    path = folder / f"{obj:03d}" / f"{frame_name}.png"
    path.parent.mkdir(exist_ok=True)
    Image.fromarray(mask).save(path)
