"""A video of a benchmark with its ground truth."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from i2v.data.annotations import Annotations
from i2v.data.files import listed
from i2v.data.frame_order import gaps, match_frames
from i2v.data.frames import ImageFolder
from i2v.utils.numbers import whole_number


@dataclass
class EvaluationVideo:
    """A video with ground truth. Frames are indices into the images of its folder.

    Only the four attributes are set at first; everything else reads files, and raises a ValueError that names a file which
    cannot be used.

    Attributes:
        name (str): unique name in its data set, and the name of a folder.
        frames (Path): folder of the images.
        annotations (Annotations): ground truth, by names of frames; see `i2v.data.annotations`.
        annotated_every (int or None): number of frames from one annotated frame to the next; None if it may vary.
    """

    name: str
    frames: Path
    annotations: Annotations
    annotated_every: int | None = None

    @cached_property
    def images(self) -> ImageFolder:
        """The frames, (H, W, 3) uint8 RGB each, decoded on access."""
        return ImageFolder(self.frames)

    @cached_property
    def frame_names(self) -> list[str]:
        """Names of the image files without suffix; masks are saved under these names."""
        return [path.stem for path in self.images.paths]

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) in pixels."""
        return self.images.size

    @cached_property
    def annotated_frames(self) -> list[int]:
        """Indices of the frames with ground truth, in order."""
        return self._indices_of(self.annotations.frames)

    @cached_property
    def objects(self) -> list[int]:
        """Numbers of all objects."""
        return self.annotations.objects

    def frames_of(self, obj: int) -> list[int]:
        """Return the indices of the frames with ground truth of an object, in order."""
        return self._indices_of(self.annotations.frames_of(whole_number(obj, "an object id")))

    def mask(self, frame: int, obj: int) -> np.ndarray:
        """Return the ground truth of an object in an annotated frame, (H, W) bool, empty if the object is absent."""
        return self.annotations.mask(self._annotated_names[frame], whole_number(obj, "an object id"), self.size)

    def first_frame(self, obj: int) -> int | None:
        """Return the first annotated frame in which an object is visible; None if there is none."""
        return next((frame for frame in self.annotated_frames if self.mask(frame, obj).any()), None)

    def first_frames(self) -> dict[int, int]:
        """Return the first annotated frame in which each object is visible, by object, without objects that never are."""
        return {obj: first for obj in self.objects if (first := self.first_frame(obj)) is not None}

    def require_complete(self) -> None:
        """Make sure that no frame or mask of a frame is missing, since fewer, perhaps easier frames would be scored then.

        Raises:
            ValueError: one is missing.
        """
        if missing := list(self._find_missing()):
            raise ValueError("; ".join(missing))

    def problems(self, thorough: bool = False) -> list[str]:
        """List what is missing or odd.

        Args:
            thorough (bool): decode every frame, which takes longer, instead of reading only the headers and ends of images.

        Returns:
            A message for each problem.
        """
        found = []
        try:
            # One by one, so that what was found before an error is kept.
            for problem in self._find_problems(thorough):
                found.append(problem)
        except (OSError, ValueError) as error:
            found.append(str(error))
        return list(dict.fromkeys(found))  # an unreadable label image is found once per object

    @cached_property
    def _indices(self) -> dict[str, int]:
        """Indices of the frames by names of the masks."""
        return match_frames(self.annotations.frames, self.frame_names)

    @cached_property
    def _annotated_names(self) -> dict[int, str]:
        return {index: name for name, index in self._indices.items()}

    def _indices_of(self, names: Iterable[str]) -> list[int]:
        """Return the indices of the frames of masks, by name, without frames that the video does not have."""
        return sorted(self._indices[name] for name in names if name in self._indices)

    def _find_problems(self, thorough: bool) -> Iterator[str]:
        if after := gaps(self.frame_names):
            yield f"{self.frames}: frames are missing after {listed(after)}"
        yield from self._find_missing()
        yield from (f"{self.annotations.source}: {gap}" for gap in self.annotations.gaps())
        if not self.annotated_frames or not self.objects:
            yield f"{self.annotations.source}: no annotated frame with an object"
        elif len(self.annotated_frames) < 3:
            few = f"only {len(self.annotated_frames)} of {self.images.count()} frames annotated"
            yield f"{self.annotations.source}: {few}: the evaluator skips the first and the last one, and none is left"
        for obj in self.objects:
            yield from self._find_mask_problems(obj)
        for index in range(self.images.count() if thorough else 0):
            try:
                _ = self.images[index]
            except ValueError as error:
                yield str(error)

    def _find_missing(self) -> Iterator[str]:
        frameless = [name for name in self.annotations.frames if name not in self._indices]
        if frameless:
            yield f"{self.annotations.source}: masks of frame {listed(frameless)}, but {self.frames} has no such frame"
        if self.annotated_every is not None:
            expected = range(0, self.images.count(), self.annotated_every)
            missing = sorted(set(expected) - set(self.annotated_frames))
            if missing:
                yield f"{self.annotations.source}: no masks of frame {listed([self.frame_names[index] for index in missing])}"

    def _find_mask_problems(self, obj: int) -> Iterator[str]:
        found = False
        for frame in self.annotated_frames:
            try:
                found |= bool(self.mask(frame, obj).any())
            except (OSError, ValueError) as error:
                yield str(error)
        if not found:
            yield f"{self.annotations.source}: object {obj} is in no frame"
