"""The interactive benchmarks: a simulated user corrects masks, online in one pass or offline between passes.

    python -m test_pvs.interactive online davis2016 /data/DAVIS --clicks 3 --output results/online-3c
    python -m test_pvs.interactive offline davis2016 /data/DAVIS --clicks 3 --output results/offline-3c

The default is the Lite model; --config i2v-infer --checkpoint checkpoints/sam-i2v_32gpu.pt runs the published one.
test_pvs/interactive.sh does the same with environment variables. Rerun the command to resume an interrupted run.

Every object is evaluated in a session of its own, as in SAM 2's interactive evaluation, from the first annotated frame that
shows it. J&F is the mean over all annotated frames from there on, prompted ones included (`interaction.SCORED_FRAMES`).
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
from i2v.prompt import Prompt
from i2v.utils.command_line import command_line, fraction, whole_number
from i2v.utils.json_form import require_form
from test_pvs.clicks import SimulatedUser
from test_pvs.datasets import EvaluationVideo
from test_pvs.interaction import Annotator, EncodedMasks, Interaction, LoggedAnnotator, SimulatedAnnotator, Target
from test_pvs.prompting import click_again
from test_pvs.runner import add_run_arguments, run_command, run_of
from test_pvs.runs import Run
from test_pvs.systems import VideoSession, VideoSystem

log = logging.getLogger("test_pvs.interactive")

# How the next pass of the offline protocol is given the corrections.
CLICKS_AGAIN, MASKS_AGAIN = "clicks", "masks"

Scores = dict[str, float]
# Masks and interactions of the longest run, and scores by number of interacted frames.
_Result = tuple[EncodedMasks, list[Interaction], dict[int, Scores]]
# (system, target, options, function that makes an annotator) -> result
_Protocol = Callable[[VideoSystem, Target, dict[str, Any], Callable[[], Annotator]], _Result]


def online(system: VideoSystem, video: EvaluationVideo, options: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Evaluate one video in one pass with corrections, and save the masks of its annotated frames.

    The user clicks on the object in its first frame. When the IoU of an annotated frame falls below the threshold, tracking
    pauses, the user clicks on the errors, and tracking continues from there: earlier frames keep their masks, and the corrected
    frame gets the corrected one. A mask in a frame without the object has IoU 0 and is corrected, too.

    Args:
        system (VideoSystem): the system.
        video (EvaluationVideo): the video.
        options (dict[str, Any]): options of the protocol. "clicks": maximum number of clicks per interacted frame. "frames":
            maximum number of interacted frames; the first frame counts as one, as in SAM 2's evaluation. "threshold": IoU
            below which a frame is corrected, from 0 to 1. "curve": whether to score all limits from 1 to "frames", each with a
            separate run, because a limit changes everything after it. "seed", "correct": see `SimulatedUser.of_run`.
        folder (Path): folder for the masks, OBJECT/FRAME.png.

    Returns:
        {"seconds", "objects": [{"object", "first_frame", "interactions", "curve"}, ...]}. An interaction has its "frame", the
        "iou" before it (None for the first one), and "clicks" with the IoU after each. The curve is a list of {"frames",
        "j_and_f", "j", "f"}, the scores by maximum number of interacted frames. It has the last entry, with all frames, at
        least; a run that needed fewer frames also gives the entries from that number on.
    """
    return _evaluate(_online, system, video, options, folder, partial(_simulated, video, options))


