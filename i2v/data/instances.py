"""The instances in a photograph as in SA-1B: a JSON file beside it with a run-length encoded mask per instance."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from i2v.data.files import expected_file, named_errors, read_json


def instance_file(photograph: Path) -> Path:
    """The path of a photograph's JSON file: NAME.json beside NAME.jpg."""
    return expected_file(photograph.with_suffix(""), (".json",))


def read_instances(path: Path) -> list[dict[str, Any]]:
    """Read the masks in a JSON file {"annotations": [{"segmentation": COCO RLE}, ...]}.

    Args:
        path (Path): path of the JSON file.

    Returns:
        The run-length encoded masks; see `i2v.data.rle`.

    Raises:
        ValueError: the file is missing or has another structure; the message names it.
    """
    with named_errors(path):
        return [annotation["segmentation"] for annotation in read_json(path)["annotations"]]
