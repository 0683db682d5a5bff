"""Configs and overrides of earlier versions still build the same network."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from omegaconf import OmegaConf

from i2v import build_i2v
from i2v.load_config import load_config
from i2v.modeling.memory.selector import ConsecutiveSelector, GreedySelector, SampledSelector, UniformSelector
from tests.conftest import TINY_CONFIG


def former_config(selector: dict[str, Any]) -> dict[str, Any]:
    """The tiny network's complete config, as the first version saved it."""

    def renamed(value: Any) -> Any:
        if isinstance(value, dict):
            return {"width" if key == "embed_dim" else key: renamed(item) for key, item in value.items()}
        return value

    config = renamed(OmegaConf.to_container(load_config(TINY_CONFIG), resolve=True))
    encoder = config["model"]["image_encoder"]
    for part in (encoder["trunk_image"], encoder["trunk_video"], config["model"]["memory_attention"]):
        part["activation_checkpointing"] = False  # as in experiments
    numbers = {"num_global": 4, "num_local": 2, "global_reach": 20, "local_reach": 4, "max_cond_frames_in_attn": -1}
    config["model"]["memory_selector"] = {
        "_target_": "i2v.modeling.memory.selector.MemorySelector",
        **numbers,
        "memory_temporal_stride_for_eval": 1,
        **selector,
    }
    return config


@pytest.mark.parametrize(
    ("selector", "kind", "attributes"),
    [
        ({}, SampledSelector, {"num_global": 4}),
        ({"mode": "sample"}, SampledSelector, {"num_global": 4}),
        ({"mode": "uniform", "num_local": 1}, UniformSelector, {"num_local": 1}),
        ({"mode": "greedy", "global_reach": 12}, GreedySelector, {"global_reach": 12}),
        (
            {"mode": "consecutive", "num_local": 1, "memory_temporal_stride_for_eval": 2},
            ConsecutiveSelector,
            {"num_tracked": 5, "temporal_stride": 2},
        ),
    ],
)
@pytest.mark.parametrize("trusted", [True, False])
def test_saved_configs(selector: dict, kind: type, attributes: dict, trusted: bool, tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(former_config(selector)))
    model, present = build_i2v(path, device="cpu", trusted=trusted), build_i2v(TINY_CONFIG, device="cpu")
    assert model.embed_dim == 32
    assert {name: value.shape for name, value in model.state_dict().items()} == {
        name: value.shape for name, value in present.state_dict().items()
    }
    assert type(model.memory_selector) is kind
    assert {name: getattr(model.memory_selector, name) for name in attributes} == attributes


@pytest.mark.parametrize(
    ("selector", "message"),
    [
        ({"mode": "best"}, "unknown memory selection mode 'best'; known: sample, uniform, greedy, consecutive"),
        ({"mode": "sample", "memory_temporal_stride_for_eval": 2}, "set model/memory_selector=consecutive"),
    ],
)
def test_saved_configs_that_never_worked(selector: dict, message: str, tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(former_config(selector)))
    with pytest.raises(ValueError, match=f"config.yaml'.*model.memory_selector.*{message}"):
        build_i2v(path, device="cpu")


@pytest.mark.parametrize("mode", ["sample", "greedy", "uniform", "consecutive"])
def test_override_of_the_former_mode(mode: str) -> None:
    former, present = (
        load_config("i2v-infer", [f"model{key}={mode}"]) for key in (".memory_selector.mode", "/memory_selector")
    )
    assert former == present
    assert load_config("i2v-infer", ["model.width=128"]) == load_config("i2v-infer", ["model.embed_dim=128"])


def test_published_numbers_with_the_consecutive_selector() -> None:
    config = load_config("i2v-infer", ["model.memory_selector.mode=consecutive", "model.num_maskmem_global=3"])
    assert config.model.memory_selector.num_tracked == 5


def test_arguments_of_other_classes_keep_their_names() -> None:
    own = "+model.image_encoder.trunk_image={_target_: own_trunk.Trunk, width: 48}"
    config = load_config("i2v-infer", ["~model.image_encoder.trunk_image", own])
    assert config.model.image_encoder.trunk_image == {"_target_": "own_trunk.Trunk", "width": 48}


@pytest.mark.parametrize("name", ["i2v-infer", "i2v-lite"])
def test_upgrade_is_sam_i2v_unless_chosen(name: str) -> None:
    assert load_config(name) == load_config(name, ["model/upgrade=sam_i2v"])


@pytest.mark.parametrize("name", ["i2v-infer", "i2v-lite"])
def test_former_words_for_the_baseline(name: str) -> None:
    """What documents and scripts wrote before there was model/upgrade=ta."""
    parts = ["model.image_encoder.trunk_video=null", "model.memory_prompt_generator=null", "model.memory_attention.hidden=2048"]
    assert load_config(name, [*parts, "model.memory_selector.mode=consecutive"]) == load_config(name, ["model/upgrade=ta"])
    kept = load_config(name, ["model/upgrade=ta", "model/memory_selector=greedy"])
    assert kept.model.memory_selector["_target_"].endswith("GreedySelector")
