"""All formats in which the masks of a video are written, for the command line and the page."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Protocol

import cv2
import numpy as np
from PIL import Image
from pycocotools import mask as coco_mask

from i2v.data.files import listed
from i2v.data.frames import Frames
from i2v.data.mask_files import save_label_image
from i2v.data.rle import rle_to_mask
from i2v.data.transparent_video import transparent_video
from i2v.data.video_file import VideoFile
from i2v.prompt import Prompt
from i2v.prompt_files import PromptFile, write_prompt_file
from i2v.utils.files import atomic_write, whole_folder
from i2v.utils.visualization import VideoWriter, draw_overlay

_GREEN = (0, 255, 0)
# Where colours are subsampled and compressed in blocks, those beside an object show at its edges, so they stay. In pixels.
_MARGIN = 8


class Results(Protocol):
    """The masks of a video. What belongs to a frame is asked for once or twice, frame by frame, and need not be in memory."""

    @property
    def name(self) -> str:
        """Name of the video, for the JSON."""

    @property
    def frames(self) -> Frames:
        """The video."""

    @property
    def colours(self) -> Mapping[int, tuple[int, int, int]] | None:
        """RGB colours by object; None, and for those left out, DAVIS'."""

    def tracked(self) -> list[int]:
        """The frames that have masks, in ascending order."""

    def obj_ids(self) -> list[int]:
        """The objects, in ascending order."""

    def rles(self, frame: int) -> Mapping[int, dict[str, Any]]:
        """The masks of a frame in COCO's compressed run-length encoding, by object."""

    def labels(self, frame: int) -> np.ndarray:
        """The label image of a frame, (H, W) uint8: the object of each pixel, 0 for none."""

    def prompts(self, frame: int) -> Mapping[int, Prompt]:
        """The prompts of a frame, to be drawn in the overlay, by object."""


class _Frame:
    """What the formats show of a frame, found when it is first needed."""

    def __init__(self, results: Results, index: int, read_frame: Callable[[int], np.ndarray]) -> None:
        self.results = results
        self.index = index
        self._read_frame = read_frame

    @cached_property
    def image(self) -> np.ndarray:
        """(H, W, 3) uint8 RGB."""
        return self._read_frame(self.index)

    @cached_property
    def labels(self) -> np.ndarray:
        """(H, W) uint8."""
        return self.results.labels(self.index)

    @cached_property
    def rles(self) -> Mapping[int, dict[str, Any]]:
        return self.results.rles(self.index)

    @cached_property
    def visible(self) -> np.ndarray:
        """(H, W) bool, where there is any object."""
        visible = np.zeros((self.results.frames.height, self.results.frames.width), bool)
        for rle in self.rles.values():
            visible |= rle_to_mask(rle)
        return visible

    def cutout(self, margin: int = 0) -> np.ndarray:
        """The objects on transparency, (H, W, 4) uint8 RGBA; black further than `margin` pixels from them."""
        near: np.ndarray = self.visible.astype(np.uint8)
        if margin:
            near = cv2.dilate(near, np.ones((2 * margin + 1, 2 * margin + 1), np.uint8))
        return np.dstack([self.image * near[..., None], self.visible * np.uint8(255)])

    def on_green(self) -> np.ndarray:
        """The objects on green, (H, W, 3) uint8 RGB."""
        return np.where(self.visible[..., None], self.image, np.array(_GREEN, np.uint8))

    def overlay(self) -> np.ndarray:
        """The frame with its masks and prompts, (H, W, 3) uint8 RGB."""
        prompts, colours = self.results.prompts(self.index), self.results.colours
        return draw_overlay(self.image, self.labels, prompts, colours=colours)


_Add = Callable[[_Frame], None]
_Writer = Callable[[Results, Path], AbstractContextManager[_Add]]


