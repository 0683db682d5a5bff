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

from i2v.utils.files import whole_folder

VIDEO_SUFFIXES = (".mp4", ".avi", ".mkv", ".mov", ".webm")


def extract_frames(video: Path, folder: Path, every: int = 1, quality: int = 95) -> None:
    """Write every n-th frame of a video to `folder`, which is there only when it is complete.

    Raises:
        ValueError: the video cannot be decoded, or it ends before 95 % of the frames that its header promises.
        OSError: a frame cannot be written.
    """
    # One thread each: there is a process per core.
    capture = cv2.VideoCapture(str(video), cv2.CAP_FFMPEG, [cv2.CAP_PROP_N_THREADS, 1])
    if not capture.isOpened():
        raise ValueError(f"{video} is not a video that OpenCV can open")
    try:
        index = 0
        with whole_folder(folder) as partial:
            while capture.grab():
                if index % every == 0:
                    path = partial / f"{index:05d}.jpg"
                    _, image = capture.retrieve()
                    if not cv2.imwrite(str(path), image, [cv2.IMWRITE_JPEG_QUALITY, quality]):
                        raise OSError(f"cannot write {path}: is the disk full?")
                index += 1
            promised = int(capture.get(cv2.CAP_PROP_FRAME_COUNT))
            if not index or index < 0.95 * promised:
                raise ValueError(f"{video} ends early: it promises {promised} frames, {index} can be decoded")
    finally:
        capture.release()


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
    videos = sorted(path for path in args.videos.rglob("*") if path.suffix.lower() in VIDEO_SUFFIXES)
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
