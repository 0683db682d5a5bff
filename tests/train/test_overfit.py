"""A tiny network learns two clips by heart, and its checkpoint segments them through the predictor."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from i2v import build_i2v_video_predictor
from i2v.utils.checkpoints import read_checkpoint
from tests.train.helpers import TINY_TRAINING
from train.dataset.vos_folder import VOSFolder
from train.trainer import Trainer
from train.validation import VideoValidation

STEPS = 150


@pytest.mark.slow
def test_overfit(make_trainer: Callable[..., Trainer], clips: Path, tmp_path: Path) -> None:
    validation = VideoValidation(VOSFolder(clips / "JPEGImages", clips / "Annotations", num_frames=None, max_objects=None))
    trainer = make_trainer(
        "data.parts.clips.transform._target_=train.dataset.transforms.PlainTransform",
        "data.parts.clips.batch_size=2",
        "data.parts.clips.dataset.num_frames=4",
        f"data.steps_per_epoch={STEPS}",
        "trainer.epochs=1",
        "optimizer.learning_rate=3e-3",
        "optimizer.trunk_learning_rate=3e-3",
        "+optimizer.warmup_steps=10",
        "model.memory_attention.dropout=0",
        "model.memory_prompt_generator.dropout=0",
    )
    untrained = [validation.score(trainer.model.eval(), index, "fp32") for index in range(2)]
    assert max(untrained) < 50
    trainer.validations = {"clips": validation}
    trainer.run()
    predictor = build_i2v_video_predictor(TINY_TRAINING, tmp_path / "run" / "best.pt", device="cpu")
    scores = [validation.score(predictor.model, index, "fp32") for index in range(2)]
    assert min(scores) > 90
    best = read_checkpoint(tmp_path / "run" / "best.pt")["best"]
    assert abs(sum(scores) / 2 - best) < 1e-3
