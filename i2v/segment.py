"""The command line: segment objects in a video.

python -m i2v.segment video.mp4 --point 0,320,180 --output result
"""

from __future__ import annotations

import argparse
import logging
import re
import signal
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from i2v.build_i2v import build_i2v_video_predictor
from i2v.data.frames import Frames, ImageFolder, open_frames
from i2v.data.images import ValueRange
from i2v.exports import FILES, FORMATS
from i2v.i2v_video_predictor import I2VVideoPredictor
from i2v.inference.session_file import load_session, save_session
from i2v.inference.state import VideoState
from i2v.load_config import DEFAULT_CONFIG, known_configs, weights_of
from i2v.modeling.precision import PRECISIONS
from i2v.prompt_arguments import BOX_FORM, MASK_FORM, POINT_FORM, check_prompts, parse_mask_argument, parse_prompts
from i2v.prompt_files import PromptFile, read_prompt_file
from i2v.replay import replay
from i2v.results import ResultWriter, advise_removal
from i2v.utils.command_line import given_path, given_text, label, make_room_for, one_line, whole_number
from i2v.utils.devices import device_of_option
from i2v.utils.files import atomic_write
from i2v.utils.visualization import draw_grid

log = logging.getLogger("i2v.segment")

_SAVE_SECONDS = 5  # between two saves of the session
_ALSO = ("objects", "cutout", "cutout_webm", "green")  # formats beside masks, overlay and JSON


class Terminated(KeyboardInterrupt):
    """SIGTERM: the system stops the process."""


class Tracking:
    """Tracks in one direction after the other, and can resume after it was killed.

    Args:
        predictor (I2VVideoPredictor): the predictor.
        state (VideoState): the session, with its prompts.
        directions (Sequence[bool]): the directions in order; True is backward.
        max_frames (int or None): number of frames to track in each direction; None for all.
        file (Path): file in which the session is saved every few seconds; if it exists, tracking resumes from it.

    Raises:
        ValueError: the file is damaged.
    """

    def __init__(
        self, predictor: I2VVideoPredictor, state: VideoState, directions: Sequence[bool], max_frames: int | None, file: Path
    ) -> None:
        self._predictor = predictor
        self._state = state
        self._directions = directions
        self._file = file
        prompted = [frame for obj in state.objects.values() for frame in obj.prompts]
        self._starts = [max(prompted) if reverse else min(prompted) for reverse in directions]
        lengths = [
            start + 1 if reverse else state.frames.count() - start
            for start, reverse in zip(self._starts, directions, strict=True)
        ]
        self._lengths = [length if max_frames is None else min(length, max_frames) for length in lengths]
        self._direction = self._done = 0  # index of the direction, and number of frames that are tracked in it
        if file.exists():
            with advise_removal(file):
                self._load(file)
            log.info("resuming after %d frames", sum(self._lengths[: self._direction]) + self._done)

    def __iter__(self) -> Iterator[tuple[int, list[int], Tensor]]:
        """Track the remaining frames, with a progress bar. A result counts as done when the next one is asked for."""
        saved = time.monotonic()
        while self._direction < len(self._directions):
            reverse, length = self._directions[self._direction], self._lengths[self._direction]
            start = self._next_frame()
            if self._done < length:
                results = self._predictor.propagate_in_video(self._state, start, length - self._done - 1, reverse)
                name = "backward" if reverse else "forward"
                for result in tqdm(results, total=length, initial=self._done, desc=name, unit="frame"):
                    yield result
                    self._done += 1
                    if time.monotonic() - saved > _SAVE_SECONDS:
                        self.save()
                        saved = time.monotonic()
            self._direction, self._done = self._direction + 1, 0

    def tracked(self) -> Iterator[int]:
        """The frames that were tracked, including those of the run that this one resumes."""
        lengths = [*self._lengths[: self._direction], self._done]
        for start, reverse, length in zip(self._starts, self._directions, lengths, strict=False):
            yield from (start - i if reverse else start + i for i in range(length))

    def save(self) -> None:
        """Write the session, so that a later run can resume from here."""
        near = [self._next_frame(), *self._starts[self._direction + 1 :]] if self._direction < len(self._starts) else []
        selector = self._predictor.model.memory_selector
        save_session(self._state, self._file, near, selector, direction=self._direction, done=self._done)

    def _load(self, file: Path) -> None:
        progress = load_session(self._state, file)
        self._direction, self._done = progress.get("direction", -1), progress.get("done", -1)
        if not 0 <= self._direction <= len(self._directions) or not 0 <= self._done <= [*self._lengths, 0][self._direction]:
            raise ValueError(f"{file} is not a session file: its progress is impossible: {progress}")

    def _next_frame(self) -> int:
        return self._starts[self._direction] + (-self._done if self._directions[self._direction] else self._done)


