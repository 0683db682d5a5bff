"""Compose configs with Hydra, from packaged names or files anywhere, and find the weights that come with them."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any

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
from i2v.typed_config import ConfigError, config_message, referenced_names, reject_unknown_sections, section
from i2v.untrusted_config import check_untrusted
from i2v.utils.messages import nearest
from i2v.utils.yaml_files import check_yaml

CONFIG_DIR = Path(__file__).parent / "configs"
# Experiments: the configs of training in a clone.
EXPERIMENT_DIR = CONFIG_DIR.parents[1] / "configs"
# Config of the command line; its weights are bundled.
DEFAULT_CONFIG = "i2v-lite"
# Names that the files of the config being composed refer to. A file may replace the only value that refers to a variable of the
# file it builds on, so that the composed config alone does not tell which of its keys are variables.
_variables: ContextVar[set[str]] = ContextVar("_variables")


def known_configs() -> list[str]:
    """Return the names of the packaged configs."""
    return sorted(path.stem for path in CONFIG_DIR.glob("*.yaml"))


def load_config(config_file: str | Path, overrides: Sequence[str] = (), trusted: bool = True) -> DictConfig:
    """Compose a config.

    A config is code: it names the classes to build, which can be any that Python finds.

    Args:
        config_file (str or Path): a packaged name ("i2v-infer", with or without ".yaml") or the path of a YAML file. A path
            that does not exist but ends like that of a packaged config (./i2v/configs/i2v-infer.yaml) means the packaged one,
            from any working directory. Groups (model=...) are found beside the file, beside the file that it links to, in the
            package and, in a clone, in configs/.
        overrides (Sequence[str]): Hydra's overrides, such as "model/memory_selector=greedy".
        trusted (bool): False for somebody else's file, such as one distributed with weights: it must be complete, and may
            build only classes of this project's network; see `check_untrusted`. Packaged configs are always trusted.

    Raises:
        TypeError: config_file is neither a name nor a path, or overrides are not a list of strings.
        ValueError: an unknown name (the known ones are listed), a file that is too large or nested too deeply, a config or
            override that Hydra cannot compose, or an unknown top-level key. If not trusted, also a config that asks for more.
    """
    check_overrides(overrides)
    folder, name, beside = _locate(config_file)
    if not trusted and folder != CONFIG_DIR:
        check_untrusted(folder / f"{name}.yaml")
    variables: set[str] = set()
    try:
        config = _compose(folder, name, beside, overrides, variables)
    except (HydraException, OmegaConfBaseException, yaml.YAMLError, OSError, ValueError, RecursionError) as error:
        message = config_message(error)
        if unknown := re.match(r"Could not override '([\w.]+)'", message):
            message += _suggestion(unknown[1], _compose(folder, name, beside, [], set()))
        raise ValueError(f"cannot compose the config {str(config_file)!r}: {message}") from error
    variables.update(referenced_names(OmegaConf.to_container(config)))
    try:
        reject_unknown_sections(config, variables)
        if "model" not in config:
            raise ConfigError("it has no section 'model'")
        update_config(config)
    except ValueError as error:
        raise ConfigError(f"config {str(config_file)!r}: {error}") from error
    return config


def _suggestion(key: str, config: DictConfig) -> str:
    """What a user may have meant by the key of an override that a config does not have; empty if nothing is like it."""
    group = key.replace(".", "/")
    if (CONFIG_DIR / group).is_dir():
        return f". Did you mean {group}=NAME? Files are chosen with a slash"
    node: Any = OmegaConf.to_container(config)
    parts = key.split(".")
    for depth, part in enumerate(parts):
        if not isinstance(node, dict):
            return ""
        if part not in node:
            close = nearest(part, [str(name) for name in node])
            return f". Did you mean {'.'.join([*parts[:depth], close, *parts[depth + 1 :]])}?" if close else ""
        node = node[part]
    return ""


def check_overrides(overrides: Sequence[str]) -> None:
    """Check that overrides are a list of strings.

    Raises:
        TypeError: they are not. This includes a single string, which would be taken for a list of letters.
    """
    if isinstance(overrides, str):
        raise TypeError(f"overrides are a list of strings, not one string: [{overrides!r}]")
    if not isinstance(overrides, Sequence) or not all(isinstance(override, str) for override in overrides):
        raise TypeError(f"overrides (hydra_overrides_extra) are a list of strings, not {overrides!r}")


@contextmanager
def named_config(config_file: str | Path) -> Iterator[None]:
    """Add a config's name to the errors about its parts."""
    try:
        yield
    except ConfigError as error:
        raise ConfigError(f"config {str(config_file)!r}: {error}") from error


