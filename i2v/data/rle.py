"""COCO's run-length encoding of masks, checked before it is decoded."""

from __future__ import annotations

import operator
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask


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
    """Decode a run-length encoded mask, or that of an absent object.

    Args:
        rle: the encoding, or None.
        size: (height, width) of the frame.

    Returns:
        (H, W) bool; empty where the encoding is None or has no counts.

    Raises:
        ValueError: it is malformed, or of another size.
    """
    if not rle or not rle["counts"]:
        return np.zeros(size, bool)
    check_mask_size(tuple(rle["size"]), size)
    return rle_to_mask(rle)


def rle_area(rle: dict[str, Any] | None) -> int:
    """Pixels of a run-length encoded mask; 0 for an absent object, which has no or empty counts.

    Raises:
        ValueError: it is malformed.
    """
    return int(run_lengths(rle)[1::2].sum()) if rle and rle["counts"] else 0


def check_mask_size(mask_size: tuple[int, ...], frame_size: tuple[int, ...]) -> None:
    """Check that a mask is as large as its frame.

    Args:
        mask_size: (height, width) of the mask.
        frame_size: (height, width) of the frame.

    Raises:
        ValueError: it is not.
    """
    if tuple(mask_size) != tuple(frame_size):
        height, width = frame_size
        raise ValueError(f"its mask is {mask_size[1]}x{mask_size[0]} pixels, the frame is {width}x{height}")
