"""Configs by other people, such as those bundled with weights."""

from __future__ import annotations

import importlib
import inspect
import math
import re
from pathlib import Path
from typing import Any, NoReturn

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from i2v.typed_config import config_message
from i2v.utils.messages import shortened
from i2v.utils.yaml_files import check_yaml

# Package of the classes that such a config may build: parts of the network, which access no files.
_NETWORK = "i2v.modeling."
# The largest numbers allowed, a multiple of those of published networks: of layers and the like, each of which is costly, and
# of everything else, such as channels and pixels.
_FEW = re.compile("layers|depth|rounds|window|kernel")
_MOST_OF_FEW, _MOST = 64, 4096
_MOST_ITEMS = 64  # of a list, each of which may be a layer


def check_untrusted(path: Path) -> None:
    """Check that a config only builds the project's network, although Hydra allows more.

    It must be complete and plain: only classes of `i2v.modeling`, no `defaults`, no keys of Hydra (`hydra`, `@package`,
    `_partial_`, `_args_` ...), no interpolations (`${...}` can read environment variables), no checkpoint in another folder,
    and no number so large or list so long that building the model would exhaust the memory or take minutes.

    Args:
        path (Path): the YAML file.

    Raises:
        FileNotFoundError: see `check_yaml`.
        ValueError: see `check_yaml`; or the config is not as described. The message names the file and the key.
    """
    check_yaml(path)
    try:
        config = OmegaConf.to_container(OmegaConf.load(path), resolve=False)
    except (OmegaConfBaseException, yaml.YAMLError, OSError, ValueError, RecursionError) as error:
        raise ValueError(f"cannot read the config {str(path)!r}: {config_message(error)}") from error
    if not isinstance(config, dict):
        _refuse(path, "it", "is not a mapping")
    if "@package" in path.read_text():
        _refuse(path, "@package", "is not allowed")
    for key in ("defaults", "hydra"):
        if key in config:
            _refuse(path, key, "is not allowed: the config must be complete by itself")
    _check(path, config, "")
    checkpoint = config.get("checkpoint")
    is_name = isinstance(checkpoint, str) and checkpoint == Path(checkpoint).name and checkpoint not in ("", "..")
    if checkpoint is not None and not is_name:
        _refuse(path, "checkpoint", f"must be the name of a file, not {checkpoint!r}")


def _refuse(path: Path, where: str, reason: str) -> NoReturn:
    raise ValueError(shortened(f"the config {str(path)!r} comes with weights, and is not trusted: {where} {reason}"))


def _check(path: Path, value: Any, where: str) -> None:
    """Check a value and everything in it."""
    if isinstance(value, str) and "${" in value:
        _refuse(path, where, "has an interpolation (${...})")
    if isinstance(value, list) and len(value) > _MOST_ITEMS:
        _refuse(path, where, f"is a list of {len(value)} items: at most {_MOST_ITEMS} are allowed")
    most = _MOST_OF_FEW if _FEW.search(where) else _MOST
    if where.startswith("model.") and abs(_number(value)) > most:
        _refuse(path, where, f"is {value}: at most {most} is allowed")
    items = list(enumerate(value)) if isinstance(value, list) else list(value.items()) if isinstance(value, dict) else []
    for key, item in items:
        place = f"{where}.{key}" if where else str(key)
        if key == "_target_":
            if not _is_part_of_the_network(item):
                _refuse(path, place, f"names {item!r}, which is not a class of {_NETWORK}*")
        elif isinstance(key, str) and ((key.startswith("_") and key.endswith("_")) or "${" in key):
            _refuse(path, place, "is not allowed")
        _check(path, item, place)


def _number(value: Any) -> float:
    """A value as a number, including one given as text; 0 for anything else."""
    try:
        return float(value) if isinstance(value, (int, float, str)) else 0
    except ValueError:
        return 0
    except OverflowError:
        return math.inf


def _is_part_of_the_network(target: Any) -> bool:
    """Whether a target is the full name of a class in the module that defines it.

    A path through a module's imports (i2v.modeling.layers.torch.hub.load) is not.
    """
    if not isinstance(target, str) or not target.startswith(_NETWORK) or not all(map(str.isidentifier, target.split("."))):
        return False
    module_name, _, name = target.rpartition(".")
    try:
        module = importlib.import_module(module_name)
    except ImportError:
        return False
    found = getattr(module, name, None)
    return inspect.isclass(found) and found.__module__ == module_name
