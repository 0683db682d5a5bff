"""Learning rates, weight decay and the schedule."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hydra.utils import instantiate

from i2v.build_i2v import load_config
from i2v.modeling.sam_i2v import SAMI2V
from train.optimizer import OptimizerSettings, build_optimizer

SETTINGS = OptimizerSettings()


def settings_by_name(model: SAMI2V) -> dict[str, tuple[float, float]]:
    """Learning rate and weight decay of each parameter that is optimised."""
    groups = build_optimizer(model, SETTINGS).param_groups
    values = {id(p): (group["peak_lr"], group["weight_decay"]) for group in groups for p in group["params"]}
    assert sum(len(group["params"]) for group in groups) == len(values)
    return {name: values[id(p)] for name, p in model.named_parameters() if id(p) in values}


def lite_model() -> SAMI2V:
    with torch.device("meta"):
        return instantiate(load_config("i2v-lite").model)


def test_every_trained_parameter_is_optimised(make_model: Callable[..., SAMI2V]) -> None:
    for model in (make_model(), lite_model()):
        assert settings_by_name(model).keys() == {name for name, p in model.named_parameters() if p.requires_grad}
    model = make_model()
    assert "no_mem_pos_enc" not in settings_by_name(model)
    with pytest.raises(ValueError, match="no parameter is left to train"):
        build_optimizer(model.requires_grad_(False), SETTINGS)


def test_weight_decay(make_model: Callable[..., SAMI2V]) -> None:
    for model in (make_model(), lite_model()):
        parameters = dict(model.named_parameters())
        for name, (_, decay) in settings_by_name(model).items():
            free = parameters[name].ndim == 1 or name.endswith("bias") or "attention_biases" in name
            assert decay == (0.0 if free else 0.1), name
    decays = {name: decay for name, (_, decay) in settings_by_name(make_model()).items()}
    assert decays["image_encoder.trunk_image.layers.1.blocks.0.attn.attention_biases"] == 0
    assert decays["memory_attention.norm.weight"] == 0
    assert decays["memory_attention.layers.0.linear1.weight"] == 0.1


def test_layer_decay_of_tiny_vit() -> None:
    with torch.device("meta"):
        model = instantiate(load_config("i2v-infer").model)
    rates = {name: rate for name, (rate, _) in settings_by_name(model).items()}
    trunk = "image_encoder.trunk_image."
    # From the neck to the input: 2 blocks, merging + 6 blocks, merging + 2 blocks, merging + 2 blocks, patch embedding.
    in_order = [
        "neck",
        "layers.3.blocks.1",
        "layers.3.blocks.0",
        "layers.2.downsample",
        *(f"layers.2.blocks.{i}" for i in reversed(range(6))),
        "layers.1.downsample",
        "layers.1.blocks.1",
        "layers.1.blocks.0",
        "layers.0.downsample",
        "layers.0.blocks.1",
        "layers.0.blocks.0",
        "patch_embed",
    ]
    for depth, part in enumerate(in_order):
        [found] = {rate for name, rate in rates.items() if name.startswith(f"{trunk}{part}.")}
        assert found == pytest.approx(6e-5 * 0.9**depth), part
    in_trunk = [name for name in rates if name.startswith(trunk)]
    assert len(in_trunk) == sum(name.startswith(tuple(f"{trunk}{part}." for part in in_order)) for name in rates)
    assert {rate for name, rate in rates.items() if not name.startswith(trunk)} == {3e-4}


def test_layer_decay_of_efficientnet() -> None:
    rates = {name: rate for name, (rate, _) in settings_by_name(lite_model()).items()}
    trunk = "image_encoder.trunk_image."
    for part, depth in {"neck": 0, "laterals": 0, "blocks.15": 1, "blocks.0": 16, "stem": 17}.items():
        [found] = {rate for name, rate in rates.items() if name.startswith(f"{trunk}{part}.")}
        assert found == pytest.approx(6e-5 * 0.9**depth), part


def test_schedule() -> None:
    assert SETTINGS.factor(0, 100) == 1
    assert SETTINGS.factor(50, 100) == pytest.approx(0.505)
    assert SETTINGS.factor(100, 100) == pytest.approx(0.01)
    assert SETTINGS.factor(99, 100) == pytest.approx(0.01, abs=1e-3)
    factors = [SETTINGS.factor(step, 100) for step in range(101)]
    assert factors == sorted(factors, reverse=True)


def test_warm_up() -> None:
    settings = OptimizerSettings(warmup_steps=9)
    assert [settings.factor(step, 100) for step in range(10)] == pytest.approx([i / 10 for i in range(1, 11)])
    assert settings.factor(100, 100) == pytest.approx(0.01)
    assert OptimizerSettings(warmup_steps=20).factor(5, 10) < 1  # longer than the training
