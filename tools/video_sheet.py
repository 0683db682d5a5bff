"""Draws frames of a video, evenly spread over it, as one picture.

python tools/video_sheet.py demo-result/overlay.mp4 assets/bunny.jpg --count 6 --columns 3
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from i2v.data.video_file import VideoFile


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
    size = (width, round(width * video.height / video.width))
    cells = [cv2.resize(video[index], size, interpolation=cv2.INTER_AREA) for index in indices]
    return np.concatenate([np.concatenate(cells[i : i + columns], axis=1) for i in range(0, count, columns)])


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("video", help="a video file")
    parser.add_argument("output", type=Path, help="the picture's file")
    parser.add_argument("--count", type=int, default=6, help="number of frames")
    parser.add_argument("--columns", type=int, default=3)
    parser.add_argument("--width", type=int, default=320, help="of a frame in the picture, in pixels")
    args = parser.parse_args(arguments)
    Image.fromarray(video_sheet(VideoFile(args.video), args.count, args.columns, args.width)).save(args.output)


if __name__ == "__main__":
    main()
