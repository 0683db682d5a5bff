"""Draws frames of a video, evenly spread over it, as one picture.

python tools/video_sheet.py demo-result/overlay.mp4 assets/bunny.jpg --count 6 --columns 3
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

import cv2
import numpy as np
from PIL import Image

from i2v.data.video_file import VideoFile
from i2v.utils.command_line import (
    MAX_SIDE,
    check_picture_size,
    command_line,
    given_text,
    make_room_for,
    picture_path,
    whole_number,
)
from i2v.utils.files import atomic_write


def video_sheet(video: VideoFile, count: int, columns: int, width: int) -> np.ndarray:
    """`count` frames, the first and the last one among them, row by row: (height, width, 3) uint8 RGB.

    Args:
        width: of a frame in the picture, in pixels.

    Raises:
        ValueError: the frames do not fill the rows, or the video has fewer.
    """
    if count % columns or not 0 < count <= video.count():
        raise ValueError(f"{count} frames: there are {video.count()} of them, and rows of {columns}")
    indices = np.linspace(0, video.count() - 1, count).round().astype(int).tolist()
    cells = [cv2.resize(video[index], (width, cell_height(video, width)), interpolation=cv2.INTER_AREA) for index in indices]
    return np.concatenate([np.concatenate(cells[i : i + columns], axis=1) for i in range(0, count, columns)])


def cell_height(video: VideoFile, width: int) -> int:
    """Of a frame in the picture, in pixels."""
    return max(round(width * video.height / video.width), 1)


@command_line
def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("video", type=given_text, help="a video file")
    parser.add_argument("output", type=picture_path, help="the picture's file, PNG or JPEG")
    parser.add_argument("--count", type=whole_number(1), default=6, help="number of frames")
    parser.add_argument("--columns", type=whole_number(1), default=3)
    parser.add_argument("--width", type=whole_number(1, MAX_SIDE), default=320, help="of a frame in the picture, in pixels")
    args = parser.parse_args(arguments)
    make_room_for(args.output)
    video, num_rows = VideoFile(args.video), -(-args.count // args.columns)
    check_picture_size(args.output, args.columns * args.width, num_rows * cell_height(video, args.width))
    sheet = video_sheet(video, args.count, args.columns, args.width)
    with atomic_write(args.output) as temporary:
        Image.fromarray(sheet).save(temporary)


if __name__ == "__main__":
    sys.exit(main())
