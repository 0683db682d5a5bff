"""The command line: segment objects in a video.

python -m i2v.segment video.mp4 --point 0,320,180 --output result
"""

from __future__ import annotations

import argparse
import json
import logging
import re
import signal
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from pycocotools import mask as coco_mask
from torch import Tensor
from tqdm import tqdm

from i2v.build_i2v import DEFAULT_CONFIG, build_i2v_video_predictor, device_of_option, known_configs, weights_of
from i2v.data.files import listed, named_errors, read_json
from i2v.data.frames import Frames, ImageFolder, open_frames
from i2v.data.images import ValueRange
from i2v.data.mask_files import labels_in, open_labels, read_labels, save_label_image
from i2v.data.rle import check_mask_size, mask_to_rle, run_lengths
from i2v.data.video_file import VideoFile
from i2v.i2v_video_predictor import I2VVideoPredictor
from i2v.inference.session_file import load_session, save_session
from i2v.inference.state import VideoState
from i2v.modeling.layers import PRECISIONS
from i2v.prompt import NEGATIVE, POSITIVE, Prompt
from i2v.utils.command_line import given_path, label, make_room_for, one_line, whole_number
from i2v.utils.files import atomic_write, full_disk_named, require_regular_file
from i2v.utils.json_form import differences, require_form
from i2v.utils.masks import masks_to_labels
from i2v.utils.visualization import VideoWriter, draw_grid, draw_overlay

log = logging.getLogger("i2v.segment")

_SAVE_SECONDS = 5  # between two times that the session is saved


Prompts = dict[tuple[int, int], Prompt]  # by frame and object

_POINT, _BOX, _MASK = "FRAME,X,Y[,LABEL][@OBJ]", "FRAME,X0,Y0,X1,Y1[@OBJ]", "FRAME,PNG[@OBJ]"


class Terminated(KeyboardInterrupt):
    """The system stops the process (SIGTERM)."""


def parse_prompts(points: Sequence[str], boxes: Sequence[str], masks: Sequence[str], void: int | None = None) -> Prompts:
    """Parse the arguments --point, --box and --mask.

    Args:
        points: "FRAME,X,Y[,LABEL][@OBJ]" each.
        boxes: "FRAME,X0,Y0,X1,Y1[@OBJ]" each.
        masks: "FRAME,PNG[@OBJ]" each.
        void: label of pixels of masks that belong to no object; none by default.

    Raises:
        ValueError: an argument of another form, two boxes or masks for one object in one frame, a mask together with points
            or a box, a mask that is not an image, or one of several objects with @OBJ.
        FileNotFoundError: no such mask.
    """
    given: dict[tuple[int, int], dict[str, Any]] = defaultdict(dict)  # the arguments of each Prompt
    for text in points:
        frame, obj_id, (x, y, label) = _parse_point(text)
        arguments = given[frame, obj_id]
        arguments.setdefault("points", []).append((x, y))
        arguments.setdefault("labels", []).append(label)
    for text in boxes:
        frame, obj_id, box = _parse_box(text)
        if "box" in given[frame, obj_id]:
            raise ValueError(f"{text!r} is a second box for object {obj_id} in frame {frame}")
        given[frame, obj_id]["box"] = box
    for text in masks:
        frame, of_objects = _read_mask(text, void)
        for obj_id, mask in of_objects.items():
            if "mask" in given[frame, obj_id]:
                raise ValueError(f"{text!r} is a second mask for object {obj_id} in frame {frame}")
            given[frame, obj_id]["mask"] = mask
    if not given:
        raise ValueError("nothing to segment: give at least one --point, --box or --mask")
    prompts = {}
    for key, arguments in given.items():
        with _named(*key):
            prompts[key] = Prompt(**arguments)
    return prompts


def _parse_point(text: str) -> tuple[int, int, tuple[float, float, int]]:
    """Frame, object, and (x, y, label) of a --point."""
    form = f"--point {_POINT}"
    frame, obj_id, fields = _split(text, form, (3, 4))
    x, y, *label = _numbers(text, form, fields)
    if label and label[0] not in (POSITIVE, NEGATIVE):
        raise ValueError(f"{text!r}: LABEL is 1 (foreground) or 0 (background)")
    return frame, obj_id or 1, (x, y, int(label[0]) if label else POSITIVE)


def _parse_box(text: str) -> tuple[int, int, list[float]]:
    """Frame, object, and (x0, y0, x1, y1) of a --box."""
    form = f"--box {_BOX}"
    frame, obj_id, fields = _split(text, form, (5,))
    return frame, obj_id or 1, _numbers(text, form, fields)


