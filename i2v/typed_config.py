"""Typed values, and the objects they describe, from parts of a config.

What is expected comes from the type hints of the classes and functions that a config names: nothing is written down twice.
Unknown keys are errors at every level.
"""

from __future__ import annotations

import inspect
import json
import pydoc
import re
import reprlib
import types
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from hydra.errors import HydraException
from hydra.utils import instantiate
from omegaconf import BooleanNode, DictConfig, FloatNode, IntegerNode, OmegaConf
from omegaconf.errors import OmegaConfBaseException, ValidationError

from i2v.utils.messages import did_you_mean, nearest, shortened

_REQUIRED = object()
_NUMBERS: dict[Any, Callable[..., Any]] = {int: IntegerNode, float: FloatNode, bool: BooleanNode}
_NAMES = {int: "a whole number", float: "a number", bool: "true or false", str: "text", Path: "a path", type(None): "null"}
# The hints of other packages are not enforced: they may be narrower than what is accepted.
_OWN_PACKAGES = ("i2v", "train")
# Top-level keys: of what inference builds, and of experiments.
_SECTIONS = (
    *("model", "predictor", "checkpoint"),
    *("seed", "device", "output", "initial_weights", "frozen", "activation_checkpointing"),
    *("data", "prompts", "loss", "optimizer", "trainer", "validation", "slurm"),
)


class ConfigError(ValueError):
    """A part of a config is missing, unknown or of the wrong type, or what it describes cannot be built.

    The message names the key; callers that know the file add its name.
    """


def config_message(error: BaseException) -> str:
    """An error's message on one line, shortened if it is very long; the error's type if there is no message.

    Hydra's list of folders and OmegaConf's name of its own class are left out.
    """
    message = re.sub(r"\nConfig search path:(.|\n)*|\n\s*object_type=.*", "", str(error))
    return shortened(" ".join(message.split())) or type(error).__name__


def section(hint: Any, config: DictConfig, *keys: str, default: Any = _REQUIRED) -> Any:
    """A value in a config.

    Args:
        hint: its type, such as `int | None`. A dataclass is built from a mapping. `Any` checks only the parts that have
            a `_target_`.
        config (DictConfig): the whole config, which interpolations refer to.
        keys: the path to the value.
        default: returned if the value is missing.

    Raises:
        ConfigError: the value is missing or of the wrong type, or a key is unknown.
    """
    value = _plain(config, keys, default)
    if value is default:
        return default
    where = ".".join(keys)
    value = _typed(value, hint, where)
    if inspect.isclass(hint) and is_dataclass(hint):
        try:
            return hint(**value)
        except ValueError as error:
            raise ConfigError(str(error)) from error
    return value


def reject_unknown_sections(config: DictConfig, variables: Collection[str]) -> None:
    """Check the top-level keys of a config.

    Besides the sections, these may be variables that interpolations refer to, and objects (with a `_target_`) that are defined
    for other configs to refer to.

    Args:
        config (DictConfig): the whole config.
        variables (Collection[str]): names that interpolations refer to; see `referenced_names`.

    Raises:
        ConfigError: a key is unknown.
    """
    items: Iterable[tuple[Any, Any]] = config.items_ex(resolve=False)
    for key, node in items:
        known = {*_SECTIONS, *variables}
        # An object for other configs; close to a known name, it is a misspelt one.
        is_spare = isinstance(node, DictConfig) and "_target_" in node and not nearest(key, known, 0.8)
        if key in known or is_spare:
            continue
        raise ConfigError(
            f"{_unknown(key, known)}: no ${{{key}}} refers to it, and it is not one of the sections {', '.join(_SECTIONS)}"
        )


def referenced_names(value: Any) -> Iterator[str]:
    """The top-level keys that interpolations in a nested structure of unresolved values refer to."""
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, str):
        yield from re.findall(r"\$\{([\w-]+)", value)
    elif isinstance(value, list):
        for item in value:
            yield from referenced_names(item)


def names_in(config: DictConfig, *keys: str) -> list[str]:
    """The keys of a mapping in a config.

    Raises:
        ConfigError: it is missing or not a mapping.
    """
    node = _node(config, keys, _REQUIRED)
    if not isinstance(node, DictConfig):
        raise _wrong(node, "a mapping", ".".join(keys))
    return list(node)


