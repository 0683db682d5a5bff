"""The full-size network in training's unrolling against the published one. Takes about half a minute."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from i2v.build_i2v import build_i2v
from tests.train.helpers import load_seeded_weights
from train.losses import ClipLoss
from train.model.rollout import ClipRollout, PromptPlan, PromptSampling

# Of the fixture's 8 frames. A frame depends on earlier ones only, and frame 3 remembers a prompted frame and two tracked ones.
_NUM_FRAMES, _FIXTURE_FRAMES = 4, 8


@pytest.mark.slow
def test_training_forward(shared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seeded = load_seeded_weights(shared)
    manifest = json.loads((shared / "reference/checkpoints/sam_i2v_state_dict.json").read_text())
    expected = np.load(shared / "reference/fixtures/training_forward.npz")
    # The fixture's frames are normalised already.
    plain = ["model.image_encoder.pixel_mean=[0,0,0]", "model.image_encoder.pixel_std=[1,1,1]"]
    model = build_i2v("i2v-infer", device="cpu", hydra_overrides_extra=[f"++{override}" for override in plain])
    model.load_state_dict(seeded.seeded_state_dict(manifest))
    clip = seeded.seeded_input("train_video", (_FIXTURE_FRAMES, 1, 3, 1024, 1024)).transpose(0, 1)[:, :_NUM_FRAMES]
    y, x = torch.meshgrid(torch.arange(1024), torch.arange(1024), indexing="ij")
    masks = torch.stack([(x - 400 - 20 * t) ** 2 + (y - 500) ** 2 < 150**2 for t in range(_NUM_FRAMES)]).unsqueeze(0)

    rollout = ClipRollout(model, PromptSampling())
    plan = rollout.memory_selector.plan
    # Distances in time are relative to the length of the whole clip.
    monkeypatch.setattr(
        rollout.memory_selector, "plan", lambda time, history: plan(time, replace(history, num_frames=_FIXTURE_FRAMES))
    )
    with torch.inference_mode():
        frames = rollout(clip, masks, torch.zeros(1).long(), torch.Generator(), PromptPlan({0: "mask"}))
        losses = [ClipLoss()([frame.predictions], masks[:, t : t + 1], 1) for t, frame in enumerate(frames)]

    for t, frame in enumerate(frames):
        [prediction] = frame.predictions
        published = torch.from_numpy(expected["low_res_masks"][t])
        assert (prediction.masks[..., ::2, ::2] - published).abs().max() < 1e-3 * published.std()
        ious = expected["ious"][t]
        assert np.allclose(prediction.ious, ious[:, : prediction.ious.shape[1]], rtol=1e-3, atol=1e-7)
        assert np.isnan(ious[:, prediction.ious.shape[1] :]).all()
        for name, theirs in {"mask": "loss_mask", "iou": "loss_iou", "presence": "loss_class", "total": "core_loss"}.items():
            assert losses[t][name].item() == pytest.approx(float(expected[f"frame_loss.{theirs}"][t]), rel=1e-3, abs=1e-6), name
