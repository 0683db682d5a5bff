"""The training loss against the published values, and against a plain computation."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from i2v.modeling.sam_i2v import NO_OBJECT_LOGIT, MaskPrediction
from tests.train.helpers import load_seeded_weights
from train.losses import ClipLoss, boundary_weight, mask_iou, structure_loss


def disc(size: int, x: float, y: float, radius: float) -> torch.Tensor:
    rows, columns = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    return (columns - x) ** 2 + (rows - y) ** 2 < radius**2


def make_prediction(logits: torch.Tensor, ious: torch.Tensor, scores: torch.Tensor) -> MaskPrediction:
    return MaskPrediction(logits[:, :1], logits, ious, torch.zeros(len(logits), 4), scores)


def test_published_losses(shared: Path) -> None:
    seeded_input = load_seeded_weights(shared).seeded_input
    expected = json.loads((shared / "reference/fixtures/losses.json").read_text())
    logits, ious = seeded_input("logits", (2, 3, 256, 256)), seeded_input("ious", (2, 3)).sigmoid()
    masks = torch.stack([disc(1024, 400, 500, 150)[::4, ::4], torch.zeros(256, 256, dtype=torch.bool)]).unsqueeze(1)

    by_mask = structure_loss(logits, masks.float(), boundary_weight(masks.float())) / 2
    assert torch.allclose(by_mask, torch.tensor(expected["structure_loss"]), rtol=2e-7)
    prediction = make_prediction(logits, ious, seeded_input("scores", (2, 1)))
    losses = ClipLoss()([[prediction]], masks, 2)
    names = {"mask": "loss_mask", "iou": "loss_iou", "presence": "loss_class", "total": "core_loss"}
    assert {name: float(value) for name, value in losses.items()} == pytest.approx(
        {name: expected[theirs] for name, theirs in names.items()}, rel=1e-6
    )


def test_boundary_weight() -> None:
    masks = torch.stack([disc(96, 20, 70, 17), disc(96, 0, 0, 60), torch.ones(96, 96, dtype=torch.bool)]).unsqueeze(1).float()
    expected = 1 + 5 * (F.avg_pool2d(masks, 31, 1, 15) - masks).abs()
    assert torch.allclose(boundary_weight(masks), expected, atol=1e-5)
    small = masks[..., :16, :16]  # smaller than the window
    assert torch.allclose(boundary_weight(small), 1 + 5 * (F.avg_pool2d(small, 31, 1, 15) - small).abs(), atol=1e-5)


def test_boundary_window() -> None:
    masks = disc(96, 20, 70, 17).view(1, 1, 96, 96)
    logits = torch.randn(1, 1, 96, 96, generator=torch.Generator().manual_seed(0))
    prediction = make_prediction(logits, torch.ones(1, 1), torch.ones(1, 1))
    for window in (31, 7):
        weight = 1 + 5 * (F.avg_pool2d(masks.float(), window, 1, window // 2) - masks.float()).abs()
        loss = ClipLoss(boundary_window=window)([[prediction]], masks, 1)["mask"]
        torch.testing.assert_close(loss, structure_loss(logits, masks.float(), weight).sum(), atol=1e-5, rtol=1e-5)
    with pytest.raises(ValueError, match=r"loss\.boundary_window must be odd and at least 1, not 8"):
        ClipLoss(boundary_window=8)


def plain_loss(logits: torch.Tensor, mask: torch.Tensor) -> float:
    """One mask (H, W), pixel by pixel."""
    size = len(mask)
    entropy = weights = intersection = union = 0.0
    for i in range(size):
        for j in range(size):
            window = mask[max(i - 15, 0) : i + 16, max(j - 15, 0) : j + 16]
            true, p = float(mask[i, j]), float(logits[i, j].double().sigmoid())
            weight = 1 + 5 * abs(float(window.sum()) / 31**2 - true)
            entropy -= weight * (true * torch.tensor(p).log().item() + (1 - true) * torch.tensor(1 - p).log().item())
            weights += weight
            intersection += weight * p * true
            union += weight * (p + true - p * true)
    return entropy / weights + 1 - intersection / union


def test_against_a_plain_computation() -> None:
    logits = torch.randn(2, 3, 20, 20, generator=torch.Generator().manual_seed(0))
    masks = torch.stack([disc(20, 6, 9, 5), disc(20, 15, 15, 7)]).unsqueeze(1)
    by_mask = structure_loss(logits, masks.float(), boundary_weight(masks.float()))
    expected = [[plain_loss(logits[o, m], masks[o, 0]) for m in range(3)] for o in range(2)]
    assert torch.allclose(by_mask, torch.tensor(expected), atol=1e-5)


def test_mask_iou() -> None:
    logits = torch.full((1, 3, 4, 4), -1.0)
    logits[0, 1, :2] = 1
    logits[0, 2, :, :] = 1
    masks = torch.zeros(1, 1, 4, 4)
    assert mask_iou(logits, masks).tolist() == [[0, 0, 0]]
    masks[0, 0, 1:] = 1
    assert mask_iou(logits, masks).tolist() == [[0, 4 / 16, 12 / 16]]


def test_sums_over_frames_clicks_and_objects() -> None:
    generator = torch.Generator().manual_seed(1)
    masks = torch.stack([disc(32, 10, 10, 6), disc(32, 20, 15, 8), torch.zeros(32, 32, dtype=torch.bool)]).unsqueeze(1)
    masks = masks.expand(-1, 2, -1, -1)
    predictions = [
        make_prediction(torch.randn(3, 3, 8, 8, generator=generator), torch.rand(3, 3, generator=generator), torch.randn(3, 1))
        for _ in range(3)
    ]
    whole = ClipLoss(1, 1, 1)([predictions[:2], predictions[2:]], masks, 3)
    single = [ClipLoss(1, 1, 1)([[prediction]], masks[:, :1], 1) for prediction in predictions]
    for name, value in whole.items():
        assert torch.allclose(value, sum(losses[name] for losses in single) / 3)
    # The absent object counts for its presence only.
    without = [make_prediction(p.all_masks[:2], p.ious[:2], p.object_score_logits[:2]) for p in predictions]
    fewer = ClipLoss(1, 1, 1)([without[:2], without[2:]], masks[:2], 3)
    assert fewer["mask"] == whole["mask"]
    assert fewer["iou"] == whole["iou"]
    assert fewer["presence"] < whole["presence"]


def test_sizes() -> None:
    masks = disc(64, 30, 30, 20)[None, None]
    logits = F.interpolate(masks.float() * 20 - 10, size=(16, 16), mode="area")
    prediction = make_prediction(logits, torch.ones(1, 1), torch.ones(1, 1))
    full = ClipLoss()([[prediction]], masks, 1)
    target = masks.float()
    resized = F.interpolate(logits, size=(64, 64), mode="bilinear", align_corners=False)
    assert full["mask"] == structure_loss(resized, target, boundary_weight(target)).sum()
    small = ClipLoss(full_size=False)([[prediction]], masks, 1)
    target = (F.interpolate(masks.float(), size=(16, 16), mode="area") >= 0.5).float()
    assert small["mask"] == structure_loss(logits, target, boundary_weight(target)).sum()


def test_small_objects_are_present() -> None:
    """Also those that are too small for the masks as they are decoded."""
    masks = torch.zeros(1, 1, 64, 64, dtype=torch.bool)
    masks[..., 10:11, 10:12] = True
    prediction = make_prediction(torch.zeros(1, 1, 16, 16), torch.zeros(1, 1), torch.full((1, 1), 5.0))
    assert ClipLoss()([[prediction]], masks, 1)["mask"] > 0
    small = ClipLoss(full_size=False)([[prediction]], masks, 1)
    assert small["mask"] == small["iou"] == 0
    assert small["presence"] < 0.01


def test_absent_objects_do_not_overflow() -> None:
    masks = torch.stack([disc(32, 10, 10, 6), torch.zeros(32, 32, dtype=torch.bool)]).unsqueeze(1)
    logits = torch.full((2, 3, 8, 8), NO_OBJECT_LOGIT, requires_grad=True)
    total = ClipLoss()([[make_prediction(logits, torch.zeros(2, 3), torch.full((2, 1), -5.0))]], masks, 2)["total"]
    total.backward()
    assert total.isfinite()
    assert logits.grad.isfinite().all()
