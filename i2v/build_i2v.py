"""From a config and a checkpoint to a network or a predictor."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import torch
import yaml
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from hydra.utils import instantiate
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from i2v.i2v_video_predictor import I2VVideoPredictor
from i2v.modeling.sam_i2v import SAMI2V
from i2v.utils.checkpoints import load_weights

log = logging.getLogger(__name__)

CONFIG_DIR = Path(__file__).parent / "configs"
# Of the command lines; its weights come along.
DEFAULT_CONFIG = "i2v-lite"
# What `apply_postprocessing=False` switches off.
_NO_POSTPROCESSING = (
    "model.sam_mask_decoder.dynamic_multimask_via_stability=false",
    "++predictor.binarize_prompted_masks=false",
    "++predictor.fill_hole_area=0",
)


def default_device() -> torch.device:
    """CUDA, else MPS, else the CPU."""
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def known_configs() -> list[str]:
    """Names of the packaged configs."""
    return sorted(path.stem for path in CONFIG_DIR.glob("*.yaml"))


def load_config(config_file: str | Path, overrides: Sequence[str] = (), search_folders: Sequence[Path] = ()) -> DictConfig:
    """Compose a config.

    Args:
        config_file: a packaged name ("i2v-infer", with or without ".yaml"), or the path of a YAML file. A path that does not
            exist, but ends like that of a packaged config (./i2v/configs/i2v-infer.yaml), means that one, from any working
            directory. Groups (model=...) are found beside the file, in `search_folders` and in the package.
        overrides: of Hydra, such as "model.memory_selector.mode=greedy".

    Raises:
        ValueError: an unknown name (the known ones are listed), or a config or override that Hydra cannot compose.
    """
    check_overrides(overrides)
    path = Path(config_file)
    if path.suffix == ".yaml" and path.is_file():
        folder, name = path.resolve().parent, path.stem
    elif path.name.removesuffix(".yaml") in known_configs() and (
        len(path.parts) == 1 or path.parts[-3:-1] == CONFIG_DIR.parts[-2:]
    ):
        folder, name = CONFIG_DIR, path.stem
    else:
        raise ValueError(f"unknown config {str(config_file)!r}: neither a YAML file nor one of {', '.join(known_configs())}")
    others = [str(other).replace("\\", "\\\\").replace("'", "\\'") for other in (*search_folders, CONFIG_DIR)]
    searchpath = ", ".join(f"'file://{other}'" for other in others)
    overrides = [f"hydra.searchpath=[{searchpath}]", *overrides]
    # Hydra's global state is left as it was, so that this works twice, and inside other Hydra programs.
    theirs = GlobalHydra.instance().hydra
    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(str(folder), version_base=None):
            config = compose(name, overrides=overrides)
    except (HydraException, OmegaConfBaseException, yaml.YAMLError) as error:
        raise ValueError(f"cannot compose the config {str(config_file)!r}: {error}") from error
    finally:
        GlobalHydra.instance().hydra = theirs
    if "model" not in config:
        raise ValueError(f"the config {str(config_file)!r} has no part 'model'")
    return config


def check_overrides(overrides: Sequence[str]) -> None:
    """Check that overrides are several strings.

    Raises:
        TypeError: they are one string, which would be taken for a list of letters.
    """
    if isinstance(overrides, str):
        raise TypeError(f"overrides are a list of strings, not one string: [{overrides!r}]")


def shipped_checkpoint(config: DictConfig) -> Path | None:
    """The weights that come with a packaged config ("checkpoint" in it), or None.

    Raises:
        FileNotFoundError: they are not there.
    """
    name = config.get("checkpoint")
    if name is None:
        return None
    # In a wheel they lie in the package, in a checkout beside it.
    places = [folder / "checkpoints" / name for folder in (CONFIG_DIR.parent, CONFIG_DIR.parents[1])]
    for path in places:
        if path.is_file():
            return path
    raise FileNotFoundError(f"the config's checkpoint {name} is missing: it is neither {places[0]} nor {places[1]}")


def build_i2v(
    config_file: str | Path,
    ckpt_path: str | Path | None = None,
    device: str | int | torch.device | None = None,
    mode: str = "eval",
    hydra_overrides_extra: Sequence[str] = (),
) -> SAMI2V:
    """Build the network.

    Args:
        config_file: see `load_config`. ckpt_path: weights; by default those that come with the config, and where there are
            none the network is untrained ("checkpoint=null" in the overrides leaves it so in any case).
        device: by default CUDA, then MPS, then the CPU. mode: "eval" or "train".

    Raises:
        ValueError, FileNotFoundError: see `load_config` and `i2v.utils.checkpoints.load_weights`.
    """
    return _build_model(load_config(config_file, hydra_overrides_extra), ckpt_path, device, mode)


def build_i2v_video_predictor(
    config_file: str | Path,
    ckpt_path: str | Path | None = None,
    device: str | int | torch.device | None = None,
    mode: str = "eval",
    hydra_overrides_extra: Sequence[str] = (),
    apply_postprocessing: bool = True,
) -> I2VVideoPredictor:
    """Build a predictor.

    Args:
        config_file: "i2v-lite" (its weights come along), "i2v-infer" (the published model), or a path; see `load_config`.
        ckpt_path: weights; see `build_i2v`. device: by default CUDA, then MPS, then the CPU.
        mode: "eval"; "train" leaves dropout on.
        hydra_overrides_extra: such as "model.memory_selector.mode=greedy" or "predictor.precision=bf16".
        apply_postprocessing: False for no choice among several masks by stability, no binary masks in the memory of prompted
            frames, and no filling of holes.

    Raises:
        ValueError, FileNotFoundError: see `load_config` and `i2v.utils.checkpoints.load_weights`.
    """
    check_overrides(hydra_overrides_extra)
    postprocessing = () if apply_postprocessing else _NO_POSTPROCESSING
    config = load_config(config_file, [*postprocessing, *hydra_overrides_extra])
    return I2VVideoPredictor(_build_model(config, ckpt_path, device, mode), **config.get("predictor", {}))


def _build_model(
    config: DictConfig, ckpt_path: str | Path | None, device: str | int | torch.device | None, mode: str
) -> SAMI2V:
    if mode not in ("eval", "train"):
        raise ValueError(f"mode must be 'eval' or 'train', got {mode!r}")
    device = default_device() if device is None else device
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, TypeError) as error:  # AssertionError: PyTorch without CUDA
        raise ValueError(f"cannot use the device {str(device)!r}: {error}") from error
    try:
        model: SAMI2V = instantiate(config.model)
    except HydraException as error:
        raise ValueError(f"cannot build the model: {error}") from error
    path = ckpt_path or shipped_checkpoint(config)
    if path is not None:
        load_weights(model, path)
    else:
        log.warning("no checkpoint: the weights are random")
    return model.to(device).train(mode == "train")
