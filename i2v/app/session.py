"""A session of the page: objects, prompts, undo, tracking, and the masks of one video."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from i2v.app import network_memory
from i2v.app.history import Change, SessionObject, Snapshot, dependent_frames
from i2v.app.jobs import Job
from i2v.app.scheduler import Priority, Scheduler
from i2v.app.store import MaskRow, SessionStore
from i2v.data.files import named_errors
from i2v.data.frames import Frames
from i2v.data.mask_files import davis_palette
from i2v.data.rle import mask_to_rle, rle_to_mask
from i2v.data.video_file import VideoFile
from i2v.i2v_video_predictor import I2VVideoPredictor
from i2v.inference.state import TrackedObject
from i2v.prompt import Prompt
from i2v.prompt_files import (
    ClearStep,
    NamedObject,
    PromptFile,
    PromptStep,
    RemoveStep,
    TrackStep,
    parse_step,
    step_to_json,
    without_idle_steps,
)
from i2v.utils.command_line import EXPECTED_ERRORS, one_line
from i2v.utils.masks import give_free_pixels, masks_to_labels

log = logging.getLogger(__name__)

MAX_OBJECTS = 100
MAX_NAME = 100  # characters
_MAX_UNDO = 100  # changes
_FLOAT_BYTES = 4

Event = dict[str, Any]


class ConflictError(ValueError):
    """What was asked for does not fit the session's present state."""


