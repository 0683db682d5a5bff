"""From a config and a checkpoint to a network or a predictor."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import torch
import yaml
from hydra import compose, version
from hydra._internal.core_plugins.file_config_source import FileConfigSource
from hydra._internal.hydra import Hydra
from hydra._internal.utils import create_config_search_path
from hydra.core.global_hydra import GlobalHydra
from hydra.core.plugins import Plugins
from hydra.errors import HydraException
from hydra.plugins.config_source import ConfigResult
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from i2v.former_configs import update_config, update_override
from i2v.i2v_video_predictor import I2VVideoPredictor
from i2v.modeling.sam_i2v import SAMI2V
from i2v.typed_config import (
    ConfigError,
    build,
    one_line,
    referenced_names,
    reject_unknown_sections,
    section,
    typed_arguments,
)
from i2v.untrusted_config import check_untrusted
from i2v.utils.checkpoints import load_weights
from i2v.utils.yaml_files import check_yaml

log = logging.getLogger(__name__)

CONFIG_DIR = Path(__file__).parent / "configs"
# Of a clone: what training is configured with.
EXPERIMENT_DIR = CONFIG_DIR.parents[1] / "configs"
# Of the command lines; its weights come along.
DEFAULT_CONFIG = "i2v-lite"
# Of a network whose config is not trusted; SAM's largest image encoder has 632 million.
_MOST_PARAMETERS = 1_000_000_000
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


def usable_device(device: str | int | torch.device | None = None) -> torch.device:
    """A device on which PyTorch can work, by default the first that there is.

    Raises:
        ValueError: there is no such device.
    """
    device = default_device() if device is None else device
    try:
        return torch.empty(0, device=device).device
    # AssertionError: PyTorch without CUDA; ImportError: a kind for which a package is missing; ValueError: a large number
    except (RuntimeError, AssertionError, ImportError, TypeError, ValueError) as error:
        raise ValueError(f"cannot use the device {str(device)!r}: {one_line(error)}") from error


def device_of_option(text: str | None) -> torch.device:
    """The device that `--device` names, by default the first that there is. A number is that of a GPU, as in Python.

    Raises:
        ValueError: there is no such device, or nothing can be computed on it.
    """
    try:
        # Longer numbers are not those of a GPU.
        device = usable_device(int(text) if text is not None and text.isdecimal() and len(text) < 19 else text)
        if device.type == "meta":
            raise ValueError("nothing is computed on the device 'meta'")
    except ValueError as error:
        raise ValueError(f"--device is cuda, cuda:NUMBER, mps or cpu: {error}") from error
    return device


def known_configs() -> list[str]:
    """Names of the packaged configs."""
    return sorted(path.stem for path in CONFIG_DIR.glob("*.yaml"))


# Names that the files of the config being composed refer to. A file may replace the only value that refers to a variable of the
# file it builds on, so that the composed config alone does not tell which of its keys are variables.
_variables: ContextVar[set[str]] = ContextVar("_variables")


class _CheckedFiles(FileConfigSource):
    """Hydra's source of the files in a folder, which are checked before they are read."""

    @staticmethod
    def scheme() -> str:
        return "checked"

    def load_config(self, config_path: str) -> ConfigResult:
        path = Path(self.path, self._normalize_file_name(config_path))
        check_yaml(path)
        try:
            result = super().load_config(config_path)
        except ValueError as error:  # a value that Python cannot make, such as !!int x
            raise ValueError(f"{path}: {error}") from error
        _variables.get().update(referenced_names(OmegaConf.to_container(result.config)))
        return result


