"""Regions of masks, to find where a person would click."""

from __future__ import annotations

import cv2
import numpy as np


def largest_component(mask: np.ndarray) -> np.ndarray:
    """The connected component of a mask with the most pixels.

    Args:
        mask (np.ndarray): (H, W) bool.

    Returns:
        (H, W) bool, 8-connected; the first of several components of equal size; empty if the mask is.
    """
    _, labels, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    areas = stats[1:, cv2.CC_STAT_AREA]  # label 0 is where the mask is not
    return labels == 1 + np.argmax(areas) if len(areas) else np.zeros_like(mask)


def depth(region: np.ndarray) -> np.ndarray:
    """Distance of each pixel from the border of a region, to which the frame's border belongs.

    Args:
        region (np.ndarray): (H, W) bool.

    Returns:
        (H, W) float32, in pixels; 0 outside the region.
    """
    framed = cv2.copyMakeBorder(region.astype(np.uint8), 1, 1, 1, 1, cv2.BORDER_CONSTANT)
    return cv2.distanceTransform(framed, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)[1:-1, 1:-1]
