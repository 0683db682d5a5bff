"""Extracts the frames of SA-V's MP4 files, or of any folder of videos, so that training need not decode videos.

    python tools/extract_sav_frames.py sav_train sav_frames --every 4

writes sav_frames/NAME/00000.jpg, 00004.jpg, ... of every sav_train/NAME.mp4, sub-folders included. A video whose folder is
there is finished and skipped, so that an interrupted run goes on where it was; for other options take another folder.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path

import cv2
from tqdm import tqdm

from i2v.data.video_file import find_videos, iterate_frames
from i2v.utils.files import whole_folder


def extract_frames(video: Path, folder: Path, every: int = 1, quality: int = 95) -> None:
    """Write every n-th frame of a video to `folder`, which is there only when it is complete.

    Raises:
        ValueError: the video cannot be decoded, or it is truncated.
        OSError: a frame cannot be written.
    """
    found = False
    with whole_folder(folder) as partial:
        # One thread each: there is a process per core.
        for index, image in iterate_frames(video, lambda index: index % every == 0, threads=1):
            path = partial / f"{index:05d}.jpg"
            encoding = [cv2.IMWRITE_JPEG_QUALITY, quality]
            found = cv2.imwrite(str(path), cv2.cvtColor(image, cv2.COLOR_RGB2BGR), encoding)
            if not found:
                raise OSError(f"cannot write {path}: is the disk full?")
        if not found:
            raise ValueError(f"{video}: not a single frame of it can be decoded")


def main(argv: Sequence[str] | None = None) -> int:
    """The command line. Returns 1 if a video failed, else 0."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("videos", type=Path, help="folder of the videos")
    parser.add_argument("output", type=Path, help="folder of the frames")
    parser.add_argument("--every", type=positive, default=1, metavar="N", help="extract every N-th frame (default: all)")
    parser.add_argument("--quality", type=int, choices=range(1, 101), default=95, metavar="1..100", help="of the JPEGs")
    parser.add_argument(
        "--workers", type=positive, default=os.cpu_count(), metavar="N", help="processes (default: one per core)"
    )
    args = parser.parse_args(argv)
    if not args.videos.is_dir():
        parser.error(f"no such folder: {args.videos}")
    videos = find_videos(args.videos)
    if not videos:
        parser.error(f"no videos in {args.videos}")
    folders = {video: args.output / video.relative_to(args.videos).with_suffix("") for video in videos}
    open_videos = [video for video in videos if not folders[video].exists()]
    print(f"{len(videos)} videos, {len(videos) - len(open_videos)} of them are finished")

    failures = []
    pool = ProcessPoolExecutor(args.workers)
    try:
        futures = {pool.submit(extract_frames, video, folders[video], args.every, args.quality): video for video in open_videos}
        for future in tqdm(as_completed(futures), total=len(futures), unit="video"):
            try:
                future.result()
            except (ValueError, OSError, cv2.error) as error:
                failures.append(f"{futures[future]}: {error}")
    finally:
        pool.shutdown(cancel_futures=True)
    for failure in sorted(failures):
        print(failure, file=sys.stderr)
    print(f"{len(open_videos) - len(failures)} videos extracted, {len(failures)} failed")
    return 1 if failures else 0


def positive(text: str) -> int:
    """A whole number of at least 1, for argparse."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not at least 1")
    return value


if __name__ == "__main__":
    sys.exit(main())
