"""A simulated user: clicks and boxes for given masks (SAM 2, appendix D; SAM-I2V, section 4.1)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

_BOX_NOISE = 0.1  # of the box's sides
_MAX_BOX_NOISE = 20.0  # pixels
# How much of a central click's place is left to chance, in parts of the depth.
_NOISE = 0.1
_DEPTH_LEVELS = 5


def sample_click(
    masks: Tensor, predicted: Tensor | None, generator: torch.Generator, central: bool = False
) -> tuple[Tensor, Tensor]:
    """One click per object on the pixels that are wrong: positive where the object was missed, negative where there is none.
    Where nothing is wrong the click is a negative one on the background.

    Args:
        masks: (O, S, S) bool.
        predicted: likewise; None for no prediction, so that the click is on the object.
        generator: of the click's place.
        central: click about the middle of the largest error, as a person does, instead of uniformly on all errors.

    Returns:
        (O, 1, 2) float32 (x, y) in pixels and (O, 1) int32 labels.
    """
    missed = masks if predicted is None else masks & ~predicted
    wrong = torch.zeros_like(masks) if predicted is None else predicted & ~masks
    errors = missed | wrong
    perfect = ~errors.flatten(1).any(dim=1)
    errors = torch.where(perfect[:, None, None], ~masks, errors)
    scores = torch.rand(masks.shape, generator=generator, device=masks.device)
    if central:
        scores = scores * _NOISE + torch.stack([_depth(part) for part in (missed, wrong)]).amax(dim=0)
    scores = scores * errors
    index = scores.flatten(1).argmax(dim=1)
    labels = missed.flatten(1).gather(1, index[:, None]).int()
    width = masks.shape[-1]
    points = torch.stack([index % width, index.div(width, rounding_mode="floor")], dim=-1).float()
    return points.unsqueeze(1), labels


def roughen(masks: Tensor, generator: torch.Generator) -> Tensor:
    """Masks as a tracker that has lost its way leaves them: shifted, with parts missing and parts too many.

    Args:
        masks: (O, S, S) bool.
        generator: of the damage.

    Returns:
        (O, S, S) bool.
    """

    def draw(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator, device=masks.device)

    count, size = len(masks), masks.shape[-1]
    area = masks.flatten(1).sum(dim=1).view(-1, 1, 1)
    reach = (area.sqrt() / size).clamp(min=0.02)  # of the object, as a share of the frame
    # An affine map near the identity, about the object's own size.
    maps = torch.eye(2, 3, device=masks.device) + torch.cat(
        [(draw(count, 2, 2) - 0.5) * 0.3, (draw(count, 2, 1) - 0.5) * 0.6 * reach], dim=2
    )
    grid = F.affine_grid(maps, [count, 1, size, size], align_corners=False)
    moved = F.grid_sample(masks.unsqueeze(1).float(), grid, align_corners=False)[:, 0] > 0.5
    # Smooth noise cuts parts off, and adds some around the object.
    cells = int(torch.randint(4, 13, (), generator=generator, device=masks.device))
    noise = F.interpolate(draw(count, 2, cells, cells), size=(size, size), mode="bicubic", align_corners=False)
    near = F.max_pool2d(F.adaptive_max_pool2d(moved.unsqueeze(1).float(), 24), 3, stride=1, padding=1)
    near = F.interpolate(near, size=(size, size))[:, 0] > 0
    lost, added = (noise > 0.75 - 0.3 * draw(count, 2, 1, 1)).unbind(dim=1)
    rough = (moved & ~lost) | (near & added)
    # Now and then, another object as well.
    other = draw(count, 1, 1) < 0.25
    return torch.where(other, rough | rough.roll(1, dims=0), rough)


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


def _depth(region: Tensor) -> Tensor:
    """How deep a pixel lies inside of a region (O, S, S) bool, from 0 to 1: the average share of the region in windows of
    doubling size around it."""
    level = region.unsqueeze(1).float()
    total = level
    for _ in range(_DEPTH_LEVELS):
        level = F.avg_pool2d(level, 2, ceil_mode=True)
        total = total + F.interpolate(level, size=region.shape[-2:], mode="bilinear", align_corners=False)
    return total[:, 0] * region / (1 + _DEPTH_LEVELS)
