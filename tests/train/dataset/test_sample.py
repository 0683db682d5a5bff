"""What all data sets have in common."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from train.dataset.sa1b import SA1B
from train.dataset.sav import SAV
from train.dataset.stills import StillImages
from train.dataset.synthetic import SyntheticClips
from train.dataset.vos_folder import VOSFolder

# A data set, its folders, and its numbers of which none may be below 1.
NUMBERS = [
    (VOSFolder, {"frames": "a", "annotations": "b"}, ("num_frames", "max_objects", "max_stride")),
    (SAV, {"annotations": "a"}, ("num_frames", "max_objects")),
    (SA1B, {"folder": "a"}, ("max_objects",)),
    (StillImages, {"folders": ["a"]}, ("max_objects",)),
    (SyntheticClips, {"folders": ["a"]}, ("size", "max_objects")),
]


@pytest.mark.parametrize("value", [0, -5])
@pytest.mark.parametrize(("dataset", "folders", "name"), [(*row[:2], name) for row in NUMBERS for name in row[2]])
def test_numbers_are_named(
    dataset: type, folders: dict[str, Any], name: str, value: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=re.escape(f"{name} must be at least 1, not {value}")):
        dataset(**folders, **{name: value})
    with pytest.raises(OSError, match="no such folder"):  # a good one gets as far as the folder
        dataset(**folders, **{name: 1})
