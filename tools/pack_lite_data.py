"""Makes a small copy of the Lite model's training data, to take it to a machine with a GPU.

python tools/pack_lite_data.py ../shared/data pack --quality 35 --every 2

Images are written anew as WebP, under their old names: readers look at the content. What is not trained on (davis2016-dev,
pumavos-chair) is left out, and so are videos without masks.
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

# Folders of the training data (configs/base/lite.yaml, configs/i2v-lite-video.yaml), and which of them hold videos.
FOLDERS = ("bsds500", "coco128", "coco-mini", "clothing", "feral-cats", "horses", "davis2016-train", "other-videos")
_VIDEOS = FOLDERS[-2:]


def pack(source: Path, target: Path, quality: int, every: int) -> int:
    """Copy all that training reads.

    Args:
        source: the folder of the data sets.
        target: an empty folder.
        quality: of the images, 1 to 100.
        every: of each video, keep every this many frames.

    Returns:
        The number of bytes.

    Raises:
        FileNotFoundError: none of the data sets is in the folder.
        ValueError: an image that cannot be read; the message names it.
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
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=given_path, help="the folder of the data sets")
    parser.add_argument("target", type=given_path, help="the folder to write; it must not exist")
    parser.add_argument("--quality", type=whole_number(1, 100), default=35, help="of the images, 1 to 100 (default: 35)")
    parser.add_argument(
        "--every", type=whole_number(1), default=1, help="of each video, keep every this many frames (default: all)"
    )
    args = parser.parse_args(arguments)
    if args.target.exists():
        raise FileExistsError(f"{args.target} exists: give a folder that does not")
    make_output_folder(args.target.parent)
    with whole_folder(args.target) as folder:
        size = pack(args.source, folder, args.quality, args.every)
    print(f"{args.target}: {size / 2**20:.1f} MiB")


if __name__ == "__main__":
    sys.exit(main())
