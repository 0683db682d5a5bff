"""Learning rates, weight decay and the schedule."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hydra.utils import instantiate

from i2v.load_config import load_config
from i2v.modeling.sam_i2v import SAMI2V
from train.optimizer import OptimizerSettings, build_optimizer

SETTINGS = OptimizerSettings()


def settings_by_name(model: SAMI2V, settings: OptimizerSettings = SETTINGS) -> dict[str, tuple[float, float]]:
    """Learning rate and weight decay of each parameter that is optimised."""
    groups = build_optimizer(model, settings).param_groups
    values = {id(p): (group["peak_lr"], group["weight_decay"]) for group in groups for p in group["params"]}
    assert sum(len(group["params"]) for group in groups) == len(values)
    return {name: values[id(p)] for name, p in model.named_parameters() if id(p) in values}


def lite_model() -> SAMI2V:
    with torch.device("meta"):
        return instantiate(load_config("i2v-lite").model)


@pytest.mark.slow
def test_every_trained_parameter_is_optimised(make_model: Callable[..., SAMI2V]) -> None:
    for model in (make_model(), lite_model()):
        assert settings_by_name(model).keys() == {name for name, p in model.named_parameters() if p.requires_grad}
    model = make_model()
    assert "no_mem_pos_enc" not in settings_by_name(model)
    with pytest.raises(ValueError, match="no parameter is left to train"):
        build_optimizer(model.requires_grad_(False), SETTINGS)


def published_model() -> SAMI2V:
    with torch.device("meta"):
        return instantiate(load_config("i2v-infer").model)


@pytest.mark.slow
def test_weight_decay(make_model: Callable[..., SAMI2V]) -> None:
    decays = {name: decay for name, (_, decay) in settings_by_name(make_model()).items()}
    trunk = "image_encoder.trunk_image."
    assert decays[f"{trunk}layers.1.blocks.0.attn.attention_biases"] == 0
    assert decays["memory_attention.norm.weight"] == 0
    assert decays[f"{trunk}layers.1.blocks.0.local_conv.bn.weight"] == 0.1
    assert decays[f"{trunk}layers.1.blocks.0.local_conv.bn.bias"] == 0
    assert decays[f"{trunk}neck.1.weight"] == 0.1  # a normalisation over maps
    assert decays["memory_attention.layers.0.linear1.weight"] == 0.1


@pytest.mark.slow
def test_scales_without_decay() -> None:
    settings = OptimizerSettings(decay_scales=False)
    for model in (published_model(), lite_model()):
        parameters = dict(model.named_parameters())
        for name, (_, decay) in settings_by_name(model, settings).items():
            assert (decay == 0) == (parameters[name].ndim == 1 or "bias" in name), name


@pytest.mark.slow
def test_every_parameter_has_the_published_rate_and_decay() -> None:
    """Compute the expected groups by the rules of the released code.

    There are 14 levels from the patch embedding to the neck, a stage's merging belongs to its last block, and biases and
    `nn.LayerNorm` do not decay.
    """
    model = published_model()
    layer_norms = {f"{name}.weight" for name, module in model.named_modules() if isinstance(module, torch.nn.LayerNorm)}
    first_of_stage, num_blocks = [1, 3, 5, 11], [2, 2, 6, 2]
    found = settings_by_name(model)
    decayed = 0
    for name, (rate, decay) in found.items():
        expected = 3e-4
        if name.startswith("image_encoder.trunk_image."):
            part, *rest = name.removeprefix("image_encoder.trunk_image.").split(".")
            if part == "layers":
                stage = int(rest[0])
                block = int(rest[2]) if rest[1] == "blocks" else num_blocks[stage] - 1
                level = first_of_stage[stage] + block
            else:
                level = {"patch_embed": 0, "neck": 13}[part]
            expected = 6e-5 * 0.9 ** (13 - level)
        assert rate == pytest.approx(expected), name
        assert decay == (0 if "bias" in name or name in layer_norms else 0.1), name
        decayed += decay > 0 and dict(model.named_parameters())[name].ndim == 1
    assert decayed == 27 + 20 + 2  # of batch normalisations, of normalisations over maps, of residual branches
    assert len({rate for name, (rate, _) in found.items() if "trunk_image" in name}) == 14


@pytest.mark.slow
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


def test_parameters_left_out_of_the_depth_groups_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    model = published_model()
    groups = model.image_encoder.trunk_image.depth_groups()
    monkeypatch.setattr(model.image_encoder.trunk_image, "depth_groups", lambda: groups[1:])
    with pytest.raises(ValueError, match=r"TinyViT.depth_groups\(\) leaves out patch_embed.seq.0.c.weight"):
        build_optimizer(model, OptimizerSettings())
