"""SA-1B, and other images with run-length encoded masks in a JSON file for each."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from i2v.data.files import expected_file, find_samples
from i2v.data.images import IMAGE_SUFFIXES, read_rgb
from i2v.data.instances import read_instances
from i2v.data.rle import decode_mask, rle_area
from train.dataset.sample import (
    ClipDataset,
    RawClip,
    SampleError,
    require_any,
    require_positive,
    sample_errors,
    sample_objects,
    stack_frames,
)

_SUFFIXES = IMAGE_SUFFIXES["JPEG"]


class SA1B(ClipDataset):
    """Images as clips of one frame: NAME.jpg with NAME.json ({"annotations": [{"segmentation": COCO RLE}, ...]}).

    Args:
        folder (str or Path): folder of the images, including sub-folders such as sa_000000.
        file_list (str or Path or None): file with names such as sa_000000/sa_1, one per line; None for all images.
        max_objects (int): largest number of objects of an image, chosen at random.
        annotations (str or Path or None): folder of the JSON files, with the same sub-folders; None if they lie beside the
            images.

    Raises:
        FileNotFoundError: a folder or list does not exist.
        NotADirectoryError: a folder is a file.
        ValueError: a folder or list is empty or the wrong one, or a number is below 1.
    """

    def __init__(
        self,
        folder: str | Path,
        file_list: str | Path | None = None,
        max_objects: int = 3,
        annotations: str | Path | None = None,
    ) -> None:
        require_positive(max_objects=max_objects)
        self.folder = Path(folder)
        self.annotations = self.folder if annotations is None else Path(annotations)
        self.name = str(folder)
        self.max_objects = max_objects
        self.names = find_samples(self.folder, _SUFFIXES, file_list)
        require_any(map(self._json_file, self.names), self.annotations, "no JSON file for any image")

    def __len__(self) -> int:
        return len(self.names)

    def load(self, index: int, rng: np.random.Generator) -> RawClip:
        name = self.names[index]
        image_path = self._image(name)
        path = self._json_file(name)
        with sample_errors(image_path):
            image = read_rgb(image_path)
        with sample_errors(path):
            masks = read_instances(path)
            areas = np.array([rle_area(rle) for rle in masks])
        objects = sample_objects(areas, self.max_objects, rng)
        if not len(objects):
            raise SampleError(f"{path}: no objects")
        with sample_errors(path):
            chosen = np.stack([decode_mask(masks[i], image.shape[:2]) for i in objects])
        return RawClip(f"{self.name}/{name}", stack_frames([image]), torch.from_numpy(chosen).unsqueeze(0))

    def _json_file(self, name: str) -> Path:
        return expected_file(self.annotations / name, (".json",))

    def _image(self, name: str) -> Path:
        return expected_file(self.folder / name, _SUFFIXES)
