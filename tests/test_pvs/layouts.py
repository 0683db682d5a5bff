"""Tiny data sets in all layouts: two videos of two moving discs, the second of which appears later."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from PIL import Image

from i2v.data.mask_files import save_label_image
from i2v.data.rle import mask_to_rle

NUM_FRAMES, HEIGHT, WIDTH = 12, 48, 64
APPEARS = 4  # the frame in which the second object appears
NAMES = ("one", "two")


def discs(video: int) -> tuple[np.ndarray, np.ndarray]:
    """Make frames (T, H, W, 3) uint8 and labels (T, H, W) uint8 of a video; the discs move by a pixel per frame."""
    frames = np.random.default_rng(video).integers(0, 60, (NUM_FRAMES, HEIGHT, WIDTH, 3)).astype(np.uint8)
    labels = np.zeros((NUM_FRAMES, HEIGHT, WIDTH), np.uint8)
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    for t in range(NUM_FRAMES):
        labels[t][(x - 16 - t) ** 2 + (y - 14 - video) ** 2 <= 64] = 1
        if t >= APPEARS:
            labels[t][(x - 50 + t) ** 2 + (y - 36) ** 2 <= 49] = 2
    frames[labels == 1] = (230, 180, 40)
    frames[labels == 2] = (40, 60, 230)
    return frames, labels


def write_frames(folder: Path, frames: np.ndarray, name: str = "{:05d}.jpg", step: int = 1) -> None:
    folder.mkdir(parents=True)
    for t, frame in enumerate(frames):
        Image.fromarray(frame).save(folder / name.format(step * t))


def write_labels(folder: Path, labels: np.ndarray, every: int = 1, name: str = "{:05d}.png", step: int = 1) -> None:
    folder.mkdir(parents=True)
    for t in range(0, len(labels), every):
        save_label_image(folder / name.format(step * t), labels[t])


def folders(root: Path, every: int = 1, resolution: str = "", step: int = 1) -> Path:
    """Write DAVIS 2017 (with a resolution), or MOSE, PUMaVOS or YouTube-VOS (frames 0, 5, 10, ... with `step=5`)."""
    for i, name in enumerate(NAMES):
        frames, labels = discs(i)
        write_frames(root / "JPEGImages" / resolution / name, frames, step=step)
        write_labels(root / "Annotations" / resolution / name, labels, every, step=step)
    return root


def davis2016(root: Path) -> Path:
    """Write DAVIS 2016: masks of 0 and 255, a list of paths, and a video of the training set, which no list has."""
    for i, name in enumerate((*NAMES, "training")):
        frames, labels = discs(i)
        write_frames(root / "JPEGImages/480p" / name, frames)
        (root / "Annotations/480p" / name).mkdir(parents=True)
        for t, image in enumerate(labels):
            Image.fromarray(np.where(image > 0, 255, 0).astype(np.uint8)).save(root / f"Annotations/480p/{name}/{t:05d}.png")
    lines = [f"/JPEGImages/480p/{name}/{t:05d}.jpg /Annotations/480p/{name}/{t:05d}.png" for name in NAMES for t in range(3)]
    (root / "ImageSets/480p").mkdir(parents=True)
    (root / "ImageSets/480p/val.txt").write_text("\n".join(lines) + "\n")
    return root


def sav(root: Path) -> Path:
    """Write SA-V: a folder per object, with masks of every fourth frame."""
    for i, name in enumerate(NAMES):
        frames, labels = discs(i)
        write_frames(root / "JPEGImages_24fps" / name, frames)
        for obj in (0, 1):
            folder = root / "Annotations_6fps" / name / f"{obj:03d}"
            folder.mkdir(parents=True)
            for t in range(0, NUM_FRAMES, 4):
                Image.fromarray(labels[t] == obj + 1).save(folder / f"{t:05d}.png")
    (root / "sav_val.txt").write_text("\n".join(NAMES))
    return root


def lvvis(root: Path, in_folder: bool = False) -> Path:
    """Write LV-VIS: a YouTube-VIS JSON with null for absent objects."""
    videos, annotations = [], []
    for i, name in enumerate(NAMES):
        frames, labels = discs(i)
        write_frames(root / "JPEGImages" / name, frames)
        file_names = [f"{name}/{t:05d}.jpg" for t in range(NUM_FRAMES)]
        videos.append({"id": i + 1, "file_names": file_names, "width": WIDTH, "height": HEIGHT, "length": NUM_FRAMES})
        for label in (1, 2):
            rles = [mask_to_rle(image == label) if (image == label).any() else None for image in labels]
            annotations.append({"id": 10 * (i + 1) + label, "video_id": i + 1, "category_id": 1, "segmentations": rles})
    target = root / "instances.json" if in_folder else root.parent / f"{root.name}_instances.json"
    target.write_text(json.dumps({"videos": videos, "annotations": annotations, "categories": [{"id": 1, "name": "disc"}]}))
    return root


def esd(root: Path) -> Path:
    """Write ESD-1: nested sequences; PNG images and masks with different names and the same numbers."""
    for i, name in enumerate(NAMES):
        frames, labels = discs(i)
        write_frames(root / "training" / name / "RGB", frames, "rgb_{}.png")
        write_labels(root / "training" / name / "Mask", labels, name="mask_{}.png")
    return root
