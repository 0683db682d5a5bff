"""Draw a contact sheet of synthetic clips, one clip per row, with the outlines and tints of the masks.

python -m train.show_clips sheet.png --folders ../shared/data/bsds500 ../shared/data/coco128 --videos ../shared/data/clips
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

import cv2
import numpy as np
from PIL import Image

from i2v.utils.command_line import MAX_SIDE, command_line, given_path, make_room_for, picture_path, whole_number
from i2v.utils.files import atomic_write
from i2v.utils.visualization import draw_overlay
from train.dataset.sample import RawClip
from train.dataset.stills import StillImages
from train.dataset.synthetic import SyntheticClips


def clip_row(clip: RawClip, plain: bool, height: int) -> np.ndarray:
    """The frames of a clip side by side: (height, width, 3) uint8 RGB."""
    cells = []
    for frame, masks in zip(clip.frames.permute(0, 2, 3, 1).numpy(), clip.masks.numpy(), strict=True):
        labels = np.zeros(frame.shape[:2], np.uint8)
        for label, mask in enumerate(masks, start=1):
            labels[mask] = label
        cell = frame if plain else draw_overlay(frame, labels, alpha=0.35)
        width = max(round(height * frame.shape[1] / frame.shape[0]), 1)
        cells.append(cv2.resize(cell, (width, height), interpolation=cv2.INTER_AREA))
    return np.concatenate(cells, axis=1)


@command_line
def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=picture_path, help="file of the picture, PNG or JPEG")
    parser.add_argument("--folders", type=given_path, nargs="+", required=True, help="folders of photographs with masks")
    parser.add_argument("--videos", type=given_path, help="folder of videos whose stills are further backgrounds")
    parser.add_argument("--stills", action="store_true", help="show the still images instead of clips")
    parser.add_argument("--plain", action="store_true", help="draw no masks")
    parser.add_argument("--split", choices=("train", "validation"), default="train", help="photographs to use (default: train)")
    parser.add_argument("--count", type=whole_number(1), default=8, help="number of clips (default: 8)")
    parser.add_argument(
        "--cell", type=whole_number(1, MAX_SIDE), default=160, help="height of a frame in pixels (default: 160)"
    )
    parser.add_argument("--seed", type=whole_number(0), default=0, help="random seed of the clips (default: 0)")
    args = parser.parse_args(arguments)
    make_room_for(args.output)
    dataset = StillImages(args.folders, args.split) if args.stills else SyntheticClips(args.folders, args.split, args.videos)
    rng = np.random.default_rng(args.seed)
    clips = [dataset.load(int(rng.integers(len(dataset))), rng) for _ in range(args.count)]
    rows = [clip_row(clip, args.plain, args.cell) for clip in clips]
    width = max(row.shape[1] for row in rows)
    rows = [cv2.copyMakeBorder(row, 0, 4, 0, width - row.shape[1], cv2.BORDER_CONSTANT) for row in rows]
    with atomic_write(args.output) as temporary:
        Image.fromarray(np.concatenate(rows)).save(temporary)
    print(f"{args.output}: {args.count} clips of {dataset.name}")


if __name__ == "__main__":
    sys.exit(main())
