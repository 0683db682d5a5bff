"""Photographs with masks, and still frames of videos without masks, of which synthetic clips are made."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
import torch

from i2v.data.files import expected_file, find_file, find_samples
from i2v.data.images import IMAGE_SUFFIXES, read_rgb
from i2v.data.instances import instance_file, read_instances
from i2v.data.mask_files import read_labels
from i2v.data.rle import check_mask_size, decode_mask
from i2v.data.video_file import iterate_frames
from train.dataset.sample import (
    ClipDataset,
    RawClip,
    SampleError,
    require_positive,
    sample_errors,
    sample_objects,
    stack_frames,
)

Split = Literal["train", "validation"]

# Longest side of the images that are read, in pixels; clips are smaller.
_MAX_SIDE = 640
# One photograph in this many is held out for validation, by a hash of its name.
_HELD_OUT = 10
# Distance in frames between the stills of a video.
_VIDEO_STEP = 24
# Segments below this share of the photograph are ignored.
_MIN_SEGMENT = 0.002
# Probability that a segment of a photograph with parts is united with segments that it touches, to make an object.
_UNION_PROBABILITY = 0.4
# Largest number of segments that are examined to find an object.
_CANDIDATES = 12
# Width of the transparent margin around an object that is cut out, in pixels.
_MARGIN = 8


@dataclass
class Photograph:
    """A photograph and its segments.

    Attributes:
        name (str): name of the photograph, for messages.
        image (np.ndarray): (H, W, 3) uint8, RGB.
        masks (np.ndarray): (N, H, W) bool, which may overlap; N may be 0.
        has_parts (bool): whether a segment may be a part of an object, such as a sleeve, rather than an object.
    """

    name: str
    image: np.ndarray
    masks: np.ndarray
    has_parts: bool


class Photographs:
    """The photographs of some folders, each with its segments.

    A folder has one of two layouts:

    - `images/NAME.jpg` and label maps `regions/NAME_0.png`, `NAME_1.png`, ..., one per person who divided the photograph into
      regions (BSDS500). One of them is chosen at random whenever the photograph is read.
    - `NAME.jpg` and `NAME.json` with an RLE mask per object (SA-1B).

    Args:
        folders (Sequence[str or Path]): at least one folder; in training, a folder that is named twice counts twice.
        split (Split): a tenth of the photographs, chosen by their names alone, is held out for validation.

    Raises:
        FileNotFoundError: a folder does not exist.
        NotADirectoryError: a folder is a file.
        ValueError: a folder has no photographs of this split.
    """

    def __init__(self, folders: Sequence[str | Path], split: Split) -> None:
        self.paths: list[Path] = []
        for folder in map(Path, folders if split == "train" else dict.fromkeys(folders)):
            has_regions = (folder / "regions").is_dir()
            images, suffixes = (folder / "images", IMAGE_SUFFIXES["JPEG"]) if has_regions else (folder, (".json",))
            self.paths += [
                expected_file(images / name, IMAGE_SUFFIXES["JPEG"]) for name in _names_of_split(images, suffixes, split)
            ]

    def __len__(self) -> int:
        return len(self.paths)

    def read(self, index: int, rng: np.random.Generator) -> Photograph:
        """Read photograph `index`, at most 640 pixels wide and high.

        Raises:
            SampleError: a file is missing or damaged.
        """
        path = self.paths[index]
        with sample_errors(path):
            image = read_rgb(path)
        folder = path.parent.parent / "regions"
        regions: list[Path] = []
        while found := find_file(folder / f"{path.stem}_{len(regions)}", IMAGE_SUFFIXES["PNG"]):
            regions.append(found)
        if regions:
            masks = _read_regions(regions, image.shape[:2], rng)
        else:
            masks = _read_instances(instance_file(path), image.shape[:2])
        image = _limit_size(image)
        if len(masks) and masks.shape[1:] != image.shape[:2]:
            resized = [cv2.resize(mask.view(np.uint8), image.shape[1::-1], interpolation=cv2.INTER_NEAREST) for mask in masks]
            masks = np.stack(resized).view(bool)
        return Photograph(str(path), image, masks, has_parts=bool(regions))


class VideoStills:
    """Still frames of the videos in a folder, about one per second.

    A video is decoded when one of its stills is first needed; its stills stay in memory, compressed (about 50 kB each).

    Args:
        folder (str or Path): folder of *.mp4 files.
        split (Split): as in `Photographs`, by the names of the videos.

    Raises:
        FileNotFoundError: the folder does not exist.
        NotADirectoryError: the folder is a file.
        ValueError: the folder has no videos of this split.
    """

    def __init__(self, folder: str | Path, split: Split) -> None:
        names = _names_of_split(Path(folder), (".mp4",), split)
        self.paths = [expected_file(Path(folder) / name, (".mp4",)) for name in names]
        self._stills: dict[Path, list[np.ndarray]] = {}

    def sample(self, rng: np.random.Generator) -> np.ndarray:
        """Choose a still at random.

        Returns:
            (H, W, 3) uint8 RGB, at most 640 pixels wide and high.

        Raises:
            SampleError: the video cannot be decoded.
        """
        path = self.paths[rng.integers(len(self.paths))]
        if path not in self._stills:
            self._stills[path] = _decode_stills(path)
        stills = self._stills[path]
        encoded = stills[rng.integers(len(stills))]
        decoded = cv2.imdecode(encoded, cv2.IMREAD_COLOR)
        assert decoded is not None
        return cv2.cvtColor(decoded, cv2.COLOR_BGR2RGB)


class StillImages(ClipDataset):
    """Photographs with some of their segments, as clips of one frame.

    Args:
        folders (Sequence[str or Path]): folders of photographs; see `Photographs`.
        split (Split): see `Photographs`.
        max_objects (int): largest number of segments of a photograph, chosen at random.
        union_probability (float): probability that a segment of a photograph with parts is united with segments that it
            touches.
        things_only (bool): in photographs with parts, use only segments that look like objects (`sample_object`) instead of
            all.
        min_share (float): segments below this share of the photograph are left out.

    Raises:
        FileNotFoundError: a folder does not exist.
        NotADirectoryError: a folder is a file.
        ValueError: a folder has no photographs of this split, or `max_objects` is below 1.
    """

    def __init__(
        self,
        folders: Sequence[str | Path],
        split: Split = "train",
        max_objects: int = 3,
        union_probability: float = 0.3,
        things_only: bool = False,
        min_share: float = _MIN_SEGMENT,
    ) -> None:
        require_positive(max_objects=max_objects)
        self.name = "still images"
        self.photographs = Photographs(folders, split)
        self.max_objects = max_objects
        self.union_probability = union_probability
        self.things_only = things_only
        self.min_share = min_share

    def __len__(self) -> int:
        return len(self.photographs)

    def load(self, index: int, rng: np.random.Generator) -> RawClip:
        photograph = self.photographs.read(index, rng)
        if self.things_only and photograph.has_parts:
            drawn = [sample_object(photograph, rng) for _ in range(self.max_objects)]
            masks = [mask for mask in drawn if mask is not None and mask.mean() >= self.min_share]
        else:
            shares = photograph.masks.mean((1, 2))
            chosen = sample_objects(np.where(shares >= self.min_share, shares, 0), self.max_objects, rng)
            masks = [_unite_maybe(photograph, i, self.union_probability, rng) for i in chosen]
        if not masks:
            wanted = "looks like an object" if self.things_only and photograph.has_parts else "is large enough"
            raise SampleError(f"{photograph.name} has no segment that {wanted}")
        return RawClip(photograph.name, stack_frames([photograph.image]), torch.from_numpy(np.stack(masks)[None]))


def sample_object(photograph: Photograph, rng: np.random.Generator) -> np.ndarray | None:
    """Choose a segment at random that looks like an object (`is_object_like`), preferring large ones.

    In a photograph with parts, it may be the union of several that touch.

    Returns:
        (H, W) bool; None if no segment looks like an object.
    """
    shares = photograph.masks.mean((1, 2))
    shares[shares < _MIN_SEGMENT] = 0
    weights = np.sqrt(shares)
    num_candidates = min(_CANDIDATES, int(np.count_nonzero(shares)))
    if not num_candidates:
        return None
    for i in rng.choice(len(shares), num_candidates, replace=False, p=weights / weights.sum()):
        mask = _unite_maybe(photograph, i, _UNION_PROBABILITY, rng)
        if is_object_like(mask):
            return mask
    return None


def is_object_like(mask: np.ndarray) -> bool:
    """Whether a segment may be a thing rather than a part of sky, grass or wall.

    It must cover 1 to 40 % of the photograph, lie mostly inside of it, and be compact and not thin. These are rules of thumb:
    about three in four of the segments of BSDS500 that pass are things.

    Args:
        mask (np.ndarray): (H, W) bool.
    """
    area = int(mask.sum())
    if not 0.01 <= area / mask.size <= 0.4:
        return False
    border = sum(int(side.sum()) for side in (mask[0], mask[-1], mask[:, 0], mask[:, -1]))
    if border > 0.35 * area**0.5:
        return False
    contours, _ = cv2.findContours(mask.view(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    hull = cv2.contourArea(cv2.convexHull(np.concatenate(contours)))
    radius = cv2.distanceTransform(np.pad(mask.view(np.uint8), 1), cv2.DIST_L2, 3).max()
    return area > 0.55 * hull and radius > 0.2 * area**0.5


def unite_with_neighbours(masks: np.ndarray, index: int, rng: np.random.Generator, most: int = 3) -> np.ndarray:
    """Unite a segment with segments that touch it, chosen at random by the length of the contact.

    Args:
        masks (np.ndarray): (N, H, W) bool, all segments.
        index (int): index of the segment.
        rng (np.random.Generator): source of the random choices.
        most (int): largest number of segments to add; at least one is added.

    Returns:
        (H, W) bool.
    """
    union = masks[index].copy()
    for _ in range(rng.integers(1, most + 1)):
        rim = cv2.dilate(union.view(np.uint8), np.ones((3, 3), np.uint8)).view(bool) & ~union
        contact = masks[:, rim].sum(1)
        if not contact.any():
            break
        union |= masks[rng.choice(len(masks), p=contact / contact.sum())]
    return union


def cut_out(image: np.ndarray, mask: np.ndarray, scale: float, feather: float) -> tuple[np.ndarray, np.ndarray]:
    """Cut an object out of a photograph, and scale it.

    Args:
        image (np.ndarray): (H, W, 3) uint8, the photograph.
        mask (np.ndarray): (H, W) bool, the object.
        scale (float): factor of its size.
        feather (float): softness of the edge, as a standard deviation in pixels.

    Returns:
        The object (h, w, 4) uint8 with a transparent margin, opacity last and colours multiplied by it; and the position (x, y)
        of its top left corner in the photograph.
    """
    x, y, width, height = cv2.boundingRect(mask.view(np.uint8))
    border = int(np.ceil(_MARGIN / scale))
    opacity = np.pad(mask[y : y + height, x : x + width].astype(np.uint8), border)
    colours = np.pad(image[y : y + height, x : x + width], ((border, border), (border, border), (0, 0)))
    # The surroundings must not shine through the edge: replace them, and the outermost pixels, by the object's colours.
    inner = cv2.erode(opacity, np.ones((3, 3), np.uint8))[..., None].astype(np.float32)
    weights = cv2.blur(inner, (9, 9))[..., None] + 1e-4
    spread = cv2.blur(colours * inner, (9, 9)) / weights
    colours = np.where((inner > 0) | (weights < 2e-4), colours, spread).astype(np.float32)
    interpolation = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    shape = [round(side * scale) for side in opacity.shape[::-1]]
    colours = cv2.resize(colours, shape, interpolation=interpolation)
    alpha = cv2.resize(opacity.astype(np.float32), shape, interpolation=interpolation)
    if scale > 1.2:  # smooth the staircase of an enlarged mask
        alpha = np.clip((cv2.GaussianBlur(alpha, (0, 0), 0.8 * scale) - 0.5) * 1.6 * scale + 0.5, 0, 1)
    if feather > 0.3:
        alpha = cv2.GaussianBlur(alpha, (0, 0), feather)
    pixels = np.concatenate([colours * alpha[..., None], alpha[..., None] * 255], axis=2)
    return np.rint(pixels).astype(np.uint8), np.array([x - border, y - border], float)


def fill_hole(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Remove an object from a photograph: the colours around it continue into the hole, with the texture beside it.

    Args:
        image (np.ndarray): (H, W, 3) uint8.
        mask (np.ndarray): (H, W) bool, the object.

    Returns:
        (H, W, 3) uint8.
    """
    hole = cv2.dilate(mask.view(np.uint8), np.ones((7, 7), np.uint8))
    shrink = 96 / max(mask.shape)
    small = cv2.resize(image, None, fx=shrink, fy=shrink, interpolation=cv2.INTER_AREA)
    small_hole = (cv2.resize(hole * 255, small.shape[1::-1], interpolation=cv2.INTER_AREA) > 0).astype(np.uint8)
    size = image.shape[1::-1]
    filled = cv2.resize(cv2.inpaint(small, small_hole, 3, cv2.INPAINT_TELEA), size, interpolation=cv2.INTER_CUBIC)
    texture = image - cv2.resize(small, size, interpolation=cv2.INTER_CUBIC).astype(np.float32)
    _, _, width, height = cv2.boundingRect(hole)
    # Shift the texture far enough to leave the hole, unless the object is larger than half of the photograph.
    axis, shift = (1, width) if width * size[1] < height * size[0] else (0, height)
    soft = cv2.GaussianBlur(hole.astype(np.float32), (0, 0), 2)
    soft[hole > 0] = 1
    blended = image + (filled + np.roll(texture, shift, axis) - image) * soft[..., None]
    return np.clip(np.rint(blended), 0, 255).astype(np.uint8)


