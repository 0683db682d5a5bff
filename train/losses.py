"""The training loss (SAM-I2V, section 4.1): masks 20, predicted IoUs 1, object presence 1."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from i2v.modeling.sam_i2v import MaskPrediction

_BOUNDARY_WEIGHT = 5.0


def boundary_weight(masks: Tensor, window: int = 31) -> Tensor:
    """1 + 5 |average of the neighbourhood - mask|: large at boundaries (F3Net). Outside of the mask all is background.

    Sums over windows are differences of cumulative sums: exact for binary masks, and many times faster than pooling.

    Args:
        masks: (..., H, W) float32 of 0 and 1.
        window: side of the neighbourhood, odd, in cells of the masks.
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
        logits: (O, M, H, W). masks: (O, 1, H, W) of 0 and 1. weight: (O, 1, H, W) from `boundary_weight`.

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
    """IoU of predicted masks (O, M, H, W) logits and true ones (O, 1, H, W): (O, M), 0 where both are empty."""
    predicted, true = logits > 0, masks > 0
    intersection = (predicted & true).sum((-1, -2)).float()
    return intersection / (predicted | true).sum((-1, -2)).clamp(min=1)


class PredictionLoss(nn.Module):
    """The parts of the loss for one prediction. A module of its own, so that its activations can be recomputed."""

    def forward(self, prediction: MaskPrediction, target: Tensor, weight: Tensor, present: Tensor) -> dict[str, Tensor]:
        """Compare a prediction with the true masks. An object may be present, and too small for its target.

        Args:
            prediction: the masks and scores of O objects.
            target: (O, 1, H, W) float32 of 0 and 1.
            weight: (O, 1, H, W) float32 from `boundary_weight`.
            present: (O,) float32, 1 where the object is in the frame.

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


class ClipLoss(nn.Module):
    """The loss of a whole clip: the sum over frames, and over the clicks in a frame.

    Args:
        mask_weight, iou_weight, presence_weight: of the three parts.
        full_size: compare masks at the size of the network's input, as published. False compares them as they are decoded,
            with the true mask made smaller: a share of the time.
        boundary_window: side of the window that finds boundaries, odd, in cells of the masks that are compared. As published:
            31 of 1,024.
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

    def forward(self, frames: Sequence[Sequence[MaskPrediction]], masks: Tensor, num_objects: float) -> dict[str, Tensor]:
        """
        Args:
            frames: the predictions of each frame, one for each round of clicks. masks: (O, T, S, S) bool.
            num_objects: to divide by, the average number of objects per process.

        Returns:
            "mask", "iou", "presence", and "total", their weighted sum; scalars.
        """
        parts = dict.fromkeys(self.weights, masks.new_zeros((), dtype=torch.float32))
        for t, predictions in enumerate(frames):
            target = masks[:, t, None].float()
            present = target.flatten(1).any(dim=1).float()
            if not self.full_size:
                target = (F.adaptive_avg_pool2d(target, predictions[0].masks.shape[-2:]) >= 0.5).float()
            weight = boundary_weight(target, self.boundary_window)
            for prediction in predictions:
                for name, value in self.prediction_loss(prediction, target, weight, present).items():
                    parts[name] = parts[name] + value / num_objects
        return {**parts, "total": sum(self.weights[name] * value for name, value in parts.items())}