def build_parser() -> argparse.ArgumentParser:
    """The arguments."""
    parser = argparse.ArgumentParser(
        prog="python -m i2v.segment",
        description="Segment objects in a video from clicks, boxes or masks.",
        epilog="X and Y are pixels of the video. FRAME counts from 0. OBJ is the object's number, 1 to 255; by default 1.",
    )
    parser.add_argument("video", metavar="VIDEO", help="a video file, or a folder of images")
    parser.add_argument(
        "--config",
        default=DEFAULT_CONFIG,
        help=f"one of {', '.join(known_configs())}, or a YAML file (default: {DEFAULT_CONFIG})",
    )
    weights = parser.add_mutually_exclusive_group()
    weights.add_argument("--checkpoint", help="file of weights (default: those bundled with the config)")
    weights.add_argument("--untrained", action="store_true", help="use random weights, to try out the program")
    repeated: dict[str, Any] = {"action": "append", "default": []}
    parser.add_argument("--point", metavar=POINT_FORM, help="a click; LABEL 0 is background (repeatable)", **repeated)
    parser.add_argument("--box", metavar=BOX_FORM, help="a box around the object (repeatable)", **repeated)
    parser.add_argument("--mask", metavar=MASK_FORM, help="a mask image of the video's size (repeatable)", **repeated)
    parser.add_argument(
        "--prompts",
        metavar="FILE.json",
        type=given_text,
        help="prompts exported from the page, instead of the three above; if it was tracked there, all steps are done again",
    )
    parser.add_argument(
        "--void", type=label, metavar="LABEL", help="label of mask pixels that belong to no object, such as 255"
    )
    parser.add_argument(
        "--value-range",
        type=_value_range,
        metavar="LOW,HIGH",
        help='values shown as black and white in frames of more than 8 bits, or "data" for the smallest and largest value '
        "(default: the range of the data type)",
    )
    parser.add_argument(
        "--output", metavar="DIR", type=given_path, help="a new folder for the results (required except with --grid)"
    )
    parser.add_argument(
        "--also",
        metavar="FORMAT",
        choices=_ALSO,
        action="append",
        help="write this, too (repeatable): " + "; ".join(f"{name}, {FORMATS[name]}" for name in _ALSO),
    )
    parser.add_argument("--resume", action="store_true", help="continue a run that was stopped, in the same --output")
    parser.add_argument("--device", help="cuda, mps or cpu (default: the first available)")
    parser.add_argument("--precision", choices=list(PRECISIONS), help="precision of matrix products (default: the config's)")
    direction = parser.add_mutually_exclusive_group()
    direction.add_argument("--reverse", action="store_true", help="track backward from the last prompted frame")
    direction.add_argument("--both", action="store_true", help="track forward, then backward")
    parser.add_argument("--max-frames", metavar="N", type=int, help="track at most N frames in each direction")
    parser.add_argument(
        "--seed", type=whole_number(0), default=0, help="random seed of the memory selector, and of --untrained weights"
    )
    grid = parser.add_argument_group("finding coordinates")
    grid.add_argument("--grid", action="store_true", help="only write a frame with a grid of pixel coordinates")
    grid.add_argument("--frame", type=whole_number(0), default=0, metavar="N", help="index of that frame (default: 0)")
    return parser


def _with_negative_ranges(arguments: Sequence[str]) -> list[str]:
    """Join `--value-range -20,50` into one argument, because argparse takes "-20,50" for an option."""
    joined = list(arguments)
    for i in reversed(range(len(joined) - 1)):
        if joined[i] == "--value-range" and re.match(r"-[\d.]", joined[i + 1]):
            joined[i : i + 2] = [f"--value-range={joined[i + 1]}"]
    return joined


