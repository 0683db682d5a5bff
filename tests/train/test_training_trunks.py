"""Training with the trunks of other image segmenters."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.conftest import small_trunk
from train.trainer import Trainer


@pytest.mark.slow
@pytest.mark.parametrize("trunk", ["vit_base", "rep_vit"])
def test_every_part_of_a_trunk_is_trained(trunk: str, make_trainer: Callable[..., Trainer]) -> None:
    overrides = [*small_trunk(trunk, "strides"), "model.feature_stride=16", "trainer.epochs=1", "data.steps_per_epoch=2"]
    trainer = make_trainer(*overrides)
    network = trainer.model.image_encoder.trunk_image
    before = {name: value.clone() for name, value in network.named_parameters()}
    trainer.run()
    unchanged = [name for name, value in network.named_parameters() if value.equal(before[name])]
    assert unchanged == []
