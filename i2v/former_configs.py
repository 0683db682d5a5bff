"""Configs and overrides of SAM 2, of the published code and of earlier versions, in today's words."""

from __future__ import annotations

import logging
from typing import Any

from omegaconf import DictConfig, OmegaConf, open_dict

log = logging.getLogger(__name__)

# Former keys of overrides, and where their values are now.
_FORMER_KEYS = {
    "model.add_all_frames_to_correct_as_cond": "predictor.add_all_frames_to_correct_as_cond",
    "model.binarize_mask_from_pts_for_mem_enc": "predictor.binarize_prompted_masks",
    "model.clear_non_cond_mem_around_input": "predictor.clear_non_cond_mem_around_input",
    "model.fill_hole_area": "predictor.fill_hole_area",
    "model.non_overlap_masks": "predictor.non_overlap_masks",
    "model.max_cond_frames_in_attn": "model.memory_selector.max_cond_frames_in_attn",
    "model.memory_temporal_stride_for_eval": "model.memory_selector.memory_temporal_stride_for_eval",
    "model.num_maskmem_global": "model.memory_selector.num_global",
    "model.num_maskmem_local": "model.memory_selector.num_local",
    "model.width": "model.embed_dim",
}
_SELECTORS = "i2v.modeling.memory.selector"
# The former modes of the one selector, and the classes that they are now.
_SELECTOR_MODES = {
    "sample": f"{_SELECTORS}.SampledSelector",
    "uniform": f"{_SELECTORS}.UniformSelector",
    "greedy": f"{_SELECTORS}.GreedySelector",
    "consecutive": f"{_SELECTORS}.ConsecutiveSelector",
}
# Classes whose `embed_dim` was called `width`.
_WITH_WIDTH = {
    f"i2v.modeling.{name}"
    for name in (
        *("sam_i2v.SAMI2V", "memory.attention.MemoryAttention", "memory.prompt_generator.MemoryPromptGenerator"),
        *("sam.prompt_encoder.PromptEncoder", "sam.dense_prompts.DensePromptEncoder"),
        *("sam.mask_decoder.MaskDecoder", "sam.transformer.TwoWayTransformer"),
    )
}
_STRIDE = "memory_temporal_stride_for_eval"


def update_override(override: str) -> str:
    """Return a Hydra override with today's key; one that has it already is returned as it is."""
    key, equals, value = override.partition("=")
    if not equals:
        return override
    bare = key.lstrip("+")
    if bare == "model.memory_selector.mode":
        updated = f"model/memory_selector={value}"
    elif bare in _FORMER_KEYS:
        updated = f"++{_FORMER_KEYS[bare]}={value}"
    else:
        return override
    log.info("the override %s is now %s", override, updated)
    return updated


def update_config(config: DictConfig) -> None:
    """Bring the model of a composed config up to date in place, such as one that was saved by an earlier version.

    Raises:
        ValueError: an unknown mode of the memory selector, or a stride for a selector that has none.
    """
    if not isinstance(config.model, DictConfig):
        return
    model = OmegaConf.to_container(config.model, resolve=False)
    updated = _update_part(model, "model")
    if updated != model:
        with open_dict(config):
            config.model = updated


def _update_part(part: Any, where: str) -> Any:
    if isinstance(part, list):
        return [_update_part(item, f"{where}[{i}]") for i, item in enumerate(part)]
    if not isinstance(part, dict):
        return part
    part = {key: _update_part(value, f"{where}.{key}") for key, value in part.items()}
    target = str(part.get("_target_", ""))
    if not target.startswith("i2v.modeling."):
        return part
    if target in _WITH_WIDTH and "width" in part:
        part["embed_dim"] = part.pop("width")
    if part.pop("activation_checkpointing", False):
        log.warning("%s.activation_checkpointing is now in the list activation_checkpointing of a training", where)
    return _update_selector(part, where) if target.startswith(_SELECTORS) else part


def _update_selector(part: dict[Any, Any], where: str) -> dict[Any, Any]:
    part = dict(part)
    if "mode" in part or part["_target_"] == f"{_SELECTORS}.MemorySelector":
        mode = part.pop("mode", "sample")
        if mode not in _SELECTOR_MODES:
            raise ValueError(f"{where}: unknown memory selection mode {mode!r}; known: {', '.join(_SELECTOR_MODES)}")
        part["_target_"] = _SELECTOR_MODES[mode]
    if part["_target_"] == _SELECTOR_MODES["consecutive"]:
        if "num_global" in part or "num_local" in part:
            part["num_tracked"] = part.pop("num_global", 4) + part.pop("num_local", 2)
        return {key: value for key, value in part.items() if key not in ("global_reach", "local_reach")}
    if _STRIDE in part and part.pop(_STRIDE) != 1:
        raise ValueError(f"{where}.{_STRIDE} is for SAM 2's selector: set model/memory_selector=consecutive")
    return part