def offline(system: VideoSystem, video: EvaluationVideo, options: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Evaluate one video in several passes, and save the masks of its annotated frames after the last one.

    After each pass the user clicks on the errors of the annotated frame with the lowest IoU. If it was prompted before, its
    earlier clicks are kept. The next pass starts from scratch with all clicks (paper, section 4.1). A click on an error means
    little to a system that does not know the erroneous mask: "again": "masks" gives the corrections as the masks that the user
    saw after the clicks instead.

    Args:
        system (VideoSystem): the system.
        video (EvaluationVideo): the video.
        options (dict[str, Any]): options of the protocol. "clicks", "seed", "correct": see `online`. "frames": maximum number
            of interacted frames, that is, passes; a pass without errors is the last one. "again": "clicks" or "masks".
        folder (Path): folder for the masks, OBJECT/FRAME.png.

    Returns:
        As for `online`. The curve has the scores after each pass; after the last pass they do not change.
    """
    return _evaluate(_offline, system, video, options, folder, partial(_simulated, video, options))


def replay(
    system: VideoSystem, video: EvaluationVideo, settings: dict[str, Any], result: dict[str, Any], folder: Path
) -> dict[str, Any]:
    """Repeat the clicks of an earlier evaluation in the same frames and order, regardless of the predictions.

    A deterministic system gives the same masks and scores.

    Args:
        system (VideoSystem): the system.
        video (EvaluationVideo): the video.
        settings (dict[str, Any]): "settings" in the results.json of an online or offline run.
        result (dict[str, Any]): entry of the video in "videos" of the same file.
        folder (Path): folder for the masks, OBJECT/FRAME.png.

    Returns:
        As for `online`.

    Raises:
        ValueError: the run is of another protocol or has other objects, or an entry is missing.
    """
    require_form(settings, {"protocol": str}, "the settings")
    if settings["protocol"] not in _PROTOCOLS:
        raise ValueError(f"only {' and '.join(_PROTOCOLS)} runs can be replayed, not {settings['protocol']}")
    require_form(settings, _SETTINGS[settings["protocol"]], "the settings")
    require_form(result, _RESULT, f"the result of {video.name}")
    logged = {entry["object"]: entry["interactions"] for entry in result["objects"]}
    if missing := listed(sorted(_targets(video).keys() - logged.keys())):
        raise ValueError(f"the result of {video.name} has no object {missing}: it belongs to other data")
    return _evaluate(
        _PROTOCOLS[settings["protocol"]], system, video, settings, folder, lambda obj: LoggedAnnotator(logged[obj])
    )


def mean_curve(objects: Iterable[dict[str, Any]]) -> dict[int, Scores]:
    """Average the scores by number of interacted frames over objects, as the evaluator does.

    Args:
        objects (Iterable[dict[str, Any]]): "objects" of the results of all videos.

    Returns:
        The scores by number of interacted frames, for the numbers that all objects have.
    """
    curves = [{point["frames"]: point for point in entry["curve"]} for entry in objects]
    shared = sorted(set.intersection(*map(set, curves))) if curves else []
    names = ("j_and_f", "j", "f")
    return {k: {name: float(np.mean([curve[k][name] for curve in curves])) for name in names} for k in shared}


def _simulated(video: EvaluationVideo, options: dict[str, Any], obj: int) -> Annotator:
    # Clicks are sampled per object: all its runs begin with the same ones.
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
    """List what to segment, by object.

    Objects without an annotated frame after their first one are left out: only their prompt could be scored.

    Raises:
        ValueError: all visible objects are left out.
    """
    targets = {obj: Target(video, obj, first) for obj, first in video.first_frames().items()}
    scored = {obj: target for obj, target in targets.items() if len(target.frames) > 1}
    if targets and not scored:
        raise ValueError(
            f"{video.annotations.source}: no object has an annotated frame after the one in which it is prompted: "
            "use a data set with more annotations"
        )
    if left_out := listed(sorted(targets.keys() - scored.keys())):
        log.warning("%s: not scored, because no annotated frame follows the first one: object %s", video.name, left_out)
    return scored


def _online(system: VideoSystem, target: Target, options: dict[str, Any], annotator: Callable[[], Annotator]) -> _Result:
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
    """Make one pass with at most `limit` interacted frames."""
    masks: EncodedMasks = {}
    interactions = [annotator.interact(session, target, target.first)]
    paused: int | None = target.first
    while paused is not None:
        start, paused = paused, None
        masks[start] = interactions[-1].mask
        for frame, mask in target.track(session, start):
            if frame == start:  # the prompted frame keeps the mask that the user saw
                continue
            if len(interactions) < limit and annotator.pauses(frame, target.iou(frame, mask)):
                paused = frame
                break
            masks[frame] = mask_to_rle(mask)
        if paused is not None:
            interactions.append(annotator.interact(session, target, paused, mask))
    return masks, interactions


def _offline(system: VideoSystem, target: Target, options: dict[str, Any], annotator: Callable[[], Annotator]) -> _Result:
    most = options["frames"]
    session, user = system.start(target.video.frames), annotator()
    interactions = [user.interact(session, target, target.first)]
    curve: dict[int, Scores] = {}
    for number in range(1, most + 1):
        masks = {frame: mask_to_rle(mask) for frame, mask in target.track(session, target.first)}
        curve[number] = target.scores(masks)
        if number == most:
            break
        # The latest interaction in a frame has all clicks in it.
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
                session.prompt(frame, target.obj, Prompt(mask=rle_to_mask(prompted[frame].mask)))
    return masks, interactions, curve


_PROTOCOLS: dict[str, _Protocol] = {"online": _online, "offline": _offline}
# The parts of results.json that a replay reads.
_SETTINGS = {"online": {"frames": int, "curve": bool}, "offline": {"frames": int, "again": str}}
_CLICK = dict.fromkeys(("frame", "obj", "x", "y", "label"), int)
_RESULT = {"objects": [{"object": int, "interactions": [{"frame": int, "clicks": [_CLICK]}]}]}


def summarise(videos: dict[str, dict[str, Any]]) -> str:
    """Summarise the results of videos, by name, in a line; without --curve, only the last point of the curve."""
    objects = [entry for result in videos.values() for entry in result["objects"]]
    curve = mean_curve(objects)
    points = [f"{scores['j_and_f']:.1f} @ {number}" for number, scores in curve.items() if 1 in curve or number == max(curve)]
    return f"J&F over {len(objects)} objects by number of interacted frames: {', '.join(points)}"


def parse_run(arguments: Sequence[str] | None = None) -> tuple[Run, argparse.Namespace]:
    """Parse the command line.

    Args:
        arguments (Sequence[str] or None): the arguments; None for those of the process.

    Returns:
        The run, and all arguments.
    """
    parser = argparse.ArgumentParser(description="A simulated user corrects masks. Prints J&F, and saves masks and clicks.")
    protocols = parser.add_subparsers(dest="protocol", required=True)
    help_online, help_offline = "one pass with corrections on the way", "several passes with corrections between them"
    for name, text in (("online", help_online), ("offline", help_offline)):
        part = protocols.add_parser(name, help=text)
        add_run_arguments(part)
        part.add_argument("--clicks", type=whole_number(1), default=3, help="clicks per interacted frame (default: 3)")
        part.add_argument(
            "--frames",
            type=whole_number(1),
            default=8,
            help="maximum number of interacted frames, the first one included (default: 8)",
        )
        if name == "online":
            part.add_argument(
                "--threshold", type=fraction, default=0.75, help="IoU below which a frame is corrected (default: 0.75)"
            )
            part.add_argument("--curve", action="store_true", help="score all limits from 1 to --frames, with a run for each")
        else:
            again = (CLICKS_AGAIN, MASKS_AGAIN)
            part.add_argument(
                "--again", choices=again, default=CLICKS_AGAIN, help="how a new pass is given the corrections (default: clicks)"
            )
    args = parser.parse_args(arguments)
    options = {name: getattr(args, name) for name in ("clicks", "frames", "seed", "correct")}
    if args.protocol == "online":
        return run_of(online, {**options, "threshold": args.threshold, "curve": args.curve}, args), args
    return run_of(offline, {**options, "again": args.again}, args), args


@command_line
def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line. Returns the exit status: 0, or 1 after an error or if a video failed."""
    return run_command(*parse_run(arguments), summarise)


if __name__ == "__main__":
    sys.exit(main())