def _parse_mask(text: str) -> tuple[int, int | None, str]:
    """Frame, object if it is given, and path of a --mask."""
    # A path may contain commas and @: only what is before and after it is split off.
    frame, obj_id, fields = _split(text, f"--mask {_MASK}", range(2, 100))
    path = ",".join(fields)
    if not path.strip():
        raise ValueError(f"{text!r}: the file name in --mask {_MASK} is empty")
    return frame, obj_id, path


def _read_mask(text: str, void: int | None) -> tuple[int, dict[int, np.ndarray]]:
    """Frame and masks (height, width) bool by object of a --mask."""
    frame, obj_id, path = _parse_mask(text)
    image = open_labels(path, void)
    values = labels_in(image)
    labels = np.asarray(image)
    if obj_id is not None and len(values) > 1:
        raise ValueError(f"{text!r} has several objects, with labels {listed(values)}: leave out @OBJ, or give one mask")
    if obj_id is None and (len(values) > 1 or (image.mode == "P" and values)):
        if values[-1] > 255:
            raise ValueError(f"{text!r} has labels above 255, but objects are numbered from 1 to 255")
        return frame, {value: labels == value for value in values}
    return frame, {obj_id or 1: labels > 0}


def _split(text: str, form: str, counts: Sequence[int]) -> tuple[int, int | None, list[str]]:
    """Frame, object if it is given, and the other fields of a prompt's argument, whose number must be one of `counts`."""
    rest, _, digits = text.rpartition("@")
    if not digits.isdecimal() or "@" not in text:
        rest, digits = text, ""
    frame, *fields = rest.split(",")
    number, obj_id = _whole(frame.strip()), _whole(digits)
    if 1 + len(fields) not in counts or number is None or (digits and obj_id not in range(1, 256)):
        raise _malformed(text, form)
    return number, obj_id, fields


def _whole(digits: str) -> int | None:
    # Nothing is counted beyond 18 digits, and Python refuses to convert thousands of them.
    return int(digits) if digits.isdecimal() and len(digits) < 19 else None


def _numbers(text: str, form: str, fields: Sequence[str]) -> list[float]:
    try:
        return [float(value) for value in fields]
    except ValueError as error:
        raise _malformed(text, form) from error


def _malformed(text: str, form: str) -> ValueError:
    shown = text if len(text) < 200 else f"{text[:200]}..."
    return ValueError(f"{shown!r} is not of the form {form}, with FRAME from 0 and OBJ from 1 to 255")


@contextmanager
def _named(frame: int, obj_id: int) -> Iterator[None]:
    """Add to an error which prompt it is about."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"the prompt for object {obj_id} in frame {frame}: {error}") from error


def check_prompts(frames: Frames, prompts: Prompts) -> None:
    """Raise a ValueError or IndexError for prompts that the predictor would refuse, before there is one."""
    for (frame, obj_id), prompt in prompts.items():
        if not frames.has(frame):
            raise frames.no_frame(frame)
        with _named(frame, obj_id):
            prompt.check(frames.size)  # a mask of another size is more likely that of another video than one to resize


@contextmanager
def _remedy(damaged: Path) -> Iterator[None]:
    """Add to an error in what a run left what can be done: remove the session, or what else cannot be gone on with."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{error}. Remove {damaged}, and --resume starts over") from error


