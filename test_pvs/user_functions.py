"""Functions that users name on the command line: their systems, data sets and segmenters."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any


def find_function(name: str) -> Callable[..., Any]:
    """Import a function by its name.

    Args:
        name (str): "package.module:function".

    Raises:
        ValueError: `name` is not of that form, or the module has no such function.
        ImportError: there is no such module, or it imports one that is missing.
    """
    module, _, function = name.partition(":")
    if not all(part.isidentifier() for part in (*module.split("."), function)):
        raise ValueError(f"{name!r} is not of the form package.module:function")
    try:
        found = getattr(importlib.import_module(module), function, None)
    except ModuleNotFoundError as error:
        if f"{module}.".startswith(f"{error.name}."):
            raise ImportError(f"{name}: {error}: add the folder that contains it to PYTHONPATH", name=error.name) from error
        raise ImportError(f"{name}: {error}, which {module} needs", name=error.name) from error
    if not callable(found):
        raise ValueError(f"the module {module} has no function {function}")
    return found
