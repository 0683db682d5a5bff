"""From a config and a checkpoint to a network or a predictor."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig

from i2v.i2v_video_predictor import I2VVideoPredictor
from i2v.load_config import check_overrides, load_config, named_config, shipped_checkpoint
from i2v.modeling.sam_i2v import SAMI2V
from i2v.typed_config import ConfigError, build, section, typed_arguments
from i2v.utils.checkpoints import load_weights
from i2v.utils.devices import usable_device

log = logging.getLogger(__name__)

# For networks whose config is not trusted; SAM's largest image encoder has 632 million.
_MOST_PARAMETERS = 1_000_000_000
# What `apply_postprocessing=False` switches off.
_NO_POSTPROCESSING = (
    "model.sam_mask_decoder.dynamic_multimask_via_stability=false",
    "++predictor.binarize_prompted_masks=false",
    "++predictor.fill_hole_area=0",
)


def build_i2v(
    config_file: str | Path,
    ckpt_path: str | Path | None = None,
    device: str | int | torch.device | None = None,
    mode: str = "eval",
    hydra_overrides_extra: Sequence[str] = (),
    apply_postprocessing: bool = True,
    trusted: bool = True,
    **unused: Any,
) -> SAMI2V:
    """Build the network.

    Args:
        config_file (str or Path): name or path of a config; see `load_config`.
        ckpt_path (str or Path or None): path of the weights; by default those that come with the config. A config without any,
            or the override "checkpoint=null", leaves the network untrained.
        device (str or int or torch.device or None): PyTorch device; by default CUDA, then MPS, then the CPU.
        mode (str): "eval" or "train".
        hydra_overrides_extra (Sequence[str]): Hydra's overrides, such as "model/memory_selector=greedy".
        apply_postprocessing (bool): choose among several masks by their stability.
        trusted (bool): False for somebody else's config; see `load_config`.
        unused: arguments of SAM 2 that have no effect here, such as vos_optimized.

    Raises:
        ValueError: see `load_config` and `i2v.utils.checkpoints.load_weights`.
        FileNotFoundError: see `i2v.utils.checkpoints.load_weights`.
    """
    config = _load(config_file, hydra_overrides_extra, apply_postprocessing, trusted, unused)
    with named_config(config_file):
        predictor_settings(config)
        return _build_model(config, ckpt_path, device, mode, trusted)


def build_i2v_video_predictor(
    config_file: str | Path,
    ckpt_path: str | Path | None = None,
    device: str | int | torch.device | None = None,
    mode: str = "eval",
    hydra_overrides_extra: Sequence[str] = (),
    apply_postprocessing: bool = True,
    trusted: bool = True,
    **unused: Any,
) -> I2VVideoPredictor:
    """Build a predictor.

    Args:
        config_file (str or Path): "i2v-lite" (its weights are bundled), "i2v-infer" (the published model), or a path; see
            `load_config`.
        ckpt_path (str or Path or None): path of the weights; see `build_i2v`.
        device (str or int or torch.device or None): PyTorch device; by default CUDA, then MPS, then the CPU.
        mode (str): "eval"; "train" leaves dropout on.
        hydra_overrides_extra (Sequence[str]): Hydra's overrides, such as "model/memory_selector=greedy" or
            "predictor.precision=bf16".
        apply_postprocessing (bool): choose among several masks by their stability, make the memory of prompted frames from
            binary masks, and fill holes.
        trusted (bool): False for somebody else's config; see `load_config`.
        unused: arguments of SAM 2 that have no effect here, such as vos_optimized.

    Raises:
        ValueError: see `load_config` and `i2v.utils.checkpoints.load_weights`.
        FileNotFoundError: see `i2v.utils.checkpoints.load_weights`.
    """
    config = _load(config_file, hydra_overrides_extra, apply_postprocessing, trusted, unused)
    with named_config(config_file):
        settings = predictor_settings(config)
        model = _build_model(config, ckpt_path, device, mode, trusted)
        try:
            return I2VVideoPredictor(model, **settings)
        except ValueError as error:
            raise ConfigError(f"predictor: {error}") from error


def build_meta_model(config_file: str | Path, hydra_overrides_extra: Sequence[str] = ()) -> SAMI2V:
    """Build the network of a config on the meta device, for inference: shapes without values, to count its parts.

    Args:
        config_file (str or Path): see `build_i2v`.
        hydra_overrides_extra (Sequence[str]): see `build_i2v`.

    Raises:
        ValueError: see `load_config`.
    """
    config = load_config(config_file, hydra_overrides_extra)
    with named_config(config_file):
        return _meta_model(config)


def predictor_settings(config: DictConfig) -> dict[str, Any]:
    """Return the arguments of the predictor in a config, besides the network.

    Raises:
        ConfigError: one is unknown or of the wrong type.
    """
    settings = section(dict[str, Any], config, "predictor", default={})
    return typed_arguments(I2VVideoPredictor, settings, "predictor", given=1)


def _load(
    config_file: str | Path, overrides: Sequence[str], apply_postprocessing: bool, trusted: bool, unused: dict[str, Any]
) -> DictConfig:
    check_overrides(overrides)
    if unused:
        log.warning("arguments that have no effect here: %s", ", ".join(unused))
    postprocessing = () if apply_postprocessing else _NO_POSTPROCESSING
    return load_config(config_file, [*postprocessing, *overrides], trusted=trusted)


def _build_model(
    config: DictConfig, ckpt_path: str | Path | None, device: str | int | torch.device | None, mode: str, trusted: bool
) -> SAMI2V:
    if mode not in ("eval", "train"):
        raise ValueError(f"mode must be 'eval' or 'train', got {mode!r}")
    device = usable_device(device)
    if not trusted:
        _check_size(config)
    model: SAMI2V = build(config, "model", kind=SAMI2V)
    # An empty path is not None: it is reported as a missing file.
    path = shipped_checkpoint(config) if ckpt_path is None else ckpt_path
    if path is not None:
        load_weights(model, path)
    else:
        log.warning("no checkpoint: the weights are random")
    return model.to(device).train(mode == "train")


def _meta_model(config: DictConfig) -> SAMI2V:
    with torch.device("meta"):
        model: SAMI2V = build(config, "model", kind=SAMI2V)
    return model.requires_grad_(False).eval()


def _check_size(config: DictConfig) -> None:
    """Raise a ConfigError if the network of an untrusted config is too large, before allocating it."""
    model = _meta_model(config)
    numbers = sum(tensor.numel() for tensor in (*model.parameters(), *model.buffers()))
    if numbers > _MOST_PARAMETERS:
        raise ConfigError(
            f"model has {numbers / 1e6:,.0f} million parameters and constants: at most {_MOST_PARAMETERS / 1e6:,.0f} million "
            "are allowed in a config that is not trusted"
        )