class ResultWriter:
    """Writes the results of one video.

    Every mask is written at once, so that what was finished is there whatever happens; `finish` adds the overlay and the JSON.
    Hidden files hold what a run needs to go on where one was killed; `forget_progress` removes them once all is written.

    Args:
        folder: where `masks/`, `overlay.mp4` and `masklets.json` go.
        name: of the video.
        frames: its size, length and rate.
        prompts: for the overlay.
        settings: all that the results depend on, as they go into JSON; see `make_settings`.
        resume: go on with what a run with the same settings left in the folder, if there is anything.

    Raises:
        FileExistsError: the folder holds results already, or is a file.
        ValueError: what is to be resumed is a run with other settings, or damaged.
    """

    def __init__(
        self, folder: Path, name: str, frames: Frames, prompts: Prompts, settings: dict[str, Any], resume: bool = False
    ) -> None:
        self.folder = folder
        self.masks = folder / "masks"
        self._overlay = folder / "overlay.mp4"
        self._json = folder / "masklets.json"
        self._name = name
        self._frames = frames
        self._prompts = prompts
        self._rles: dict[int, dict[int, dict[str, Any]]] = {}
        self._settings = folder / ".settings.json"
        self._given_settings = settings
        self._log = folder / ".frames.jsonl"
        self.session = folder / ".session.pt"
        if resume and self._settings.exists():
            self._resume(settings)
            return
        former = [*self.masks.glob("*"), *(path for path in (self._overlay, self._json) if path.exists())]
        if former:
            if resume:
                raise FileExistsError(
                    f"{folder} has the results of a run that is finished ({former[0].name}), so there is nothing to "
                    "resume. To run it again, choose another --output, or remove them"
                )
            ways = f"{'go on with --resume, ' if self._settings.exists() else ''}choose another --output, or remove them"
            raise FileExistsError(f"{folder} has results in it ({former[0].name}): {ways}")
        if folder.exists() and not folder.is_dir():
            raise FileExistsError(f"{folder} is a file: choose another --output")
        self.masks.mkdir(parents=True, exist_ok=True)
        self.forget_progress()

    def _resume(self, settings: dict[str, Any]) -> None:
        with _remedy(self.folder):  # without the settings, its results are none to go on with
            old, new = read_json(self._settings), json.loads(json.dumps(settings))
            require_form(old, {"files": {str: [int]}}, str(self._settings))
        old_files, new_files = old.pop("files"), new.pop("files")
        if other := differences(old, new) or _changed_files(old_files, new_files):
            raise ValueError(
                f"{self._settings} is of a run with other settings: {other}. Give the former ones, or choose another --output"
            )
        for path in self.folder.glob(f".[0-9]*.{self._overlay.name}"):  # unfinished, of a process that was killed
            path.unlink()
        if not self.session.exists():  # it was killed at once
            self._log.unlink(missing_ok=True)
            return
        with _remedy(self.session):
            with named_errors(self._log):
                require_regular_file(self._log)
                # Behind the last whole line there may be the beginning of another one, to which none must be appended.
                lines, newline, rest = self._log.read_text().rpartition("\n")
            for number, line in enumerate(lines.splitlines(), start=1):
                with named_errors(f"{self._log}, line {number},"):
                    frame, rles = self._read_line(line)
                self._rles[frame] = rles
        if rest:
            with atomic_write(self._log) as temporary:
                temporary.write_text(lines + newline)

    def _read_line(self, line: str) -> tuple[int, dict[int, dict[str, Any]]]:
        """The frame, and the masks by object, in a line of the list of frames."""
        frame, rles = json.loads(line)
        if type(frame) is not int or not self._frames.has(frame):
            raise ValueError(f"there is no frame {frame}")
        obj_ids = {obj_id for _, obj_id in self._prompts}
        if set(rles) != set(map(str, obj_ids)):
            raise ValueError(f"its objects are {listed(list(rles))}, not {listed(sorted(obj_ids))}")
        for rle in rles.values():
            if not isinstance(rle["counts"], str):
                raise ValueError("a mask is not compressed")
            check_mask_size(tuple(rle["size"]), (self._frames.height, self._frames.width))
            run_lengths(rle)
        if not self._mask_path(frame).is_file():
            raise ValueError(f"its mask {self._mask_path(frame)} is not there")
        return frame, {int(obj_id): rle for obj_id, rle in rles.items()}

    def require(self, frames: Iterable[int]) -> None:
        """Raise a ValueError if a frame has no results."""
        if missing := sorted(set(frames) - self._rles.keys()):
            with _remedy(self.session):
                raise ValueError(f"{self._log} lacks frames that were tracked: {listed(missing)}")

    def _mask_path(self, frame: int) -> Path:
        return self.masks / f"{frame:05d}.png"

    def forget_progress(self) -> None:
        """Remove what a run would go on with; the settings first, without which the rest is not looked at."""
        for path in (self._settings, self.session, self._log):
            path.unlink(missing_ok=True)

    @property
    def num_frames(self) -> int:
        """Number of frames that have results."""
        return len(self._rles)

    def empty_objects(self) -> list[int]:
        """Ids of the objects that are nowhere."""
        areas: dict[int, int] = {}
        for rles in self._rles.values():
            for obj_id, rle in rles.items():
                areas[obj_id] = areas.get(obj_id, 0) + int(coco_mask.area(rle))
        return [obj_id for obj_id, area in areas.items() if not area]

    def add(self, frame: int, obj_ids: list[int], mask_logits: Tensor) -> None:
        """Write the masks (O, 1, H, W) of a frame."""
        if not self._rles:
            with atomic_write(self._settings) as temporary:
                temporary.write_text(json.dumps(self._given_settings))
        logits = mask_logits[:, 0].float().cpu().numpy()
        save_label_image(self._mask_path(frame), masks_to_labels(logits, obj_ids))
        self._rles[frame] = {obj_id: mask_to_rle(mask > 0) for obj_id, mask in zip(obj_ids, logits, strict=True)}
        with full_disk_named(self._log), self._log.open("a") as file:
            file.write(json.dumps([frame, self._rles[frame]]) + "\n")

    def finish(self, read_frame: Callable[[int], np.ndarray]) -> None:
        """Write the overlay and the JSON of all frames that were added.

        Args:
            read_frame: gives a frame of the video, (H, W, 3) uint8 RGB.
        """
        if not self._rles:
            return
        self._write_json()
        frames = self._frames
        tracked = sorted(self._rles)
        sound = (frames, tracked) if isinstance(frames, VideoFile) else None
        with VideoWriter(self._overlay, frames.frames_per_second, frames.width, frames.height, sound) as video:
            for frame in tracked:
                with _remedy(self.session):  # the mask may be of a former run
                    labels = read_labels(self._mask_path(frame)).astype(np.uint8)
                drawn = {obj_id: prompt for (prompted, obj_id), prompt in self._prompts.items() if prompted == frame}
                video.write(draw_overlay(read_frame(frame), labels, drawn))

    def _write_json(self) -> None:
        """As SA-V's annotations: `masklet[frame][object]` is an RLE; frames that were not tracked are None."""
        obj_ids = sorted({obj_id for rles in self._rles.values() for obj_id in rles})
        count = self._frames.count()
        first = [
            min((frame for frame, rles in self._rles.items() if obj_id in rles and coco_mask.area(rles[obj_id])), default=None)
            for obj_id in obj_ids
        ]
        annotation = {
            "video_id": self._name,
            "video_frame_count": count,
            "video_height": self._frames.height,
            "video_width": self._frames.width,
            "masklet_num": len(obj_ids),
            "masklet_id": obj_ids,
            "masklet_first_appeared_frame": first,
            "masklet": [
                [self._rles[frame].get(obj_id) for obj_id in obj_ids] if frame in self._rles else None for frame in range(count)
            ],
        }
        with atomic_write(self._json) as temporary:
            temporary.write_text(json.dumps(annotation))


