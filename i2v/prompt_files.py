"""Files of prompts: what a person did to a video on the page, as JSON, to be done again by `i2v.segment --prompts`."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from i2v.data.files import listed, read_json
from i2v.data.frames import Frames
from i2v.data.rle import check_mask_size, mask_to_rle, rle_to_mask
from i2v.prompt import NEGATIVE, POSITIVE, Prompt
from i2v.prompt_arguments import Prompts
from i2v.utils.files import atomic_write
from i2v.utils.json_form import NUMBER, require_form


@dataclass(frozen=True)
class NamedObject:
    """An object.

    Attributes:
        obj_id (int): its number, 1 to 255.
        name (str): its name.
        colour (tuple[int, int, int]): its RGB colour, 0 to 255 each.
    """

    obj_id: int
    name: str
    colour: tuple[int, int, int]


@dataclass(frozen=True, eq=False)
class PromptStep:
    """A prompt, which replaces the one that the object has in the frame."""

    frame: int
    obj_id: int
    prompt: Prompt


@dataclass(frozen=True)
class ClearStep:
    """The prompt of an object in a frame is taken back."""

    frame: int
    obj_id: int


@dataclass(frozen=True)
class RemoveStep:
    """An object is removed."""

    obj_id: int


@dataclass(frozen=True)
class TrackStep:
    """All objects are tracked.

    Attributes:
        start (int): index of the first frame.
        frames (int): largest number of frames, including the first one; tracking ends with the video.
        reverse (bool): whether they are tracked backward.
    """

    start: int
    frames: int
    reverse: bool


Step = PromptStep | ClearStep | RemoveStep | TrackStep


@dataclass(frozen=True, eq=False)
class PromptFile:
    """The content of a file of prompts.

    Attributes:
        objects (Sequence[NamedObject]): the objects that exist after the last step.
        steps (Sequence[Step]): what was done, in order.
    """

    objects: Sequence[NamedObject]
    steps: Sequence[Step]

    @property
    def is_replay(self) -> bool:
        """Whether it says what is tracked when, and not only prompts."""
        return any(isinstance(step, TrackStep) for step in self.steps)

    def prompts(self) -> Prompts:
        """The prompts that are left after the last step, by frame and object."""
        left: Prompts = {}
        for step in self.steps:
            if isinstance(step, PromptStep):
                left[step.frame, step.obj_id] = step.prompt
            elif isinstance(step, ClearStep):
                left.pop((step.frame, step.obj_id), None)
            elif isinstance(step, RemoveStep):
                left = {key: prompt for key, prompt in left.items() if key[1] != step.obj_id}
        return left

    def colours(self) -> dict[int, tuple[int, int, int]]:
        """The colours of the objects."""
        return {obj.obj_id: obj.colour for obj in self.objects}


def without_idle_steps(steps: Sequence[Step]) -> list[Step]:
    """The steps but those that find nothing to clear, remove or track, as steps that were undone may leave behind."""
    kept: list[Step] = []
    prompted: dict[int, set[int]] = {}
    for step in steps:
        if isinstance(step, PromptStep):
            prompted.setdefault(step.obj_id, set()).add(step.frame)
        elif isinstance(step, TrackStep):
            if not any(prompted.values()):
                continue
        elif step.obj_id not in prompted:
            continue
        elif isinstance(step, ClearStep):
            prompted[step.obj_id].discard(step.frame)
        else:
            del prompted[step.obj_id]
        kept.append(step)
    return kept


def write_prompt_file(path: Path, name: str, frames: Frames, content: PromptFile) -> None:
    """Write a file of prompts atomically.

    Args:
        path (Path): path of the file.
        name (str): name of the video.
        frames (Frames): the video.
        content (PromptFile): the content.

    Raises:
        OSError: the file cannot be written.
    """
    data = {
        "video": {"name": name, **_video(frames)},
        "objects": [
            {"id": obj.obj_id, "name": obj.name, "colour": "#{:02x}{:02x}{:02x}".format(*obj.colour)} for obj in content.objects
        ],
        "steps": [step_to_json(step) for step in content.steps],
    }
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(data))


def _video(frames: Frames) -> dict[str, int]:
    return {"width": frames.width, "height": frames.height, "num_frames": frames.count()}


def step_to_json(step: Step) -> dict[str, Any]:
    """A step as it stands in the file."""
    if isinstance(step, TrackStep):
        return {"track": {"start": step.start, "frames": step.frames, "reverse": step.reverse}}
    if isinstance(step, RemoveStep):
        return {"remove": {"object": step.obj_id}}
    where = {"object": step.obj_id, "frame": step.frame}
    if isinstance(step, ClearStep):
        return {"clear": where}
    prompt = step.prompt
    return {
        "prompt": where
        | {
            "points": [list(click) for click in prompt.clicks],
            "box": None if prompt.box is None else prompt.box.tolist(),
            "mask": None if prompt.mask is None else mask_to_rle(prompt.mask.numpy()),
        }
    }


def read_prompt_file(path: Path, frames: Frames) -> PromptFile:
    """Read a file of prompts, and check that it can be applied to a video.

    Args:
        path (Path): path of the file.
        frames (Frames): the video.

    Raises:
        ValueError: the file is missing, corrupt or of another form; it belongs to a video of another size or length; a step
            names an unknown object or frame, a place outside of the frame or a mask of another size, or there is nothing that
            it could clear or track. The message names the file, and the step's number, from 1.
    """
    data = read_json(path)
    named = {"id": int, "name": str, "colour": str}
    video: dict[str, Any] = {"name": str, "width": int, "height": int, "num_frames": int}
    require_form(data, {"video": video, "objects": [named], "steps": [dict]}, str(path))
    for key, value in _video(frames).items():
        if data["video"][key] != value:
            raise ValueError(
                f"{path} belongs to another video than {frames.name}: its {key} is {data['video'][key]}, not {value}"
            )
    objects = [_object(entry, f"{path}: 'objects', entry {number}") for number, entry in enumerate(data["objects"])]
    if len({obj.obj_id for obj in objects}) < len(objects):
        raise ValueError(f"{path}: 'objects' has a number twice: {listed([obj.obj_id for obj in objects])}")
    steps: list[Step] = []
    for number, entry in enumerate(data["steps"], start=1):
        with _named(f"{path}, step {number}"):
            steps.append(parse_step(entry, frames))
    _check_order(steps, {obj.obj_id for obj in objects}, path)
    return PromptFile(objects, steps)


@contextmanager
def _named(where: str) -> Iterator[None]:
    """Add to an error in a file where it is."""
    try:
        yield
    except (ValueError, TypeError, LookupError, OverflowError, MemoryError) as error:
        raise ValueError(f"{where}: {error}") from error


def _object(entry: dict[str, Any], where: str) -> NamedObject:
    with _named(where):
        colour = re.fullmatch("#" + 3 * "([0-9a-fA-F]{2})", entry["colour"])
        if colour is None:
            raise ValueError(f"its colour is {entry['colour']!r}, expected one such as '#ff8000'")
        red, green, blue = (int(digits, 16) for digits in colour.groups())
        return NamedObject(_obj_id(entry["id"]), entry["name"], (red, green, blue))


def _obj_id(number: int) -> int:
    if not 0 < number < 256:
        raise ValueError(f"objects are numbered from 1 to 255, not {number}")
    return number


def parse_step(entry: dict[str, Any], frames: Frames) -> Step:
    """A step, whose frames and coordinates are checked."""
    if len(entry) != 1 or (kind := next(iter(entry))) not in _KINDS:
        found = listed([repr(key) for key in entry]) or "nothing"
        raise ValueError(f"expected one of {', '.join(map(repr, _KINDS))}, got {found}")
    form, read = _KINDS[kind]
    content = entry[kind]
    require_form(content, form, repr(kind))
    for key in ("frame", "start"):
        if key in form and not frames.has(content[key]):
            raise frames.missing_frame_error(content[key])
    if "object" in form:
        _obj_id(content["object"])
    return read(content, frames)


def _prompt(content: dict[str, Any], frames: Frames) -> PromptStep:
    points, box, mask = (content.get(key) for key in ("points", "box", "mask"))
    points = [] if points is None else points
    require_form(points, [[NUMBER]], "'points'")
    for point in points:
        if len(point) != 3 or point[2] not in (POSITIVE, NEGATIVE):
            raise ValueError(f"a point is [x, y, label] with label 1 (foreground) or 0 (background), not {point}")
    if box is not None:
        require_form(box, [NUMBER], "'box'")
    if mask is not None:
        require_form(mask, {"size": [int], "counts": (str, list)}, "'mask'")
        check_mask_size(tuple(mask["size"]), (frames.height, frames.width))
    xy, labels = ([(x, y) for x, y, _ in points], [label for *_, label in points]) if points else (None, None)
    prompt = Prompt(xy, labels, box, None if mask is None else rle_to_mask(mask))
    prompt.check(frames.size)
    return PromptStep(content["frame"], content["object"], prompt)


def _tracking(content: dict[str, Any], _: Frames) -> TrackStep:
    if content["frames"] < 1:
        raise ValueError(f"the number of frames to track must be at least 1, not {content['frames']}")
    return TrackStep(content["start"], content["frames"], content["reverse"])


# Form, and function that reads it, by kind of step.
_KINDS: dict[str, tuple[dict[str, Any], Callable[[dict[str, Any], Frames], Step]]] = {
    "prompt": ({"object": int, "frame": int}, _prompt),
    "clear": ({"object": int, "frame": int}, lambda content, _: ClearStep(content["frame"], content["object"])),
    "remove": ({"object": int}, lambda content, _: RemoveStep(content["object"])),
    "track": ({"start": int, "frames": int, "reverse": bool}, _tracking),
}


def _check_order(steps: Sequence[Step], obj_ids: set[int], path: Path) -> None:
    """Check that each step has what it needs from those before, and that the objects that are left at the end are named."""
    prompted: dict[int, set[int]] = {}  # frames by object
    added: dict[int, int] = {}  # number of the step that made an object
    for number, step in enumerate(steps, start=1):
        with _named(f"{path}, step {number}"):
            if isinstance(step, TrackStep):
                if not any(prompted.values()):
                    raise ValueError("there is nothing to track: no object has a prompt")
                continue
            if isinstance(step, PromptStep):
                prompted.setdefault(step.obj_id, set()).add(step.frame)
                added.setdefault(step.obj_id, number)
                continue
            if step.obj_id not in prompted:
                raise ValueError(f"object {step.obj_id} has no prompt before this step")
            if isinstance(step, ClearStep):
                prompted[step.obj_id].discard(step.frame)
            else:
                del prompted[step.obj_id], added[step.obj_id]
    for obj_id in prompted.keys() - obj_ids:
        raise ValueError(f"{path}, step {added[obj_id]}: object {obj_id} is not among the file's 'objects'")
    if not any(prompted.values()):
        raise ValueError(f"{path}: no prompt is left after the last step, so there is nothing to segment")
