"""J, F and the SA-V evaluator, straight from their definitions: on whole frames, without optimisations.

`i2v.utils.jf` and `sav_dataset` must agree with it; benchmark_jf.py measures how much faster they are.
"""

from __future__ import annotations

import math
from pathlib import Path

import cv2
import numpy as np
from PIL import Image


def region_similarity(ground_truth: np.ndarray, prediction: np.ndarray) -> float:
    """Intersection over union of two masks (H, W) bool."""
    union = np.logical_or(ground_truth, prediction).sum()
    return np.logical_and(ground_truth, prediction).sum() / union if union else 1.0


def boundary(mask: np.ndarray) -> np.ndarray:
    """DAVIS' boundary map of a mask (H, W) bool: pixels that differ from the right, lower or lower right neighbour."""
    right, below, diagonal = (np.zeros_like(mask) for _ in range(3))
    right[:, :-1] = mask[:, 1:]
    below[:-1] = mask[1:]
    diagonal[:-1, :-1] = mask[1:, 1:]
    edges = (mask ^ right) | (mask ^ below) | (mask ^ diagonal)
    edges[-1] = mask[-1] ^ right[-1]
    edges[:, -1] = mask[:, -1] ^ below[:, -1]
    edges[-1, -1] = False
    return edges


def disc(radius: int) -> np.ndarray:
    """A disc with all offsets of at most `radius` pixels."""
    offsets = np.arange(-radius, radius + 1)
    x, y = np.meshgrid(offsets, offsets)
    return (x**2 + y**2 <= radius**2).astype(np.uint8)


def boundary_accuracy(ground_truth: np.ndarray, prediction: np.ndarray) -> float:
    """F of two masks (H, W) bool."""
    radius = math.ceil(0.008 * np.linalg.norm(ground_truth.shape))
    true, found = boundary(ground_truth), boundary(prediction)
    true_area = cv2.dilate(true.astype(np.uint8), disc(radius)).astype(bool)
    found_area = cv2.dilate(found.astype(np.uint8), disc(radius)).astype(bool)
    if not found.any() and true.any():
        precision, recall = 1.0, 0.0
    elif found.any() and not true.any():
        precision, recall = 0.0, 1.0
    elif not found.any() and not true.any():
        precision, recall = 1.0, 1.0
    else:
        precision = (found & true_area).sum() / found.sum()
        recall = (true & found_area).sum() / true.sum()
    return 0.0 if precision + recall == 0 else 2 * precision * recall / (precision + recall)


def read_labels(path: Path) -> np.ndarray:
    """Read a label image (H, W) uint8; 255 becomes 1, as required for the masks of DAVIS 2016."""
    labels = np.array(Image.open(path)).astype(np.uint8)
    labels[labels == 255] = 1
    return labels


def object_ids(labels: np.ndarray) -> set[int]:
    """The labels of the objects in a label image."""
    return set(np.unique(labels).tolist()) - {0}


def evaluate_sequence(ground_truth: Path, prediction: Path) -> dict[int, tuple[float, float]]:
    """J and F in percent by object, for a folder of label images without its first and last frame."""
    scores: dict[int, list[tuple[float, float]]] = {}
    in_ground_truth: set[int] = set()
    for path in sorted(ground_truth.glob("*.png"))[1:-1]:
        true, found = read_labels(path), read_labels(prediction / path.name)
        in_ground_truth |= object_ids(true)
        for obj_id in object_ids(true) | object_ids(found) | set(scores):
            masks = true == obj_id, found == obj_id
            scores.setdefault(obj_id, []).append((region_similarity(*masks), boundary_accuracy(*masks)))
    return {obj_id: tuple(100 * np.mean(scores[obj_id], axis=0)) for obj_id in sorted(in_ground_truth)}


def evaluate(ground_truth: Path, prediction: Path) -> dict[tuple[str, str], tuple[float, float]]:
    """J and F in percent by video and object, for folders of label images or with a folder per object."""
    scores = {}
    for video in sorted(path for path in ground_truth.iterdir() if path.is_dir()):
        folders = [path for path in sorted(video.iterdir()) if path.is_dir()]
        for folder in folders or [video]:
            relative = folder.relative_to(ground_truth)
            for obj_id, score in evaluate_sequence(folder, prediction / relative).items():
                scores[video.name, folder.name if folders else f"{obj_id:03d}"] = score
    return scores