def _unite_maybe(photograph: Photograph, index: int, probability: float, rng: np.random.Generator) -> np.ndarray:
    if photograph.has_parts and rng.random() < probability:
        return unite_with_neighbours(photograph.masks, index, rng)
    return photograph.masks[index]


def _names_of_split(folder: Path, suffixes: Sequence[str], split: Split) -> list[str]:
    """The names (`find_samples`) of a folder's files that belong to a split, which depends on each name alone."""
    held_out = split == "validation"
    names = [name for name in find_samples(folder, suffixes) if (zlib.crc32(name.encode()) % _HELD_OUT == 0) == held_out]
    if not names:
        raise ValueError(f"{folder} has no *{suffixes[0]} of the {split} split")
    return names


def _read_instances(path: Path, size: tuple[int, int]) -> np.ndarray:
    """The masks of an SA-1B style JSON file for an image (H, W): (N, H, W) bool."""
    with sample_errors(path):
        masks = [decode_mask(rle, size) for rle in read_instances(path)]
    return np.stack(masks) if masks else np.zeros((0, *size), bool)


def _read_regions(paths: Sequence[Path], size: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """The regions of one label map, chosen at random, for an image (H, W): (N, H, W) bool."""
    path = paths[int(rng.integers(len(paths)))]
    with sample_errors(path):
        labels = read_labels(path)
        check_mask_size(labels.shape, size)
    return labels == np.unique(labels)[:, None, None]


def _decode_stills(path: Path) -> list[np.ndarray]:
    """One frame in `_VIDEO_STEP` of a video, as JPEG."""
    with sample_errors(path):
        stills = [_limit_size(image) for _, image in iterate_frames(path, lambda index: index % _VIDEO_STEP == 0)]
        if not stills:
            raise SampleError(f"{path}: none of its frames can be decoded")
    return [cv2.imencode(".jpg", cv2.cvtColor(still, cv2.COLOR_RGB2BGR))[1] for still in stills]


def _limit_size(image: np.ndarray) -> np.ndarray:
    height, width = image.shape[:2]
    scale = _MAX_SIDE / max(height, width)
    if scale >= 1:
        return image
    return cv2.resize(image, (round(width * scale), round(height * scale)), interpolation=cv2.INTER_AREA)
