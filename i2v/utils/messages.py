"""Texts of messages."""

from __future__ import annotations

import difflib
from collections.abc import Collection


def shortened(text: str, most: int = 2000) -> str:
    """A text without its middle if it is too long: a name in a file may have millions of characters."""
    half = most // 2
    return text if len(text) <= most else f"{text[:half]} ... {text[-half:]}"


def nearest(name: object, known: Collection[str], similarity: float = 0.6) -> str | None:
    """Return the known name that is most like a misspelt one; None if none is.

    Args:
        name (object): the misspelt name.
        known (Collection[str]): names to choose from.
        similarity (float): how similar it must at least be, in [0, 1]; see `difflib.get_close_matches`.
    """
    return next(iter(difflib.get_close_matches(str(name), known, 1, similarity)), None)


def did_you_mean(name: object, known: Collection[str]) -> str:
    """The known name that is most like a misspelt one, in the form of a question for a message; empty if none is."""
    near = nearest(name, known)
    return f" (did you mean {near}?)" if near else ""