@contextmanager
def _new_folder(path: Path) -> Iterator[Path]:
    """As `whole_folder`, and replaces an earlier folder, as that of a run that was stopped."""
    with whole_folder(path) as folder:
        yield folder
        if path.exists():
            shutil.rmtree(path)


@contextmanager
def _masks(results: Results, path: Path) -> Iterator[_Add]:
    with _new_folder(path) as folder:
        yield lambda frame: save_label_image(folder / f"{frame.index:05d}.png", frame.labels, results.colours)


@contextmanager
def _objects(results: Results, path: Path) -> Iterator[_Add]:
    with _new_folder(path) as folder:
        for obj_id in results.obj_ids():
            (folder / str(obj_id)).mkdir()

        def add(frame: _Frame) -> None:
            for obj_id, rle in frame.rles.items():
                Image.fromarray(rle_to_mask(rle) * np.uint8(255)).save(folder / str(obj_id) / f"{frame.index:05d}.png")

        yield add


@contextmanager
def _json(results: Results, path: Path) -> Iterator[_Add]:
    """As SA-V's annotations: `masklet[frame][object]` is an RLE; frames that were not tracked are None."""
    obj_ids, count, frames = results.obj_ids(), results.frames.count(), results.frames
    first = _first_frames(results)
    head = {
        "video_id": results.name,
        "video_frame_count": count,
        "video_height": frames.height,
        "video_width": frames.width,
        "masklet_num": len(obj_ids),
        "masklet_id": obj_ids,
        "masklet_first_appeared_frame": [first.get(obj_id) for obj_id in obj_ids],
        "masklet": [],
    }
    with atomic_write(path) as temporary, temporary.open("w") as file:
        file.write(json.dumps(head).removesuffix("]}"))  # the masks follow frame by frame, because they may be many
        written = 0

        def write(masks: list[Any] | None) -> None:
            nonlocal written
            file.write(", " * (written > 0) + json.dumps(masks))
            written += 1

        def add(frame: _Frame) -> None:
            while written < frame.index:
                write(None)
            write([frame.rles.get(obj_id) for obj_id in obj_ids])

        yield add
        while written < count:
            write(None)
        file.write("]}")


def _first_frames(results: Results) -> dict[int, int]:
    """The first frame in which each object has a mask that is not empty; objects without one are left out."""
    first: dict[int, int] = {}
    missing = set(results.obj_ids())
    for frame in results.tracked():
        for obj_id, rle in results.rles(frame).items():
            if obj_id in missing and coco_mask.area(rle):
                first[obj_id] = frame
                missing.remove(obj_id)
        if not missing:
            break
    return first


@contextmanager
def _cutouts(results: Results, path: Path) -> Iterator[_Add]:
    with _new_folder(path) as folder:
        yield lambda frame: Image.fromarray(frame.cutout()).save(folder / f"{frame.index:05d}.png")


@contextmanager
def _cutout_video(results: Results, path: Path) -> Iterator[_Add]:
    frames = results.frames
    with transparent_video(path, frames.frames_per_second, frames.width, frames.height) as write:
        yield lambda frame: write(frame.cutout(_MARGIN))


@contextmanager
def _video(draw: Callable[[_Frame], np.ndarray], results: Results, path: Path) -> Iterator[_Add]:
    frames = results.frames
    sound = (frames, results.tracked()) if isinstance(frames, VideoFile) else None
    with VideoWriter(path, frames.frames_per_second, frames.width, frames.height, sound) as video:
        yield lambda frame: video.write(draw(frame))


@dataclass(frozen=True)
class _Format:
    """A format.

    Attributes:
        label (str): what it is, in a few words.
        file (str): name of its file or folder.
        writer (_Writer or None): what writes it frame by frame; None for the prompts, which are not in the frames.
        of_labels (bool): whether it shows the label images, which hold objects 1 to 255.
    """

    label: str
    file: str
    writer: _Writer | None
    of_labels: bool = False


