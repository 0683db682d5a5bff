"""Masks: holes, run-length encoding, palette images."""

from __future__ import annotations

import operator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from PIL import Image
from pycocotools import mask as coco_mask
from torch import Tensor

from i2v.utils.files import atomic_write


def fill_holes(mask_logits: Tensor, max_area: int) -> Tensor:
    """Fill the holes of masks, as SAM 2's postprocessing does: background components become foreground (logit 0.1).

    Args:
        mask_logits: (B, 1, H, W), on any device. max_area: of a hole, in cells (8-connected); 0 to fill none.

    Returns:
        (B, 1, H, W); the input where there is nothing to fill.
    """
    if max_area <= 0 or not len(mask_logits):
        return mask_logits
    background = (mask_logits[:, 0] <= 0).to(torch.uint8).cpu().numpy()
    holes = np.stack([_small_components(image, max_area) for image in background])
    if not holes.any():
        return mask_logits
    return mask_logits.masked_fill(torch.from_numpy(holes).to(mask_logits.device).unsqueeze(1), 0.1)


def _small_components(image: np.ndarray, max_area: int) -> np.ndarray:
    """Where a binary image (H, W) uint8 has components of at most `max_area` pixels."""
    _, labels, stats, _ = cv2.connectedComponentsWithStats(image, connectivity=8)
    small = stats[:, cv2.CC_STAT_AREA] <= max_area
    small[0] = False  # label 0 is where the image is zero
    return small[labels]


def mask_to_rle(mask: np.ndarray) -> dict[str, Any]:
    """Encode a binary mask (H, W) as COCO's compressed run-length encoding: {"size": [H, W], "counts": str}."""
    rle = coco_mask.encode(np.asfortranarray(mask, dtype=np.uint8))
    return {"size": [int(side) for side in rle["size"]], "counts": rle["counts"].decode("ascii")}


def rle_to_mask(rle: dict[str, Any]) -> np.ndarray:
    """Decode COCO's run-length encoding, compressed or not: (H, W) bool.

    Raises:
        ValueError: see `run_lengths`.
    """
    runs = run_lengths(rle)
    height, width = rle["size"]
    return np.repeat(np.arange(len(runs)) % 2 == 1, runs).reshape(width, height).T


def run_lengths(rle: dict[str, Any]) -> np.ndarray:
    """The lengths (N,) int64 of the runs in COCO's run-length encoding: background, foreground ... in turn, column by column.

    pycocotools does not check what it decodes: runs that are too long end the process, runs that are too short leave pixels
    as they were in memory.

    Raises:
        ValueError: the encoding is malformed, or its runs do not add up to its size.
    """
    height, width = (operator.index(side) for side in rle["size"])
    counts = rle["counts"]
    if isinstance(counts, list):
        runs = np.array(counts)
        if runs.dtype.kind not in "iu":
            raise ValueError("a run-length encoded mask is malformed: its counts must be whole numbers")
    else:
        runs = _decompress(counts)
    num_pixels = height * width
    # A run that is too long is looked for by itself: a sum of such runs may overflow.
    if min(height, width) < 0 or (runs < 0).any() or (runs > num_pixels).any() or runs.sum() != num_pixels:
        raise ValueError(f"a run-length encoded mask does not fit its size of {width}x{height} pixels: is it cut off?")
    return runs


def _decompress(counts: str | bytes) -> np.ndarray:
    """Run lengths from COCO's characters. Each holds 5 bits of a number, lowest ones first, and whether more follow; from the
    fourth number on it is the difference to the number before the last one."""
    if not isinstance(counts, str | bytes):
        raise ValueError(f"a run-length encoded mask is malformed: its counts are of type {type(counts).__name__}")
    data = counts if isinstance(counts, bytes) else counts.encode("ascii")
    codes = np.frombuffer(data, np.uint8).astype(np.int64) - 48
    ends = codes < 32
    lengths = np.diff(np.flatnonzero(ends), prepend=-1)  # characters of each number
    if not len(codes) or codes.min() < 0 or codes.max() > 63 or not ends[-1] or lengths.max() > 7:
        raise ValueError("a run-length encoded mask is malformed")
    starts = np.cumsum(lengths) - lengths
    position = np.arange(len(codes)) - np.repeat(starts, lengths)
    runs = np.add.reduceat((codes & 31) << (5 * position), starts)
    runs -= (codes[ends] >> 4 & 1) << (5 * lengths)  # the highest bit is the sign
    runs[1::2], runs[2::2] = np.cumsum(runs[1::2]), np.cumsum(runs[2::2])
    return runs


