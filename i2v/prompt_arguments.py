"""Prompts on the command line: --point, --box and --mask."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from i2v.data.files import listed
from i2v.data.frames import Frames
from i2v.data.mask_files import labels_in, open_labels
from i2v.prompt import NEGATIVE, POSITIVE, Prompt

POINT_FORM, BOX_FORM, MASK_FORM = "FRAME,X,Y[,LABEL][@OBJ]", "FRAME,X0,Y0,X1,Y1[@OBJ]", "FRAME,PNG[@OBJ]"

Prompts = dict[tuple[int, int], Prompt]  # by frame and object


def parse_prompts(points: Sequence[str], boxes: Sequence[str], masks: Sequence[str], void: int | None = None) -> Prompts:
    """Parse the arguments --point, --box and --mask.

    Args:
        points (Sequence[str]): "FRAME,X,Y[,LABEL][@OBJ]" each.
        boxes (Sequence[str]): "FRAME,X0,Y0,X1,Y1[@OBJ]" each.
        masks (Sequence[str]): "FRAME,PNG[@OBJ]" each.
        void (int or None): label of pixels of masks that belong to no object; none by default.

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
        raise ValueError("nothing to segment: give at least one --point, --box or --mask, or --prompts")
    prompts = {}
    for key, arguments in given.items():
        with _named(*key):
            prompts[key] = Prompt(**arguments)
    return prompts


def _parse_point(text: str) -> tuple[int, int, tuple[float, float, int]]:
    """Frame, object, and (x, y, label) of a --point."""
    form = f"--point {POINT_FORM}"
    frame, obj_id, fields = _split(text, form, (3, 4))
    x, y, *label = _numbers(text, form, fields)
    if label and label[0] not in (POSITIVE, NEGATIVE):
        raise ValueError(f"{text!r}: LABEL is 1 (foreground) or 0 (background)")
    return frame, obj_id or 1, (x, y, int(label[0]) if label else POSITIVE)


def _parse_box(text: str) -> tuple[int, int, list[float]]:
    """Frame, object, and (x0, y0, x1, y1) of a --box."""
    form = f"--box {BOX_FORM}"
    frame, obj_id, fields = _split(text, form, (5,))
    return frame, obj_id or 1, _numbers(text, form, fields)


def parse_mask_argument(text: str) -> tuple[int, int | None, str]:
    """Frame, object if it is given, and path of a --mask."""
    # A path may contain commas and @: only what is before and after it is split off.
    frame, obj_id, fields = _split(text, f"--mask {MASK_FORM}", range(2, 100))
    path = ",".join(fields)
    if not path.strip():
        raise ValueError(f"{text!r}: the file name in --mask {MASK_FORM} is empty")
    return frame, obj_id, path


def _read_mask(text: str, void: int | None) -> tuple[int, dict[int, np.ndarray]]:
    """Frame and masks (height, width) bool by object of a --mask."""
    frame, obj_id, path = parse_mask_argument(text)
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
            raise frames.missing_frame_error(frame)
        with _named(frame, obj_id):
            prompt.check(frames.size)  # a mask of another size is more likely that of another video than one to resize