def weights_of(config_file: str | Path) -> Path | None:
    """Return the path of the weights that come with a config; None if it has none.

    Raises:
        ValueError: see `load_config`.
        FileNotFoundError: see `shipped_checkpoint`.
    """
    config = load_config(config_file)
    with named_config(config_file):
        return shipped_checkpoint(config)


def shipped_checkpoint(config: DictConfig) -> Path | None:
    """Return the path of the weights that a packaged config names as "checkpoint"; None if it names none.

    Raises:
        FileNotFoundError: the file is missing.
        ConfigError: "checkpoint" is not a name.
    """
    name = section(str | None, config, "checkpoint", default=None)
    if name is None:
        return None
    # In a wheel they are inside of the package, in a clone beside it.
    places = [folder / "checkpoints" / name for folder in (CONFIG_DIR.parent, CONFIG_DIR.parents[1])]
    for path in places:
        if path.is_file():
            return path
    raise FileNotFoundError(f"the config's checkpoint {name} is missing: it is neither {places[0]} nor {places[1]}")


class _CheckedFiles(FileConfigSource):
    """Hydra's source for the files of a folder, with a check before they are read."""

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


def _locate(config_file: str | Path) -> tuple[Path, str, list[Path]]:
    """Return the folder of a config, its name there, and further folders for its groups."""
    if not isinstance(config_file, (str, os.PathLike)):
        raise TypeError(f"config_file must be the name of a config or the path of a YAML file, not {config_file!r}")
    path = Path(config_file)
    if path.suffix == ".yaml" and path.is_file():
        return path.absolute().parent, path.stem, [path.resolve().parent]  # the file may be a link
    is_packaged = path.name.removesuffix(".yaml") in known_configs()
    if is_packaged and (len(path.parts) == 1 or path.parts[-3:-1] == CONFIG_DIR.parts[-2:]):
        return CONFIG_DIR, path.name.removesuffix(".yaml"), []
    raise ValueError(f"unknown config {str(config_file)!r}: neither a YAML file nor one of {', '.join(known_configs())}")


def _compose(folder: Path, name: str, beside: list[Path], overrides: Sequence[str], variables: set[str]) -> DictConfig:
    """Compose a config, and add the variables that its files refer to."""
    experiments = [EXPERIMENT_DIR] if EXPERIMENT_DIR.is_dir() else []
    others = [str(other).replace("\\", "\\\\").replace("'", "\\'") for other in (*beside, *experiments, CONFIG_DIR)]
    searchpath = ", ".join(f"'{_CheckedFiles.scheme()}://{other}'" for other in others)
    # Hydra's global state is restored, so that this works repeatedly and inside of other Hydra programs.
    theirs = GlobalHydra.instance().hydra
    GlobalHydra.instance().clear()
    token = _variables.set(variables)
    try:
        Plugins.instance().register(_CheckedFiles)
        # As hydra.initialize_config_dir does, which supports only Hydra's own sources.
        version.setbase(None)
        Hydra.create_main_hydra2("i2v", create_config_search_path(f"{_CheckedFiles.scheme()}://{folder}"))
        return compose(name, overrides=[f"hydra.searchpath=[{searchpath}]", *map(update_override, overrides)])
    finally:
        GlobalHydra.instance().hydra = theirs
        _variables.reset(token)
