"""The command line: segment objects in a video.

python -m i2v.segment bunny.mp4 --checkpoint sam_i2v.pt --point 0,320,180 --output out
"""

from __future__ import annotations

import argparse
import json
import logging
import re
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pycocotools import mask as coco_mask
from torch import Tensor
from tqdm import tqdm

from i2v.build_i2v import DEFAULT_CONFIG, build_i2v_video_predictor, known_configs, load_config
from i2v.data.files import listed
from i2v.data.frames import Frames, open_frames
from i2v.data.images import ValueRange
from i2v.data.mask_files import labels_in, open_labels, read_labels, save_label_image
from i2v.data.rle import mask_to_rle
from i2v.i2v_video_predictor import I2VVideoPredictor
from i2v.inference.prompts import check_mask, make_points_prompt
from i2v.inference.state import VideoState
from i2v.modeling.layers import PRECISIONS
from i2v.utils.files import atomic_write
from i2v.utils.masks import masks_to_labels
from i2v.utils.visualization import DrawnPrompt, VideoWriter, draw_overlay

log = logging.getLogger("i2v.segment")


@dataclass
class UserPrompt:
    """All that was given for one object in one frame, in pixels of the video."""

    points: list[tuple[float, float, int]] = field(default_factory=list)
    box: tuple[float, float, float, float] | None = None
    mask: np.ndarray | None = None

    def arguments(self) -> tuple[list[tuple[float, float]] | None, list[int] | None, tuple[float, ...] | None]:
        """Points, labels and box as the predictor takes them."""
        return [point[:2] for point in self.points] or None, [point[2] for point in self.points] or None, self.box


Prompts = dict[tuple[int, int], UserPrompt]  # by frame and object

_POINT, _BOX, _MASK = "FRAME,X,Y[,LABEL][@OBJ]", "FRAME,X0,Y0,X1,Y1[@OBJ]", "FRAME,PNG[@OBJ]"


class Terminated(KeyboardInterrupt):
    """The system stops the process (SIGTERM)."""


def parse_prompts(points: Sequence[str], boxes: Sequence[str], masks: Sequence[str], void: int | None = None) -> Prompts:
    """Parse the arguments --point, --box and --mask.

    Args:
        points: "FRAME,X,Y[,LABEL][@OBJ]".
        boxes: "FRAME,X0,Y0,X1,Y1[@OBJ]".
        masks: "FRAME,PNG[@OBJ]".
        void: the label of pixels of masks that belong to no object; none by default.

    Raises:
        ValueError: an argument of another form, two boxes or masks for one object in one frame, a mask together with points
            or a box, a mask that is not an image, or one of several objects with @OBJ.
        FileNotFoundError: no such mask.
    """
    prompts: Prompts = {}

    def prompt_of(frame: int, obj_id: int | None) -> UserPrompt:
        return prompts.setdefault((frame, obj_id or 1), UserPrompt())

    def split(text: str, form: str, counts: Sequence[int]) -> tuple[int, int | None, list[str]]:
        match = re.fullmatch(r"(.*?)(?:@(\d+))?", text)
        fields = match[1].split(",")
        obj_id = int(match[2]) if match[2] else None
        if len(fields) not in counts or not fields[0].strip().isdecimal() or obj_id not in (None, *range(1, 256)):
            raise malformed(text, form)
        return int(fields[0]), obj_id, fields[1:]

    def malformed(text: str, form: str) -> ValueError:
        return ValueError(f"{text!r} is not of the form {form}, with FRAME from 0 and OBJ from 1 to 255")

    def numbers(text: str, form: str, fields: Sequence[str]) -> list[float]:
        try:
            return [float(value) for value in fields]
        except ValueError as error:
            raise malformed(text, form) from error

    for text in points:
        form = f"--point {_POINT}"
        frame, obj_id, fields = split(text, form, (3, 4))
        x, y, *label = numbers(text, form, fields)
        if label and label[0] not in (0, 1):
            raise ValueError(f"{text!r}: LABEL is 1 (foreground) or 0 (background)")
        prompt_of(frame, obj_id).points.append((x, y, int(label[0]) if label else 1))
    for text in boxes:
        form = f"--box {_BOX}"
        frame, obj_id, fields = split(text, form, (5,))
        prompt = prompt_of(frame, obj_id)
        if prompt.box is not None:
            raise ValueError(f"{text!r} is a second box for one object in one frame")
        prompt.box = tuple(numbers(text, form, fields))
    for text in masks:
        # A path may have commas and @ in it, so that only its ends are looked at.
        frame, obj_id, fields = split(text, f"--mask {_MASK}", range(2, 100))
        path = ",".join(fields)
        image = open_labels(path, void)
        values = labels_in(image)
        labels = np.asarray(image)
        if obj_id is not None and len(values) > 1:
            raise ValueError(f"{text!r} holds several objects, with labels {listed(values)}: leave out @OBJ, or give one mask")
        if obj_id is None and (len(values) > 1 or (image.mode == "P" and values)):
            if values[-1] > 255:
                raise ValueError(f"{text!r} has labels above 255, for which there are no objects")
            masks_by_object = {value: labels == value for value in values}
        else:
            masks_by_object = {obj_id or 1: labels > 0}
        for number, mask in masks_by_object.items():
            prompt = prompt_of(frame, number)
            if prompt.mask is not None:
                raise ValueError(f"{text!r} is a second mask for object {number} in one frame")
            if prompt.points or prompt.box:
                raise ValueError(f"{text!r}: give an object in one frame either a mask, or points and a box")
            prompt.mask = mask
    if not prompts:
        raise ValueError("nothing to segment: give at least one --point, --box or --mask")
    return prompts