class Tracking:
    """Tracks in one direction after the other, and can go on where it was killed.

    Args:
        predictor: what tracks.
        state: the session, with its prompts.
        directions: True is backward.
        max_frames: of each direction; None for all.
        file: where the session is saved every few seconds; if it is there, tracking goes on from it.

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
        self._direction = self._done = 0
        if file.exists():
            with _remedy(file):
                progress = load_session(state, file)
                self._direction, self._done = progress.get("direction", -1), progress.get("done", -1)
                if not 0 <= self._direction <= len(directions) or not 0 <= self._done <= [*self._lengths, 0][self._direction]:
                    raise ValueError(f"{file} is not the file of a session: there is no such progress as {progress}")
            log.info("going on after %d frames", sum(self._lengths[: self._direction]) + self._done)

    def __iter__(self) -> Iterator[tuple[int, list[int], Tensor]]:
        """The results of all frames to come, with a progress bar. What was taken is saved when the next one is asked for."""
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
        """The frames that were tracked, also by the run that this one goes on with."""
        lengths = [*self._lengths[: self._direction], self._done]
        for start, reverse, length in zip(self._starts, self._directions, lengths, strict=False):
            yield from (start - i if reverse else start + i for i in range(length))

    def save(self) -> None:
        """Write the session, so that a later run goes on from here."""
        near = [self._next_frame(), *self._starts[self._direction + 1 :]] if self._direction < len(self._starts) else []
        selector = self._predictor.model.memory_selector
        save_session(self._state, self._file, near, selector, direction=self._direction, done=self._done)

    def _next_frame(self) -> int:
        return self._starts[self._direction] + (-self._done if self._directions[self._direction] else self._done)


def build_parser() -> argparse.ArgumentParser:
    """The arguments."""
    parser = argparse.ArgumentParser(
        prog="python -m i2v.segment",
        description="Segment objects in a video from clicks, boxes or masks.",
        epilog="Coordinates are pixels of the video, frames and the object in @OBJ are numbers; without @OBJ it is object 1.",
    )
    parser.add_argument("video", metavar="VIDEO", help="a video file, or a folder of images")
    parser.add_argument("--config", default=DEFAULT_CONFIG, help=f"one of {', '.join(known_configs())}, or a YAML file")
    weights = parser.add_mutually_exclusive_group()
    weights.add_argument("--checkpoint", help="the weights; by default those that come with the config")
    weights.add_argument("--untrained", action="store_true", help="random weights: shows that it runs, no more")
    repeated = {"action": "append", "default": []}
    parser.add_argument("--point", metavar=_POINT, help="a click; LABEL 0 is background", **repeated)
    parser.add_argument("--box", metavar=_BOX, help="a box around the object", **repeated)
    parser.add_argument("--mask", metavar=_MASK, help="a mask image of the video's size", **repeated)
    parser.add_argument("--void", type=label, metavar="LABEL", help="label of pixels of masks that belong to no object, as 255")
    parser.add_argument(
        "--value-range",
        type=_value_range,
        metavar="LOW,HIGH",
        help='what becomes black and white in frames of more than 8 bits, or "data" for the smallest and largest value in '
        "them; by default the range of their type",
    )
    parser.add_argument(
        "--output", metavar="DIR", type=given_path, help="a new folder for the results (required except with --grid)"
    )
    parser.add_argument("--resume", action="store_true", help="go on with what a run that was stopped left in --output")
    parser.add_argument("--device", help="cuda, mps or cpu; by default the first that there is")
    parser.add_argument("--precision", choices=list(PRECISIONS), help="of the matrix products; by default the config's")
    direction = parser.add_mutually_exclusive_group()
    direction.add_argument("--reverse", action="store_true", help="track backward from the last prompted frame")
    direction.add_argument("--both", action="store_true", help="track forward, then backward")
    parser.add_argument("--max-frames", type=int, help="track at most this many frames in a direction")
    parser.add_argument("--seed", type=whole_number(0), default=0, help="of the memory selection, and of --untrained weights")
    grid = parser.add_argument_group("to find coordinates")
    grid.add_argument("--grid", action="store_true", help="write a frame with a grid of its pixels' coordinates, and end")
    grid.add_argument("--frame", type=whole_number(0), default=0, metavar="N", help="which frame (default: 0)")
    return parser


def _with_negative_ranges(arguments: Sequence[str]) -> list[str]:
    """The arguments, with `--value-range -20,50` in one: argparse takes what begins with a minus, and is no number, for an
    option."""
    joined = list(arguments)
    for i in reversed(range(len(joined) - 1)):
        if joined[i] == "--value-range" and re.match(r"-[\d.]", joined[i + 1]):
            joined[i : i + 2] = [f"--value-range={joined[i + 1]}"]
    return joined


def _value_range(text: str) -> ValueRange:
    if text == "data":
        return text
    try:
        low, high = map(float, text.split(","))
    except ValueError as error:
        raise argparse.ArgumentTypeError(f'expected two numbers, such as 0,4095, or "data", got {text!r}') from error
    return low, high


def make_settings(args: argparse.Namespace, frames: Frames, weights: str | Path | None) -> dict[str, Any]:
    """All that the results depend on: the arguments, and "files" with size and time of the last change of all that is read."""
    files = [args.config, weights, *(_parse_mask(text)[2] for text in args.mask)]
    files += frames.paths if isinstance(frames, ImageFolder) else [args.video]
    states = {str(path): path.stat() for path in map(Path, filter(None, files)) if path.is_file()}
    settings = {name: value for name, value in vars(args).items() if name not in ("output", "resume", "device")}
    return settings | {"files": {path: [state.st_size, state.st_mtime_ns] for path, state in states.items()}}


def _changed_files(old: dict[str, Any], new: dict[str, Any]) -> str:
    """Which files of a run are not those of another one, for a message; empty if all are."""
    kinds = {
        "changed": [path for path in old if path in new and old[path] != new[path]],
        "removed": [path for path in old if path not in new],
        "added": [path for path in new if path not in old],
    }
    return "; ".join(f"{listed(paths)} {'were' if paths[1:] else 'was'} {kind}" for kind, paths in kinds.items() if paths)


def _terminate(number: int, frame: object) -> None:
    raise Terminated


def _attempt(action: Callable[[], None]) -> bool:
    """Do what may fail without being the error that is told: a warning says why. Returns whether it was done."""
    try:
        action()
    except Exception as error:  # noqa: BLE001 # whatever it is, it must not take the place of the first one
        log.warning("%s", one_line(error))
        return False
    return True


def _status(interruption: KeyboardInterrupt) -> int:
    return 128 + (signal.SIGTERM if isinstance(interruption, Terminated) else signal.SIGINT)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line. Returns the exit status: 0, 1 after an error, 130 after Ctrl-C, 143 after SIGTERM."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    # So that a job that is stopped by its system leaves what one leaves that is stopped by Ctrl-C.
    signal.signal(signal.SIGTERM, _terminate)
    parser = build_parser()
    args = parser.parse_args(_with_negative_ranges(sys.argv[1:] if arguments is None else arguments))
    if args.output is None and not args.grid:
        parser.error("the following arguments are required: --output")
    try:
        return write_grid(args) if args.grid else _run(args)
    except (OSError, ValueError, IndexError, KeyError) as error:
        message = error.args[0] if isinstance(error, KeyError) else error
        log.error("error: %s", one_line(str(message)))
        return 1
    except KeyboardInterrupt as interruption:
        log.info("interrupted")
        return _status(interruption)


def write_grid(args: argparse.Namespace) -> int:
    """Write a frame with the coordinates of its pixels, as VIDEO-FRAME-grid.png in --output, by default the working directory.
    Returns the exit status."""
    frames = open_frames(args.video, args.value_range)
    if not frames.has(args.frame):
        raise frames.no_frame(args.frame)
    path = (args.output or Path()) / f"{Path(args.video).resolve().stem}-{args.frame:05d}-grid.png"
    make_room_for(path)
    with atomic_write(path) as temporary:
        Image.fromarray(draw_grid(frames[args.frame])).save(temporary, format="PNG")
    log.info("frame %d, %dx%d pixels, is drawn with a grid in %s", args.frame, *frames.size, path)
    return 0


def _run(args: argparse.Namespace) -> int:
    device = device_of_option(args.device)
    overrides = [f"++predictor.precision={args.precision}"] if args.precision else []
    weights = args.checkpoint
    if args.untrained:
        overrides.append("++checkpoint=null")
    elif weights is None and (weights := weights_of(args.config)) is None:
        raise ValueError(
            f"no weights come with the config {args.config!r}: give --checkpoint FILE, or --untrained for random ones"
        )
    if args.max_frames is not None and args.max_frames < 1:
        raise ValueError(f"--max-frames must be at least 1, got {args.max_frames}")
    prompts = parse_prompts(args.point, args.box, args.mask, args.void)
    frames = open_frames(args.video, args.value_range)
    check_prompts(frames, prompts)
    settings = make_settings(args, frames, weights)
    writer = ResultWriter(args.output, Path(args.video).stem, frames, prompts, settings, args.resume)
    with torch.random.fork_rng(enabled=args.untrained, devices=[]):
        if args.untrained:
            log.info("--untrained: the weights are random, so that the masks mean nothing")
            torch.random.default_generator.manual_seed(args.seed)
        predictor = build_i2v_video_predictor(args.config, weights, device, hydra_overrides_extra=overrides)
    directions = (False, True) if args.both else (args.reverse,)
    status, is_finished = 0, True
    with predictor.init_state(frames, seed=args.seed) as state:
        for (frame, obj_id), prompt in sorted(prompts.items()):
            predictor.add_prompt(state, frame, obj_id, prompt)
        tracking = Tracking(predictor, state, directions, args.max_frames, writer.session)
        writer.require(tracking.tracked())
        try:
            for result in tracking:
                writer.add(*result)
        except BaseException as error:
            if writer.num_frames:
                is_saved = _attempt(tracking.save)
                log.info(
                    "%s: writing what is finished; --resume goes on from %s",
                    "interrupted" if isinstance(error, KeyboardInterrupt) else "stopped by an error",
                    "there" if is_saved else "where it was saved before" if writer.session.exists() else "the start",
                )
                is_finished = _attempt(partial(writer.finish, state.loader.decoded))
            if not isinstance(error, KeyboardInterrupt):
                raise
            status = _status(error)
        else:
            _attempt(tracking.save)  # so that nothing is tracked again where what follows fails
            writer.finish(state.loader.decoded)
            writer.forget_progress()
    if writer.num_frames and is_finished:
        for obj_id in writer.empty_objects():
            log.warning("object %d: its mask is empty in every frame", obj_id)
        log.info("masks, overlay.mp4 and masklets.json of %d frames are in %s", writer.num_frames, args.output)
    return status


if __name__ == "__main__":
    sys.exit(main())
