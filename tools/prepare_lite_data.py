"""Convert public data sets, as downloaded, into the folders that the Lite model's training reads.

python tools/prepare_lite_data.py data/lite --bsds500 BSR/BSDS500/data --davis DAVIS \
  --coco annotations/instances_val2017.json val2017

writes data/lite/bsds500, data/lite/coco-mini and data/lite/davis2016-train, and prints the command that trains with them.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import shlex
import sys
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from pycocotools.coco import COCO
from tqdm import tqdm

from i2v.data.files import read_json, read_list
from i2v.data.frames import frame_paths
from i2v.data.images import read_rgb
from i2v.data.mask_files import read_labels, save_label_image
from i2v.utils.command_line import MAX_SIDE, command_line, given_path, make_output_folder, whole_number
from i2v.utils.files import whole_folder
from i2v.utils.json_form import require_form

# Number of segmentations kept per photograph of BSDS500: the coarsest, a middle one and the finest.
_SEGMENTATIONS = 3
# The parts of a COCO annotation file that are read.
_COCO = {
    "images": [{"id": int, "file_name": str, "height": int, "width": int}],
    "annotations": [{"id": int, "image_id": int, "iscrowd": int, "segmentation": (list, dict)}],
}


def convert_bsds500(source: Path, target: Path) -> int:
    """Convert images/SPLIT/NAME.jpg and groundTruth/SPLIT/NAME.mat to images/NAME.jpg and regions/NAME_{0,1,2}.png.

    Args:
        source (Path): folder BSDS500/data of the archive.
        target (Path): empty folder to write to.

    Returns:
        Number of photographs (int).

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: a .mat file is not from BSDS500; the message names it.
    """
    from scipy.io import loadmat
    from scipy.io.matlab import MatReadError

    photographs = sorted((source / "images").glob("*/*.jpg"))
    if not photographs:
        raise FileNotFoundError(f"{source} has no images/*/*.jpg: give the folder BSDS500/data of the archive")
    for name in ("images", "regions"):
        (target / name).mkdir()
    for path in tqdm(photographs, desc="BSDS500", unit="photograph"):
        matlab = source / "groundTruth" / path.parent.name / f"{path.stem}.mat"
        if not matlab.is_file():
            raise FileNotFoundError(f"no such file: {matlab}")
        try:
            people = loadmat(matlab)["groundTruth"][0]
            maps = [person["Segmentation"][0, 0].astype(np.uint16) for person in people]
        except (OSError, LookupError, ValueError, TypeError, AttributeError, RuntimeError, zlib.error, MatReadError) as error:
            raise ValueError(f"{matlab} is not a ground truth of BSDS500: {error!r}") from error
        maps.sort(key=lambda regions: len(np.unique(regions)))
        middle = np.linspace(0, len(maps) - 1, min(_SEGMENTATIONS, len(maps))).round().astype(int)
        for number, chosen in enumerate(middle):
            Image.fromarray(maps[chosen]).save(target / "regions" / f"{path.stem}_{number}.png")
        (target / "images" / path.name).write_bytes(path.read_bytes())
    return len(photographs)


def convert_coco(annotations: Path, images: Path, target: Path, most: int | None) -> int:
    """Convert photographs of COCO to NAME.jpg and NAME.json with run-length encoded masks, as in SA-1B, without crowds.

    Args:
        annotations (Path): path of an instances_*.json.
        images (Path): folder of its photographs.
        target (Path): empty folder to write to.
        most (int or None): largest number of photographs, which are taken in the order of their ids; None for all.

    Returns:
        Number of photographs (int).

    Raises:
        FileNotFoundError: a photograph is missing.
        ValueError: the file is not an annotation file of COCO, or lists no photographs.
    """
    content = read_json(annotations)
    require_form(content, _COCO, str(annotations))
    coco = COCO()
    coco.dataset = content
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints its progress
        coco.createIndex()
    numbers = sorted(coco.imgs)[:most]
    if not numbers:
        raise ValueError(f"{annotations} has no images")
    written = 0
    for number in tqdm(numbers, desc="COCO", unit="photograph"):
        instances = coco.loadAnns(coco.getAnnIds(number, iscrowd=False))
        if not instances:
            continue
        name = coco.imgs[number]["file_name"]
        if Path(name).name != name:
            raise ValueError(f"{annotations}: a photograph has the name {name!r}, expected one without folders")
        try:
            rles = [coco.annToRLE(instance) for instance in instances]
        except Exception as error:  # pycocotools raises no other class
            raise ValueError(f"{annotations}: a segmentation of {name} cannot be read: {error!r}") from error
        path = images / name
        if not path.is_file():
            raise FileNotFoundError(f"no such file: {path}, a photograph of {annotations}")
        entries = [{"segmentation": {"size": rle["size"], "counts": rle["counts"].decode("ascii")}} for rle in rles]
        (target / f"{path.stem}.json").write_text(json.dumps({"annotations": entries}))
        (target / f"{path.stem}.jpg").write_bytes(path.read_bytes())
        written += 1
    return written


def convert_davis(source: Path, target: Path, height: int) -> int:
    """Scale the training set of DAVIS 2016 down, from {JPEGImages,Annotations}/480p/VIDEO to {JPEGImages,Annotations}/VIDEO.

    All objects of a video become one object, as in DAVIS 2016.

    Args:
        source (Path): folder of DAVIS.
        target (Path): empty folder to write to.
        height (int): height of the scaled frames in pixels.

    Returns:
        Number of videos (int).

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: an image is unreadable, or the list has an invalid name; the message names the file.
    """
    file_list = source / "ImageSets" / "2016" / "train.txt"
    if not file_list.is_file():
        file_list = source / "ImageSets" / "480p" / "train.txt"
    if not file_list.is_file():
        raise FileNotFoundError(f"{source} has neither ImageSets/2016/train.txt nor ImageSets/480p/train.txt")
    # A line holds the name of a video, or the paths of a frame and its mask: .../VIDEO/00000.jpg .../VIDEO/00000.png
    lines = [line.split()[0] for line in read_list(file_list)]
    names = sorted({Path(line).parent.name if line.lower().endswith(".jpg") else line for line in lines})
    if wrong := [name for name in names if name != Path(name).name]:
        raise ValueError(f"{file_list}: {wrong[0]!r} is not the name of a video")
    for name in tqdm(names, desc="DAVIS", unit="video"):
        frames, masks = (target / kind / name for kind in ("JPEGImages", "Annotations"))
        frames.mkdir(parents=True)
        masks.mkdir(parents=True)
        for path in frame_paths(source / "JPEGImages" / "480p" / name):
            image = Image.fromarray(read_rgb(path))
            size = max(round(image.width * height / image.height), 1), height
            image.resize(size, Image.Resampling.LANCZOS).save(frames / path.name, quality=90)
            labels = read_labels(source / "Annotations" / "480p" / name / f"{path.stem}.png") > 0
            small = Image.fromarray(labels.astype(np.uint8)).resize(size, Image.Resampling.NEAREST)
            save_label_image(masks / f"{path.stem}.png", np.asarray(small))
    return len(names)


def convert(target: Path, function: Callable[[Path], int]) -> None:
    """Write the folder of a data set completely or not at all; an existing folder is left unchanged.

    Args:
        target (Path): folder to write.
        function (Callable[[Path], int]): writes to the folder that it is given and returns the number of samples.
    """
    if target.exists():
        print(f"{target} already exists; left unchanged")
        return
    with whole_folder(target) as folder:
        count = function(folder)
    print(f"{target}: {count}")


def command(output: Path, prepared: Sequence[str]) -> str:
    """The command that trains with the data sets of these names."""
    folder = output.resolve()
    stills = ",".join(f"{folder}/{name}" for name in ("bsds500", "coco-mini") if name in prepared)
    clips = ["data.parts.others=null", "data.parts.clips.dataset.background_videos=null"]
    if "davis2016-train" not in prepared:
        clips += ["data.parts.davis=null", "validation.davis=null"]
    variables = {"SHARED": str(folder), "LITE": f"stills=[{stills}]", "LITE_CLIPS": " ".join(clips)}
    return "make train-lite " + " ".join(f"{name}={shlex.quote(value)}" for name, value in variables.items())


@command_line
def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=given_path, help="folder to write the data sets to")
    parser.add_argument(
        "--bsds500", type=given_path, help="folder BSDS500/data of the archive, with images/ and groundTruth/ (needs scipy)"
    )
    parser.add_argument(
        "--coco",
        type=given_path,
        nargs=2,
        metavar=("JSON", "IMAGES"),
        help="instances_*.json, and the folder of its photographs",
    )
    parser.add_argument("--coco-photographs", type=whole_number(1), help="maximum number of photographs (default: all)")
    parser.add_argument("--davis", type=given_path, help="folder with JPEGImages/480p, Annotations/480p and ImageSets of DAVIS")
    parser.add_argument(
        "--height", type=whole_number(1, MAX_SIDE), default=272, help="height of the videos in pixels (default: 272)"
    )
    args = parser.parse_args(arguments)
    if not (args.bsds500 or args.coco):
        parser.error("give --bsds500 or --coco, whose photographs the first stage needs, and --davis if available")
    wanted: dict[str, Callable[[Path], int]] = {}
    if args.bsds500:
        wanted["bsds500"] = lambda folder: convert_bsds500(args.bsds500, folder)
    if args.coco:
        annotations, images = args.coco
        wanted["coco-mini"] = lambda folder: convert_coco(annotations, images, folder, args.coco_photographs)
    if args.davis:
        wanted["davis2016-train"] = lambda folder: convert_davis(args.davis, folder, args.height)
    make_output_folder(args.output)
    try:
        for name, function in wanted.items():
            convert(args.output / name, function)
    except ModuleNotFoundError as error:
        raise ImportError(f'{error}: pip install -e ".[train]"') from error
    print(f"To train: {command(args.output, list(wanted))}")


if __name__ == "__main__":
    sys.exit(main())
