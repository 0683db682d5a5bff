"""A session of the page: objects, prompts, undo, tracking, and the masks of one video."""

from __future__ import annotations

import io
import logging
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor

from i2v.app.scheduler import Priority, Scheduler
from i2v.app.store import MaskRow, SessionStore
from i2v.data.files import named_errors
from i2v.data.frames import Frames
from i2v.data.mask_files import davis_palette
from i2v.data.rle import mask_to_rle, rle_to_mask
from i2v.i2v_video_predictor import I2VVideoPredictor
from i2v.inference.memory_bank import FrameOutput, MemoryBank
from i2v.inference.session_file import plain, restored
from i2v.inference.state import TrackedObject
from i2v.prompt import NetworkPrompt, Prompt
from i2v.prompt_files import (
    ClearStep,
    NamedObject,
    PromptFile,
    PromptStep,
    RemoveStep,
    Step,
    TrackStep,
    parse_step,
    step_to_json,
    without_idle_steps,
)
from i2v.utils.command_line import EXPECTED_ERRORS, one_line
from i2v.utils.masks import masks_to_labels

log = logging.getLogger(__name__)

MAX_OBJECTS = 100
MAX_NAME = 100  # characters
_MAX_UNDO = 100  # changes
# Seconds over which the speed of a job is averaged.
_SPEED_SECONDS = 5

Event = dict[str, Any]


class ConflictError(ValueError):
    """What was asked for does not fit the session's present state."""


@dataclass
class SessionObject:
    """An object as the user sees it.

    Attributes:
        name (str): its name.
        colour (str): "#rrggbb".
        hidden (bool): whether its masks are shown and exported.
        prompts (dict[int, Prompt]): its prompts by frame.
    """

    name: str
    colour: str
    hidden: bool = False
    prompts: dict[int, Prompt] = field(default_factory=dict)


@dataclass
class Mark:
    """What the timeline shows of a mask; see `MaskRow`."""

    area: float
    confidence: float
    outdated: bool
    reverse: bool
    change: int


@dataclass
class Snapshot:
    """An object before or after a change: all of it, or what belongs to one frame.

    Attributes:
        item (SessionObject or None): the object; None if there is none.
        tracked (TrackedObject or None): what the network remembers of it, restricted to the frame, if there is one.
        row (MaskRow or None): its mask in the frame.
    """

    item: SessionObject | None
    tracked: TrackedObject | None
    row: MaskRow | None


@dataclass
class Change:
    """A change that can be undone.

    Attributes:
        text (str): what it was, for the user.
        object (int): the object's id.
        frame (int): the frame to show.
        whole (bool): whether the snapshots are of the whole object.
        before (Snapshot): the object before it.
        after (Snapshot): the object after it.
        number (int): number of the session's change by which it was done, undone or redone last.
        outdated (set[int]): the frames whose masks went out of date then.
        step (Step): what a replay does for it.
        steps (tuple[list[Step], list[Step]]): all steps before and after it was undone.
    """

    text: str
    object: int
    frame: int
    whole: bool
    before: Snapshot
    after: Snapshot
    number: int
    outdated: set[int]
    step: Step
    steps: tuple[list[Step], list[Step]] = ([], [])


class Job:
    """Work of a session that takes long: tracking or an export.

    Args:
        kind (str): "track" or "export".
        total (int): number of frames.
    """

    def __init__(self, kind: str, total: int) -> None:
        self.kind = kind
        self.total = total
        self.done = 0
        self.frame: int | None = None
        self.stopping = False
        self.ended = threading.Event()
        self._times = [time.monotonic()]

    def advance(self, done: int, frame: int | None = None) -> None:
        """Say how many frames are done."""
        self.done, self.frame = done, frame
        now = time.monotonic()
        self._times.append(now)
        while len(self._times) > 2 and now - self._times[0] > _SPEED_SECONDS:
            self._times.pop(0)

    def to_json(self) -> dict[str, Any]:
        """For the page."""
        seconds = self._times[-1] - self._times[0]
        speed = (len(self._times) - 1) / seconds if seconds > 0 else None
        left = (self.total - self.done) / speed if speed else None
        return {
            "kind": self.kind,
            "done": self.done,
            "total": self.total,
            "frame": self.frame,
            "frames_per_second": speed,
            "seconds_left": left,
        }


