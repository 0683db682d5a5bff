"""The interactive benchmarks: a simulated user corrects the masks, online in one pass, or offline between passes.

    python -m test_pvs.interactive online davis2016 /data/DAVIS --clicks 3 --output results/online-3c
    python -m test_pvs.interactive offline davis2016 /data/DAVIS --clicks 3 --output results/offline-3c

The Lite model by default; --config i2v-infer --checkpoint checkpoints/sam-i2v_32gpu.pt for the published one.
test_pvs/interactive.sh is the same with variables. A run that was killed goes on where it was when it is started again.

Every object is evaluated on its own, as in SAM 2's interactive evaluation, from the first annotated frame that shows it: it has
a session that knows no other object. J&F is the mean over all annotated frames from there on, the prompted ones included
(`interaction.SCORED_FRAMES`).
"""

from __future__ import annotations

import argparse
import logging
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from i2v.data.annotations import save_object_mask
from i2v.data.files import listed
from i2v.data.rle import mask_to_rle, rle_to_mask
from i2v.utils.command_line import command_line, fraction, whole_number
from i2v.utils.json_form import require_form
from test_pvs.clicks import SimulatedUser
from test_pvs.datasets import EvaluationVideo
from test_pvs.interaction import Annotator, EncodedMasks, Interaction, LoggedAnnotator, SimulatedAnnotator, Target
from test_pvs.prompting import click_again
from test_pvs.runner import add_run_arguments, run_command
from test_pvs.systems import VideoSession, VideoSystem

log = logging.getLogger("test_pvs.interactive")

# How corrections are given to the next pass of the offline protocol.
CLICKS_AGAIN, MASKS_AGAIN = "clicks", "masks"

Scores = dict[str, float]
# (system, target, options, maker of annotators) -> masks and interactions of the longest run, scores by interacted frames
_Protocol = Callable[
    [VideoSystem, Target, dict[str, Any], Callable[[], Annotator]], tuple[EncodedMasks, list[Interaction], dict[int, Scores]]
]


