"""Integers given by users."""

from __future__ import annotations

from numbers import Integral
from typing import Any


def whole_number(value: Any, what: str) -> int:
    """Convert a value to int: an int, a NumPy integer, or a tensor or array of no dimensions that holds one.

    Args:
        value: the number.
        what (str): the number's meaning, for the message, such as "an object id".

    Raises:
        TypeError: anything else, including None, a bool, a float, and an array with dimensions.
    """
    # Without importing PyTorch, which readers of masks do not need.
    number = value.item() if hasattr(value, "item") and getattr(value, "ndim", None) == 0 else value
    if isinstance(number, bool) or not isinstance(number, Integral):
        raise TypeError(f"{what} must be an integer, not {value!r}")
    return int(number)