class AnnotationSession:
    """One video, its objects, prompts and masks.

    Methods that change something run in the scheduler's thread; all others may be called from any thread.

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
        self._marks: dict[int, dict[int, MaskRow]] = {}  # without their RLEs, which stay in the store
        self._done: list[Change] = []
        self._undone: list[Change] = []
        self._problem: str | None = None
        self._wanted: int | None = None  # the frame to encode ahead
        self._change = store.fact("change", 0)
        self._next_id = store.fact("next_id", 1)
        self._steps: list[dict[str, Any]] = []  # as JSON, which is small where masks are not
        self._running: TrackStep | None = None  # what was tracked since the last step
        self._state = predictor.init_state(frames)
        try:
            self._restore()
        except BaseException:
            self._state.close()
            raise

    # What the page shows

    def to_json(self) -> dict[str, Any]:
        """The session without masks and timeline."""
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
            {"frame": frame, "points": prompt["points"], "box": prompt["box"], "has_mask": prompt["mask"] is not None}
            for frame, prompt in sorted(item.prompts.items())
        ]
        return {"id": obj, "name": item.name, "colour": item.colour, "hidden": item.hidden, "prompts": prompts}

    def timeline(self) -> dict[str, Any]:
        """Area, confidence and the frames out of date, per object."""
        count = self.frames.count()
        with self._lock:
            objects = {}
            for obj in self._objects:
                marks = self._known_marks(obj)
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
            objects = {
                str(row.object): {"rle": self.rle(row.rle), **self._mark_json(row)}
                for row in rows
                if self._is_prompted(row.object)
            }
        return {"frame": frame, "objects": objects}

    def num_masks(self) -> int:
        """Number of masks."""
        with self._lock:
            return sum(len(self._known_marks(obj)) for obj in self._objects)

    @property
    def bytes_kept(self) -> int:
        """About how much memory the network's results take, in bytes."""
        model = self._predictor.model
        per_mask = _FLOAT_BYTES * (model.mask_size**2 + model.embed_dim)  # logits and pointer
        with self._lock:
            return per_mask * sum(len(marks) for marks in self._marks.values())

    def results(self) -> SessionResults:
        """What an export of the objects that are shown needs, as it is now; masks are read from the store."""
        with self._lock:
            shown = {obj: item for obj, item in self._objects.items() if not item.hidden and item.prompts}
            tracked = sorted({frame for obj in shown for frame in self._known_marks(obj)})
            prompts = {obj: dict(item.prompts) for obj, item in shown.items()}
            colours = {obj: _rgb(item.colour) for obj, item in shown.items()}
        return SessionResults(self, tracked, colours, prompts)

    def prompt_file(self) -> PromptFile:
        """What was done, so that it can be done again."""
        with self._lock:
            objects = [NamedObject(obj, item.name, _rgb(item.colour)) for obj, item in self._objects.items()]
            steps = list(self._steps)
        return PromptFile(objects, without_idle_steps([parse_step(step, self.frames) for step in steps]))

    def _is_prompted(self, obj: int) -> bool:
        """Whether an object is there and has prompts; masks that were tracked from others are no longer its masks."""
        return obj in self._objects and bool(self._objects[obj].prompts)

    def _known_marks(self, obj: int) -> dict[int, MaskRow]:
        return self._marks[obj] if self._is_prompted(obj) else {}

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
            ConflictError: an export is running.
        """
        self._require_no_export()
        item = self._object(obj)
        frame = min(item.prompts, default=0)
        before = self._snapshot(obj, frame, whole=True)
        self._predictor.remove_object(self._state, obj, need_output=False)
        with self._lock:
            self._change += 1
            del self._objects[obj]
        step = step_to_json(RemoveStep(obj))
        self._finish_change(Change(f"remove {item.name}", obj, frame, True, before, self._change, set(), step))
        self._notify({"type": "timeline"})

    def set_prompt(self, obj: int, frame: int, prompt: Prompt) -> None:
        """Set an object's prompt in a frame.

        Args:
            obj (int): the object.
            frame (int): index of the frame.
            prompt (Prompt): the prompt, which replaces an earlier one.

        Raises:
            KeyError: no such object.
            IndexError: no such frame.
            ValueError: the prompt does not fit the video.
            ConflictError: an export is running.
        """
        self._require_no_export()
        item = self._object(obj)
        self._check_frame(frame)
        step = step_to_json(PromptStep(frame, obj, prompt))
        before, outdated = self._snapshot(obj, frame, whole=False), self._dependent(obj, frame)
        _, _, logits = self._predictor.add_prompt(self._state, frame, obj, prompt)
        with self._lock:
            self._change += 1
            item.prompts[frame] = step["prompt"]
        self._set_outdated(obj, outdated, True)
        self._record(frame, {obj}, logits)
        text = f"{_kind_of(prompt)} of {item.name} in frame {frame}"
        self._finish_change(Change(text, obj, frame, False, before, self._change, outdated, step))

    def clear_prompt(self, obj: int, frame: int) -> None:
        """Remove an object's prompt in a frame.

        Raises:
            KeyError: no such object, or no prompt to remove.
            IndexError: no such frame.
            ConflictError: an export is running.
        """
        self._require_no_export()
        item = self._object(obj)
        self._check_frame(frame)
        if frame not in item.prompts:
            raise KeyError(f"{item.name} has no prompt in frame {frame}")
        before, outdated = self._snapshot(obj, frame, whole=True), self._dependent(obj, frame)
        self._predictor.clear_all_prompts_in_frame(self._state, frame, obj, need_output=False)
        with self._lock:
            self._change += 1
            del item.prompts[frame]
        self._set_outdated(obj, outdated, True)
        self._record(frame, {obj})
        self._keep_outputs(obj, before.tracked)
        text = f"removed prompt of {item.name} in frame {frame}"
        step = step_to_json(ClearStep(frame, obj))
        self._finish_change(Change(text, obj, frame, True, before, self._change, outdated, step))
        self._notify({"type": "timeline"})

    def undo(self) -> int:
        """Undo the last change. Returns the frame to show.

        Raises:
            ConflictError: there is nothing to undo, or an export is running.
        """
        self._require_no_export()
        if not self._done:
            raise ConflictError("there is nothing to undo")
        change = self._done.pop()
        former = change.other.tracked
        if not change.whole and (former is None or not former.bank.conditioning):
            # The object may have nothing left to track it from; then it starts over, as after the removal of its prompt.
            bank = self._state.objects[change.object].bank
            change.whole = bank.conditioning.keys() <= {change.frame}
        self._swap(change)
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
            ConflictError: there is nothing to redo, or an export is running.
        """
        self._require_no_export()
        if not self._undone:
            raise ConflictError("there is nothing to redo")
        change = self._undone.pop()
        self._swap(change)
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
            frame (int): tracking looks for masks that are missing or out of date from the last frame up to this one that has
                a mask; backward, from the first one from it on.
            directions (list[bool]): one direction after the other; True is backward.
            limit (int or None): number of frames in each direction; None for all.

        Returns:
            The job. It ends with an event.

        Raises:
            ConflictError: a job is running, nothing is prompted, or nothing is left to track in this direction.
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
            reason = "all masks up to the end of the video are up to date"
            raise ConflictError(f"nothing is left to track in this direction: {reason}")
        self.job = Job("track", sum(lengths))
        results = self._results([(*run, length) for run, length in zip(runs, lengths, strict=True) if length > 0])
        self.report(self.job)
        self._submit_step(self.job, results)
        return self.job

    def start_export(self) -> Job:
        """Begin a job that writes files; the caller ends it.

        Raises:
            ConflictError: a job is running.
        """
        self._require_idle()
        self.job = Job("export", 0)
        self.report(self.job)
        return self.job

    def report(self, job: Job) -> None:
        """Tell the pages how far a job is."""
        self._notify({"type": "job", "job": job.to_json()})

    def _require_idle(self) -> None:
        if self.job is not None:
            raise ConflictError("this session is busy: stop the running job first")

    def _require_no_export(self) -> None:
        if self.job is not None and self.job.kind == "export":
            raise ConflictError("an export is running: wait for its end, or stop it")

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
                self.store.set_fact("steps", self._steps)

    def _flushed_steps(self) -> list[dict[str, Any]]:
        """All steps, with what was tracked since the last one."""
        run = self._running
        if run is None or not run.frames:
            return self._steps
        self._running = TrackStep(run.start + (-run.frames if run.reverse else run.frames), 0, run.reverse)
        return [*self._steps, step_to_json(run)]

    def _submit_step(self, job: Job, results: Iterator[int]) -> None:
        self._scheduler.submit(Priority.TRACK, lambda: self._step(job, results))

    def _step(self, job: Job, results: Iterator[int]) -> None:
        """Track one frame, and submit the next step."""
        try:
            frame = None if job.stopping else next(results, None)
            if frame is not None:
                job.advance(job.done + 1)
                self._save_tracking()
                with self._lock:
                    marks = {str(obj): self._known_marks(obj).get(frame) for obj in self._objects}
                    objects = {obj: self._mark_json(mark) for obj, mark in marks.items() if mark is not None}
                self._notify({"type": "frame", "frame": frame, "objects": objects, "job": job.to_json()})
                self._submit_step(job, results)
                return
            results.close()  # type: ignore[attr-defined]  # it is a generator
            self._save_tracking()
            self.end_job(job, None)
        except EXPECTED_ERRORS as error:
            self.end_job(job, one_line(error))
        except Exception as error:
            log.exception("tracking of %s failed", self.name)
            self.end_job(job, f"tracking failed: {one_line(error)}")

    def end_job(self, job: Job, message: str | None) -> None:
        """End a job, with the message of an error, if there was one."""
        self.job = None
        self._notify({"type": "job", "job": None})
        self._notify({"type": "session"})
        if message is not None:
            self._notify({"type": "error", "message": message})
        job.ended.set()

    def _first_frame(self, frame: int, reverse: bool) -> int:
        """The first frame to track: from the nearest one with masks on, the first whose masks are missing or out of date."""
        with self._lock:
            frames = {t for obj in self._objects for t in self._known_marks(obj)}
            before = [t for t in frames if (t >= frame if reverse else t <= frame)]
            # Without any, the first prompted frame in the direction of tracking.
            prompted = [t for item in self._objects.values() for t in item.prompts]
            if not before:
                return max(prompted) if reverse else min(prompted)
            start = min(before) if reverse else max(before)
            tracked = [self._marks[obj.obj_id] for obj in self._state.objects.values() if obj.bank.conditioning]
            while all(start in marks and not marks[start].outdated for marks in tracked):
                start += -1 if reverse else 1
        return start

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
                known = former
            area, confidence = float(own.mean()), confidences.get(obj, 1.0)
            row = known or MaskRow(obj, frame, "", None, area, confidence, False, output.reverse, self._change)
            self._set_row(replace(row, rle=mask_to_rle(own)["counts"], visible=visible))
            if obj in computed:
                self.store.set_output(obj, frame, network_memory.to_bytes(objects[obj], frame))
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
            if network_memory.identity(was, frame) != network_memory.identity(now, frame):
                self.store.set_output(obj, frame, network_memory.to_bytes(now, frame) if frame in now.bank else None)

    def _set_row(self, row: MaskRow) -> None:
        """Set a mask, in the store and in the timeline."""
        with self._lock:
            self._marks[row.object][row.frame] = replace(row, rle="", visible=None)
        self.store.set_mask(row)

    def _dependent(self, obj: int, frame: int) -> set[int]:
        """The frames that go out of date when an object's mask in a frame changes."""
        tracked = self._state.objects.get(obj)
        is_conditioning = tracked is not None and frame in tracked.bank.conditioning
        with self._lock:
            prompted = set(self._objects[obj].prompts) if obj in self._objects else set()
            return dependent_frames(self._marks.get(obj, {}), frame, prompted, is_conditioning)

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
            tracked = _copy(tracked, range(self.frames.count()) if whole else range(frame, frame + 1))
        row = next((row for row in self.store.masks(frame) if row.object == obj), None)
        return Snapshot(item, tracked, row)

    def _finish_change(self, change: Change) -> None:
        self._done.append(change)
        del self._done[:-_MAX_UNDO]
        self._undone.clear()
        self._steps = [*self._flushed_steps(), change.step]
        self._save()

    def _swap(self, change: Change) -> None:
        """Set an object to what it was before a change, or after it, and keep what it is now for the way back."""
        obj, frame, former = change.object, change.frame, change.other
        change.other = self._snapshot(obj, frame, change.whole)
        outdated = set() if "remove" in change.step else self._dependent(obj, frame)
        self._apply_to_object(obj, frame, former.item)
        self._apply_to_network(change, former.tracked)
        if obj in self._objects:
            self._record(frame, {obj}, former=former.row)
            if former.row is not None and (obj not in self._state.objects or frame not in self._state.objects[obj].bank):
                self._set_row(former.row)  # the network does not remember it
            again = {t for t in change.outdated if t in self._marks[obj] and self._marks[obj][t].change < change.number}
            self._set_outdated(obj, again, False)
            self._set_outdated(obj, outdated, True)
        else:
            self._record(frame, set())
        change.number, change.outdated = self._change, outdated
        if change.whole:
            self._keep_outputs(obj, change.other.tracked)

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

    # Storage

    def _save(self) -> None:
        """Write everything that has changed, and tell the pages."""
        with self._lock:
            objects = [{"id": obj, **vars(item), "prompts": list(item.prompts.values())} for obj, item in self._objects.items()]
        facts = {"objects": objects, "change": self._change, "next_id": self._next_id, "steps": self._steps}
        for name, value in (facts | {"running": self._running_json()}).items():
            self.store.set_fact(name, value)
        self._write()
        self._notify({"type": "session"})

    def _save_tracking(self) -> None:
        """Write what was tracked.

        Raises:
            OSError: it cannot be written.
        """
        self.store.set_fact("running", self._running_json())
        self.store.set_fact("change", self._change)
        self._write()
        if self._problem is not None:
            raise OSError(f"tracking was stopped: {self._problem}")

    def _running_json(self) -> dict[str, Any] | None:
        """What is being tracked, as a step, so that a killed process does not lose it."""
        return step_to_json(self._running) if self._running is not None and self._running.frames else None

    def _write(self, write: Callable[[], None] | None = None) -> None:
        """Write to the store; a failure is shown to the user, and the next change tries again."""
        try:
            (write or self.store.save)()
            self._problem = None
        except OSError as error:
            log.error("%s", error)
            self._problem = f"not saved: {error}; free some space, and the next change saves everything"

    def _restore(self) -> None:
        """Read what the store has."""
        with named_errors(self.store.path):
            for entry in self.store.fact("objects", []):
                for prompt in entry["prompts"]:
                    parse_step({"prompt": prompt}, self.frames)  # checks it
                prompts = {prompt["frame"]: prompt for prompt in entry["prompts"]}
                self._objects[entry["id"]] = SessionObject(entry["name"], entry["colour"], entry["hidden"], prompts)
                self._marks[entry["id"]] = {}
            running = self.store.fact("running")
            self._steps = self.store.fact("steps", []) + ([] if running is None else [running])
            for step in self._steps:
                parse_step(step, self.frames)
            self._write(lambda: self.store.keep_objects(self._objects))
            for row in self.store.all_masks(self._objects):
                self._marks[row.object][row.frame] = row
            for obj, frame, data in self.store.outputs(self._objects):
                tracked = self._state.objects.setdefault(obj, TrackedObject(obj))
                network_memory.restore(tracked, frame, data, self.store.path, self._state.storage_device)

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

    def rle(self, counts: str) -> dict[str, Any]:
        """A COCO RLE of the video's size."""
        return {"size": [self.frames.height, self.frames.width], "counts": counts}

    def _mark_json(self, row: MaskRow) -> dict[str, Any]:
        return {
            "area": row.area,
            "confidence": row.confidence,
            "outdated": row.outdated,
            "prompted": row.frame in self._objects[row.object].prompts,
        }


