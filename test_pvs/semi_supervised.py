"""The semi-supervised benchmark: objects are prompted where they first appear and tracked in one pass.

    python -m test_pvs.semi_supervised davis2016 /data/DAVIS --input 3c --output results/3c

The default is the Lite model; --config i2v-infer --checkpoint checkpoints/sam-i2v_32gpu.pt runs the published one.
test_pvs/semi_infer.sh does the same with environment variables; test_pvs/semi_eval.sh scores the masks. Rerun the command to
resume an interrupted run.
"""

from __future__ import annotations

import argparse
import re
import sys
import time
from collections import defaultdict
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from i2v.data.annotations import save_object_mask
from i2v.prompt import Prompt
from i2v.utils.command_line import command_line
from test_pvs.clicks import INNER, OUTER, SimulatedUser, box_around
from test_pvs.datasets import EvaluationVideo
from test_pvs.prompting import as_prompt, click_again, click_object, rounded_iou
from test_pvs.runner import add_run_arguments, run_command, run_of
from test_pvs.runs import Run
from test_pvs.systems import VideoSession, VideoSystem

# How the best clicks are given at the end: as one more prompt, or after forgetting all clicks.
ONCE_MORE, ANEW = "once-more", "anew"


def semi_supervised(system: VideoSystem, video: EvaluationVideo, options: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Evaluate one video, and save the masks of its annotated frames.

    Args:
        system (VideoSystem): the system.
        video (EvaluationVideo): the video.
        options (dict[str, Any]): options of the protocol. "input": gm for the ground-truth mask, bb for its box, or 3c for
            three clicks (or another number). "seed", "correct": see `SimulatedUser.of_run`. "best_clicks": `ONCE_MORE`
            (default) or `ANEW`; see `_best_clicks`. "box_edges": see `box_around`. "all_frames": whether to save masks of
            frames without ground truth, too.
        folder (Path): folder for the masks, OBJECT/FRAME.png.

    Returns:
        {"seconds", "frames", "prompts": [{"frame", "object", "input", ...}, ...]}. A prompt has the "iou" of its mask, and
        either its "clicks" with their IoUs and the number "used", or the "box".
    """
    appearing: defaultdict[int, list[int]] = defaultdict(list)
    for obj, first in video.first_frames().items():
        appearing[first].append(obj)
    user = SimulatedUser.of_run(options, video.name)
    last = video.images.count() - 1
    wanted = set(range(last + 1)) if options.get("all_frames") else set(video.annotated_frames)

    started = time.perf_counter()
    session = system.start(video.frames)
    prompts = []
    starts = [*sorted(appearing), last + 1]
    # Frames before the first prompt have empty masks; then objects are tracked until the next ones appear.
    for frame in sorted(wanted):
        if frame < starts[0]:
            _save(video, folder, frame, {})
    for start, following in pairwise(starts):
        prompts += [prompt_object(session, video, start, obj, options, user) for obj in appearing[start]]
        for frame, scores in session.propagate(start, following - 1):
            if frame in wanted:
                _save(video, folder, frame, scores)
    return {"seconds": round(time.perf_counter() - started, 3), "frames": last + 1 - starts[0], "prompts": prompts}


def prompt_object(
    session: VideoSession, video: EvaluationVideo, frame: int, obj: int, options: dict[str, Any], user: SimulatedUser
) -> dict[str, Any]:
    """Prompt an object with its ground truth.

    Args:
        session (VideoSession): session that is prompted.
        video (EvaluationVideo): the video.
        frame (int): index of the frame.
        obj (int): number of the object.
        options (dict[str, Any]): options of `semi_supervised`.
        user (SimulatedUser): who clicks.

    Returns:
        The entry of the prompt in the output JSON.
    """
    ground_truth, kind = video.mask(frame, obj), options["input"]
    entry = {"frame": frame, "object": obj, "input": kind}
    if kind == "gm":
        return entry | {"iou": rounded_iou(ground_truth, session.prompt(frame, obj, Prompt(mask=ground_truth)) > 0)}
    if kind == "bb":
        box = box_around(ground_truth, options.get("box_edges", OUTER))
        return entry | {"box": box, "iou": rounded_iou(ground_truth, session.prompt(frame, obj, Prompt(box=box)) > 0)}
    anew = options.get("best_clicks") == ANEW
    return entry | _best_clicks(session, ground_truth, frame, obj, parse_clicks(kind), user, anew)


def _best_clicks(
    session: VideoSession, ground_truth: np.ndarray, frame: int, obj: int, num_clicks: int, user: SimulatedUser, anew: bool
) -> dict[str, Any]:
    """Click on an object, and keep the prefix of the clicks with the best IoU.

    As in the published code, the prefix is given once more at the end, even if it is all clicks: another pass of the decoder,
    which starts from the mask of the last click. A single click is given once.

    Args:
        session (VideoSession): session that is prompted.
        ground_truth (np.ndarray): (H, W) bool.
        frame (int): index of the frame.
        obj (int): number of the object.
        num_clicks (int): maximum number of clicks.
        user (SimulatedUser): who clicks.
        anew (bool): if the prefix is not all clicks, clear the prompt and repeat its clicks one by one instead.

    Returns:
        "clicks", each with the "iou" of the mask after it, "used" (the number kept), and the final "iou".
    """
    clicked = click_object(session, ground_truth, frame, obj, num_clicks, user)
    used = 1 + int(np.argmax(clicked.ious))  # the shortest of equally good ones
    iou = clicked.ious[used - 1]
    if anew:
        if used < len(clicked.clicks):
            session.clear(frame, obj)
            click_again(session, clicked.clicks[:used])
    elif num_clicks > 1:
        iou = rounded_iou(ground_truth, session.prompt(frame, obj, as_prompt(clicked.clicks[:used])) > 0)
    return {"clicks": clicked.entries(), "used": used, "iou": iou}


def parse_clicks(kind: str) -> int:
    """Parse the number of clicks of an input such as "3c".

    Raises:
        ValueError: the input does not have this form.
    """
    if not re.fullmatch(r"[1-9]\d*c", kind):
        raise ValueError(f"unknown input {kind!r}: give 3c (or another number of clicks), bb (box) or gm (mask)")
    return int(kind[:-1])


def _save(video: EvaluationVideo, folder: Path, frame: int, scores: dict[int, np.ndarray]) -> None:
    """Save the masks of all objects of the video in a frame; objects that are not prompted yet have empty ones."""
    masks = {obj: score > 0 for obj, score in scores.items()}
    if scores and video.annotations.exclusive:
        winner = np.argmax(np.stack(list(scores.values())), axis=0)
        masks = {obj: mask & (winner == i) for i, (obj, mask) in enumerate(masks.items())}
    for obj in video.objects:
        save_object_mask(folder, obj, video.frame_names[frame], masks.get(obj, np.zeros(video.size[::-1], bool)))


def _input(text: str) -> str:
    if text not in ("gm", "bb"):
        try:
            parse_clicks(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from error
    return text


def parse_run(arguments: Sequence[str] | None = None) -> tuple[Run, argparse.Namespace]:
    """Parse the command line; see `interactive.parse_run`."""
    parser = argparse.ArgumentParser(description="Prompt objects where they first appear, track them, and save their masks.")
    add_run_arguments(parser)
    parser.add_argument(
        "--input",
        type=_input,
        default="3c",
        help="prompt: 3c (or another number) for clicks, bb for a box, gm for the ground-truth mask (default: 3c)",
    )
    parser.add_argument(
        "--best-clicks",
        choices=(ONCE_MORE, ANEW),
        default=ONCE_MORE,
        help="of several clicks, those up to the best mask are kept: given once more on top of the last mask, as published, "
        "or anew on a cleared object (default: once-more)",
    )
    parser.add_argument(
        "--box-edges",
        choices=(OUTER, INNER),
        default=OUTER,
        help="right and lower sides of the box of --input bb: one pixel past the object's last column and row, as published, "
        "or on them (default: outer)",
    )
    parser.add_argument("--all-frames", action="store_true", help="save masks of frames without ground truth, too")
    args = parser.parse_args(arguments)
    names = ("input", "seed", "correct", "best_clicks", "box_edges", "all_frames")
    return run_of(semi_supervised, {name: getattr(args, name) for name in names}, args), args


@command_line
def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line. Returns the exit status: 0, or 1 after an error or if a video failed."""
    return run_command(*parse_run(arguments))


if __name__ == "__main__":
    sys.exit(main())
