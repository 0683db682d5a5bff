"""Converts public data sets, as they are downloaded, into the folders that the Lite model's training reads.

python tools/prepare_lite_data.py data/lite --bsds500 BSR/BSDS500/data --davis DAVIS \
  --coco annotations/instances_val2017.json val2017

writes data/lite/bsds500, data/lite/coco-mini and data/lite/davis2016-train, and says how to start the training with them.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import shlex
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from pycocotools.coco import COCO
from tqdm import tqdm

from i2v.data.images import read_rgb
from i2v.data.mask_files import read_labels, save_label_image
from i2v.utils.files import whole_folder

# Segmentations of a photograph of BSDS500 that are kept: the coarsest, a middle one and the finest.
_SEGMENTATIONS = 3


def convert_bsds500(source: Path, target: Path) -> int:
    """BSDS500: images/SPLIT/NAME.jpg and groundTruth/SPLIT/NAME.mat become images/NAME.jpg and regions/NAME_{0,1,2}.png.

    Returns:
        The number of photographs.

    Raises:
        FileNotFoundError: there are no such files.
        ValueError: a .mat file that is not of BSDS500; the message names it.
    """
    from scipy.io import loadmat

    photographs = sorted((source / "images").glob("*/*.jpg"))
    if not photographs:
        raise FileNotFoundError(f"{source} has no images/*/*.jpg: give the folder BSDS500/data of the archive")
    for name in ("images", "regions"):
        (target / name).mkdir()
    for path in tqdm(photographs, desc="BSDS500", unit="photograph"):
        matlab = source / "groundTruth" / path.parent.name / f"{path.stem}.mat"
        try:
            people = loadmat(matlab)["groundTruth"][0]
            maps = [person["Segmentation"][0, 0].astype(np.uint16) for person in people]
        except (KeyError, IndexError, ValueError, TypeError) as error:
            raise ValueError(f"{matlab} is not a ground truth of BSDS500: {error!r}") from error
        maps.sort(key=lambda regions: len(np.unique(regions)))
        middle = np.linspace(0, len(maps) - 1, min(_SEGMENTATIONS, len(maps))).round().astype(int)
        for number, chosen in enumerate(middle):
            Image.fromarray(maps[chosen]).save(target / "regions" / f"{path.stem}_{number}.png")
        (target / "images" / path.name).write_bytes(path.read_bytes())
    return len(photographs)


def convert_coco(annotations: Path, images: Path, target: Path, most: int | None) -> int:
    """COCO: each photograph becomes NAME.jpg and NAME.json with run-length encoded masks, as in SA-1B. Crowds are left out.

    Args:
        annotations: an instances_*.json.
        images: the folder of its photographs.
        target: an empty folder.
        most: photographs, in the order of their ids; None for all.

    Returns:
        The number of photographs.

    Raises:
        FileNotFoundError: a photograph is missing.
        ValueError: not an annotation file of COCO.
    """
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints how long it takes
            coco = COCO(str(annotations))
        numbers = sorted(coco.imgs)[:most]
    except (KeyError, AssertionError, json.JSONDecodeError) as error:
        raise ValueError(f"{annotations} is not an annotation file of COCO: {error!r}") from error
    written = 0
    for number in tqdm(numbers, desc="COCO", unit="photograph"):
        instances = coco.loadAnns(coco.getAnnIds(number, iscrowd=False))
        if not instances:
            continue
        path = images / coco.imgs[number]["file_name"]
        entries = []
        for instance in instances:
            rle = coco.annToRLE(instance)
            entries.append({"segmentation": {"size": rle["size"], "counts": rle["counts"].decode("ascii")}})
        (target / f"{path.stem}.json").write_text(json.dumps({"annotations": entries}))
        (target / f"{path.stem}.jpg").write_bytes(path.read_bytes())
        written += 1
    return written


def convert_davis(source: Path, target: Path, height: int) -> int:
    """DAVIS 2016's training set: JPEGImages/480p/VIDEO and Annotations/480p/VIDEO become the same without resolution, smaller;
    all that moves is one object.

    Returns:
        The number of videos.

    Raises:
        FileNotFoundError: a file is missing.
    """
    file_list = source / "ImageSets" / "2016" / "train.txt"
    if not file_list.is_file():
        file_list = source / "ImageSets" / "480p" / "train.txt"
    if not file_list.is_file():
        raise FileNotFoundError(f"{source} has neither ImageSets/2016/train.txt nor ImageSets/480p/train.txt")
    # A line is the name of a video, or the paths of a frame and its mask: .../VIDEO/00000.jpg .../VIDEO/00000.png
    lines = [line.split()[0] for line in file_list.read_text().splitlines() if line.strip()]
    names = sorted({Path(line).parent.name if line.endswith(".jpg") else line for line in lines})
    for name in tqdm(names, desc="DAVIS", unit="video"):
        frames, masks = (target / kind / name for kind in ("JPEGImages", "Annotations"))
        frames.mkdir(parents=True)
        masks.mkdir(parents=True)
        found = sorted((source / "JPEGImages" / "480p" / name).glob("*.jpg"))
        if not found:
            raise FileNotFoundError(f"{source}/JPEGImages/480p/{name} has no frames")
        for path in found:
            image = Image.fromarray(read_rgb(path))
            size = round(image.width * height / image.height), height
            image.resize(size, Image.Resampling.LANCZOS).save(frames / path.name, quality=90)
            labels = read_labels(source / "Annotations" / "480p" / name / f"{path.stem}.png") > 0
            small = Image.fromarray(labels.astype(np.uint8)).resize(size, Image.Resampling.NEAREST)
            save_label_image(masks / f"{path.stem}.png", np.asarray(small))
    return len(names)


def convert(target: Path, function: Callable[[Path], int]) -> None:
    """Write a folder as a whole, or not at all; one that already exists is left unchanged."""
    if target.exists():
        print(f"{target} already exists; left unchanged")
        return
    with whole_folder(target) as folder:
        count = function(folder)
    print(f"{target}: {count}")


def command(output: Path, prepared: Sequence[str]) -> str:
    """The command that trains with some of the data sets."""
    folder = output.resolve()
    stills = ",".join(f"{folder}/{name}" for name in ("bsds500", "coco-mini") if name in prepared)
    clips = ["data.parts.others=null", "data.parts.clips.dataset.background_videos=null"]
    if "davis2016-train" not in prepared:
        clips += ["data.parts.davis=null", "validation.davis=null"]
    variables = {"SHARED": str(folder), "LITE": f"stills=[{stills}]", "LITE_CLIPS": " ".join(clips)}
    return "make train-lite " + " ".join(f"{name}={shlex.quote(value)}" for name, value in variables.items())


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path, help="the folder to write")
    parser.add_argument("--bsds500", type=Path, help="BSDS500/data of the archive: images/ and groundTruth/ (needs scipy)")
    parser.add_argument("--coco", type=Path, nargs=2, metavar=("JSON", "IMAGES"), help="instances_*.json and its photographs")
    parser.add_argument("--coco-photographs", type=int, help="at most so many (default: all)")
    parser.add_argument("--davis", type=Path, help="DAVIS: JPEGImages/480p, Annotations/480p and ImageSets")
    parser.add_argument("--height", type=int, default=272, help="of the videos that are written, in pixels (default: 272)")
    args = parser.parse_args(arguments)
    if not (args.bsds500 or args.coco):
        parser.error("give --bsds500 or --coco, whose photographs the first stage needs, and --davis if you have it")
    wanted: dict[str, Callable[[Path], int]] = {}
    if args.bsds500:
        wanted["bsds500"] = lambda folder: convert_bsds500(args.bsds500, folder)
    if args.coco:
        wanted["coco-mini"] = lambda folder: convert_coco(*args.coco, folder, args.coco_photographs)
    if args.davis:
        wanted["davis2016-train"] = lambda folder: convert_davis(args.davis, folder, args.height)
    args.output.mkdir(parents=True, exist_ok=True)
    try:
        for name, function in wanted.items():
            convert(args.output / name, function)
    except ModuleNotFoundError as error:
        parser.exit(1, f'error: {error}: pip install -e ".[train]"\n')
    except (OSError, ValueError) as error:
        parser.exit(1, f"error: {error}\n")
    print(f"To train: {command(args.output, list(wanted))}")


if __name__ == "__main__":
    main()