def build(config: DictConfig, *keys: str, kind: Any = object, arguments: Sequence[Any] = (), optional: bool = False) -> Any:
    """The object that a part of a config describes by `_target_`.

    Args:
        config (DictConfig): the whole config.
        keys: the path to the part.
        kind: class of the object, or `collections.abc.Callable`.
        arguments (Sequence[Any]): positional arguments of the target, before those in the config.
        optional (bool): return None where the config has null.

    Raises:
        ConfigError: a key is unknown, missing or of the wrong type, or the target raised an error or made something else.
    """
    where = ".".join(keys)
    part = description(config, *keys, given=len(arguments), optional=optional)
    if part is None:
        return None
    try:
        built = instantiate(part, *arguments, _convert_="all")
    except (HydraException, OmegaConfBaseException) as error:
        if place := re.search(r"full_key: (\S+)", str(error)):
            where = f"{where}.{place[1]}"
        cause = error.__cause__ or error
        prefix = "" if isinstance(cause, (OSError, ValueError, ImportError, HydraException)) else f"{type(cause).__name__}: "
        message = f"{prefix}{config_message(cause)}"
        raise ConfigError(message if f"{where}." in message else f"{where}: {message}") from error
    if not isinstance(built, kind):
        raise ConfigError(f"{where}._target_ must make an object of {kind.__name__}, not of {type(built).__name__}")
    return built


def description(config: DictConfig, *keys: str, given: int = 0, optional: bool = False) -> dict[Any, Any] | None:
    """The part of a config that describes an object, checked but not built.

    Args:
        config (DictConfig): the whole config.
        keys: the path to the part.
        given (int): number of leading arguments of the target that are not in the config.
        optional (bool): return None where the config has null.

    Raises:
        ConfigError: a key is unknown, missing or of the wrong type.
    """
    where = ".".join(keys)
    part = _plain(config, keys, _REQUIRED)
    if part is None and optional:
        return None
    if not isinstance(part, dict) or "_target_" not in part:
        raise _wrong(part, f"a mapping with a `_target_`{' or null' if optional else ''}", where)
    return _typed_part(part, where, given)


def typed_arguments(function: Callable[..., Any], values: Mapping[str, Any], where: str, given: int = 0) -> dict[str, Any]:
    """Arguments of a function or class, converted to the types in its signature.

    Args:
        function (Callable[..., Any]): the function or class to call.
        values (Mapping[str, Any]): values of the config by argument name.
        where (str): the path to the values, for messages.
        given (int): number of leading arguments that are not in the config.

    Raises:
        ConfigError: an argument is unknown, missing or of the wrong type.
    """
    try:
        parameters = inspect.signature(function).parameters
        hints = get_type_hints(function.__init__ if inspect.isclass(function) else function)
    except (TypeError, ValueError, NameError):  # a built-in, or hints that exist for type checkers alone
        return {name: _typed(value, Any, f"{where}.{name}") for name, value in values.items()}
    if function.__module__.partition(".")[0] not in _OWN_PACKAGES:
        hints = {}
    kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    named = {name: parameter for name, parameter in list(parameters.items())[given:] if parameter.kind in kinds}
    takes_all = any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters.values())
    for name in values:
        if name not in named and not takes_all:
            raise ConfigError(f"{_unknown(name, named, where)}; {function.__name__} takes {', '.join(named)}")
    missing = [name for name, p in named.items() if p.default is p.empty and name not in values]
    if missing:
        raise ConfigError(f"{where} lacks {', '.join(missing)}")
    # Nested objects last: their arguments often refer to plain values beside them, whose own errors are clearer.
    ordered = sorted(values, key=lambda name: isinstance(values[name], dict) and "_target_" in values[name])
    typed = {name: _typed(values[name], hints.get(name, Any), f"{where}.{name}") for name in ordered}
    return {name: typed[name] for name in values}  # objects are built, and sample their weights, in this order


def _node(config: DictConfig, keys: Sequence[str], default: Any) -> Any:
    node: Any = config
    for depth, key in enumerate(keys):
        if not isinstance(node, DictConfig):
            raise _wrong(node, "a mapping", ".".join(keys[:depth]))
        if key not in node.keys():  # noqa: SIM118 - `in node` is false for a value that cannot be resolved
            if default is not _REQUIRED:
                return default
            raise ConfigError(f"{'.'.join(keys[: depth + 1])} is missing")
        try:
            node = node[key]
        except (OmegaConfBaseException, RecursionError) as error:
            raise ConfigError(f"{'.'.join(keys[: depth + 1])}: {config_message(error)}") from error
    return node


def _plain(config: DictConfig, keys: Sequence[str], default: Any) -> Any:
    """A value with its interpolations resolved, as Python's own types."""
    node = _node(config, keys, default)
    if not OmegaConf.is_config(node):
        return node
    try:
        return OmegaConf.to_container(node, resolve=True, throw_on_missing=True)
    except (OmegaConfBaseException, RecursionError) as error:
        raise ConfigError(f"{'.'.join(keys)}: {config_message(error)}") from error