class AnnotationSession:
    """One video, its objects, prompts and masks.

    Methods that change something run in the scheduler's thread (`run`); all others may be called from any thread.

    Args:
        predictor (I2VVideoPredictor): the predictor, which all sessions share.
        scheduler (Scheduler): the network's thread.
        frames (Frames): the video.
        name (str): name of the video.
        store (SessionStore): where the session is kept; what it has is restored.
        notify (Callable[[Event], None]): called with each event, in any thread; see docs/page.md.

    Raises:
        ValueError: the stored session is damaged, or belongs to another video.
    """

    def __init__(
        self,
        predictor: I2VVideoPredictor,
        scheduler: Scheduler,
        frames: Frames,
        name: str,
        store: SessionStore,
        notify: Callable[[Event], None],
    ) -> None:
        self.name = name
        self.frames = frames
        self.store = store
        self.job: Job | None = None
        self._predictor = predictor
        self._scheduler = scheduler
        self._notify = notify
        self._lock = threading.RLock()
        self._objects: dict[int, SessionObject] = {}
        self._marks: dict[int, dict[int, Mark]] = {}
        self._done: list[Change] = []
        self._undone: list[Change] = []
        self._problem: str | None = None
        self._wanted: int | None = None  # the frame to encode ahead
        self._change = store.fact("change", 0)
        self._next_id = store.fact("next_id", 1)
        self._steps: list[Step] = []
        self._prompts_json: WeakKeyDictionary[Prompt, dict[str, Any]] = WeakKeyDictionary()
        self._running: TrackStep | None = None  # what was tracked since the last step
        self._state = predictor.init_state(frames)
        try:
            self._restore()
        except BaseException:
            self._state.close()
            raise

    # What the page shows

    def to_json(self) -> dict[str, Any]:
        """The session, but masks and timeline."""
        with self._lock:
            return {
                "name": self.name,
                "width": self.frames.width,
                "height": self.frames.height,
                "num_frames": self.frames.count(),
                "frames_per_second": self.frames.frames_per_second,
                "revision": self._change,
                "objects": [self.object_json(obj) for obj in self._objects],
                "undo": self._done[-1].text if self._done else None,
                "redo": self._undone[-1].text if self._undone else None,
                "job": None if self.job is None else self.job.to_json(),
                "problem": self._problem,
            }

    def object_json(self, obj: int) -> dict[str, Any]:
        """An object with its prompts."""
        item = self._object(obj)
        prompts = [
            {"frame": frame, "points": _clicks(prompt), "box": _box(prompt), "has_mask": prompt.mask is not None}
            for frame, prompt in sorted(item.prompts.items())
        ]
        return {"id": obj, "name": item.name, "colour": item.colour, "hidden": item.hidden, "prompts": prompts}

    def timeline(self) -> dict[str, Any]:
        """Area, confidence and the frames out of date, per object."""
        count = self.frames.count()
        with self._lock:
            objects = {}
            for obj in self._objects:
                marks = self._marks.get(obj, {})
                areas: list[float | None] = [None] * count
                confidences: list[float | None] = [None] * count
                for frame, mark in marks.items():
                    areas[frame], confidences[frame] = round(mark.area, 5), round(mark.confidence, 3)
                outdated = sorted(frame for frame, mark in marks.items() if mark.outdated)
                objects[str(obj)] = {"area": areas, "confidence": confidences, "outdated": outdated}
        return {"objects": objects}

    def masks(self, frame: int) -> dict[str, Any]:
        """The masks of a frame.

        Raises:
            IndexError: no such frame.
        """
        self._check_frame(frame)
        rows = self.store.masks(frame)
        with self._lock:
            objects = {str(row.object): self._mask_json(row) for row in rows if row.object in self._objects}
        return {"frame": frame, "objects": objects}

    def num_masks(self) -> int:
        """Number of masks."""
        with self._lock:
            return sum(len(marks) for obj, marks in self._marks.items() if obj in self._objects)

    # What the results of exports are made of; see i2v.exports.Results

    @property
    def colours(self) -> dict[int, tuple[int, int, int]]:
        """RGB colours by object."""
        with self._lock:
            rgb = {obj: bytes.fromhex(item.colour[1:]) for obj, item in self._objects.items()}
        return {obj: (colour[0], colour[1], colour[2]) for obj, colour in rgb.items()}

    def obj_ids(self) -> list[int]:
        """Ids of the objects that are shown."""
        with self._lock:
            return [obj for obj, item in self._objects.items() if not item.hidden]

    def tracked(self) -> list[int]:
        """Sorted indices of the frames that have masks of them."""
        shown = self.obj_ids()
        with self._lock:
            return sorted({frame for obj in shown for frame in self._marks.get(obj, {})})

    def rles(self, frame: int) -> dict[int, dict[str, Any]]:
        """Their COCO RLEs in a frame."""
        shown = set(self.obj_ids())
        return {row.object: self._rle(row.rle) for row in self.store.masks(frame) if row.object in shown}

    def labels(self, frame: int) -> np.ndarray:
        """A frame's label image, (H, W) uint8; where objects overlap, the one with the largest logit."""
        labels = np.zeros((self.frames.height, self.frames.width), np.uint8)
        shown = set(self.obj_ids())
        rows = [row for row in self.store.masks(frame) if row.object in shown]
        for row in rows:
            labels[rle_to_mask(self._rle(row.visible or row.rle)) > 0] = row.object
        for row in rows:  # where the object that covered it is hidden or was removed
            if row.visible is not None:
                labels[(labels == 0) & (rle_to_mask(self._rle(row.rle)) > 0)] = row.object
        return labels

    def prompts(self, frame: int) -> dict[int, Prompt]:
        """Their prompts in a frame."""
        with self._lock:
            shown = {obj: item for obj, item in self._objects.items() if not item.hidden}
            return {obj: item.prompts[frame] for obj, item in shown.items() if frame in item.prompts}

    def prompt_file(self) -> PromptFile:
        """What was done, so that it can be done again."""
        with self._lock:
            objects = [NamedObject(obj, item.name, self.colours[obj]) for obj, item in self._objects.items()]
            return PromptFile(objects, without_idle_steps(self._steps))

    # Changes, in the scheduler's thread

    def add_object(self) -> dict[str, Any]:
        """Add an object.

        Raises:
            ConflictError: there are too many.
        """
        with self._lock:
            if len(self._objects) >= MAX_OBJECTS or self._next_id > 255:
                raise ConflictError(f"a session has at most {MAX_OBJECTS} objects, and 255 with those that were removed")
            obj, self._next_id = self._next_id, self._next_id + 1
            self._objects[obj] = SessionObject(f"Object {obj}", f"#{bytes(davis_palette()[3 * obj : 3 * obj + 3]).hex()}")
            self._marks[obj] = {}
        self._save()
        return self.object_json(obj)

    def edit_object(self, obj: int, name: str | None, colour: str | None, hidden: bool | None) -> dict[str, Any]:
        """Rename, recolour, hide or show an object; None leaves a property as it is.

        Raises:
            KeyError: no such object.
        """
        with self._lock:
            item = self._object(obj)
            item.name = item.name if name is None else name
            item.colour = item.colour if colour is None else colour
            item.hidden = item.hidden if hidden is None else hidden
        self._save()
        return self.object_json(obj)

    def remove_object(self, obj: int) -> None:
        """Remove an object.

        Raises:
            KeyError: no such object.
        """
        item = self._object(obj)
        frame = min(item.prompts, default=0)
        before = self._snapshot(obj, frame, whole=True)
        self._predictor.remove_object(self._state, obj, need_output=False)
        with self._lock:
            self._change += 1
            del self._objects[obj]
        self._finish_change(f"remove {item.name}", obj, frame, before, set(), RemoveStep(obj), whole=True)
        self._notify({"type": "timeline"})

    def prompt(self, obj: int, frame: int, prompt: Prompt | None) -> None:
        """Set or remove an object's prompt in a frame.

        Args:
            obj (int): the object.
            frame (int): index of the frame.
            prompt (Prompt or None): the prompt; None to remove it.

        Raises:
            KeyError: no such object, or no prompt to remove.
            IndexError: no such frame.
            ValueError: the prompt does not fit the video.
        """
        item = self._object(obj)
        self._check_frame(frame)
        if prompt is None and frame not in item.prompts:
            raise KeyError(f"{item.name} has no prompt in frame {frame}")
        before = self._snapshot(obj, frame, whole=prompt is None)
        outdated = self._dependent(obj, frame)
        if prompt is None:
            self._predictor.clear_all_prompts_in_frame(self._state, frame, obj, need_output=False)
        else:
            self._predictor.add_prompt(self._state, frame, obj, prompt)
        with self._lock:
            self._change += 1
            if prompt is None:
                del item.prompts[frame]
            else:
                item.prompts[frame] = prompt
        self._set_outdated(obj, outdated, True)
        self._record(frame, {obj})
        if prompt is None:
            self._keep_outputs(obj, before.tracked)
        step = ClearStep(frame, obj) if prompt is None else PromptStep(frame, obj, prompt)
        text = f"{_what(prompt)} of {item.name} in frame {frame}"
        self._finish_change(text, obj, frame, before, outdated, step, whole=prompt is None)

    def undo(self) -> int:
        """Undo the last change. Returns the frame to show.

        Raises:
            ConflictError: there is nothing to undo.
        """
        if not self._done:
            raise ConflictError("there is nothing to undo")
        change = self._done.pop()
        former = change.before
        if not change.whole and (former.tracked is None or not former.tracked.bank.conditioning):
            # The object may have nothing left to track it from; then it starts over, as after the removal of its prompt.
            bank = self._state.objects[change.object].bank
            change.whole = bank.conditioning.keys() <= {change.frame}
        if change.whole:
            change.after = self._snapshot(change.object, change.frame, whole=True)
        self._apply(change, former)
        steps = self._flushed_steps()
        self._steps = [step for step in steps if step is not change.step]
        change.steps = steps, self._steps
        self._undone.append(change)
        self._save()
        self._notify({"type": "timeline"})
        return change.frame

    def redo(self) -> int:
        """Redo the change that was undone last. Returns the frame to show.

        Raises:
            ConflictError: there is nothing to redo.
        """
        if not self._undone:
            raise ConflictError("there is nothing to redo")
        change = self._undone.pop()
        if change.whole:
            change.before = self._snapshot(change.object, change.frame, whole=True)
        self._apply(change, change.after)
        former, undone = change.steps
        steps = self._flushed_steps()
        # What was tracked since comes before the change, unless there is nothing.
        self._steps = list(former) if steps == undone else [*steps, change.step]
        self._done.append(change)
        self._save()
        self._notify({"type": "timeline"})
        return change.frame

    def prepare_later(self, frame: int) -> None:
        """Encode a frame ahead of a prompt, when the network has nothing else to do; in any thread.

        Raises:
            IndexError: no such frame.
        """
        self._check_frame(frame)
        self._wanted = frame
        self._scheduler.submit(Priority.PREPARE, self._prepare)

    def _prepare(self) -> None:
        wanted, self._wanted = self._wanted, None
        if wanted is not None:  # of several requests, the last counts
            self._predictor.encode_frame(self._state, wanted)

    # Tracking

    def start_tracking(self, frame: int, directions: list[bool], limit: int | None) -> Job:
        """Track all objects, in steps of one frame.

        Args:
            frame (int): tracking goes on from the last frame up to this one that has a mask; backward, from the first one
                from it on.
            directions (list[bool]): one direction after the other; True is backward.
            limit (int or None): number of frames in each direction; None for all.

        Returns:
            The job. It ends with an event.

        Raises:
            ConflictError: a job is running, nothing is prompted, or no frame is left in this direction.
            IndexError: no such frame.
        """
        self._check_frame(frame)
        self._require_idle()
        if not any(obj.bank.conditioning for obj in self._state.objects.values()):
            raise ConflictError("nothing to track: click an object first")
        runs = [(self._first_frame(frame, reverse), reverse) for reverse in directions]
        lengths = [start + 1 if reverse else self.frames.count() - start for start, reverse in runs]
        if limit is not None:
            lengths = [min(length, limit) for length in lengths]
        if sum(lengths) <= 0:
            raise ConflictError("the video ends here: there is no frame left to track in this direction")
        self.job = Job("track", sum(lengths))
        results = self._results([(*run, length) for run, length in zip(runs, lengths, strict=True) if length > 0])
        self._notify({"type": "job", "job": self.job.to_json()})
        self._submit_step(self.job, results)
        return self.job

    def start_export(self) -> Job:
        """Begin a job that writes files; the caller ends it.

        Raises:
            ConflictError: a job is running.
        """
        self._require_idle()
        self.job = Job("export", len(self.tracked()))
        self._notify({"type": "job", "job": self.job.to_json()})
        return self.job

    def report(self, job: Job) -> None:
        """Tell the pages how far a job is."""
        self._notify({"type": "job", "job": job.to_json()})

    def _require_idle(self) -> None:
        if self.job is not None:
            raise ConflictError("this session is busy: stop the running job first")

    def stop(self) -> None:
        """Stop the running job, if there is one, and wait for its end; in no thread that the job needs."""
        job = self.job
        if job is not None:
            job.stopping = True
            job.ended.wait()

    def _results(self, runs: list[tuple[int, bool, int]]) -> Iterator[int]:
        """Track, and yield each frame whose masks are new."""
        for start, reverse, length in runs:
            self._running = TrackStep(start, 0, reverse)
            try:
                for frame, _, logits in self._predictor.propagate_in_video(self._state, start, length - 1, reverse):
                    objects = {
                        o for o, obj in self._state.objects.items() if obj.bank.conditioning and frame not in obj.prompts
                    }
                    self._change += 1
                    self._record(frame, objects, logits)
                    self._running = replace(self._running, frames=self._running.frames + 1)
                    yield frame
            finally:
                self._steps = self._flushed_steps()
                self._running = None

    def _flushed_steps(self) -> list[Step]:
        """All steps, with what was tracked since the last one."""
        run = self._running
        if run is None or not run.frames:
            return self._steps
        self._running = TrackStep(run.start + (-run.frames if run.reverse else run.frames), 0, run.reverse)
        return [*self._steps, run]

    def _submit_step(self, job: Job, results: Iterator[int]) -> None:
        self._scheduler.submit(Priority.TRACK, lambda: self._step(job, results))

    def _step(self, job: Job, results: Iterator[int]) -> None:
        """Track one frame, and submit the next step."""
        message = None
        try:
            frame = None if job.stopping else next(results, None)
            if frame is not None:
                job.advance(job.done + 1, frame)
                self.store.set_fact("running", self._running_json())
                self.store.set_fact("change", self._change)
                self._try(self.store.save)
                if self._problem is not None:
                    raise OSError(f"tracking was stopped: {self._problem}")
                with self._lock:
                    marks = {str(obj): self._marks[obj].get(frame) for obj in self._objects}
                    objects = {obj: self._mark_json(int(obj), frame, mark) for obj, mark in marks.items() if mark is not None}
                self._notify({"type": "frame", "frame": frame, "objects": objects, "job": job.to_json()})
                self._submit_step(job, results)
                return
        except EXPECTED_ERRORS as error:
            message = one_line(error)
        except Exception as error:
            log.exception("tracking of %s failed", self.name)
            message = f"tracking failed: {one_line(error)}"
        results.close()  # type: ignore[attr-defined]  # it is a generator
        self._save()
        self.end_job(job, message)

    def end_job(self, job: Job, message: str | None) -> None:
        """End a job, with the message of an error, if there was one."""
        self.job = None
        job.ended.set()
        self._notify({"type": "job", "job": None})
        self._notify({"type": "session"})
        if message is not None:
            self._notify({"type": "error", "message": message})

    def _first_frame(self, frame: int, reverse: bool) -> int:
        """The first frame to track: the nearest one with masks, or the one after it if those are complete and up to date."""
        with self._lock:
            frames = {t for marks in self._marks.values() for t in marks}
            before = [t for t in frames if (t >= frame if reverse else t <= frame)]
            # Without any, the first prompted frame in the direction of tracking.
            prompted = [t for item in self._objects.values() for t in item.prompts]
            if not before:
                return max(prompted) if reverse else min(prompted)
            start = min(before) if reverse else max(before)
            tracked = [obj for obj in self._state.objects.values() if obj.bank.conditioning]
            marks = [self._marks[obj.obj_id].get(start) for obj in tracked]
            is_complete = all(mark is not None and not mark.outdated for mark in marks)
        return start + (-1 if reverse else 1) if is_complete else start

    # Records

    def _record(self, frame: int, computed: set[int], logits: Tensor | None = None, former: MaskRow | None = None) -> None:
        """Set the masks of a frame from the network's results.

        Args:
            frame (int): index of the frame.
            computed (set[int]): the objects whose results are new; the others may be covered differently.
            logits (Tensor or None): (O, 1, H, W) masks of the objects of the predictor's session.
            former (MaskRow or None): what was known of the mask of one of them, if it is an earlier one again.
        """
        objects = self._state.objects
        if logits is None:
            _, _, logits = self._predictor.masks_in_frame(self._state, frame)
        present = [i for i, obj in enumerate(objects.values()) if frame in obj.bank]
        ids = [list(objects)[i] for i in present]
        values = logits[present, 0].float().cpu().numpy()
        labels = masks_to_labels(values, ids)
        confidences = self._predictor.confidence(self._state, frame)
        for obj, own in zip(ids, values > 0, strict=True):
            visible = None if (own <= (labels == obj)).all() else mask_to_rle(labels == obj)["counts"]
            output = objects[obj].bank[frame]
            known = None if obj in computed else self._marks[obj].get(frame)
            if former is not None and obj == former.object:
                known = _mark_of(former)
            area = float(own.mean())
            mark = known or Mark(area, confidences.get(obj, 1.0), False, output.reverse, self._change)
            with self._lock:
                self._marks[obj][frame] = mark
            row = MaskRow(obj, frame, mask_to_rle(own)["counts"], visible, **vars(mark))
            self.store.set_mask(row)
            if obj in computed:
                self.store.set_output(obj, frame, _output_bytes(objects[obj], frame))
        for obj in computed - set(ids):
            with self._lock:
                self._marks[obj].pop(frame, None)
            self.store.remove_mask(obj, frame)
            self.store.set_output(obj, frame, None)

    def _keep_outputs(self, obj: int, former: TrackedObject | None) -> None:
        """Write what the network remembers of an object, and nothing else, after a change of many frames.

        Args:
            obj (int): the object.
            former (TrackedObject or None): what it remembered before; what is the same is not written again.
        """
        was, now = (tracked or TrackedObject(obj) for tracked in (former, self._state.objects.get(obj)))
        for frame in self._marks.get(obj, {}):
            if _kept(was, frame) != _kept(now, frame):
                self.store.set_output(obj, frame, _output_bytes(now, frame) if frame in now.bank else None)

    def _dependent(self, obj: int, frame: int) -> set[int]:
        """The tracked frames of an object that are up to date and depend on its mask in a frame.

        These are the frames after it, in the direction in which they were tracked, if that was its own direction or they were
        tracked later. A conditioning frame is remembered in all frames that were tracked later, also in those before it.
        """
        with self._lock:
            prompted = {frame, *(self._objects[obj].prompts if obj in self._objects else ())}
            marks, tracked = self._marks.get(obj, {}), self._state.objects.get(obj)
            own = marks.get(frame)
            is_conditioning = tracked is not None and frame in tracked.bank.conditioning

            def depends(t: int, mark: Mark) -> bool:
                is_after = t < frame if mark.reverse else t > frame
                is_later = own is not None and mark.change > own.change
                if own is None or is_conditioning:
                    return is_after or is_later
                return is_after and (is_later or mark.reverse == own.reverse)

            return {t for t, mark in marks.items() if t not in prompted and not mark.outdated and depends(t, mark)}

    def _set_outdated(self, obj: int, frames: set[int], outdated: bool) -> None:
        with self._lock:
            for frame in frames:
                self._marks[obj][frame].outdated = outdated
        if frames:
            self.store.set_outdated(obj, frames, outdated)
            self._notify({"type": "timeline"})

    # Undo

    def _snapshot(self, obj: int, frame: int, whole: bool) -> Snapshot:
        with self._lock:
            item = self._objects.get(obj)
            item = None if item is None else replace(item, prompts=dict(item.prompts))
        tracked = self._state.objects.get(obj)
        if tracked is not None:
            frames = range(self.frames.count()) if whole else {frame}
            prompts = {t: prompt for t, prompt in tracked.prompts.items() if t in frames}
            tracked = TrackedObject(obj, prompts, tracked.bank.part(frames))
        row = next((row for row in self.store.masks(frame) if row.object == obj), None)
        return Snapshot(item, tracked, row)

    def _finish_change(
        self, text: str, obj: int, frame: int, before: Snapshot, outdated: set[int], step: Step, whole: bool
    ) -> None:
        after = self._snapshot(obj, frame, whole)
        self._done.append(Change(text, obj, frame, whole, before, after, self._change, outdated, step))
        del self._done[:-_MAX_UNDO]
        self._undone.clear()
        self._steps = [*self._flushed_steps(), step]
        self._save()

    def _apply(self, change: Change, former: Snapshot) -> None:
        """Set an object to what it was before or after a change."""
        obj, frame = change.object, change.frame
        outdated = set() if isinstance(change.step, RemoveStep) else self._dependent(obj, frame)
        self._apply_to_object(obj, frame, former.item)
        known = self._state.objects.get(obj)
        known = None if known is None else TrackedObject(obj, dict(known.prompts), known.bank.part(range(self.frames.count())))
        self._apply_to_network(change, former.tracked)
        if obj in self._objects:
            self._record(frame, {obj}, former=former.row)
            if former.row is not None and (obj not in self._state.objects or frame not in self._state.objects[obj].bank):
                self._put_back_row(former.row)
            again = {t for t in change.outdated if t in self._marks[obj] and self._marks[obj][t].change < change.number}
            self._set_outdated(obj, again, False)
            self._set_outdated(obj, outdated, True)
        else:
            self._record(frame, set())
        change.number, change.outdated = self._change, outdated
        if change.whole:
            self._keep_outputs(obj, known)

    def _apply_to_object(self, obj: int, frame: int, former: SessionObject | None) -> None:
        with self._lock:
            self._change += 1
            item = self._objects.get(obj)
            if former is None:
                self._objects.pop(obj, None)
            elif item is None:
                self._objects[obj] = replace(former, prompts=dict(former.prompts))
                self._objects = dict(sorted(self._objects.items()))
            elif frame in former.prompts:
                item.prompts[frame] = former.prompts[frame]
            else:
                item.prompts.pop(frame, None)

    def _apply_to_network(self, change: Change, former: TrackedObject | None) -> None:
        obj, frame, objects = change.object, change.frame, self._state.objects
        known = objects.get(obj)
        if former is None:
            objects.pop(obj, None)
        elif known is not None and not change.whole:
            known.bank.put_back(frame, former.bank)
            known.prompts.pop(frame, None)
            known.prompts |= former.prompts
        else:
            bank = former.bank.part(range(self.frames.count()))
            if known is not None and bank.conditioning:  # what was tracked since is the mask that is shown
                since = {t for t, mark in self._marks[obj].items() if mark.change >= change.number}
                for t in since & known.bank.tracked.keys() - known.prompts.keys() - former.prompts.keys():
                    bank.put_back(t, known.bank)
            objects[obj] = TrackedObject(obj, dict(former.prompts), bank)
            ordered = sorted(objects.items())
            objects.clear()
            objects.update(ordered)

    def _put_back_row(self, row: MaskRow) -> None:
        """Show a mask again that the network does not remember."""
        with self._lock:
            self._marks[row.object][row.frame] = _mark_of(row)
        self.store.set_mask(row)

    # Storage

    def _save(self) -> None:
        """Write everything that has changed, and tell the pages."""
        with self._lock:
            objects = [
                {"id": obj, "name": item.name, "colour": item.colour, "hidden": item.hidden}
                | {"prompts": [self._step_json(PromptStep(t, obj, prompt)) for t, prompt in item.prompts.items()]}
                for obj, item in self._objects.items()
            ]
        facts = {"objects": objects, "change": self._change, "next_id": self._next_id}
        facts["steps"] = [self._step_json(step) for step in self._steps]
        facts["running"] = self._running_json()
        for name, value in facts.items():
            self.store.set_fact(name, value)
        self._try(self.store.save)
        self._notify({"type": "session"})

    def _step_json(self, step: Step) -> dict[str, Any]:
        """A step as it is saved; those of prompts are kept, because encoding masks takes long."""
        if not isinstance(step, PromptStep):
            return step_to_json(step)
        if step.prompt not in self._prompts_json:
            self._prompts_json[step.prompt] = step_to_json(step)
        return self._prompts_json[step.prompt]

    def _running_json(self) -> dict[str, Any] | None:
        """What is being tracked, as a step, so that a killed process does not lose it."""
        return step_to_json(self._running) if self._running is not None and self._running.frames else None

    def _try(self, write: Callable[[], None]) -> None:
        try:
            write()
            self._problem = None
        except OSError as error:
            log.error("%s", error)
            self._problem = f"not saved: {error}; free some space, and the next change saves everything"

    def _restore(self) -> None:
        """Read what the store has."""
        with named_errors(self.store.path):
            for entry in self.store.fact("objects", []):
                steps = [parse_step(step, self.frames) for step in entry["prompts"]]
                prompts = {step.frame: step.prompt for step in steps if isinstance(step, PromptStep)}
                self._objects[entry["id"]] = SessionObject(entry["name"], entry["colour"], entry["hidden"], prompts)
                self._marks[entry["id"]] = {}
            running = self.store.fact("running")
            steps = self.store.fact("steps", []) + ([] if running is None else [running])
            self._steps = [parse_step(step, self.frames) for step in steps]
            self._try(lambda: self.store.keep_objects(self._objects))
            for row in self.store.all_masks(self._objects):
                self._marks[row.object][row.frame] = _mark_of(row)
            for obj, frame, data in self.store.outputs(self._objects):
                tracked = self._state.objects.setdefault(obj, TrackedObject(obj))
                _restore_output(tracked, frame, data, self.store.path, self._state.storage_device)

    def close(self) -> None:
        """End the session, after its job. It can be opened again."""
        self.stop()
        self._scheduler.submit(Priority.PROMPT, self._state.close).result()
        self.store.close()

    # Small things

    def _object(self, obj: int) -> SessionObject:
        if obj not in self._objects:
            raise KeyError(f"there is no object {obj}")
        return self._objects[obj]

    def _check_frame(self, frame: int) -> None:
        if not self.frames.has(frame):
            raise self.frames.missing_frame_error(frame)

    def _rle(self, counts: str) -> dict[str, Any]:
        return {"size": [self.frames.height, self.frames.width], "counts": counts}

    def _mask_json(self, row: MaskRow) -> dict[str, Any]:
        return {"rle": self._rle(row.rle), **self._mark_json(row.object, row.frame, _mark_of(row))}

    def _mark_json(self, obj: int, frame: int, mark: Mark) -> dict[str, Any]:
        prompted = frame in self._objects[obj].prompts
        return {"area": mark.area, "confidence": mark.confidence, "outdated": mark.outdated, "prompted": prompted}


