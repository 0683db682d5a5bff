"""The paper's baselines with adapters train, and what they learn tracks."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from i2v import build_i2v_video_predictor
from i2v.utils.checkpoints import read_checkpoint
from tests.modeling.test_sam_i2v import WITH_ADAPTERS
from tests.train.helpers import TINY_TRAINING, disc_clip
from train.trainer import Trainer


@pytest.mark.slow
@pytest.mark.parametrize("upgrade", WITH_ADAPTERS)
def test_trains_and_tracks_in_both_directions(upgrade: str, make_trainer: Callable[..., Trainer], tmp_path: Path) -> None:
    overrides = [*WITH_ADAPTERS[upgrade], "+activation_checkpointing=[TinyViTBlock]", "trainer.average_decay=0.5"]
    trainer = make_trainer(*overrides)
    adapters = trainer.model.image_encoder.adapters
    before = {name: value.clone() for name, value in adapters.state_dict().items()}
    trainer.run()
    assert all(not torch.equal(value, before[name]) for name, value in adapters.state_dict().items())
    checkpoint = read_checkpoint(tmp_path / "run" / "last.pt")
    name = "image_encoder.adapters.0.up.weight"
    assert not torch.equal(checkpoint["model"][name], checkpoint["current"][name])  # the average has its own

    predictor = build_i2v_video_predictor(
        TINY_TRAINING,
        tmp_path / "run" / "last.pt",
        device="cpu",
        hydra_overrides_extra=[*WITH_ADAPTERS[upgrade], "folder=unused"],
    )
    state = predictor.init_state(disc_clip(0)[0])
    predictor.add_new_points_or_box(state, 3, 1, [[25, 18]], [1])
    masks = {
        frame: mask for reverse in (True, False) for frame, _, mask in predictor.propagate_in_video(state, reverse=reverse)
    }
    assert masks.keys() == set(range(6))
    assert all(bool(mask.isfinite().all()) for mask in masks.values())