def check_prompts(frames: Frames, prompts: Prompts) -> None:
    """Raise a ValueError or IndexError for what the predictor would refuse, before there is one."""
    for (frame, _), prompt in prompts.items():
        if not frames.has(frame):
            raise frames.no_frame(frame)
        if prompt.mask is not None:
            check_mask(prompt.mask, frames.size)
        else:
            make_points_prompt(*prompt.arguments(), frames.size, image_size=1)


def add_prompts(predictor: I2VVideoPredictor, state: VideoState, prompts: Prompts) -> None:
    """Give a user's prompts to the predictor."""
    for (frame, obj_id), prompt in sorted(prompts.items()):
        if prompt.mask is not None:
            predictor.add_new_mask(state, frame, obj_id, prompt.mask)
            continue
        points, labels, box = prompt.arguments()
        predictor.add_new_points_or_box(state, frame, obj_id, points=points, labels=labels, box=box)


class ResultWriter:
    """Writes the results of one video.

    Every mask is written at once, so that what was finished is there whatever happens; `finish` adds the overlay and the JSON.

    Args:
        folder: where `masks/`, `overlay.mp4` and `masklets.json` go. name: of the video. frames: its size, length and rate.

    Raises:
        FileExistsError: the folder holds results already, or is a file.
    """

    def __init__(self, folder: Path, name: str, frames: Frames, prompts: Prompts) -> None:
        self.folder = folder
        self.masks = folder / "masks"
        self._overlay = folder / "overlay.mp4"
        self._json = folder / "masklets.json"
        self._name = name
        self._frames = frames
        self._prompts = prompts
        self._rles: dict[int, dict[int, dict[str, Any]]] = {}
        former = [*self.masks.glob("*"), *(path for path in (self._overlay, self._json) if path.exists())]
        if former:
            raise FileExistsError(f"{folder} has results in it ({former[0].name}): choose another --output, or remove them")
        if folder.exists() and not folder.is_dir():
            raise FileExistsError(f"{folder} is a file: choose another --output")
        self.masks.mkdir(parents=True, exist_ok=True)

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
        logits = mask_logits[:, 0].float().cpu().numpy()
        save_label_image(self.masks / f"{frame:05d}.png", masks_to_labels(logits, obj_ids))
        self._rles[frame] = {obj_id: mask_to_rle(mask > 0) for obj_id, mask in zip(obj_ids, logits, strict=True)}

    def finish(self, read_frame: Callable[[int], np.ndarray]) -> None:
        """Write the overlay and the JSON of all frames that were added.

        Args:
            read_frame: gives a frame of the video, (H, W, 3) uint8 RGB.
        """
        if not self._rles:
            return
        self._write_json()
        rate = self._frames.frames_per_second
        with VideoWriter(self._overlay, rate, self._frames.width, self._frames.height) as video:
            for frame in sorted(self._rles):
                labels = read_labels(self.masks / f"{frame:05d}.png").astype(np.uint8)
                drawn = [
                    DrawnPrompt(obj_id, prompt.points, prompt.box)
                    for (prompted, obj_id), prompt in self._prompts.items()
                    if prompted == frame
                ]
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


