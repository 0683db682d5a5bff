"""What a benchmark writes: masks in SA-V's layout."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image


def save_mask(folder: Path, obj: int, frame_name: str, mask: np.ndarray) -> None:
    """Write a mask (H, W) bool as folder/OBJECT/FRAME.png, 0 and 255, the object's number with three digits as in SA-V."""
    path = folder / f"{obj:03d}" / f"{frame_name}.png"
    path.parent.mkdir(exist_ok=True)
    Image.fromarray(mask).save(path)
