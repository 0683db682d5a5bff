"""Write `mask_info`, a JSON file per video with the areas and boxes of its objects, for statistics without reading masks.

    python tools/save_gt_mask_multiprocess.py sav sav_val mask_info

writes mask_info/VIDEO.json for every video of SA-V's validation set (24 frames per second, 6 of them annotated), or of another
data set that the benchmarks read, several videos at a time. Videos whose file exists are skipped: use one folder per data set.

    {"video": "sav_000001", "height": 848, "width": 480, "num_frames": 341,
     "annotated_frames": [0, 4, ...],                              indices of frames in the video
     "objects": {"0": {"first_frame": 0,                           null if the object is never visible
                       "areas": [1520, ...],                       in pixels, per annotated frame; null without a mask
                       "boxes": [[30, 40, 80, 95], null, ...]}}}   x0, y0, x1, y1; null where the area is 0 or null
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

# For the package test_pvs, which is not installed.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from i2v.utils.command_line import command_line, given_path, make_output_folder, whole_number
from i2v.utils.files import atomic_write
from i2v.utils.jobs import run_jobs
from i2v.utils.processes import default_workers
from test_pvs.clicks import INNER, box_around
from test_pvs.datasets import DATASET_HELP, EvaluationVideo, dataset_name, read_dataset

# Bytes that a process needs for a video: 545 MB were measured, plus the JSON file if it holds the annotations of all videos.
_WORKER_MEMORY = 10**9


def mask_info(video: EvaluationVideo) -> dict[str, Any]:
    """Compute the content of a video's JSON file.

    Args:
        video (EvaluationVideo): the video.

    Returns:
        The content; see the top of this file.

    Raises:
        ValueError: a file of the video is unusable.
        OSError: a file of the video is missing.
    """
    video.require_complete()
    width, height = video.size
    objects = {}
    for obj in video.objects:
        areas, boxes = {}, {}
        for frame in video.frames_of(obj):
            mask = video.mask(frame, obj)
            areas[frame] = int(mask.sum())
            if areas[frame]:
                boxes[frame] = box_around(mask, INNER)
        objects[str(obj)] = {
            "first_frame": next(iter(boxes), None),
            "areas": [areas.get(frame) for frame in video.annotated_frames],
            "boxes": [boxes.get(frame) for frame in video.annotated_frames],
        }
    return {
        "video": video.name,
        "height": height,
        "width": width,
        "num_frames": video.images.count(),
        "annotated_frames": video.annotated_frames,
        "objects": objects,
    }


def save_mask_info(video: EvaluationVideo, path: Path) -> None:
    """Write the JSON file of a video.

    Args:
        video (EvaluationVideo): the video.
        path (Path): path of the file to write.
    """
    info = mask_info(video)
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(info))


@command_line
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line. Returns the exit status: 0, or 1 after an error or if a video failed."""
    parser = argparse.ArgumentParser(
        description="Write a JSON file per video with the areas and boxes of its objects. The published tool of this name "
        "writes files that its benchmarks need; those of this project read the masks themselves."
    )
    parser.add_argument("dataset", nargs="?", type=dataset_name, help=f"{DATASET_HELP} (default: sav)")
    parser.add_argument("data", nargs="?", type=given_path, help="folder of the data set (default: data/sav_test)")
    parser.add_argument("output", nargs="?", type=given_path, help="folder of the JSON files (default: mask_info)")
    parser.add_argument(
        "--workers",
        type=whole_number(1),
        metavar="N",
        help="processes (default: one per core, as far as memory allows)",
    )
    args = parser.parse_args(argv)
    if args.dataset is None:
        project = Path(__file__).resolve().parents[1]
        args.dataset, args.data, args.output = "sav", project / "data/sav_test", project / "mask_info"
    elif args.output is None:
        parser.error("give the data set, its folder and the output, or none of them")
    try:
        videos = {video.name: video for video in read_dataset(args.dataset, args.data)}
    except (OSError, ValueError) as error:
        parser.error(str(error))
    make_output_folder(args.output)
    paths = {name: args.output / f"{name}.json" for name in videos}
    todo = [name for name in videos if not paths[name].exists()]
    jobs = {name: (videos[name], paths[name]) for name in todo}
    num_failed = run_jobs(save_mask_info, jobs, args.workers or default_workers(_WORKER_MEMORY))
    done = len(todo) - num_failed
    print(f"{done} of {len(videos)} videos done now, {len(videos) - len(todo)} before, {num_failed} failed")
    return 1 if num_failed else 0


if __name__ == "__main__":
    sys.exit(main())