def track(
    predictor: I2VVideoPredictor, state: VideoState, directions: Sequence[bool], max_frames: int | None
) -> Iterator[tuple[int, list[int], Tensor]]:
    """Track in the given directions (True is backward), each frame with a progress bar."""
    for reverse in directions:
        prompted = [frame for obj in state.objects.values() for frame in obj.prompts]
        start = max(prompted) if reverse else min(prompted)
        length = start + 1 if reverse else state.frames.count() - start
        if max_frames is not None:
            length = min(length, max_frames)
        results = predictor.propagate_in_video(state, start, length - 1, reverse)
        yield from tqdm(results, total=length, desc="backward" if reverse else "forward", unit="frame")


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
    parser.add_argument("--void", type=int, metavar="LABEL", help="label of pixels of masks that belong to no object, as 255")
    parser.add_argument(
        "--value-range",
        type=_value_range,
        metavar="LOW,HIGH",
        help='what becomes black and white in grey frames of more than 8 bits, or "data" for the smallest and largest value in '
        "them; by default the range of their type",
    )
    parser.add_argument("--output", metavar="DIR", type=Path, required=True, help="a new folder for the results")
    parser.add_argument("--device", help="cuda, mps or cpu; by default the first that there is")
    parser.add_argument("--precision", choices=list(PRECISIONS), help="of the matrix products; by default the config's")
    direction = parser.add_mutually_exclusive_group()
    direction.add_argument("--reverse", action="store_true", help="track backward from the last prompted frame")
    direction.add_argument("--both", action="store_true", help="track forward, then backward")
    parser.add_argument("--max-frames", type=int, help="track at most this many frames in a direction")
    parser.add_argument("--seed", type=int, default=0, help="of the memory selection, and of --untrained weights")
    return parser


def _value_range(text: str) -> ValueRange:
    if text == "data":
        return text
    try:
        low, high = map(float, text.split(","))
    except ValueError as error:
        raise argparse.ArgumentTypeError(f'expected two numbers, such as 0,4095, or "data", got {text!r}') from error
    return low, high


def _terminate(number: int, frame: object) -> None:
    raise Terminated


def _status(interruption: KeyboardInterrupt) -> int:
    return 128 + (signal.SIGTERM if isinstance(interruption, Terminated) else signal.SIGINT)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line. Returns the exit status: 0, 1 after an error, 130 after Ctrl-C, 143 after SIGTERM."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    # So that a job that is stopped by its system leaves what one leaves that is stopped by Ctrl-C.
    signal.signal(signal.SIGTERM, _terminate)
    args = build_parser().parse_args(arguments)
    try:
        return _run(args)
    except (OSError, ValueError, IndexError, KeyError) as error:
        message = error.args[0] if isinstance(error, KeyError) else error
        log.error("error: %s", message)
        return 1
    except KeyboardInterrupt as interruption:
        log.info("interrupted")
        return _status(interruption)


def _run(args: argparse.Namespace) -> int:
    overrides = [f"++predictor.precision={args.precision}"] if args.precision else []
    if args.untrained:
        overrides.append("++checkpoint=null")
    elif args.checkpoint is None and load_config(args.config).get("checkpoint") is None:
        raise ValueError(
            f"no weights come with the config {args.config!r}: give --checkpoint FILE, or --untrained for random ones"
        )
    if args.max_frames is not None and args.max_frames < 1:
        raise ValueError(f"--max-frames must be at least 1, got {args.max_frames}")
    prompts = parse_prompts(args.point, args.box, args.mask, args.void)
    frames = open_frames(args.video, args.value_range)
    check_prompts(frames, prompts)
    writer = ResultWriter(args.output, Path(args.video).stem, frames, prompts)
    with torch.random.fork_rng(enabled=args.untrained, devices=[]):
        if args.untrained:
            log.info("--untrained: the weights are random, so that the masks mean nothing")
            torch.random.default_generator.manual_seed(args.seed)
        predictor = build_i2v_video_predictor(args.config, args.checkpoint, args.device, hydra_overrides_extra=overrides)
    state = predictor.init_state(frames, seed=args.seed)
    add_prompts(predictor, state, prompts)
    directions = (False, True) if args.both else (args.reverse,)
    status = 0
    try:
        for result in track(predictor, state, directions, args.max_frames):
            writer.add(*result)
    except KeyboardInterrupt as interruption:
        log.info("interrupted: writing what is finished")
        status = _status(interruption)
    finally:
        writer.finish(state.loader.decoded)
    if writer.num_frames:
        for obj_id in writer.empty_objects():
            log.warning("object %d: its mask is empty in every frame", obj_id)
        log.info("masks, overlay.mp4 and masklets.json of %d frames are in %s", writer.num_frames, args.output)
    return status


if __name__ == "__main__":
    sys.exit(main())
