"""Prompts: what a user says about one object in one frame, from the command line to the network.

A new kind of prompt is a field of `Prompt`, its check, and the points or mask that `to_network` makes of it.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from i2v.data.mask_files import MAX_LABEL, decoded, read_mask
from i2v.modeling.sam.prompt_encoder import BOX_BOTTOM_RIGHT, BOX_TOP_LEFT, NEGATIVE, NOT_A_POINT, POSITIVE
from i2v.modeling.sam_i2v import resize_masks

log = logging.getLogger(__name__)

MAX_POINTS = 10_000  # per prompt; the network's work grows with their number


@dataclass(frozen=True, eq=False, init=False)
class Prompt:
    """A prompt for one object in one frame, in pixels of the video: points, a box, or both; or a mask.

    Making one parses what was given; `check` compares it with the video's frames.

    Attributes:
        points (Tensor): (N, 2) float32, (x, y) each.
        labels (Tensor): (N,) int32, 1 for foreground and 0 for background.
        box (Tensor or None): (4,) float32, (x0, y0, x1, y1).
        mask (Tensor or None): (height, width) bool.
    """

    points: Tensor
    labels: Tensor
    box: Tensor | None
    mask: Tensor | None

    def __init__(self, points: Any = None, labels: Any = None, box: Any = None, mask: Any = None) -> None:
        """Parse a prompt.

        Args:
            points: array of numbers (N, 2), (x, y) each, or None.
            labels: array of numbers (N,), or None. Besides 1 and 0, as in SAM 2: two points with the labels 2 and 3 are
                a box's corners, and those with the label -1 are left out.
            box: array of numbers (4,), (x0, y0, x1, y1), or None.
            mask: anything that `parse_mask` takes, or None.

        Raises:
            TypeError: an argument is not an array of numbers.
            ValueError: nothing was given, or a mask together with points or a box; points without labels or labels without
                points; unknown labels; too many points; two boxes; or see `parse_mask`.
        """
        if mask is not None and not (points is None and labels is None and box is None):
            raise ValueError("an object in a frame takes either a mask, or points and a box")
        if points is None and labels is None and box is None and mask is None:
            raise ValueError("give points with labels, or a box, or both; or a mask")
        xy, kinds, corners = _parse_points(points, labels, None if box is None else _parse_box(box))
        if mask is None and corners is None and not len(xy):
            raise ValueError("there is no point: the list is empty, or has only padding (label -1)")
        fields = {"points": xy, "labels": kinds, "box": corners, "mask": None if mask is None else parse_mask(mask)}
        for name, value in fields.items():
            object.__setattr__(self, name, value)

    @classmethod
    def of_clicks(cls, clicks: Iterable[tuple[float, float, int]]) -> Prompt:
        """A prompt of clicks (x, y, label), in pixels of the video."""
        clicks = list(clicks)
        return cls([(x, y) for x, y, _ in clicks], [label for *_, label in clicks])

    @property
    def clicks(self) -> list[tuple[float, float, int]]:
        """The points as (x, y, label) each."""
        return [(x, y, label) for (x, y), label in zip(self.points.tolist(), self.labels.tolist(), strict=True)]

    def check(self, frame_size: tuple[int, int]) -> None:
        """Compare the prompt with the frames of a video.

        Args:
            frame_size (tuple[int, int]): (width, height) in pixels; (1, 1) for points and a box given as fractions of the
                frame's sides.

        Raises:
            ValueError: coordinates that are not finite or outside of the frame, a box without area, or a mask of another size.
        """
        limit = torch.tensor(frame_size, dtype=torch.float32)
        if not self.points.isfinite().all():
            raise ValueError(f"points must be finite numbers, got {self.points.tolist()}")
        if ((self.points < 0) | (self.points > limit)).any():
            raise ValueError(
                f"a point of {self.points.tolist()} is outside of the frame, whose (width, height) is {limit.tolist()}"
            )
        if self.box is not None:
            box, corners = self.box.tolist(), self.box.view(2, 2)
            if not corners.isfinite().all():
                raise ValueError(f"a box is four finite numbers (x0, y0, x1, y1), got {box}")
            if (corners[0] >= corners[1]).any():
                raise ValueError(f"a box (x0, y0, x1, y1) must have x0 < x1 and y0 < y1, got {box}")
            if ((corners < 0) | (corners > limit)).any():
                raise ValueError(f"the box {box} is not inside the frame, whose (width, height) is {limit.tolist()}")
        if self.mask is not None and self.mask.shape != frame_size[::-1]:
            raise ValueError(
                f"the mask has shape {tuple(self.mask.shape)}, but the video's frames are (height, width) = {frame_size[::-1]}"
            )

    def with_mask_resized(self, frame_size: tuple[int, int]) -> Prompt:
        """The prompt with its mask at the size of a video's frames, (width, height) in pixels; a warning says so.

        A mask with width and height swapped is a mistake rather than one to resize: it stays, for `check` to find.
        """
        size = frame_size[::-1]
        if self.mask is None or tuple(self.mask.shape) in (size, frame_size):
            return self
        log.warning("the mask is %dx%d pixels, the video %dx%d: the mask is resized", *self.mask.shape[::-1], *frame_size)
        shares = F.interpolate(self.mask.float()[None, None], size=size, mode="area")[0, 0]
        # A mask that is not empty stays so.
        return Prompt(mask=(shares > 0) & (shares >= shares.max().clamp(max=0.5)))

    def to_network(self, frame_size: tuple[int, int], image_size: int, mask_size: int) -> NetworkPrompt:
        """The prompt as the network takes it.

        Args:
            frame_size (tuple[int, int]): (width, height) that the coordinates refer to; see `check`.
            image_size (int): S, side of the network's input, in pixels.
            mask_size (int): side of the network's masks, in cells.
        """
        if self.mask is not None:
            return NetworkPrompt(mask=resize_mask(self.mask, image_size, mask_size))
        points, labels = self.points, self.labels
        if self.box is not None:
            points = torch.cat([self.box.view(2, 2), points])
            labels = torch.cat([torch.tensor([BOX_TOP_LEFT, BOX_BOTTOM_RIGHT], dtype=torch.int32), labels])
        limit = torch.tensor(frame_size, dtype=torch.float32)
        return NetworkPrompt(points=points / limit * image_size, labels=labels)


@dataclass(frozen=True, eq=False)
class NetworkPrompt:
    """A prompt as the network takes it, and as a session and its file keep it: points or a mask.

    Attributes:
        points (Tensor or None): (N, 2) float32, (x, y) in pixels of the network's input; a box is two of them.
        labels (Tensor or None): (N,) int32, see `i2v.modeling.sam.prompt_encoder`.
        mask (Tensor or None): (1, 1, S, S) float32 of 0 and 1.
    """

    points: Tensor | None = None
    labels: Tensor | None = None
    mask: Tensor | None = None

    def with_points_before(self, earlier: NetworkPrompt) -> NetworkPrompt:
        """This prompt's points after those of an earlier prompt, if that has any.

        Raises:
            ValueError: together they are too many.
        """
        if earlier.points is None or earlier.labels is None or self.points is None or self.labels is None:
            return self
        _check_number_of_points(len(earlier.points) + len(self.points))
        return NetworkPrompt(torch.cat([earlier.points, self.points]), torch.cat([earlier.labels, self.labels]))


def parse_mask(mask: Any) -> Tensor:
    """A mask as booleans.

    Args:
        mask: (height, width) of one object, or a PIL image (see `i2v.data.mask_files`). Booleans, 0 and one other value,
            or soft values from 0 to 1, which are thresholded at 0.5; smooth edges in integers are thresholded at half of the
            largest value.

    Returns:
        (height, width) bool.

    Raises:
        TypeError: not an array of real numbers.
        ValueError: a mask without pixels or not of two dimensions, with NaN or negative values, with several objects, or with
            soft values all below 0.5; or a PIL image that cannot be read.
    """
    if isinstance(mask, Image.Image):
        mask = np.asarray(decoded(mask)) if mask.mode == "F" else read_mask(mask)  # floats are soft values, as in arrays
    try:
        values = torch.as_tensor(_in_memory_order(mask), device="cpu")
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(f"a mask is an array (height, width) or a PIL image, not {type(mask).__name__}: {error}") from error
    if values.is_complex() or values.layout != torch.strided:
        kind = "complex numbers" if values.is_complex() else "a sparse tensor: give its to_dense()"
        raise TypeError(f"a mask is an array (height, width) of real numbers, not {kind}")
    if values.ndim != 2 or not values.numel():
        raise ValueError(f"the mask has shape {tuple(values.shape)}, expected (height, width)")
    if values.is_floating_point() and values.isnan().any():
        raise ValueError("the mask contains NaN")
    if values.dtype == torch.bool:
        return values.clone()  # not the caller's, who may change it
    values = values.double() if values.is_floating_point() or values.dtype == torch.uint64 else values.long()
    if (values < 0).any():
        raise ValueError("the mask has negative values, as logits have: give a boolean mask, such as logits > 0")
    largest = float(values.max())
    if values.is_floating_point() and largest <= 1:
        if 0 < largest < 0.5:
            raise ValueError(f"the mask has values up to {largest:g}, none of which reaches 0.5: scale or threshold them")
        return values >= 0.5
    if (values != values.round()).any() or largest > MAX_LABEL:
        raise ValueError(f"the mask has values up to {largest:g}: give a boolean mask, or values from 0 to 1")
    # Read like a file with these values, so that labels of several objects are noticed, and smooth edges thresholded.
    pixels = values.to(torch.int32).numpy()
    return torch.from_numpy(read_mask(Image.fromarray(pixels.astype(np.uint8) if largest < 256 else pixels)))


def resize_mask(mask: Tensor, image_size: int, mask_size: int) -> Tensor:
    """A mask at the size of the network's input.

    A mask that is not empty does not become empty, however small it is: if it would, the cells of the network's masks with the
    largest share of it belong to it.

    Args:
        mask (Tensor): (height, width) bool.
        image_size (int): S, side of the network's input, in pixels.
        mask_size (int): side of the network's masks, in cells.

    Returns:
        (1, 1, S, S) float32 of 0 and 1.
    """
    whole = mask.float()[None, None]
    resized = (_resized(whole, image_size) >= 0.5).float()
    if mask.any() and not (_resized(resized, mask_size) > 0.5).any():
        shares = _resized(whole, mask_size)
        cells = (shares == shares.max()).float()
        resized = torch.maximum(resized, F.interpolate(cells, size=(image_size, image_size)))
    return resized


def _parse_points(points: Any, labels: Any, box: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None]:
    """Points (N, 2), their labels (N,), 1 or 0, and the box (4,), which may be given as two points."""
    if (points is None) != (labels is None):
        raise ValueError("points need labels, and labels need points: give one label (1 or 0) for each point")
    xy = _floats(np.zeros((0, 2)) if points is None else points, "points", "(N, 2)")
    if xy.numel() and xy.shape[-1:] != (2,):
        raise ValueError(f"points must be pairs (x, y), got {xy.tolist()}")
    xy = xy.reshape(-1, 2)
    _check_number_of_points(len(xy))
    kinds = _floats([] if labels is None else labels, "labels", "(N,)").reshape(-1)
    if len(xy) != len(kinds):
        raise ValueError(f"there are {len(xy)} points and {len(kinds)} labels: give one label for each point")
    xy, kinds = xy[kinds != NOT_A_POINT], kinds[kinds != NOT_A_POINT]
    is_corner = (kinds == BOX_TOP_LEFT) | (kinds == BOX_BOTTOM_RIGHT)
    if is_corner.any():
        if box is not None or sorted(kinds[is_corner].tolist()) != [BOX_TOP_LEFT, BOX_BOTTOM_RIGHT]:
            raise ValueError("give a box once: as box, or as two points with the labels 2 and 3")
        box = xy[is_corner][kinds[is_corner].argsort()].flatten()
        xy, kinds = xy[~is_corner], kinds[~is_corner]
    if not ((kinds == POSITIVE) | (kinds == NEGATIVE)).all():
        raise ValueError(f"labels must be 1 (foreground), 0 (background), or 2 and 3 (a box), got {kinds.tolist()}")
    return xy, kinds.int(), box


def _parse_box(box: Any) -> Tensor:
    """A box (x0, y0, x1, y1) as (4,) float32."""
    corners = _floats(box, "box", "(4,)").flatten()
    if len(corners) != 4:
        raise ValueError(f"a box is four finite numbers (x0, y0, x1, y1), got {box}")
    return corners


def _check_number_of_points(number: int) -> None:
    if number > MAX_POINTS:
        raise ValueError(f"there are {number} points: at most {MAX_POINTS} are allowed for an object in a frame")


def _resized(mask: Tensor, size: int) -> Tensor:
    """A mask (1, 1, H, W) as (1, 1, size, size) float32."""
    resized = resize_masks(mask, size)
    assert resized is not None  # it is where there is a mask
    return resized


def _floats(values: Any, name: str, shape: str) -> Tensor:
    try:
        return torch.as_tensor(_in_memory_order(values), dtype=torch.float32, device="cpu").clone()
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:
        raise TypeError(f"{name} must be an array of numbers {shape}, not {values!r}") from error


def _in_memory_order(values: Any) -> Any:
    """A copy of an array that PyTorch takes: not mirrored, not read-only, and in the machine's byte order."""
    if isinstance(values, (list, tuple)) and any(isinstance(value, np.ndarray) for value in values):
        values = np.array(values)  # PyTorch warns that converting a list of arrays is slow
    return np.array(values, values.dtype.newbyteorder("="), order="C") if isinstance(values, np.ndarray) else values