def load_config(config_file: str | Path, overrides: Sequence[str] = (), trusted: bool = True) -> DictConfig:
    """Compose a config.

    A config is code: it names the classes that are built of it, and those can be any that Python finds.

    Args:
        config_file: a packaged name ("i2v-infer", with or without ".yaml"), or the path of a YAML file. A path that does not
            exist, but ends like that of a packaged config (./i2v/configs/i2v-infer.yaml), means that one, from any working
            directory. Groups (model=...) are found beside the file (and beside what it is a link to), in the package and, in a
            clone, among the experiments in configs/.
        overrides: of Hydra, such as "model/memory_selector=greedy".
        trusted: False for a file that somebody else wrote, such as one that came along with weights: it may build classes of
            this project's network only, and stands for itself; see `check_untrusted`. Packaged configs are always trusted.

    Raises:
        TypeError: config_file is no name or path, or overrides are no list of strings.
        ValueError: an unknown name (the known ones are listed), a file that is too large or nested too deeply, a config or
            override that Hydra cannot compose, or a top-level key that is unknown. If not trusted, also a config that asks for
            more.
    """
    check_overrides(overrides)
    if not isinstance(config_file, (str, os.PathLike)):
        raise TypeError(f"config_file must be the name of a config or the path of a YAML file, not {config_file!r}")
    path = Path(config_file)
    if path.suffix == ".yaml" and path.is_file():
        # What is read is what a link leads to, whose name may be another one.
        folder, name, beside = path.absolute().parent, path.stem, [path.resolve().parent]
    elif path.name.removesuffix(".yaml") in known_configs() and (
        len(path.parts) == 1 or path.parts[-3:-1] == CONFIG_DIR.parts[-2:]
    ):
        folder, name, beside = CONFIG_DIR, path.stem, []
    else:
        raise ValueError(f"unknown config {str(config_file)!r}: neither a YAML file nor one of {', '.join(known_configs())}")
    if not trusted and folder != CONFIG_DIR:
        check_untrusted(folder / path.name)
    experiments = [EXPERIMENT_DIR] if EXPERIMENT_DIR.is_dir() else []
    others = [str(other).replace("\\", "\\\\").replace("'", "\\'") for other in (*beside, *experiments, CONFIG_DIR)]
    searchpath = ", ".join(f"'{_CheckedFiles.scheme()}://{other}'" for other in others)
    overrides = [f"hydra.searchpath=[{searchpath}]", *map(update_override, overrides)]
    # Hydra's global state is left as it was, so that this works twice, and inside other Hydra programs.
    theirs = GlobalHydra.instance().hydra
    GlobalHydra.instance().clear()
    variables: set[str] = set()
    token = _variables.set(variables)
    try:
        Plugins.instance().register(_CheckedFiles)
        # As hydra.initialize_config_dir does, which knows no other sources than its own.
        version.setbase(None)
        Hydra.create_main_hydra2("i2v", create_config_search_path(f"{_CheckedFiles.scheme()}://{folder}"))
        config = compose(name, overrides=overrides)
    except (HydraException, OmegaConfBaseException, yaml.YAMLError, OSError, ValueError, RecursionError) as error:
        raise ValueError(f"cannot compose the config {str(config_file)!r}: {one_line(error)}") from error
    finally:
        GlobalHydra.instance().hydra = theirs
        _variables.reset(token)
    variables.update(referenced_names(OmegaConf.to_container(config)))
    try:
        reject_unknown_sections(config, variables)
    except ConfigError as error:
        raise ValueError(f"the config {str(config_file)!r}: {error}") from error
    if "model" not in config:
        raise ValueError(f"the config {str(config_file)!r} has no part 'model'")
    try:
        update_config(config)
    except ValueError as error:
        raise ConfigError(f"config {str(config_file)!r}: {error}") from error
    return config


def check_overrides(overrides: Sequence[str]) -> None:
    """Check that overrides are several strings.

    Raises:
        TypeError: they are not; also one string, which would be taken for a list of letters.
    """
    if isinstance(overrides, str):
        raise TypeError(f"overrides are a list of strings, not one string: [{overrides!r}]")
    if not isinstance(overrides, Sequence) or not all(isinstance(override, str) for override in overrides):
        raise TypeError(f"overrides (hydra_overrides_extra) are a list of strings, not {overrides!r}")


def weights_of(config_file: str | Path) -> Path | None:
    """The weights that come with a config, or None.

    Raises:
        ValueError, FileNotFoundError: see `load_config` and `shipped_checkpoint`.
    """
    config = load_config(config_file)
    with _naming(config_file):
        return shipped_checkpoint(config)