def online(system: VideoSystem, video: EvaluationVideo, options: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Evaluate one video in one pass, in which the user corrects what goes wrong, and save the masks of its annotated frames.

    The user clicks on the object in its first frame. When the IoU of an annotated frame falls below the threshold, tracking is
    paused, the user clicks on the errors, and it goes on from there: the frames before keep their masks, and the corrected
    frame has the corrected one. A mask where the object is not has IoU 0, and is clicked away.

    Args:
        options: "clicks" per interacted frame; fewer where nothing is wrong any more. "frames": interacted ones at most; the
            first frame counts as one of them, as in SAM 2's evaluation. "threshold" of the IoU. "curve": scores for all limits
            from 1 to "frames", each from a run of its own, because a limit changes all that comes after it. "seed" and
            "correct": see `SimulatedUser.of_run`.
        folder: for the masks, OBJECT/FRAME.png.

    Returns:
        {"seconds", "objects": [{"object", "first_frame", "interactions", "curve"}, ...]}. An interaction has its "frame", the
        "iou" before it (None for the first one), and "clicks" with the IoU after each. The curve is a list of {"frames",
        "j_and_f", "j", "f"}: the scores with at most so many interacted frames; at least the last entry, with all, is there.
        A run that needed fewer gives the entries from there on, too.
    """
    return _evaluate(_online, system, video, options, folder, partial(_simulated, video, options))


def offline(system: VideoSystem, video: EvaluationVideo, options: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Evaluate one video in several passes, and save the masks of its annotated frames after the last one.

    After each pass the user clicks on the errors of the annotated frame with the lowest IoU, which may be one that was prompted
    before: it has the earlier clicks, too. The next pass begins anew, and all clicks guide it (paper, section 4.1). A click on
    an error means little to a system that does not know the mask in which it is one: with "again": "masks" the corrections are
    given as the masks that the user saw after the clicks instead.

    Args:
        options: "clicks", "seed" and "correct" as for `online`. "frames": interacted ones at most, that is, passes; where
            nothing is wrong after a pass it is the last one. "again": "clicks" or "masks".
        folder: for the masks, OBJECT/FRAME.png.

    Returns:
        As `online`. The curve has the scores after each pass; after the last one they stay as they are.
    """
    return _evaluate(_offline, system, video, options, folder, partial(_simulated, video, options))


def replay(
    system: VideoSystem, video: EvaluationVideo, settings: dict[str, Any], result: dict[str, Any], folder: Path
) -> dict[str, Any]:
    """Make the clicks of an earlier evaluation again, in the same frames and order, whatever is predicted.

    A deterministic system gives the same masks and scores.

    Args:
        settings, result: "settings" and one of "videos" in the results.json of an online or offline run. folder: for the masks.

    Returns:
        As `online`.

    Raises:
        ValueError: it was a run of another protocol or with other objects, or lacks something.
    """
    require_form(settings, {"protocol": str}, "the settings")
    if settings["protocol"] not in _PROTOCOLS:
        raise ValueError(f"{' and '.join(_PROTOCOLS)} runs can be replayed, this is {settings['protocol']}")
    require_form(settings, _SETTINGS[settings["protocol"]], "the settings")
    require_form(result, _RESULT, f"the result of {video.name}")
    logged = {entry["object"]: entry["interactions"] for entry in result["objects"]}
    if missing := listed(sorted(_targets(video).keys() - logged.keys())):
        raise ValueError(f"the result of {video.name} has no object {missing}: it is of other data")
    return _evaluate(
        _PROTOCOLS[settings["protocol"]], system, video, settings, folder, lambda obj: LoggedAnnotator(logged[obj])
    )


def mean_curve(objects: Iterable[dict[str, Any]]) -> dict[int, Scores]:
    """The scores over the number of interacted frames, averaged over objects, as the evaluator does.

    Args:
        objects: "objects" of the results of all videos.

    Returns:
        By the number; those that all objects have.
    """
    curves = [{point["frames"]: point for point in entry["curve"]} for entry in objects]
    shared = sorted(set.intersection(*map(set, curves))) if curves else []
    names = ("j_and_f", "j", "f")
    return {k: {name: float(np.mean([curve[k][name] for curve in curves])) for name in names} for k in shared}


def _simulated(video: EvaluationVideo, options: dict[str, Any], obj: int) -> Annotator:
    # Clicks are drawn per object: all its runs begin with the same ones.
    user = SimulatedUser.of_run(options, f"{video.name}/{obj}")
    return SimulatedAnnotator(user, options["clicks"], options.get("threshold", 0.0))


def _evaluate(
    protocol: _Protocol,
    system: VideoSystem,
    video: EvaluationVideo,
    options: dict[str, Any],
    folder: Path,
    annotator: Callable[[int], Annotator],
) -> dict[str, Any]:
    started = time.perf_counter()
    nothing = mask_to_rle(np.zeros(video.size[::-1], bool))
    targets = _targets(video)
    entries = []
    for obj in video.objects:
        masks: EncodedMasks = {}
        if obj in targets:
            target = targets[obj]
            masks, interactions, curve = protocol(system, target, options, partial(annotator, obj))
            entries.append(
                {
                    "object": obj,
                    "first_frame": target.first,
                    "interactions": [interaction.entry() for interaction in interactions],
                    "curve": [{"frames": number, **curve[number]} for number in sorted(curve)],
                }
            )
        for frame in video.annotated_frames:
            save_object_mask(folder, obj, video.frame_names[frame], rle_to_mask(masks.get(frame, nothing)))
    return {"seconds": round(time.perf_counter() - started, 3), "objects": entries}


def _targets(video: EvaluationVideo) -> dict[int, Target]:
    """What to segment, by object. Objects without an annotated frame after their first one are left out: nothing but their
    prompt could be scored.

    Raises:
        ValueError: all visible objects are like that.
    """
    targets = {obj: Target(video, obj, first) for obj, first in video.first_frames().items()}
    scored = {obj: target for obj, target in targets.items() if len(target.frames) > 1}
    if targets and not scored:
        raise ValueError(
            f"{video.annotations.source}: no object has an annotated frame after the one in which it is prompted: "
            "take a data set with more annotations"
        )
    if left_out := listed(sorted(targets.keys() - scored.keys())):
        log.warning("%s: not scored, because no annotated frame follows their first one: object %s", video.name, left_out)
    return scored


def _online(
    system: VideoSystem, target: Target, options: dict[str, Any], annotator: Callable[[], Annotator]
) -> tuple[EncodedMasks, list[Interaction], dict[int, Scores]]:
    most = options["frames"]
    curve: dict[int, Scores] = {}
    for limit in range(1, most + 1) if options["curve"] else [most]:
        masks, interactions = _one_pass(system.start(target.video.frames), target, annotator(), limit)
        enough = len(interactions) < limit
        curve |= dict.fromkeys(range(len(interactions), (most if enough else limit) + 1), target.scores(masks))
        if enough:  # a higher limit changes nothing
            break
    return masks, interactions, curve


def _one_pass(
    session: VideoSession, target: Target, annotator: Annotator, limit: int
) -> tuple[EncodedMasks, list[Interaction]]:
    """One pass with at most `limit` interacted frames."""
    masks: EncodedMasks = {}
    interactions = [annotator.interact(session, target, target.first)]
    paused: int | None = target.first
    while paused is not None:
        start, paused = paused, None
        masks[start] = interactions[-1].mask
        for frame, mask in target.track(session, start):
            if frame == start:  # what was prompted stays as the user saw it
                continue
            if len(interactions) < limit and annotator.pauses(frame, target.iou(frame, mask)):
                paused = frame
                break
            masks[frame] = mask_to_rle(mask)
        if paused is not None:
            interactions.append(annotator.interact(session, target, paused, mask))
    return masks, interactions


def _offline(
    system: VideoSystem, target: Target, options: dict[str, Any], annotator: Callable[[], Annotator]
) -> tuple[EncodedMasks, list[Interaction], dict[int, Scores]]:
    most = options["frames"]
    session, user = system.start(target.video.frames), annotator()
    interactions = [user.interact(session, target, target.first)]
    curve: dict[int, Scores] = {}
    for number in range(1, most + 1):
        masks = {frame: mask_to_rle(mask) for frame, mask in target.track(session, target.first)}
        curve[number] = target.scores(masks)
        if number == most:
            break
        # The latest interaction in a frame has all its clicks.
        prompted = {interaction.frame: interaction for interaction in interactions}
        worst = user.worst({frame: target.iou(frame, rle_to_mask(rle)) for frame, rle in masks.items()})
        if worst is None:
            curve |= dict.fromkeys(range(number + 1, most + 1), curve[number])
            break
        earlier = prompted[worst].all_clicks if worst in prompted else ()
        interactions.append(user.interact(session, target, worst, rle_to_mask(masks[worst]), earlier))
        prompted[worst] = interactions[-1]
        session.reset()
        for frame in sorted(prompted):
            if options["again"] == CLICKS_AGAIN or prompted[frame] is interactions[0]:
                click_again(session, prompted[frame].all_clicks)
            else:
                session.prompt(frame, target.obj, mask=rle_to_mask(prompted[frame].mask))
    return masks, interactions, curve


_PROTOCOLS: dict[str, _Protocol] = {"online": _online, "offline": _offline}
# What a replay reads of results.json.
_SETTINGS = {"online": {"frames": int, "curve": bool}, "offline": {"frames": int, "again": str}}
_CLICK = dict.fromkeys(("frame", "obj", "x", "y", "label"), int)
_RESULT = {"objects": [{"object": int, "interactions": [{"frame": int, "clicks": [_CLICK]}]}]}


def summarise(videos: dict[str, dict[str, Any]]) -> str:
    """A line about the results of videos, by their names; without a curve about its end alone."""
    objects = [entry for result in videos.values() for entry in result["objects"]]
    curve = mean_curve(objects)
    points = [f"{scores['j_and_f']:.1f} ({number})" for number, scores in curve.items() if 1 in curve or number == max(curve)]
    return f"J&F of {len(objects)} objects with at most so many interacted frames: {', '.join(points)}"


@command_line
def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line. Returns the exit status: 0, or 1 after an error or if a video failed."""
    parser = argparse.ArgumentParser(description="A simulated user corrects masks; prints J&F, and saves masks and clicks.")
    protocols = parser.add_subparsers(dest="protocol", required=True)
    help_online, help_offline = "one pass, corrections act from there on", "several passes, corrections between them"
    for name, text in (("online", help_online), ("offline", help_offline)):
        part = protocols.add_parser(name, help=text)
        add_run_arguments(part)
        part.add_argument("--clicks", type=whole_number(1), default=3, help="per interacted frame (default: 3)")
        part.add_argument("--frames", type=whole_number(1), default=8, help="interacted at most, with the first (default: 8)")
        if name == "online":
            part.add_argument("--threshold", type=fraction, default=0.75, help="IoU below which to correct (default: 0.75)")
            part.add_argument("--curve", action="store_true", help="scores for all limits up to --frames, a run for each")
        else:
            again = (CLICKS_AGAIN, MASKS_AGAIN)
            part.add_argument("--again", choices=again, default=CLICKS_AGAIN, help="how a new pass is given the corrections")
    args = parser.parse_args(arguments)
    options = {name: getattr(args, name) for name in ("clicks", "frames", "seed", "correct")}
    if args.protocol == "online":
        return run_command(online, {**options, "threshold": args.threshold, "curve": args.curve}, args, summarise)
    return run_command(offline, {**options, "again": args.again}, args, summarise)


if __name__ == "__main__":
    sys.exit(main())
