"""Checks of YAML files by users: they must be small and shallow."""

from __future__ import annotations

import re
from pathlib import Path

import yaml

# Far above what a config needs, and read within a second.
MAX_BYTES = 2**20
MAX_DEPTH = 50
MAX_NODES = 10_000
MAX_TEXT = 4_000  # characters of one value; OmegaConf takes half a second to parse an interpolation of this length
MAX_DIGITS = 1_000  # of an integer; Python refuses to convert those of some thousands
_DIGITS = re.compile(r"[-+]?(0[box])?[\da-fA-F_:]+")
# The C version, where PyYAML has it, is many times faster.
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def check_yaml(path: str | Path) -> None:
    """Check that a YAML file is safe to load, reading it as a stream up to the first problem.

    Args:
        path (str or Path): the file.

    Raises:
        FileNotFoundError: no such file, or it is a folder, a pipe or a device.
        ValueError: the file is not YAML, or too large or too deep, possibly only with its aliases (*NAME) expanded; the message
            names it.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no such file: {path}")
    with path.open("rb") as file:
        content = file.read(MAX_BYTES + 1)
    if len(content) > MAX_BYTES:
        raise ValueError(f"{path} is not a config: it has more than {MAX_BYTES} bytes")
    try:
        _check_events(path, content.decode())
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not YAML: {' '.join(str(error).split())}") from error


def _check_events(path: Path, text: str) -> None:
    nodes = 0
    # For each open collection: its anchor, the number of nodes before it, and its depth, with aliases expanded.
    collections: list[tuple[str | None, int, int]] = []
    sizes: dict[str, tuple[int, int]] = {}  # nodes and depth of each anchor's value
    for event in yaml.parse(text, _LOADER):
        inside = 0
        if isinstance(event, yaml.CollectionStartEvent):
            collections.append((event.anchor, nodes, 0))
            nodes += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            anchor, before, inside = collections.pop()
            inside += 1
            if anchor is not None:
                sizes[anchor] = (nodes - before, inside)
        elif isinstance(event, yaml.ScalarEvent):
            if len(event.value) > MAX_TEXT:
                raise ValueError(f"{path} is not a config: a value in it has more than {MAX_TEXT} characters")
            if len(event.value) > MAX_DIGITS and _DIGITS.fullmatch(event.value):
                place = f"{path}, line {event.start_mark.line + 1}" if event.start_mark else path
                raise ValueError(f"{place}: the number {event.value[:10]}... has more than {MAX_DIGITS} digits")
            nodes += 1
            if event.anchor is not None:
                sizes[event.anchor] = (1, 0)
        elif isinstance(event, yaml.AliasEvent):
            if event.anchor not in sizes:
                raise ValueError(f"{path}: the alias *{event.anchor} is undefined, or inside its own value")
            size, inside = sizes[event.anchor]
            nodes += size
        if collections:
            anchor, before, deepest = collections[-1]
            collections[-1] = (anchor, before, max(deepest, inside))
        if len(collections) + inside > MAX_DEPTH:
            raise ValueError(f"{path} is not a config: it is nested more than {MAX_DEPTH} deep")
        if nodes > MAX_NODES:
            raise ValueError(f"{path} is not a config: with its aliases expanded it has more than {MAX_NODES} values")
