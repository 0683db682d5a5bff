"""Configs that somebody else wrote, such as those that come along with weights."""

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

from i2v.typed_config import one_line
from i2v.utils.messages import shortened
from i2v.utils.yaml_files import check_yaml

# Where the classes are that such a config may build: parts of the network, which touch no files.
_NETWORK = "i2v.modeling."
# The largest numbers in it, a multiple of what published networks have: of layers and the like, whose work is many times as
# large, and of channels, pixels and all else.
_FEW = re.compile("layers|depth|rounds|window|kernel")
_MOST_OF_FEW, _MOST = 64, 4096
_MOST_ITEMS = 64  # of a list: each of them may be a layer


def check_untrusted(path: Path) -> None:
    """Check that a config builds the project's network and nothing else, whatever Hydra allows.

    It must be complete and plain: classes of `i2v.modeling` alone, no `defaults`, nothing of Hydra's (`hydra`, `@package`,
    `_partial_`, `_args_` ...), no interpolations (`${...}` can read environment variables), no checkpoint in another folder,
    and no number of the model so large, and no list so long, that building it would take all memory, or minutes.

    Args:
        path: of the YAML file.

    Raises:
        FileNotFoundError: see `check_yaml`.
        ValueError: see `check_yaml`; or it has more than that. The message names the file and the key.
    """
    check_yaml(path)
    try:
        config = OmegaConf.to_container(OmegaConf.load(path), resolve=False)
    except (OmegaConfBaseException, yaml.YAMLError, OSError, ValueError, RecursionError) as error:
        raise ValueError(f"cannot read the config {str(path)!r}: {one_line(error)}") from error
    if not isinstance(config, dict):
        _refuse(path, "it", "is no mapping")
    if "@package" in path.read_text():
        _refuse(path, "@package", "is not allowed")
    for key in ("defaults", "hydra"):
        if key in config:
            _refuse(path, key, "is not allowed: it must be complete by itself")
    _check(path, config, "")
    checkpoint = config.get("checkpoint")
    is_name = isinstance(checkpoint, str) and checkpoint == Path(checkpoint).name and checkpoint not in ("", "..")
    if checkpoint is not None and not is_name:
        _refuse(path, "checkpoint", f"must be the name of a file, not {checkpoint!r}")


def _refuse(path: Path, where: str, reason: str) -> NoReturn:
    raise ValueError(shortened(f"the config {str(path)!r} comes with weights, and is not trusted: {where} {reason}"))


def _check(path: Path, value: Any, where: str) -> None:
    """Check a value and all that is in it."""
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
                _refuse(path, place, f"names {item!r}, which is no class of {_NETWORK}*")
        elif isinstance(key, str) and ((key.startswith("_") and key.endswith("_")) or "${" in key):
            _refuse(path, place, "is not allowed")
        _check(path, item, place)


def _number(value: Any) -> float:
    """The number that a value is, or that a text in its place is taken for; 0 for anything else."""
    try:
        return float(value) if isinstance(value, (int, float, str)) else 0
    except ValueError:
        return 0
    except OverflowError:
        return math.inf


def _is_part_of_the_network(target: Any) -> bool:
    """Whether it is the full name of a class where it is defined; a path through what a module imports
    (i2v.modeling.layers.torch.hub.load) is none."""
    if not isinstance(target, str) or not target.startswith(_NETWORK) or not all(map(str.isidentifier, target.split("."))):
        return False
    module_name, _, name = target.rpartition(".")
    try:
        module = importlib.import_module(module_name)
    except ImportError:
        return False
    found = getattr(module, name, None)
    return inspect.isclass(found) and found.__module__ == module_name