class SessionResults:
    """The results of a session for `i2v.exports`: objects, colours and prompts of one moment, and masks from the store.

    Args:
        session (AnnotationSession): the session, whose masks must not change meanwhile.
        tracked (Sequence[int]): sorted indices of the frames that have masks.
        colours (dict[int, tuple[int, int, int]]): RGB colours of the objects to export.
        prompts (dict[int, dict[int, dict]]): their prompts by object and frame, as in the steps of `i2v.prompt_files`.
    """

    def __init__(
        self,
        session: AnnotationSession,
        tracked: Sequence[int],
        colours: dict[int, tuple[int, int, int]],
        prompts: dict[int, dict[int, dict[str, Any]]],
    ) -> None:
        self.name = Path(session.name).stem if isinstance(session.frames, VideoFile) else session.name
        self.frames = session.frames
        self.colours = colours
        self._session = session
        self._tracked = tracked
        self._prompts = prompts

    def tracked(self) -> list[int]:
        """Sorted indices of the frames that have masks."""
        return list(self._tracked)

    def obj_ids(self) -> list[int]:
        """Ids of the objects."""
        return sorted(self.colours)

    def rles(self, frame: int) -> dict[int, dict[str, Any]]:
        """COCO RLEs in a frame."""
        return {row.object: self._session.rle(row.rle) for row in self._rows(frame)}

    def labels(self, frame: int) -> np.ndarray:
        """A frame's label image, (H, W) uint8; where objects overlap, the one with the largest logit."""
        labels = np.zeros((self.frames.height, self.frames.width), np.uint8)
        rows = self._rows(frame)
        for row in rows:
            labels[rle_to_mask(self._session.rle(row.visible or row.rle)) > 0] = row.object
        # Where the object that covered others is hidden or was removed.
        covered = {row.object: rle_to_mask(self._session.rle(row.rle)) for row in rows if row.visible is not None}
        return give_free_pixels(labels, covered)

    def prompts(self, frame: int) -> dict[int, Prompt]:
        """Prompts in a frame."""
        found = {obj: parse_step({"prompt": own[frame]}, self.frames) for obj, own in self._prompts.items() if frame in own}
        return {obj: step.prompt for obj, step in found.items() if isinstance(step, PromptStep)}

    def _rows(self, frame: int) -> list[MaskRow]:
        return [row for row in self._session.store.masks(frame) if row.object in self.colours]


def _copy(tracked: TrackedObject, frames: range) -> TrackedObject:
    """What the network remembers of an object in some frames; results are shared."""
    prompts = {t: prompt for t, prompt in tracked.prompts.items() if t in frames}
    return TrackedObject(tracked.obj_id, prompts, tracked.bank.part(frames))


def _rgb(colour: str) -> tuple[int, int, int]:
    red, green, blue = bytes.fromhex(colour[1:])
    return red, green, blue


def _kind_of(prompt: Prompt) -> str:
    if prompt.mask is not None:
        return "mask"
    return "box" if prompt.box is not None else "click"