def _value_range(text: str) -> ValueRange:
    if text == "data":
        return "data"
    try:
        low, high = map(float, text.split(","))
    except ValueError as error:
        raise argparse.ArgumentTypeError(f'expected two numbers, such as 0,4095, or "data", got {text!r}') from error
    return low, high


def make_settings(args: argparse.Namespace, frames: Frames, weights: str | Path | None) -> dict[str, Any]:
    """Everything the results depend on: the arguments, and under "files" size and modification time of each file read."""
    files = [args.config, weights, args.prompts, *(parse_mask_argument(text)[2] for text in args.mask)]
    files += frames.paths if isinstance(frames, ImageFolder) else [args.video]
    states = {str(path): path.stat() for path in map(Path, filter(None, files)) if path.is_file()}
    settings = {name: value for name, value in vars(args).items() if name not in ("output", "resume", "device")}
    return settings | {"files": {path: [state.st_size, state.st_mtime_ns] for path, state in states.items()}}


@contextmanager
def _sigterm_raises() -> Iterator[None]:
    """Handle SIGTERM (job schedulers) like Ctrl-C, so that partial results are written."""

    def terminate(number: int, frame: object) -> None:
        raise Terminated

    previous = signal.signal(signal.SIGTERM, terminate)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous or signal.SIG_DFL)


def _attempt(action: Callable[[], None]) -> bool:
    """Try an action after another error; a failure is logged as a warning. Returns whether it succeeded."""
    try:
        action()
    except Exception as error:  # noqa: BLE001 # nothing may replace the first error
        log.warning("%s", one_line(error))
        return False
    return True


def _status(interruption: KeyboardInterrupt) -> int:
    return 128 + (signal.SIGTERM if isinstance(interruption, Terminated) else signal.SIGINT)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line. Returns the exit status: 0, 1 after an error, 130 after Ctrl-C, 143 after SIGTERM."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    parser = build_parser()
    args = parser.parse_args(_with_negative_ranges(sys.argv[1:] if arguments is None else arguments))
    if args.output is None and not args.grid:
        parser.error("the following arguments are required: --output")
    try:
        with _sigterm_raises():
            return write_grid(args) if args.grid else _run(args)
    except (OSError, ValueError, IndexError, KeyError) as error:
        message = error.args[0] if isinstance(error, KeyError) else error
        log.error("error: %s", one_line(str(message)))
        return 1
    except KeyboardInterrupt as interruption:
        log.info("interrupted")
        return _status(interruption)


def write_grid(args: argparse.Namespace) -> int:
    """Write a frame with a grid of its pixel coordinates to VIDEO-FRAME-grid.png. Returns the exit status.

    The file goes into --output, by default the working directory.
    """
    frames = open_frames(args.video, args.value_range)
    if not frames.has(args.frame):
        raise frames.missing_frame_error(args.frame)
    path = (args.output or Path()) / f"{Path(args.video).resolve().stem}-{args.frame:05d}-grid.png"
    make_room_for(path)
    with atomic_write(path) as temporary:
        Image.fromarray(draw_grid(frames[args.frame])).save(temporary, format="PNG")
    log.info("wrote frame %d, %dx%d pixels, with a grid to %s", args.frame, *frames.size, path)
    return 0


def _run(args: argparse.Namespace) -> int:
    device = device_of_option(args.device)
    weights = args.checkpoint
    if weights is None and not args.untrained and (weights := weights_of(args.config)) is None:
        raise ValueError(f"the config {args.config!r} has no bundled weights: give --checkpoint FILE, or --untrained")
    if args.max_frames is not None and args.max_frames < 1:
        raise ValueError(f"--max-frames must be at least 1, got {args.max_frames}")
    if args.prompts and (args.point or args.box or args.mask):
        raise ValueError("--prompts takes the place of --point, --box and --mask: give either")
    prompts = {} if args.prompts else parse_prompts(args.point, args.box, args.mask, args.void)
    frames = open_frames(args.video, args.value_range)
    recorded = _read_prompts(args, frames) if args.prompts else None
    if recorded is not None:
        prompts = recorded.prompts()
    check_prompts(frames, prompts)
    settings = None if recorded is not None and recorded.is_replay else make_settings(args, frames, weights)
    colours = None if recorded is None else recorded.colours()
    name, also = Path(args.video).stem, list(dict.fromkeys(args.also or ()))
    writer = ResultWriter(args.output, name, frames, prompts, settings, args.resume, also, colours)
    predictor = _build_predictor(args, weights, device)
    directions = (False, True) if args.both else (args.reverse,)
    with predictor.init_state(frames, seed=args.seed) as state:
        if recorded is not None and recorded.is_replay:
            return _track(replay(predictor, state, recorded, writer), None, writer, state.loader.decoded)
        for (frame, obj_id), prompt in sorted(prompts.items()):
            predictor.add_prompt(state, frame, obj_id, prompt)
        tracking = Tracking(predictor, state, directions, args.max_frames, writer.session)
        writer.require(tracking.tracked())
        return _track(tracking, tracking.save, writer, state.loader.decoded)


