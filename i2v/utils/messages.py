"""Texts of messages."""

from __future__ import annotations


def shortened(text: str, most: int = 2000) -> str:
    """A text without its middle if it is too long: a name in a file may have millions of characters."""
    half = most // 2
    return text if len(text) <= most else f"{text[:half]} ... {text[-half:]}"