_FORMATS = {
    "masks": _Format("Palette PNGs, one per frame", "masks", _masks, of_labels=True),
    "objects": _Format("Black and white PNGs, one per object and frame", "objects", _objects),
    "json": _Format("JSON with run-length encoded masks (COCO, SA-V)", "masklets.json", _json),
    "overlay": _Format(
        "Video with the masks drawn over it (MP4)", "overlay.mp4", partial(_video, _Frame.overlay), of_labels=True
    ),
    "cutout": _Format("Objects on transparency (PNGs)", "cutout", _cutouts),
    "cutout_webm": _Format("Objects on transparency (WebM)", "cutout.webm", _cutout_video),
    "green": _Format("Objects on green (MP4)", "green.mp4", partial(_video, _Frame.on_green)),
    "prompts": _Format("Prompts, for python -m i2v.segment --prompts (JSON)", "prompts.json", None),
}
FORMATS = {name: kind.label for name, kind in _FORMATS.items()}  # labels by name
FILES = {name: kind.file for name, kind in _FORMATS.items()}  # files or folders by name


def export(
    results: Results,
    formats: Collection[str],
    folder: Path,
    read_frame: Callable[[int], np.ndarray],
    progress: Callable[[int, int], None] | None = None,
    prompts: PromptFile | None = None,
) -> None:
    """Write the masks of a video in some formats.

    Each file or folder appears when it is complete, and replaces an earlier one of its name (`FILES`).

    Args:
        results (Results): the masks.
        formats (Collection[str]): names of the formats; see `FORMATS`.
        folder (Path): folder for the files.
        read_frame (Callable[[int], np.ndarray]): function from the index of a frame to the frame, (H, W, 3) uint8 RGB; called
            once for each frame with masks, if a format needs it.
        progress (Callable[[int, int], None] or None): called with the number of frames that are done, and that of all; an
            exception that it raises stops the export, and is passed on.
        prompts (PromptFile or None): content of the format "prompts".

    Raises:
        ValueError: unknown formats; no masks, or no prompts for the format "prompts"; objects above 255 in a format of label
            images. Nothing was done then.
        OSError: a file cannot be written; the message names it.
    """
    chosen = _checked(results, formats, prompts)
    tracked = results.tracked()
    folder.mkdir(parents=True, exist_ok=True)
    if "prompts" in chosen and prompts is not None:
        write_prompt_file(folder / FILES["prompts"], results.name, results.frames, prompts)
    with ExitStack() as stack:
        writers = [kind.writer for kind in chosen.values() if kind.writer is not None]
        files = [folder / kind.file for kind in chosen.values() if kind.writer is not None]
        adders = [stack.enter_context(writer(results, file)) for writer, file in zip(writers, files, strict=True)]
        for done, index in enumerate(tracked if adders else (), start=1):
            frame = _Frame(results, index, read_frame)
            for add in adders:
                add(frame)
            if progress is not None:
                progress(done, len(tracked))


def _checked(results: Results, formats: Collection[str], prompts: PromptFile | None) -> dict[str, _Format]:
    """The formats, in their usual order; see `export` for the errors."""
    if unknown := [name for name in formats if name not in FORMATS]:
        raise ValueError(f"unknown format {unknown[0]!r}; known: {', '.join(FORMATS)}")
    if "prompts" in formats and prompts is None:
        raise ValueError("there are no prompts to export: choose other formats")
    if not results.tracked() and set(formats) - {"prompts"}:
        raise ValueError("there are no masks to export: prompt an object first")
    chosen = {name: kind for name, kind in _FORMATS.items() if name in formats}
    of_labels = [name for name, kind in chosen.items() if kind.of_labels]
    if of_labels and (others := [obj_id for obj_id in results.obj_ids() if not 0 < obj_id < 256]):
        raise ValueError(
            f"{' and '.join(of_labels)} can show objects 1 to 255, but not object {listed(others)}: choose other formats"
        )
    return chosen