def _read_prompts(args: argparse.Namespace, frames: Frames) -> PromptFile:
    """The file of --prompts. With tracking steps, it refuses the options that would contradict or cannot continue them."""
    recorded = read_prompt_file(Path(args.prompts), frames)
    options = {"--reverse": args.reverse, "--both": args.both, "--max-frames": args.max_frames, "--resume": args.resume}
    if recorded.is_replay and (given := [option for option, value in options.items() if value]):
        raise ValueError(
            f"{args.prompts} says itself what is tracked, and is always done from its start: leave out {' and '.join(given)}"
        )
    return recorded


def _build_predictor(args: argparse.Namespace, weights: str | Path | None, device: torch.device | None) -> I2VVideoPredictor:
    overrides = [f"++predictor.precision={args.precision}"] if args.precision else []
    if not args.untrained:
        return build_i2v_video_predictor(args.config, weights, device, hydra_overrides_extra=overrides)
    log.info("--untrained: the weights are random, so the masks mean nothing")
    with torch.random.fork_rng(devices=[]):
        torch.random.default_generator.manual_seed(args.seed)
        overrides.append("++checkpoint=null")
        return build_i2v_video_predictor(args.config, None, device, hydra_overrides_extra=overrides)


def _track(
    tracking: Iterable[tuple[int, list[int], Tensor]],
    save: Callable[[], None] | None,
    writer: ResultWriter,
    read_frame: Callable[[int], np.ndarray],
) -> int:
    """Track and write the results, also what is finished when tracking is interrupted or fails. Returns the exit status.

    Args:
        tracking (Iterable[tuple[int, list[int], Tensor]]): frame, ids of its objects and their mask logits (O, 1, H, W) each.
        save (Callable[[], None] or None): writes what a later run resumes from; None if none can.
        writer (ResultWriter): writes the results.
        read_frame (Callable[[int], np.ndarray]): see `ResultWriter.finish`.
    """
    try:
        for result in tracking:
            writer.add(*result)
    except BaseException as error:
        is_interrupted = isinstance(error, KeyboardInterrupt)
        if writer.num_frames:
            log.info(
                "%s: writing the finished frames; %s",
                "interrupted" if is_interrupted else "stopped by an error",
                _how_to_continue(save, writer),
            )
            if _attempt(partial(writer.finish, read_frame)) and is_interrupted:
                _report(writer)
        if isinstance(error, KeyboardInterrupt):
            return _status(error)
        raise
    if save is not None:
        _attempt(save)  # so that nothing is tracked again if the rest fails
    writer.finish(read_frame)
    writer.forget_progress()
    _report(writer)
    return 0


def _how_to_continue(save: Callable[[], None] | None, writer: ResultWriter) -> str:
    """Save what is needed to resume, and say from where a later run continues."""
    if save is None:
        return "a replay starts over, with another --output"
    is_saved = _attempt(save)
    place = "there" if is_saved else "the last saved frame" if writer.session.exists() else "the start"
    return f"--resume continues from {place}"


def _report(writer: ResultWriter) -> None:
    for obj_id in writer.empty_objects():
        log.warning("object %d: its mask is empty in every frame", obj_id)
    *names, last = (FILES[name] for name in ("masks", *writer.also, "overlay", "json"))
    log.info("%s and %s of %d frames are in %s", ", ".join(names), last, writer.num_frames, writer.folder)


if __name__ == "__main__":
    sys.exit(main())