def decode_mask(rle: dict[str, Any] | None, size: tuple[int, int]) -> np.ndarray:
    """A run-length encoded mask, or an absent object, as (H, W) bool; a ValueError if it is malformed or of another size."""
    if not rle or not rle["counts"]:
        return np.zeros(size, bool)
    check_mask_size(tuple(rle["size"]), size)
    return rle_to_mask(rle)


def check_mask_size(mask_size: tuple[int, ...], frame_size: tuple[int, int]) -> None:
    """A ValueError if a mask (H, W) is not as large as its frame."""
    if mask_size != frame_size:
        height, width = frame_size
        raise ValueError(f"its mask is {mask_size[1]}x{mask_size[0]} pixels, the frame is {width}x{height}")


def davis_palette() -> list[int]:
    """The colours of DAVIS' and PASCAL VOC's label images: 256 RGB triples, flat; label 0 is black."""
    labels = np.arange(256)
    colours = np.zeros((256, 3), np.int64)
    for bit in range(8):
        for channel in range(3):
            colours[:, channel] |= ((labels >> (3 * bit + channel)) & 1) << (7 - bit)
    return colours.flatten().tolist()


def masks_to_labels(mask_logits: np.ndarray, labels: list[int]) -> np.ndarray:
    """Merge masks into one label image; where several overlap the highest logit wins.

    Args:
        mask_logits: (O, H, W), foreground where positive. labels: of the objects, 1 to 255.

    Returns:
        (H, W) uint8, 0 where there is no object.
    """
    if not labels:
        return np.zeros(mask_logits.shape[1:], np.uint8)
    best = np.take(np.asarray(labels, np.uint8), mask_logits.argmax(axis=0))
    return np.where(mask_logits.max(axis=0) > 0, best, 0).astype(np.uint8)


def save_label_image(path: str | Path, labels: np.ndarray) -> None:
    """Write a label image (H, W) uint8 as a palette PNG in DAVIS' colours, atomically."""
    image = Image.fromarray(labels)
    image.putpalette(davis_palette())
    with atomic_write(path) as temporary:
        image.save(temporary, format="PNG")


def load_labels(path: str | Path, colour: bool = True) -> np.ndarray:
    """Read a label image: a palette image's indices or a grey image's values.

    Args:
        colour: an image in colour is label 1 where it is not black; otherwise it is an error.

    Returns:
        (H, W) integers, 0 where there is no object.

    Raises:
        FileNotFoundError: no such file. ValueError: not an image, or one in colour.
    """
    if not Path(path).exists():
        raise FileNotFoundError(f"no such mask: {path}")
    try:
        with Image.open(path) as image:
            # The index of a palette image is the label; its alpha channel, if any, is not part of a mask.
            if image.mode in ("P", "L", "1", "I", "I;16"):
                return np.asarray(image).astype(np.int32)
            if not colour:
                raise ValueError(f"{path} is an image in colour: expected a palette or grey image, whose values are the labels")
            return np.asarray(image.convert("RGB")).any(axis=2).astype(np.int32)
    except (OSError, SyntaxError) as error:
        raise ValueError(f"{path} is not a readable image: {error}") from error


def load_mask(path: str | Path) -> np.ndarray:
    """Read a mask image: foreground where any channel is not zero.

    Returns:
        (H, W) bool.

    Raises:
        FileNotFoundError: no such file. ValueError: not an image.
    """
    return load_labels(path) != 0
