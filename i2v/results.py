"""The results of one video, written while it is tracked, and what a run needs to resume."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask
from torch import Tensor

from i2v.data.files import listed, named_errors, read_json
from i2v.data.frames import Frames
from i2v.data.mask_files import read_labels, save_label_image
from i2v.data.rle import check_mask_size, mask_to_rle, rle_to_mask, run_lengths
from i2v.exports import FILES, export
from i2v.prompt import Prompt
from i2v.prompt_arguments import Prompts
from i2v.utils.files import atomic_write, full_disk_named, require_regular_file
from i2v.utils.json_form import differences, require_form
from i2v.utils.masks import give_free_pixels, masks_to_labels


@contextmanager
def advise_removal(damaged: Path) -> Iterator[None]:
    """Add to an error in the files of an earlier run that it can start over once a file or folder is removed."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{error}. Remove {damaged}, and --resume starts over") from error


class ResultWriter:
    """Writes the results of one video. They are `i2v.exports.Results`.

    Each mask is written immediately, so an interrupted run keeps it; `finish` adds the overlay, the JSON and other formats.
    Hidden files hold what a later run needs to resume; `forget_progress` removes them once everything is written.

    Args:
        folder (Path): folder for `masks/`, `overlay.mp4`, `masklets.json` and other formats.
        name (str): name of the video.
        frames (Frames): the video.
        prompts (Prompts): prompts to draw in the overlay.
        settings (dict[str, Any] or None): everything the results depend on, as JSON; "files" maps paths to their states. None
            for a run that cannot be resumed.
        resume (bool): resume a run with the same settings in this folder, if there is one.
        also (Sequence[str]): more formats of `i2v.exports` to write.
        colours (Mapping[int, tuple[int, int, int]] or None): RGB colours by object; DAVIS' for those left out.

    Raises:
        FileExistsError: the folder already holds results, or is a file.
        ValueError: the run to resume has other settings, or its files are damaged.
    """

    def __init__(
        self,
        folder: Path,
        name: str,
        frames: Frames,
        prompts: Prompts,
        settings: dict[str, Any] | None,
        resume: bool = False,
        also: Sequence[str] = (),
        colours: Mapping[int, tuple[int, int, int]] | None = None,
    ) -> None:
        self.folder = folder
        self.masks = folder / FILES["masks"]
        self.name = name
        self.frames = frames
        self.colours = colours
        self.also = also
        self._prompts = prompts
        self._rles: dict[int, dict[int, dict[str, Any]]] = {}
        self._settings = folder / ".settings.json"
        self._given_settings = settings
        self._log = folder / ".frames.jsonl"
        self.session = folder / ".session.pt"
        if resume and settings is not None and self._settings.exists():
            self._resume(settings)
            return
        self._require_no_results(resume)
        self.masks.mkdir(parents=True, exist_ok=True)
        self.forget_progress()

    def _require_no_results(self, resume: bool) -> None:
        others = [self.folder / FILES[name] for name in ("overlay", *FILES) if name != "masks"]
        results = [*self.masks.glob("*"), *(path for path in others if path.exists())]
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
        # Unfinished files of a process that was killed.
        for path in [*self.masks.glob(".*.png"), *(path for name in FILES.values() for path in self.folder.glob(f".*.{name}"))]:
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
        if type(frame) is not int or not self.frames.has(frame):
            raise ValueError(f"there is no frame {frame}")
        obj_ids = {obj_id for _, obj_id in self._prompts}
        if set(rles) != set(map(str, obj_ids)):
            raise ValueError(f"its objects are {listed(list(rles))}, not {listed(sorted(obj_ids))}")
        for rle in rles.values():
            if not isinstance(rle["counts"], str):
                raise ValueError("a mask is not compressed")
            check_mask_size(tuple(rle["size"]), (self.frames.height, self.frames.width))
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
        """Write the masks of a frame, in place of earlier ones.

        Args:
            frame (int): index of the frame.
            obj_ids (list[int]): ids of O objects; without any, the frame has no results.
            mask_logits (Tensor): (O, 1, H, W), foreground where positive.
        """
        if not obj_ids:
            self._discard(frame)
            return
        if not self._rles and self._given_settings is not None:
            with atomic_write(self._settings) as temporary:
                temporary.write_text(json.dumps(self._given_settings))
        logits = mask_logits[:, 0].float().cpu().numpy()
        save_label_image(self._mask_path(frame), masks_to_labels(logits, obj_ids), self.colours)
        self._rles[frame] = {obj_id: mask_to_rle(mask > 0) for obj_id, mask in zip(obj_ids, logits, strict=True)}
        if self._given_settings is not None:
            with full_disk_named(self._log), self._log.open("a") as file:
                file.write(json.dumps([frame, self._rles[frame]]) + "\n")

    def _discard(self, frame: int) -> None:
        """Remove the masks of a frame, if it has any."""
        if self._rles.pop(frame, None) is not None:
            self._mask_path(frame).unlink()

    def remove(self, obj_id: int) -> None:
        """Remove an object from all frames; where it covered another one, that one shows."""
        for frame, rles in list(self._rles.items()):
            if rles.pop(obj_id, None) is None:
                continue
            if not rles:
                self._discard(frame)
                continue
            labels = self.labels(frame)
            labels[labels == obj_id] = 0
            labels = give_free_pixels(labels, {other: rle_to_mask(rle) for other, rle in sorted(rles.items())})
            save_label_image(self._mask_path(frame), labels, self.colours)

    def finish(self, read_frame: Callable[[int], np.ndarray]) -> None:
        """Write the JSON, the overlay and the other formats of all frames that were added.

        Args:
            read_frame (Callable[[int], np.ndarray]): function from the index of a frame to the frame, (H, W, 3) uint8 RGB.
        """
        if self._rles:
            export(self, ["json"], self.folder, read_frame)  # by itself: it outlives an overlay that fails
            export(self, ["overlay", *self.also], self.folder, read_frame)

    def tracked(self) -> list[int]:
        """The frames with results, in ascending order."""
        return sorted(self._rles)

    def obj_ids(self) -> list[int]:
        """The objects with results, in ascending order."""
        return sorted({obj_id for rles in self._rles.values() for obj_id in rles})

    def rles(self, frame: int) -> dict[int, dict[str, Any]]:
        """The masks of a frame in COCO's compressed run-length encoding, by object."""
        return self._rles[frame]

    def labels(self, frame: int) -> np.ndarray:
        """The label image of a frame, (H, W) uint8, as it was written."""
        with advise_removal(self.session):  # an earlier run may have written it
            return read_labels(self._mask_path(frame)).astype(np.uint8)

    def prompts(self, frame: int) -> dict[int, Prompt]:
        """The prompts of a frame, by object."""
        return {obj_id: prompt for (prompted, obj_id), prompt in self._prompts.items() if prompted == frame}


def _changed_files(old: dict[str, Any], new: dict[str, Any]) -> str:
    """The files that differ between two runs, for a message; empty if none do."""
    kinds = {
        "changed": [path for path in old if path in new and old[path] != new[path]],
        "removed": [path for path in old if path not in new],
        "added": [path for path in new if path not in old],
    }
    return "; ".join(f"{listed(paths)} {'were' if paths[1:] else 'was'} {kind}" for kind, paths in kinds.items() if paths)
