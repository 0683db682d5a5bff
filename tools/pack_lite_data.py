"""Make a small copy of the Lite model's training data, to transfer it to a machine with a GPU.

python tools/pack_lite_data.py ../shared/data pack --quality 35 --every 2

Images are converted to WebP but keep their names, because readers recognise the format by content. Data that is not used for
training (davis2016-dev, pumavos-chair) and videos without masks are left out.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from PIL import Image
from tqdm import tqdm

from i2v.data.images import read_rgb
from i2v.utils.command_line import command_line, given_path, make_output_folder, whole_number
from i2v.utils.files import whole_folder

# Folders of the training data (configs/base/lite.yaml, configs/i2v-lite-video.yaml); the last two hold videos.
FOLDERS = ("bsds500", "coco128", "coco-mini", "clothing", "feral-cats", "horses", "davis2016-train", "other-videos")
_VIDEOS = FOLDERS[-2:]


def pack(source: Path, target: Path, quality: int, every: int) -> int:
    """Copy all files that training reads.

    Args:
        source (Path): folder of the data sets.
        target (Path): empty folder to write to.
        quality (int): WebP quality of the images, 1 to 100.
        every (int): distance between the frames of a video that are kept.

    Returns:
        Size of the copy in bytes (int).

    Raises:
        FileNotFoundError: the folder has none of the data sets.
        ValueError: an image is unreadable; the message names it.
    """
    paths = [path for name in FOLDERS for path in sorted((source / name).rglob("*")) if path.is_file()]
    if not paths:
        raise FileNotFoundError(f"{source} has none of the folders {', '.join(FOLDERS)}")
    folders: defaultdict[Path, list[Path]] = defaultdict(list)
    for path in paths:
        folders[path.parent].append(path)
    position = {path: i for files in folders.values() for i, path in enumerate(files)}
    size = 0
    for path in tqdm(paths, unit="file"):
        place = path.relative_to(source)
        if path.suffix not in (".jpg", ".png", ".json"):
            continue
        if path.suffix == ".png" and path.with_suffix(".json").exists():  # the masks are read from the JSON
            continue
        if place.parts[0] in _VIDEOS and position[path] % every:
            continue
        copy = target / place
        copy.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".jpg":
            Image.fromarray(read_rgb(path)).save(copy, "WEBP", quality=quality, method=6)
        else:
            shutil.copyfile(path, copy)
        size += copy.stat().st_size
    return size


@command_line
def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=given_path, help="folder of the data sets")
    parser.add_argument("target", type=given_path, help="folder to write, which must not exist")
    parser.add_argument(
        "--quality", type=whole_number(1, 100), default=35, metavar="1..100", help="WebP quality of the images (default: 35)"
    )
    parser.add_argument(
        "--every", type=whole_number(1), default=1, metavar="N", help="keep every N-th frame of a video (default: all)"
    )
    args = parser.parse_args(arguments)
    if args.target.exists():
        raise FileExistsError(f"{args.target} already exists: give a new folder")
    make_output_folder(args.target.parent)
    with whole_folder(args.target) as folder:
        size = pack(args.source, folder, args.quality, args.every)
    print(f"{args.target}: {size / 2**20:.1f} MiB")


if __name__ == "__main__":
    sys.exit(main())
