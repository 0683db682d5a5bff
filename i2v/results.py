"""The results of one video: masks, an overlay and a JSON, and what a run needs to resume."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask
from torch import Tensor

from i2v.data.files import listed, named_errors, read_json
from i2v.data.frames import Frames
from i2v.data.mask_files import read_labels, save_label_image
from i2v.data.rle import check_mask_size, mask_to_rle, run_lengths
from i2v.data.video_file import VideoFile
from i2v.prompt_arguments import Prompts
from i2v.utils.files import atomic_write, full_disk_named, require_regular_file
from i2v.utils.json_form import differences, require_form
from i2v.utils.masks import masks_to_labels
from i2v.utils.visualization import VideoWriter, draw_overlay


@contextmanager
def advise_removal(damaged: Path) -> Iterator[None]:
    """Add to an error in the files of an earlier run that it can start over once a file or folder is removed."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{error}. Remove {damaged}, and --resume starts over") from error


class ResultWriter:
    """Writes the results of one video.

    Each mask is written immediately, so an interrupted run keeps it; `finish` adds the overlay and the JSON. Hidden files hold
    what a later run needs to resume; `forget_progress` removes them once everything is written.

    Args:
        folder (Path): folder for `masks/`, `overlay.mp4` and `masklets.json`.
        name (str): name of the video.
        frames (Frames): the video.
        prompts (Prompts): prompts to draw in the overlay.
        settings (dict[str, Any]): everything the results depend on, as JSON; "files" maps paths to their states.
        resume (bool): resume a run with the same settings in this folder, if there is one.

    Raises:
        FileExistsError: the folder already holds results, or is a file.
        ValueError: the run to resume has other settings, or its files are damaged.
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
        self._require_no_results(resume)
        self.masks.mkdir(parents=True, exist_ok=True)
        self.forget_progress()

    def _require_no_results(self, resume: bool) -> None:
        results = [*self.masks.glob("*"), *(path for path in (self._overlay, self._json) if path.exists())]
        if results and resume:
            raise FileExistsError(
                f"{self.folder} has the results of a finished run ({results[0].name}): there is nothing to resume. To run it "
                "again, choose another --output, or remove them"
            )
        if results:
            ways = f"{'continue with --resume, ' if self._settings.exists() else ''}choose another --output, or remove them"
            raise FileExistsError(f"{self.folder} already has results ({results[0].name}): {ways}")
        if self.folder.exists() and not self.folder.is_dir():
            raise FileExistsError(f"{self.folder} is a file: choose another --output")

    def _resume(self, settings: dict[str, Any]) -> None:
        """Read the progress of an earlier run."""
        self._require_same_settings(settings)
        for path in self.folder.glob(f".[0-9]*.{self._overlay.name}"):  # unfinished, of a process that was killed
            path.unlink()
        if self.session.exists():
            with advise_removal(self.session):
                self._read_log()
        else:  # it was stopped before anything was saved
            self._log.unlink(missing_ok=True)

    def _require_same_settings(self, settings: dict[str, Any]) -> None:
        with advise_removal(self.folder):  # results of unknown settings cannot be resumed
            old, new = read_json(self._settings), json.loads(json.dumps(settings))
            require_form(old, {"files": {str: [int]}}, str(self._settings))
        old_files, new_files = old.pop("files"), new.pop("files")
        if other := differences(old, new) or _changed_files(old_files, new_files):
            raise ValueError(
                f"{self._settings} belongs to a run with other settings: {other}. Give the earlier ones, or choose another "
                "--output"
            )

    def _read_log(self) -> None:
        """Read the masks of the frames that were tracked."""
        with named_errors(self._log):
            require_regular_file(self._log)
            # An incomplete last line is cut off, because lines will be appended.
            lines, newline, rest = self._log.read_text().rpartition("\n")
        for number, line in enumerate(lines.splitlines(), start=1):
            with named_errors(f"{self._log}, line {number},"):
                frame, rles = self._read_line(line)
            self._rles[frame] = rles
        if rest:
            with atomic_write(self._log) as temporary:
                temporary.write_text(lines + newline)

    def _read_line(self, line: str) -> tuple[int, dict[int, dict[str, Any]]]:
        """Frame, and masks by object, in a line of the log."""
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
            raise ValueError(f"its mask {self._mask_path(frame)} is missing")
        return frame, {int(obj_id): rle for obj_id, rle in rles.items()}

    def require(self, frames: Iterable[int]) -> None:
        """Raise a ValueError if a frame has no results."""
        if missing := sorted(set(frames) - self._rles.keys()):
            with advise_removal(self.session):
                raise ValueError(f"{self._log} lacks frames that were tracked: {listed(missing)}")

    def _mask_path(self, frame: int) -> Path:
        return self.masks / f"{frame:05d}.png"

    def forget_progress(self) -> None:
        """Remove what a later run would resume from; the settings first, because the rest is not read without them."""
        for path in (self._settings, self.session, self._log):
            path.unlink(missing_ok=True)

    @property
    def num_frames(self) -> int:
        """Number of frames with results."""
        return len(self._rles)

    def empty_objects(self) -> list[int]:
        """Ids of the objects whose masks are empty in every frame."""
        areas: dict[int, int] = {}
        for rles in self._rles.values():
            for obj_id, rle in rles.items():
                areas[obj_id] = areas.get(obj_id, 0) + int(coco_mask.area(rle))
        return [obj_id for obj_id, area in areas.items() if not area]

    def add(self, frame: int, obj_ids: list[int], mask_logits: Tensor) -> None:
        """Write the masks of a frame.

        Args:
            frame (int): index of the frame.
            obj_ids (list[int]): ids of O objects.
            mask_logits (Tensor): (O, 1, H, W), foreground where positive.
        """
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
            read_frame (Callable[[int], np.ndarray]): function from the index of a frame to the frame, (H, W, 3) uint8 RGB.
        """
        if not self._rles:
            return
        self._write_json()
        frames = self._frames
        tracked = sorted(self._rles)
        sound = (frames, tracked) if isinstance(frames, VideoFile) else None
        with VideoWriter(self._overlay, frames.frames_per_second, frames.width, frames.height, sound) as video:
            for frame in tracked:
                with advise_removal(self.session):  # an earlier run may have written the mask
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


def _changed_files(old: dict[str, Any], new: dict[str, Any]) -> str:
    """The files that differ between two runs, for a message; empty if none do."""
    kinds = {
        "changed": [path for path in old if path in new and old[path] != new[path]],
        "removed": [path for path in old if path not in new],
        "added": [path for path in new if path not in old],
    }
    return "; ".join(f"{listed(paths)} {'were' if paths[1:] else 'was'} {kind}" for kind, paths in kinds.items() if paths)