def _typed_part(part: dict[Any, Any], where: str, given: int = 0) -> dict[Any, Any]:
    """The description of an object, `_target_` and its arguments, converted to the right types."""
    path = part["_target_"]
    try:
        target = pydoc.locate(path) if isinstance(path, str) else None
    except pydoc.ErrorDuringImport as error:
        raise ConfigError(f"{where}._target_: cannot import {path!r}: {config_message(error)}") from error
    if not callable(target):
        message = f"{where}._target_ must name a class or a function, not {path!r}"
        if isinstance(path, str) and target is None:
            message += ", which Python does not find: check its spelling, and that PYTHONPATH has its folder"
        raise ConfigError(message)
    hydras = {key: value for key, value in part.items() if isinstance(key, str) and key.startswith("_") and key.endswith("_")}
    values = {key: value for key, value in part.items() if key not in hydras}
    if "_args_" in hydras or hydras.get("_partial_"):  # other arguments come from elsewhere
        return part
    return hydras | typed_arguments(target, values, where, given)


def _typed(value: Any, hint: Any, where: str) -> Any:
    """A value converted to the type of a hint. A hint that is not understood allows every value."""
    if isinstance(value, dict) and "_target_" in value:
        return _typed_part(value, where)
    if hint is Any:
        return _nested(value, where)
    origin, options = get_origin(hint) or hint, get_args(hint)
    if origin in (Union, types.UnionType):
        for option in options:
            try:
                return _typed(value, option, where)
            except ConfigError:
                continue
        raise _wrong(value, _describe(hint), where)
    if origin in _NUMBERS:
        try:
            number = _NUMBERS[origin](value=value, is_optional=False)._value()
        except ValidationError as error:
            raise _wrong(value, _describe(hint), where) from error
        if number != number:  # NaN
            raise _wrong(value, _describe(hint), where)
        return number
    is_class = inspect.isclass(origin)
    if origin is Literal:
        fits = value in options
    elif origin in (str, Path):
        fits = isinstance(value, str)
    elif origin is type(None):
        fits = value is None
    elif is_class and issubclass(origin, Sequence):
        return _typed_list(value, hint, where)
    elif is_class and is_dataclass(origin):
        fits = isinstance(value, dict)
        value = typed_arguments(hint, value, where) if fits else value
    elif is_class and issubclass(origin, Mapping):
        fits = isinstance(value, dict)
        value = {key: _typed(item, (*options, Any)[1], f"{where}.{key}") for key, item in value.items()} if fits else value
    elif is_class and origin is not object:  # callables too: only a `_target_` makes one
        fits = False
    else:
        return _nested(value, where)
    if not fits:
        raise _wrong(value, _describe(hint), where)
    return value


def _typed_list(value: Any, hint: Any, where: str) -> list[Any]:
    options = get_args(hint)
    if not isinstance(value, list):
        raise _wrong(value, _describe(hint), where)
    if get_origin(hint) is tuple and Ellipsis not in options:
        if len(value) != len(options):
            raise _wrong(value, _describe(hint), where)
    else:
        options = (*options, Any)[:1] * len(value)
    return [_typed(item, option, f"{where}[{i}]") for i, (item, option) in enumerate(zip(value, options, strict=True))]


def _nested(value: Any, where: str) -> Any:
    if isinstance(value, dict):
        return {key: _typed(item, Any, f"{where}.{key}") for key, item in value.items()}
    if isinstance(value, list):
        return [_typed(item, Any, f"{where}[{i}]") for i, item in enumerate(value)]
    return value


def _describe(hint: Any) -> str:
    origin, options = get_origin(hint) or hint, get_args(hint)
    if origin in (Union, types.UnionType):
        return " or ".join(dict.fromkeys(_describe(option) for option in options))
    if origin is Literal:
        return f"one of {', '.join(map(repr, options))}"
    if origin in _NAMES:
        return _NAMES[origin]
    if origin is tuple and options and Ellipsis not in options:
        return f"a list of {len(options)} values"
    if inspect.isclass(origin) and issubclass(origin, Sequence):
        return "a list"
    if inspect.isclass(origin) and (is_dataclass(origin) or issubclass(origin, Mapping)):
        return "a mapping"
    return "a mapping with a `_target_`"


def _unknown(key: object, known: Collection[str], where: str = "") -> str:
    """Start of the message for an unknown key: its path, and the known key that is nearest to it."""
    return f"unknown key {where}{'.' if where else ''}{key}{did_you_mean(key, known)}"


def _wrong(value: Any, expected: str, where: str) -> ConfigError:
    plain = OmegaConf.to_container(value) if OmegaConf.is_config(value) else value
    shown = json.dumps(plain) if plain is None or isinstance(plain, bool) else reprlib.repr(plain)
    return ConfigError(f"{where} must be {expected}, not {shown}")