def shipped_checkpoint(config: DictConfig) -> Path | None:
    """The weights that come with a packaged config ("checkpoint" in it), or None.

    Raises:
        FileNotFoundError: they are not there.
        ConfigError: "checkpoint" is no name.
    """
    name = section(str | None, config, "checkpoint", default=None)
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
    apply_postprocessing: bool = True,
    trusted: bool = True,
    **unused: Any,
) -> SAMI2V:
    """Build the network.

    Args:
        config_file: see `load_config`.
        ckpt_path: weights; by default those that come with the config, and where there are none the network is untrained
            ("checkpoint=null" in the overrides leaves it so in any case).
        device: by default CUDA, then MPS, then the CPU.
        mode: "eval" or "train".
        hydra_overrides_extra: such as "model/memory_selector=greedy".
        apply_postprocessing: False for no choice among several masks by stability.
        trusted: False for a config that somebody else wrote; see `load_config`.
        unused: arguments of SAM 2 that change nothing here, such as vos_optimized.

    Raises:
        ValueError, FileNotFoundError: see `load_config` and `i2v.utils.checkpoints.load_weights`.
    """
    config = _load(config_file, hydra_overrides_extra, apply_postprocessing, trusted, unused)
    with _naming(config_file):
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
        config_file: "i2v-lite" (its weights come along), "i2v-infer" (the published model), or a path; see `load_config`.
        ckpt_path: weights; see `build_i2v`.
        device: by default CUDA, then MPS, then the CPU.
        mode: "eval"; "train" leaves dropout on.
        hydra_overrides_extra: such as "model/memory_selector=greedy" or "predictor.precision=bf16".
        apply_postprocessing: False for no choice among several masks by stability, no binary masks in the memory of prompted
            frames, and no filling of holes.
        trusted: False for a config that somebody else wrote; see `load_config`.
        unused: arguments of SAM 2 that change nothing here, such as vos_optimized.

    Raises:
        ValueError, FileNotFoundError: see `load_config` and `i2v.utils.checkpoints.load_weights`.
    """
    config = _load(config_file, hydra_overrides_extra, apply_postprocessing, trusted, unused)
    with _naming(config_file):
        settings = predictor_settings(config)
        model = _build_model(config, ckpt_path, device, mode, trusted)
        try:
            return I2VVideoPredictor(model, **settings)
        except ValueError as error:
            raise ConfigError(f"predictor: {error}") from error


def predictor_settings(config: DictConfig) -> dict[str, Any]:
    """The arguments of the predictor in a config, besides the network.

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
        log.warning("arguments that change nothing here: %s", ", ".join(unused))
    postprocessing = () if apply_postprocessing else _NO_POSTPROCESSING
    return load_config(config_file, [*postprocessing, *overrides], trusted=trusted)


@contextmanager
def _naming(config_file: str | Path) -> Iterator[None]:
    """Add a config's name to the errors of its parts."""
    try:
        yield
    except ConfigError as error:
        raise ConfigError(f"config {str(config_file)!r}: {error}") from error


def _build_model(
    config: DictConfig, ckpt_path: str | Path | None, device: str | int | torch.device | None, mode: str, trusted: bool
) -> SAMI2V:
    if mode not in ("eval", "train"):
        raise ValueError(f"mode must be 'eval' or 'train', got {mode!r}")
    device = usable_device(device)
    if not trusted:
        _check_size(config)
    model: SAMI2V = build(config, "model", kind=SAMI2V)
    # An empty path is one that is missing.
    path = shipped_checkpoint(config) if ckpt_path is None else ckpt_path
    if path is not None:
        load_weights(model, path)
    else:
        log.warning("no checkpoint: the weights are random")
    return model.to(device).train(mode == "train")


def _check_size(config: DictConfig) -> None:
    """Raise a ConfigError if the network of an untrusted config has too many parameters, before memory is taken for them."""
    with torch.device("meta"):
        model: SAMI2V = build(config, "model", kind=SAMI2V)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    if parameters > _MOST_PARAMETERS:
        raise ConfigError(
            f"model has {parameters / 1e6:,.0f} million parameters: at most {_MOST_PARAMETERS / 1e6:,.0f} million are allowed "
            "in a config that is not trusted"
        )
