"""COCO's run-length encoding of masks, validated before it is decoded."""

from __future__ import annotations

import operator
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask


def mask_to_rle(mask: np.ndarray) -> dict[str, Any]:
    """Encode a binary mask (H, W) in COCO's compressed run-length encoding: {"size": [H, W], "counts": str}."""
    rle = coco_mask.encode(np.asfortranarray(mask, dtype=np.uint8))
    return {"size": [int(side) for side in rle["size"]], "counts": rle["counts"].decode("ascii")}


def rle_to_mask(rle: dict[str, Any]) -> np.ndarray:
    """Decode a mask in COCO's run-length encoding, compressed or not, to (H, W) bool.

    Raises:
        ValueError: see `run_lengths`.
    """
    runs = run_lengths(rle)
    height, width = rle["size"]
    return np.repeat(np.arange(len(runs)) % 2 == 1, runs).reshape(width, height).T


def run_lengths(rle: dict[str, Any]) -> np.ndarray:
    """Decode the lengths of the runs in COCO's run-length encoding.

    pycocotools does not validate what it decodes: runs that are too long crash the process, and runs that are too short leave
    pixels uninitialised.

    Args:
        rle (dict[str, Any]): the encoding, compressed or not.

    Returns:
        (N,) int64 lengths, alternately of background and foreground, column by column.

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
    # Runs that are too long are checked individually, because their sum may overflow.
    if min(height, width) < 0 or (runs < 0).any() or (runs > num_pixels).any() or runs.sum() != num_pixels:
        raise ValueError(f"a run-length encoded mask does not fit its size of {width}x{height} pixels: is it truncated?")
    return runs


def _decompress(counts: str | bytes) -> np.ndarray:
    """Decode COCO's characters to run lengths.

    Each character holds 5 bits of a number, the lowest ones first, and whether more follow. From the fourth number on, it is
    the difference to the number two places before.
    """
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
    """Decode a run-length encoded mask, which may be that of an absent object.

    Args:
        rle (dict[str, Any] or None): the encoding; None if the object is absent.
        size (tuple of int): (height, width) of the frame in pixels.

    Returns:
        (H, W) bool; empty if the encoding is None or has no counts.

    Raises:
        ValueError: the encoding is malformed or has another size.
    """
    if not rle or not rle["counts"]:
        return np.zeros(size, bool)
    check_mask_size(tuple(rle["size"]), size)
    return rle_to_mask(rle)


def rle_area(rle: dict[str, Any] | None) -> int:
    """The area of a run-length encoded mask in pixels; 0 for an absent object, whose encoding is None or has no counts.

    Raises:
        ValueError: the encoding is malformed.
    """
    return int(run_lengths(rle)[1::2].sum()) if rle and rle["counts"] else 0


def check_mask_size(mask_size: tuple[int, ...], frame_size: tuple[int, ...]) -> None:
    """Check that a mask has the size of its frame.

    Args:
        mask_size (tuple of int): (height, width) of the mask in pixels.
        frame_size (tuple of int): (height, width) of the frame in pixels.

    Raises:
        ValueError: the sizes differ.
    """
    if tuple(mask_size) != tuple(frame_size):
        mask, frame = ("x".join(str(side) for side in reversed(size)) for size in (mask_size, frame_size))
        raise ValueError(f"its mask is {mask or 'no'} pixels, the frame is {frame}")
