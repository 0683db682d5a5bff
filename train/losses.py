"""The training loss (SAM-I2V, section 4.1): masks 20, predicted IoUs 1, object presence 1."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from i2v.modeling.sam_i2v import MaskPrediction

_BOUNDARY_WEIGHT = 5.0


def boundary_weight(masks: Tensor, window: int = 31) -> Tensor:
    """1 + 5 |average of the neighbourhood - mask|, which is large at boundaries (Wei et al., "F3Net", AAAI 2020).

    Everything outside of the mask is background. Sums over windows are differences of cumulative sums: exact for binary masks,
    and many times faster than pooling.

    Args:
        masks (Tensor): (..., H, W) float32 of 0 and 1.
        window (int): side of the neighbourhood, odd, in cells of the masks.

    Returns:
        (..., H, W) float32.
    """
    average = masks
    for dim in (-1, -2):
        half = window // 2
        before = [0, 0] * (-1 - dim)
        sums = F.pad(average, (*before, half + 1, half)).cumsum(dim)
        size = masks.shape[dim]
        average = sums.narrow(dim, window, size) - sums.narrow(dim, 0, size)
    return 1 + _BOUNDARY_WEIGHT * (average / window**2 - masks).abs()


def structure_loss(logits: Tensor, masks: Tensor, weight: Tensor) -> Tensor:
    """Weighted binary cross-entropy plus weighted IoU loss, per mask.

    Args:
        logits (Tensor): (O, M, H, W).
        masks (Tensor): (O, 1, H, W) of 0 and 1.
        weight (Tensor): (O, 1, H, W) from `boundary_weight`.

    Returns:
        (O, M).
    """
    weight = weight.expand_as(logits)
    entropy = F.binary_cross_entropy_with_logits(logits, masks.expand_as(logits), reduction="none")
    entropy = (weight * entropy).sum((-1, -2)) / weight.sum((-1, -2))
    probabilities = logits.sigmoid()
    intersection = (weight * probabilities * masks).sum((-1, -2))
    union = (weight * (probabilities + masks)).sum((-1, -2)) - intersection
    return entropy + 1 - intersection / union.clamp(min=1e-6)


def mask_iou(logits: Tensor, masks: Tensor) -> Tensor:
    """IoU of predicted and true masks.

    Args:
        logits (Tensor): (O, M, H, W).
        masks (Tensor): (O, 1, H, W), above 0 inside of the object.

    Returns:
        (O, M), 0 where both are empty.
    """
    predicted, true = logits > 0, masks > 0
    intersection = (predicted & true).sum((-1, -2)).float()
    return intersection / (predicted | true).sum((-1, -2)).clamp(min=1)


class PredictionLoss(nn.Module):
    """The parts of the loss for one prediction. A module of its own, so that its activations can be recomputed."""

    def forward(self, prediction: MaskPrediction, target: Tensor, weight: Tensor, present: Tensor) -> dict[str, Tensor]:
        """Compare a prediction with the true masks. An object may be present, and too small for its target.

        Args:
            prediction (MaskPrediction): the masks and scores of O objects.
            target (Tensor): (O, 1, H, W) float32 of 0 and 1.
            weight (Tensor): (O, 1, H, W) float32 from `boundary_weight`.
            present (Tensor): (O,) float32, 1 where the object is in the frame.

        Returns:
            "mask", "iou" and "presence": sums over the objects, scalars.
        """
        logits = prediction.all_masks.float()
        if logits.shape[-1] != target.shape[-1]:
            logits = F.interpolate(logits, size=target.shape[-2:], mode="bilinear", align_corners=False)
        visible = target.flatten(1).any(dim=1).float()
        by_mask = structure_loss(logits, target, weight)
        iou_error = (prediction.ious - mask_iou(logits, target)).abs().mean(dim=1)
        presence = F.binary_cross_entropy_with_logits(prediction.object_score_logits.float()[:, 0], present, reduction="none")
        return {
            "mask": (by_mask.amin(dim=1) * visible).sum(),
            "iou": (iou_error * visible).sum(),
            "presence": presence.sum(),
        }


class Loss(Protocol):
    """What the trainer expects of a loss: any callable, such as an `nn.Module`, with these arguments and results.

    It runs outside of autocast. Everything that depends on chance must come from PyTorch's global generators, which are seeded
    for each step.
    """

    def __call__(
        self, frames: Sequence[Sequence[MaskPrediction]], masks: Tensor, num_objects: float | Tensor
    ) -> dict[str, Tensor]:
        """Compute the loss of a batch of clips.

        Args:
            frames (Sequence[Sequence[MaskPrediction]]): the predictions for the O objects of all clips in each of T frames,
                one for each round of clicks, in order. A frame has at least one.
            masks (Tensor): (O, T, S, S) bool, the true masks at the size of the network's input; empty where an object is
                absent.
            num_objects (float or Tensor): the mean number of objects per process, at least 1. Sums over objects are to be
                divided by it, so that the gradients of several processes average to those of one.

        Returns:
            Scalars by name. "total" is minimised; all of them are logged.
        """
        ...


def check_losses(losses: Any) -> dict[str, Tensor]:
    """The result of a loss, if it keeps to the protocol.

    Raises:
        ValueError: it is not a dict of scalar tensors, or has no "total".
    """
    contract = "the loss must return a dict of scalar tensors with the key 'total' (see train.losses.Loss)"
    if not isinstance(losses, dict):
        raise ValueError(f"{contract}, not a {type(losses).__name__}")
    for name, value in losses.items():
        if not isinstance(value, Tensor) or value.ndim:
            kind = f"a tensor of shape {tuple(value.shape)}" if isinstance(value, Tensor) else f"a {type(value).__name__}"
            raise ValueError(f"{contract}, but {name!r} is {kind}")
    if "total" not in losses:
        raise ValueError(f"{contract}, which lacks 'total': it has {', '.join(map(str, losses)) or 'nothing'}")
    return losses


class ClipLoss(nn.Module):
    """The loss of a clip: the sum over its frames, and over the rounds of clicks in a frame.

    Args:
        mask_weight (float): weight of the masks' loss.
        iou_weight (float): weight of the predicted IoUs' loss.
        presence_weight (float): weight of the object presence loss.
        full_size (bool): compare masks at the size of the network's input, as published. False compares them at the size at
            which they are decoded, with the true mask made smaller, which takes a fraction of the time.
        boundary_window (int): side of the window that finds boundaries, odd, in cells of the masks that are compared. As
            published: 31 of 1,024.
    """

    def __init__(
        self,
        mask_weight: float = 20.0,
        iou_weight: float = 1.0,
        presence_weight: float = 1.0,
        full_size: bool = True,
        boundary_window: int = 31,
    ) -> None:
        super().__init__()
        if boundary_window < 1 or boundary_window % 2 == 0:
            raise ValueError(f"loss.boundary_window must be odd and at least 1, not {boundary_window}")
        self.weights = {"mask": mask_weight, "iou": iou_weight, "presence": presence_weight}
        self.full_size = full_size
        self.boundary_window = boundary_window
        self.prediction_loss = PredictionLoss()

    def forward(
        self, frames: Sequence[Sequence[MaskPrediction]], masks: Tensor, num_objects: float | Tensor
    ) -> dict[str, Tensor]:
        """Compute the loss of a batch of clips; see `Loss`.

        Returns:
            "mask", "iou", "presence", and "total", their weighted sum; scalars.
        """
        parts = dict.fromkeys(self.weights, masks.new_zeros((), dtype=torch.float32))
        for t, predictions in enumerate(frames):
            target = masks[:, t, None].float()
            present = target.flatten(1).any(dim=1).float()
            if not self.full_size:
                height, width = predictions[0].masks.shape[-2:]
                target = (F.adaptive_avg_pool2d(target, (height, width)) >= 0.5).float()
            weight = boundary_weight(target, self.boundary_window)
            for prediction in predictions:
                for name, value in self.prediction_loss(prediction, target, weight, present).items():
                    parts[name] = parts[name] + value / num_objects
        total = sum(
            (self.weights[name] * value for name, value in parts.items()), start=masks.new_zeros((), dtype=torch.float32)
        )
        return {**parts, "total": total}
