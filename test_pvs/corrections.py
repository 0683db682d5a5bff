"""Measures how a system reacts to corrections: clicks in a tracked frame, and on a given mask.

    python -m test_pvs.corrections davis2016 /data/DAVIS --output results/corrections

Each object is prompted with its ground-truth mask in the first frame that shows it, and tracked. Then a simulated user
corrects one tracked frame with clicks on the deepest error, and the following frames are tracked again. In another pass, one
click on the middle of the given mask, which is already right, should not change it.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from i2v.prompt import Prompt
from i2v.utils.command_line import command_line, whole_number
from test_pvs.clicks import Click, SimulatedUser, correction_click
from test_pvs.datasets import EvaluationVideo
from test_pvs.prompting import as_prompt, rounded_iou
from test_pvs.runner import add_run_arguments, run_command, run_of
from test_pvs.systems import VideoSession, VideoSystem


def corrections(system: VideoSystem, video: EvaluationVideo, options: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Evaluate one video.

    Args:
        system (VideoSystem): the system.
        video (EvaluationVideo): the video.
        options (dict[str, Any]): options of the protocol. "distance": number of frames from the prompt to the correction.
            "after": number of frames tracked after the correction. "clicks": maximum number of clicks of the correction.
            "seed", "correct": see `SimulatedUser.of_run`.
        folder (Path): unused, since no masks are saved.

    Returns:
        {"objects": [{"object", "frame", "given", "clicked_given", "clicks", "before", "corrected", "after", "after_corrected"},
        ...]}: IoUs of the given mask without and with a click, of the corrected frame before and after the correction, and
        their mean over the following frames without and with the correction. A click has its "iou", and whether its pixel is
        "right" after it. Objects that are not annotated or not visible in the corrected frame only have the first four.
    """
    user = SimulatedUser.of_run(options, video.name)
    entries = []
    for obj, first in video.first_frames().items():
        truth = video.mask(first, obj)
        session = system.start(video.frames)
        entry = {"object": obj, "frame": first, "given": rounded_iou(truth, session.prompt(first, obj, Prompt(mask=truth)) > 0)}
        entry |= _correct(session, video, obj, first, options, user)
        session.reset()
        session.prompt(first, obj, Prompt(mask=truth))
        click = correction_click(truth, np.zeros_like(truth))
        assert click is not None  # the object is visible in this frame
        entry["clicked_given"] = rounded_iou(truth, session.prompt(first, obj, Prompt.of_clicks([click])) > 0)
        entries.append(entry)
    return {"objects": entries}


def _correct(
    session: VideoSession, video: EvaluationVideo, obj: int, first: int, options: dict[str, Any], user: SimulatedUser
) -> dict[str, Any]:
    """Track a prompted object, correct it in one frame, and track the following frames again."""
    frame = first + options["distance"]
    last = min(frame + options["after"], video.images.count() - 1)
    annotated = set(video.frames_of(obj))
    if frame not in annotated or frame > last or not video.mask(frame, obj).any():
        return {}
    truth = video.mask(frame, obj)
    tracked = {t: scores[obj] > 0 for t, scores in session.propagate(first, last)}
    clicks: list[dict[str, Any]] = []
    made: list[Click] = []
    mask = tracked[frame]
    while len(made) < options["clicks"] and (click := user.click(frame, obj, truth, mask)) is not None:
        made.append(click)
        mask = session.prompt(frame, obj, as_prompt(made)) > 0
        right = bool(mask[click.y, click.x] == truth[click.y, click.x])
        clicks.append({"x": click.x, "y": click.y, "label": click.label, "iou": rounded_iou(truth, mask), "right": right})
    entry = {"clicks": clicks, "before": rounded_iou(truth, tracked[frame]), "corrected": rounded_iou(truth, mask)}
    following = [t for t in range(frame + 1, last + 1) if t in annotated]
    if following:
        again = {t: scores[obj] > 0 for t, scores in session.propagate(frame + 1, last)}
        for name, masks in (("after", tracked), ("after_corrected", again)):
            entry[name] = round(float(np.mean([rounded_iou(video.mask(t, obj), masks[t]) for t in following])), 6)
    return entry


def summarise(videos: dict[str, dict[str, Any]]) -> str:
    """Summarise the means over all objects of the results of videos, by name."""
    objects = [entry for result in videos.values() for entry in result["objects"]]
    clicks = [click for entry in objects for click in entry.get("clicks", [])]

    def mean(name: str) -> float:
        values = [entry[name] for entry in objects if name in entry]
        return 100 * float(np.mean(values)) if values else float("nan")

    right = 100 * float(np.mean([click["right"] for click in clicks])) if clicks else float("nan")
    return "\n".join(
        [
            f"{len(objects)} objects, {len(clicks)} correction clicks; IoU in percent",
            f"clicks whose pixel is right afterwards: {right:.1f} %",
            f"corrected frame: {mean('before'):.1f} -> {mean('corrected'):.1f}",
            f"frames after it: {mean('after'):.1f} -> {mean('after_corrected'):.1f}",
            f"given mask as returned: {mean('given'):.1f}; after a click on its middle: {mean('clicked_given'):.1f}",
        ]
    )


@command_line
def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line. Returns the exit status: 0, or 1 after an error or if a video failed."""
    parser = argparse.ArgumentParser(description="A simulated user corrects one tracked frame. Prints what this changes.")
    add_run_arguments(parser)
    parser.add_argument(
        "--distance", type=whole_number(1), default=12, help="frames from the prompt to the correction (default: 12)"
    )
    parser.add_argument("--after", type=whole_number(0), default=10, help="frames tracked after the correction (default: 10)")
    parser.add_argument(
        "--clicks", type=whole_number(1), default=3, help="maximum number of clicks of the correction (default: 3)"
    )
    args = parser.parse_args(arguments)
    options = {name: getattr(args, name) for name in ("distance", "after", "clicks", "seed", "correct")}
    return run_command(run_of(corrections, options, args), args, summarise)


if __name__ == "__main__":
    sys.exit(main())
