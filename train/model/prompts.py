"""A simulated user: clicks and boxes for given masks (SAM 2, appendix D; SAM-I2V, section 4.1)."""

from __future__ import annotations

import torch
from torch import Tensor

_BOX_NOISE = 0.1  # of the box's sides
_MAX_BOX_NOISE = 20.0  # pixels


def sample_click(masks: Tensor, predicted: Tensor | None, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """One click per object, uniformly from the pixels that are wrong: positive where the object was missed, negative where
    there is none. Where nothing is wrong the click is a negative one on the background.

    Args:
        masks: (O, S, S) bool. predicted: likewise; None for no prediction, so that the click is on the object.

    Returns:
        (O, 1, 2) float32 (x, y) in pixels and (O, 1) int32 labels.
    """
    missed = masks if predicted is None else masks & ~predicted
    wrong = torch.zeros_like(masks) if predicted is None else predicted & ~masks
    errors = missed | wrong
    perfect = ~errors.flatten(1).any(dim=1)
    errors = torch.where(perfect[:, None, None], ~masks, errors)
    scores = torch.rand(masks.shape, generator=generator, device=masks.device) * errors
    index = scores.flatten(1).argmax(dim=1)
    labels = missed.flatten(1).gather(1, index[:, None]).int()
    width = masks.shape[-1]
    points = torch.stack([index % width, index.div(width, rounding_mode="floor")], dim=-1).float()
    return points.unsqueeze(1), labels


def sample_box(masks: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """The box of each object, its corners moved by noise of 10 % of its sides, at most 20 pixels.

    Args:
        masks: (O, S, S) bool. An empty mask has the box of the whole frame.

    Returns:
        (O, 2, 2) float32 corners (x, y) in pixels and (O, 2) int32 labels, 2 and 3.
    """
    size = masks.shape[-1]
    corners = []
    for dim in (1, 2):  # columns, then rows
        seen = masks.any(dim=dim)
        first = seen.int().argmax(dim=1)
        last = size - 1 - seen.flip(1).int().argmax(dim=1)
        corners.append(torch.stack([first, last], dim=1))
    box = torch.stack(corners, dim=-1).float()  # (O, corner, xy)
    sides = box[:, 1:] - box[:, :1]
    noise = torch.rand(box.shape, generator=generator, device=masks.device) * 2 - 1
    box = box + noise * (sides * _BOX_NOISE).clamp(max=_MAX_BOX_NOISE)
    labels = torch.tensor([2, 3], dtype=torch.int32, device=masks.device).expand(len(masks), -1)
    return box.clamp(0, size - 1), labels
