"""A simulated user: clicks and boxes for given masks (SAM 2, appendix D; SAM-I2V, section 4.1)."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from i2v.modeling.precision import full_precision
from i2v.modeling.sam.prompt_encoder import BOX_BOTTOM_RIGHT, BOX_TOP_LEFT
from i2v.utils.regions import depth, largest_component

_BOX_NOISE = 0.1  # share of the box's sides
_MAX_BOX_NOISE = 20.0  # pixels
# A central click is at least this deep inside of its region, as a share of the region's largest depth.
_CORE = 0.7


def sample_click(
    masks: Tensor, predicted: Tensor | None, generator: torch.Generator, central: bool = False
) -> tuple[Tensor, Tensor]:
    """Sample a click for each object on the pixels that are wrong.

    It is positive where the object was missed and negative outside of the object. If nothing is wrong, it is a negative click
    on the background.

    Args:
        masks (Tensor): (O, S, S) bool, the true masks.
        predicted (Tensor or None): (O, S, S) bool; None for no prediction, which puts the click on the object.
        generator (torch.Generator): random generator.
        central (bool): click deep inside of the largest connected error, as people do, instead of uniformly on all errors.

    Returns:
        (O, 1, 2) float32 (x, y) in pixels and (O, 1) int32 labels.
    """
    missed = masks if predicted is None else masks & ~predicted
    wrong = torch.zeros_like(masks) if predicted is None else predicted & ~masks
    errors = missed | wrong
    perfect = ~errors.flatten(1).any(dim=1)
    errors = torch.where(perfect[:, None, None], ~masks, errors)
    if central:
        errors = _cores(missed, wrong, errors)
    scores = torch.rand(masks.shape, generator=generator, device=masks.device) * errors
    index = scores.flatten(1).argmax(dim=1)
    labels = missed.flatten(1).gather(1, index[:, None]).int()
    width = masks.shape[-1]
    points = torch.stack([index % width, index.div(width, rounding_mode="floor")], dim=-1).float()
    return points.unsqueeze(1), labels


def roughen(masks: Tensor, video: Tensor, generator: torch.Generator) -> Tensor:
    """Damage masks like a tracker that drifts: shift them, remove and add parts, and sometimes add another object.

    The severity is random for each mask; one in five is not damaged.

    Args:
        masks (Tensor): (O, S, S) bool.
        video (Tensor): (O,), the index of each object's image or clip.
        generator (torch.Generator): random generator.

    Returns:
        (O, S, S) bool.
    """

    def uniform(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator, device=masks.device)

    count, size = len(masks), masks.shape[-1]
    floats = masks.float()
    area = floats.sum((1, 2)).clamp(min=1)
    place = torch.linspace(-1, 1, size, device=masks.device)
    severity = (1.25 * uniform(count, 1, 1) - 0.25).clamp(min=0)
    # The affine map keeps the object's centre, except for a shift by a share of the object's own size.
    centre = torch.stack([(floats.sum(dim) * place).sum(1) / area for dim in (1, 2)], dim=1).unsqueeze(2)
    linear = torch.eye(2, device=masks.device) + 0.3 * severity * (uniform(count, 2, 2) - 0.5)
    shift = 0.8 * severity * (uniform(count, 2, 1) - 0.5) * (area.sqrt() / size).view(-1, 1, 1)
    maps = torch.cat([linear, centre - linear @ centre + shift], dim=2)
    with full_precision(floats):
        grid = F.affine_grid(maps, [count, 1, size, size], align_corners=False)
        moved = F.grid_sample(floats.unsqueeze(1), grid, align_corners=False)[:, 0] > 0.5
    # Smooth noise cuts parts off, and adds others around the object.
    cells = int(torch.randint(4, 13, (), generator=generator, device=masks.device))
    noise = F.interpolate(uniform(count, 2, cells, cells), size=(size, size), mode="bicubic", align_corners=False)
    near = F.max_pool2d(F.adaptive_max_pool2d(moved.unsqueeze(1).float(), 24), 3, stride=1, padding=1)
    near = F.interpolate(near, size=(size, size))[:, 0] > 0
    lost, added = (noise > 1 - severity.unsqueeze(1) * (0.1 + 0.35 * uniform(count, 2, 1, 1))).unbind(dim=1)
    rough = (moved & ~lost) | (near & added)
    beside = (uniform(count) < 0.25) & (video == video.roll(1))
    rough = torch.where(beside[:, None, None], rough | masks.roll(1, dims=0), rough)
    return torch.where(severity > 0, rough, masks)


def sample_box(masks: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Sample a box for each object: its corners are moved by up to 10 % of its sides, and at most 20 pixels.

    Args:
        masks (Tensor): (O, S, S) bool. The box of an empty mask is the whole frame.
        generator (torch.Generator): random generator.

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
    labels = torch.tensor([BOX_TOP_LEFT, BOX_BOTTOM_RIGHT], dtype=torch.int32, device=masks.device).expand(len(masks), -1)
    return box.clamp(0, size - 1), labels


def _cores(missed: Tensor, wrong: Tensor, errors: Tensor) -> Tensor:
    """The core of the largest connected error of each object.

    Args:
        missed (Tensor): (O, S, S) bool, pixels of the object that were missed.
        wrong (Tensor): (O, S, S) bool, pixels that were predicted by mistake.
        errors (Tensor): (O, S, S) bool, where to click if nothing is wrong.

    Returns:
        (O, S, S) bool, pixels whose depth in the error is at least `_CORE` of the largest depth.
    """
    cores = []
    for parts in zip(*(x.cpu().numpy() for x in (missed, wrong, errors)), strict=True):
        *regions, anywhere = parts
        region = max((largest_component(part) for part in regions), key=np.count_nonzero)
        depths = depth(region if region.any() else anywhere)
        cores.append(torch.from_numpy(depths >= _CORE * depths.max()) & torch.from_numpy(depths > 0))
    return torch.stack(cores).to(missed.device)
