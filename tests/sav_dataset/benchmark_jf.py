"""Time the SA-V evaluator against the straightforward one of the tests, on one core.

    python -m tests.sav_dataset.benchmark_jf [--gt_root FOLDER --pred_root FOLDER] [--attempts 3]

Without folders it makes a small data set in SA-V's layout and frame size: two objects per video, and predictions that are
slightly off. Both evaluators read the same files, in turn; the best attempt of each counts.
"""

from __future__ import annotations

import argparse
import math
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image

from i2v.utils.command_line import command_line, given_path, whole_number
from sav_dataset.sav_evaluator import evaluate
from tests.sav_dataset import oracle


def make_data(root: Path, num_frames: int = 12, height: int = 1080, width: int = 1920) -> tuple[Path, Path]:
    """Write two videos with two ellipses each, and predictions that lag behind. Returns the roots of both."""
    for video in range(2):
        for obj in range(2):
            for shift, kind in enumerate(("gt", "pred")):
                folder = root / kind / f"video{video}" / f"{obj:03d}"
                folder.mkdir(parents=True)
                for frame in range(num_frames):
                    centre = round(width * (0.2 + 0.6 * frame / num_frames)) - 9 * shift, round(height * (0.35 + 0.3 * obj))
                    mask = np.zeros((height, width), np.uint8)
                    cv2.ellipse(mask, centre, (width // 10, height // 6), 30 * video, 0, 360, 255, -1)
                    Image.fromarray(mask).save(folder / f"{4 * frame:05d}.png")
    return root / "gt", root / "pred"


def timed(function: Callable[..., Any], *arguments: Any) -> tuple[float, Any]:
    """Returns the duration of a call in seconds, and its result."""
    started = time.perf_counter()
    result = function(*arguments)
    return time.perf_counter() - started, result


def compare(gt_root: Path, pred_root: Path, attempts: int) -> None:
    """Print the times of both evaluators, their ratio and the largest difference of their scores.

    Raises:
        ValueError: the predictions are incomplete, or their size differs from the ground truth's.
    """
    evaluate(gt_root, pred_root, strict=True)  # the oracle expects complete predictions
    seconds = [math.inf, math.inf]
    for _ in range(attempts):
        for i, evaluator in enumerate((oracle.evaluate, evaluate)):
            spent, result = timed(evaluator, gt_root, pred_root)
            seconds[i] = min(seconds[i], spent)
            if i == 0:
                expected = result
    scores = {(video.name, obj): score for video in result for obj, score in video.scores.items()}
    difference = np.abs(np.array(list(scores.values())) - np.array([expected[key] for key in scores])).max()
    print(f"straightforward: {seconds[0]:.2f} s; sav_dataset: {seconds[1]:.2f} s; ratio: {seconds[0] / seconds[1]:.2f}")
    print(f"largest difference of the {2 * len(scores)} scores: {difference:.1e} percent")


@command_line
def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--gt_root", type=given_path, help="the ground truth: a folder per video")
    parser.add_argument("--pred_root", type=given_path, help="the complete predictions")
    parser.add_argument("--attempts", type=whole_number(1), default=3, help="runs of each evaluator")
    args = parser.parse_args(arguments)
    if (args.gt_root is None) != (args.pred_root is None):
        parser.error("give --gt_root and --pred_root or neither")
    cv2.setNumThreads(1)
    if args.gt_root:
        compare(args.gt_root, args.pred_root, args.attempts)
        return
    with tempfile.TemporaryDirectory() as folder:
        compare(*make_data(Path(folder)), args.attempts)


if __name__ == "__main__":
    sys.exit(main())
