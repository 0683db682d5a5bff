"""What a user may give as a prompt, checked before anything is computed."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from i2v.data.mask_files import MAX_LABEL, decoded, read_mask
from i2v.inference.state import Prompt
from i2v.modeling.sam_i2v import resize_masks

log = logging.getLogger(__name__)

MAX_POINTS = 10_000  # of one prompt; the network's work grows with their number


def make_points_prompt(
    points: Any, labels: Any, box: Any, frame_size: tuple[int, int], image_size: int, in_pixels: bool = True
) -> Prompt:
    """Check points, labels and box, and turn them into points of the network's input.

    Args:
        points: (N, 2) (x, y), or None.
        labels: (N,), or None; two points with the labels 2 and 3 are a box's corners, those with the label -1 are left out.
        box: (4,) (x0, y0, x1, y1), or None.
        frame_size: (width, height) of the video. image_size: of the network's input.
        in_pixels: False if points and box are fractions of the frame's sides.

    Raises:
        TypeError: points, labels or box are not arrays of numbers.
        ValueError: neither points nor a box; points without labels or labels without points; coordinates that are not finite
            or outside of the frame; other labels; too many points; two boxes, or a box without area.
    """
    limit = torch.tensor(frame_size, dtype=torch.float32) if in_pixels else torch.ones(2)
    if points is None and box is None:
        raise ValueError("give points with labels, or a box, or both")
    if (points is None) != (labels is None):
        raise ValueError("points need labels, and labels need points: one label (1 or 0) for each point")
    xy = _floats(np.zeros((0, 2)) if points is None else points, "points", "(N, 2)")
    if xy.numel() and xy.shape[-1:] != (2,):
        raise ValueError(f"points must be pairs (x, y), got {xy.tolist()}")
    xy = xy.reshape(-1, 2)
    check_number_of_points(len(xy))
    kinds = _floats([] if labels is None else labels, "labels", "(N,)").reshape(-1)
    if len(xy) != len(kinds):
        raise ValueError(f"there are {len(xy)} points and {len(kinds)} labels: one label for each point")
    if box is None and len(kinds) and (kinds == -1).all():
        raise ValueError("all points are padding, as their label is -1: give one with the label 1 or 0, or a box")
    xy, kinds = xy[kinds != -1], kinds[kinds != -1]
    corners = (kinds == 2) | (kinds == 3)
    if corners.any():
        if box is not None or sorted(kinds[corners].tolist()) != [2, 3]:
            raise ValueError("a box is given once: as box, or as two points with the labels 2 and 3")
        box = xy[corners][kinds[corners].argsort()].flatten()
        xy, kinds = xy[~corners], kinds[~corners]
    if box is None and not len(xy):
        raise ValueError("the list of points is empty")
    if not xy.isfinite().all():
        raise ValueError(f"points must be finite numbers, got {xy.tolist()}")
    if ((xy < 0) | (xy > limit)).any():
        raise ValueError(f"a point of {xy.tolist()} is outside of the frame (width, height) = {limit.tolist()}")
    if not ((kinds == 0) | (kinds == 1)).all():
        raise ValueError(f"labels must be 1 (foreground), 0 (background), or 2 and 3 (a box), got {kinds.tolist()}")
    if box is not None:
        corners = _floats(box, "box", "(4,)")
        if corners.numel() == 4:
            corners = corners.reshape(2, 2)
        if corners.shape != (2, 2) or not corners.isfinite().all():
            raise ValueError(f"a box is four finite numbers (x0, y0, x1, y1), got {box}")
        if (corners[0] >= corners[1]).any():
            raise ValueError(f"a box (x0, y0, x1, y1) must have x0 < x1 and y0 < y1, got {corners.flatten().tolist()}")
        if ((corners < 0) | (corners > limit)).any():
            raise ValueError(
                f"the box {corners.flatten().tolist()} is not inside of the frame (width, height) = {limit.tolist()}"
            )
        xy = torch.cat([corners, xy])
        kinds = torch.cat([torch.tensor([2.0, 3.0]), kinds])
    return Prompt(points=xy / limit * image_size, labels=kinds.int())


def check_number_of_points(number: int) -> None:
    """Raise a ValueError if a prompt has too many points."""
    if number > MAX_POINTS:
        raise ValueError(f"there are {number} points: at most {MAX_POINTS} are allowed for an object in a frame")


def check_mask(mask: Any, frame_size: tuple[int, int], resize: bool = True) -> Tensor:
    """A mask prompt as a tensor.

    Args:
        mask: (height, width) of one object, or a PIL image (see `i2v.data.mask_files`). Booleans, 0 and any one other value, or
            shares from 0 to 1, which are thresholded at 0.5; smooth edges of whole numbers at half of the largest one.
        frame_size: (width, height) of the video.
        resize: a mask of another size is resized, with a warning; False for an error.

    Returns:
        (height, width) bool.

    Raises:
        TypeError: it is not an array of real numbers.
        ValueError: a mask without pixels, not of two dimensions or with width and height swapped, with NaN or negative values,
            with several objects, or with shares of which none reaches 0.5; of another size, without `resize`; or a PIL image
            that cannot be read.
    """
    if isinstance(mask, Image.Image):
        mask = np.asarray(decoded(mask)) if mask.mode == "F" else read_mask(mask)  # floats are shares, as those of arrays
    try:
        values = torch.as_tensor(_in_memory_order(mask), device="cpu")
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(f"a mask is an array (height, width) or a PIL image, not {type(mask).__name__}: {error}") from error
    if values.is_complex() or values.layout != torch.strided:
        kind = "complex numbers" if values.is_complex() else "a sparse tensor: give its to_dense()"
        raise TypeError(f"a mask is an array (height, width) of real numbers, not {kind}")
    size = frame_size[::-1]
    is_swapped = tuple(values.shape) == frame_size != size
    if values.ndim != 2 or not values.numel() or is_swapped or (tuple(values.shape) != size and not resize):
        raise ValueError(f"the mask has shape {tuple(values.shape)}, but the video's frames are (height, width) = {size}")
    mask = _check_values(values)
    if mask.shape != size:
        log.warning("the mask is %dx%d pixels, the video %dx%d: it is resized", *mask.shape[::-1], *frame_size)
        shares = F.interpolate(mask.float()[None, None], size=size, mode="area")[0, 0]
        mask = (shares > 0) & (shares >= shares.max().clamp(max=0.5))  # a mask that is not empty stays so
    return mask


def _check_values(values: Tensor) -> Tensor:
    """A mask as booleans; see `check_mask`."""
    if values.is_floating_point() and values.isnan().any():
        raise ValueError("the mask has NaN in it")
    if values.dtype == torch.bool:
        return values
    values = values.double() if values.is_floating_point() or values.dtype == torch.uint64 else values.long()
    if (values < 0).any():
        raise ValueError("the mask has negative values, as logits have: give a boolean mask, such as logits > 0")
    largest = float(values.max()) if values.numel() else 0.0
    if values.is_floating_point() and largest <= 1:
        if 0 < largest < 0.5:
            raise ValueError(f"the mask has shares up to {largest:g}, of which none reaches 0.5: scale or threshold them")
        return values >= 0.5
    if (values != values.round()).any() or largest > MAX_LABEL:
        raise ValueError(f"the mask has values up to {largest:g}: give a boolean mask, or shares from 0 to 1")
    # As a file with these values, so that labels of several objects are noticed, and smooth edges thresholded.
    pixels = values.to(torch.int32).numpy()
    return torch.from_numpy(read_mask(Image.fromarray(pixels.astype(np.uint8) if largest < 256 else pixels)))


def resize_mask(mask: Tensor, image_size: int, mask_size: int) -> Tensor:
    """A mask at the size of the network's input. One that is not empty does not become empty, however small it is: of the cells
    of the network's masks, those with the largest share of it belong to it then.

    Args:
        mask: (height, width) bool.
        image_size: S, of the network's input.
        mask_size: of the network's masks.

    Returns:
        (1, 1, S, S) float32 of 0 and 1.
    """
    whole = mask.float()[None, None]
    resized = (resize_masks(whole, image_size) >= 0.5).float()
    if mask.any() and not (resize_masks(resized, mask_size) > 0.5).any():
        shares = resize_masks(whole, mask_size)
        cells = (shares == shares.max()).float()
        resized = torch.maximum(resized, F.interpolate(cells, size=(image_size, image_size)))
    return resized


def _floats(values: Any, name: str, shape: str) -> Tensor:
    try:
        return torch.as_tensor(_in_memory_order(values), dtype=torch.float32, device="cpu")
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(f"{name} must be an array of numbers {shape}, not {values!r}") from error


def _in_memory_order(values: Any) -> Any:
    """A copy of an array that PyTorch takes: not mirrored, not read-only, and in the machine's byte order."""
    if isinstance(values, (list, tuple)) and any(isinstance(value, np.ndarray) for value in values):
        values = np.array(values)  # PyTorch warns that it is slow at that
    return np.array(values, values.dtype.newbyteorder("="), order="C") if isinstance(values, np.ndarray) else values
