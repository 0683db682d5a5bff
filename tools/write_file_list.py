"""Write the lists of samples that training uses, one name per line.

    python tools/write_file_list.py sa1b data/sa1b_train_jpg train/txt/sa1b_10k_train_list.txt \\
        --annotations data/sa1b_train_json
    python tools/write_file_list.py sav data/sav_train_json train/txt/sav_train_list.txt

A name is a path relative to the folder, without suffix. Images (.jpg) with a JSON file and videos with masklets are listed.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from i2v.data.files import find_samples
from i2v.data.images import IMAGE_SUFFIXES
from i2v.utils.command_line import command_line, given_path, make_room_for, whole_number
from i2v.utils.files import atomic_write

DEFAULT_COUNT = {"sa1b": 10_000, "sav": None}


def find_names(folder: Path, *suffixes: str) -> set[str]:
    """Find files by suffix in a folder and its subfolders; the names are relative paths without suffix, and may be none."""
    try:
        return set(find_samples(folder, suffixes))
    except ValueError:
        return set()


@command_line
def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", choices=DEFAULT_COUNT, help="data set that the folder holds")
    parser.add_argument("folder", type=given_path, help="folder of the data set")
    parser.add_argument("output", type=given_path, help="file list to write")
    parser.add_argument("--annotations", type=given_path, help="folder of sa1b's JSON files, if not beside the images")
    parser.add_argument(
        "--count", type=whole_number(1), metavar="N", help="list N random samples (default: 10000 of sa1b, all of sav)"
    )
    parser.add_argument("--seed", type=whole_number(0), default=0, help="random seed for the choice of samples (default: 0)")
    parser.add_argument(
        "--masklets",
        choices=("manual", "auto", "both"),
        default="manual",
        help="list videos of sav with masklets of this kind, or of either kind (default: manual)",
    )
    args = parser.parse_args(argv)
    annotations = args.annotations or args.folder
    for folder in (args.folder, annotations):
        if not folder.is_dir():
            parser.error(f"no such folder: {folder}")
    if args.data == "sa1b":
        found = find_names(args.folder, *IMAGE_SUFFIXES["JPEG"]) & find_names(annotations, ".json")
    else:
        kinds = [kind for kind in ("manual", "auto") if args.masklets in (kind, "both")]
        found = set().union(*(find_names(args.folder, f"_{kind}.json") for kind in kinds))
    # Sorted, so the choice does not depend on the order in which a file system lists its files.
    names = sorted(found)
    count = args.count or DEFAULT_COUNT[args.data] or len(names)
    if not names or count > len(names):
        parser.error(f"{args.folder} has {len(names)} samples with masks, --count is {count}")
    chosen = np.random.default_rng(args.seed).choice(len(names), count, replace=False)
    make_room_for(args.output)
    with atomic_write(args.output) as temporary:
        temporary.write_text("".join(f"{names[i]}\n" for i in sorted(chosen)), encoding="utf-8")
    print(f"{args.output}: {count} of {len(names)}")


if __name__ == "__main__":
    sys.exit(main())
