"""What undo and redo need."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from i2v.app.store import MaskRow
from i2v.inference.state import TrackedObject


@dataclass
class SessionObject:
    """An object as the user sees it.

    Attributes:
        name (str): its name.
        colour (str): "#rrggbb".
        hidden (bool): whether its masks are neither shown nor exported.
        prompts (dict[int, dict]): its prompts by frame, as in the steps of `i2v.prompt_files`.
    """

    name: str
    colour: str
    hidden: bool = False
    prompts: dict[int, dict[str, Any]] = field(default_factory=dict)


@dataclass
class Snapshot:
    """An object at one moment: all of it, or what belongs to one frame.

    Attributes:
        item (SessionObject or None): the object; None if there is none.
        tracked (TrackedObject or None): what the network remembers of it, if anything.
        row (MaskRow or None): its mask in the frame.
    """

    item: SessionObject | None
    tracked: TrackedObject | None
    row: MaskRow | None


@dataclass
class Change:
    """A change that can be undone, or redone.

    Attributes:
        text (str): what it was, for the user.
        object (int): the object's id.
        frame (int): the frame to show.
        whole (bool): whether the snapshot is of the whole object.
        other (Snapshot): the object before the change; once that is undone, after it.
        number (int): number of the session's change by which it was done, undone or redone last.
        outdated (set[int]): the frames whose masks went out of date then.
        step (dict): what a replay does for it.
        steps (tuple[list[dict], list[dict]]): all steps before and after it was undone.
    """

    text: str
    object: int
    frame: int
    whole: bool
    other: Snapshot
    number: int
    outdated: set[int]
    step: dict[str, Any]
    steps: tuple[list[dict[str, Any]], list[dict[str, Any]]] = ([], [])


def dependent_frames(marks: dict[int, MaskRow], frame: int, prompted: set[int], is_conditioning: bool) -> set[int]:
    """The tracked frames of an object that are up to date and depend on its mask in a frame.

    These are the frames after it, in the direction in which they were tracked, if that was its own direction or they were
    tracked later. A conditioning frame is remembered in all frames that were tracked later, also in those before it.

    Args:
        marks (dict[int, MaskRow]): the object's masks by frame.
        frame (int): index of the frame.
        prompted (set[int]): frames in which the object is prompted.
        is_conditioning (bool): whether the frame is a conditioning frame of the object.
    """
    own = marks.get(frame)

    def depends(t: int, mark: MaskRow) -> bool:
        is_after = t < frame if mark.reverse else t > frame
        is_later = own is not None and mark.change > own.change
        if own is None or is_conditioning:
            return is_after or is_later
        return is_after and (is_later or mark.reverse == own.reverse)

    return {t for t, mark in marks.items() if t != frame and t not in prompted and not mark.outdated and depends(t, mark)}
