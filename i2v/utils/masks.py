"""Masks as arrays: holes, and several masks in one."""

from __future__ import annotations

from collections.abc import Mapping

import cv2
import numpy as np
import torch
from torch import Tensor

from i2v.utils.numbers import whole_number


def fill_holes(mask_logits: Tensor, max_area: int) -> Tensor:
    """Fill the holes of masks, as SAM 2's postprocessing does: background components become foreground (logit 0.1).

    Args:
        mask_logits (Tensor): (B, 1, H, W), on any device.
        max_area (int): largest area of a hole, in cells (8-connected); 0 to fill none.

    Returns:
        (B, 1, H, W); the input itself if there is nothing to fill.
    """
    if max_area <= 0 or not len(mask_logits):
        return mask_logits
    background = (mask_logits[:, 0] <= 0).to(torch.uint8).cpu().numpy()
    holes = np.stack([_small_components(image, max_area) for image in background])
    if not holes.any():
        return mask_logits
    return mask_logits.masked_fill(torch.from_numpy(holes).to(mask_logits.device).unsqueeze(1), 0.1)


def _small_components(image: np.ndarray, max_area: int) -> np.ndarray:
    """The components of a binary image (H, W) uint8 with at most `max_area` pixels, (H, W) bool."""
    _, labels, stats, _ = cv2.connectedComponentsWithStats(image, connectivity=8)
    small = stats[:, cv2.CC_STAT_AREA] <= max_area
    small[0] = False  # label 0 is where the image is zero
    return small[labels]


def masks_to_labels(mask_logits: np.ndarray, labels: list[int]) -> np.ndarray:
    """Merge masks into one label image; where they overlap, the largest logit wins.

    Args:
        mask_logits (np.ndarray): (O, H, W), foreground where positive.
        labels (list[int]): labels of the O objects, 1 to 255.

    Returns:
        (H, W) uint8, 0 for no object.

    Raises:
        ValueError: a label is not from 1 to 255.
    """
    if not labels:
        return np.zeros(mask_logits.shape[1:], np.uint8)
    numbers = [whole_number(label, "an object id") for label in labels]
    if not all(0 < number < 256 for number in numbers):
        raise ValueError(f"a label image holds objects 1 to 255, not {numbers}")
    best = np.take(np.array(numbers, np.uint8), mask_logits.argmax(axis=0))
    return np.where(mask_logits.max(axis=0) > 0, best, 0).astype(np.uint8)


def give_free_pixels(labels: np.ndarray, masks: Mapping[int, np.ndarray]) -> np.ndarray:
    """Give the pixels that belong to no object to the first one whose mask covers them, as after the removal of another one.

    Args:
        labels (np.ndarray): (H, W) uint8, the object of each pixel, 0 for none; it is changed.
        masks (Mapping[int, np.ndarray]): masks (H, W) by object, not zero where it is.

    Returns:
        The label image.
    """
    for obj_id, mask in masks.items():
        labels[(labels == 0) & (mask > 0)] = obj_id
    return labels
