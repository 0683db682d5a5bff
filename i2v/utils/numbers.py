"""Whole numbers that users give."""

from __future__ import annotations

from numbers import Integral
from typing import Any


def whole_number(value: Any, what: str) -> int:
    """The integer that a value holds: an int, a NumPy integer, or a tensor or array without dimensions with one in it.

    Args:
        value: the number.
        what: it is, for the message, such as "an object id".

    Raises:
        TypeError: anything else, also None, a bool, a float, or an array with dimensions.
    """
    # Without PyTorch, which who reads masks need not wait for.
    number = value.item() if hasattr(value, "item") and getattr(value, "ndim", None) == 0 else value
    if isinstance(number, bool) or not isinstance(number, Integral):
        raise TypeError(f"{what} must be an integer, not {value!r}")
    return int(number)