def _mark_of(row: MaskRow) -> Mark:
    return Mark(row.area, row.confidence, row.outdated, row.reverse, row.change)


def _kept(tracked: TrackedObject, frame: int) -> tuple[Any, ...]:
    """What tells whether the network remembers the same of an object in a frame."""
    bank = tracked.bank
    return id(bank.get(frame)), id(tracked.prompts.get(frame)), frame in bank.conditioning, frame in bank.corrected


def _output_bytes(tracked: TrackedObject, frame: int) -> bytes:
    """What the network remembers of an object in a frame; logits in half precision, memories are computed again."""
    bank, prompt = tracked.bank, tracked.prompts.get(frame)
    output = plain(bank[frame])
    content = {
        "output": output | {"mask_logits": output["mask_logits"].half()},
        "prompt": None if prompt is None else plain(prompt),
        "conditioning": frame in bank.conditioning,
        "corrected": frame in bank.corrected,
    }
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


def _restore_output(tracked: TrackedObject, frame: int, data: bytes, path: Path, device: torch.device) -> None:
    content = torch.load(io.BytesIO(data), weights_only=True, map_location="cpu")
    content["output"]["mask_logits"] = content["output"]["mask_logits"].float()
    output = restored(FrameOutput, {frame: content["output"]}, path, device)[frame]
    bank: MemoryBank = tracked.bank
    (bank.conditioning if content["conditioning"] else bank.tracked)[frame] = output
    if content["corrected"]:
        bank.corrected.add(frame)
    if content["prompt"] is not None:
        tracked.prompts[frame] = restored(NetworkPrompt, {frame: content["prompt"]}, path, torch.device("cpu"))[frame]


def _clicks(prompt: Prompt) -> list[list[float]]:
    return [list(click) for click in prompt.clicks]


def _box(prompt: Prompt) -> list[float] | None:
    return None if prompt.box is None else prompt.box.tolist()


def _what(prompt: Prompt | None) -> str:
    if prompt is None:
        return "removed prompt"
    if prompt.mask is not None:
        return "mask"
    return "box" if prompt.box is not None else "click"
