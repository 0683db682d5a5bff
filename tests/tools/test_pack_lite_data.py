"""tools/pack_lite_data.py: a small copy that training reads like the original."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from i2v.data.mask_files import save_label_image
from i2v.data.rle import mask_to_rle
from train.dataset.stills import Photographs
from train.dataset.vos_folder import VOSFolder


@pytest.fixture
def pack(load_tool):
    return load_tool("pack_lite_data")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    root = tmp_path / "data"
    noise = np.random.default_rng(0).integers(0, 255, (48, 64, 3)).astype(np.uint8)
    mask = np.zeros((48, 64), bool)
    mask[10:30, 10:40] = True
    for folder in ("horses", "davis2016-train/JPEGImages/bear", "davis2016-train/Annotations/bear", "davis2016-dev"):
        (root / folder).mkdir(parents=True)
    for name in "abcdefgh":
        Image.fromarray(noise).save(root / f"horses/{name}.jpg", quality=95)
        (root / f"horses/{name}.json").write_text(json.dumps({"annotations": [{"segmentation": mask_to_rle(mask)}]}))
        save_label_image(root / f"horses/{name}.png", mask.astype(np.uint8))
    for t in range(6):
        Image.fromarray(noise).save(root / f"davis2016-train/JPEGImages/bear/{t:05d}.jpg", quality=95)
        save_label_image(root / f"davis2016-train/Annotations/bear/{t:05d}.png", mask.astype(np.uint8))
    Image.fromarray(noise).save(root / "davis2016-dev/a.jpg")
    return root


def test_training_reads_the_copy(pack, source: Path, tmp_path: Path) -> None:
    target = tmp_path / "pack"
    pack.main([str(source), str(target), "--every", "2"])
    assert {path.name for path in target.iterdir()} == {"horses", "davis2016-train"}
    assert not list((target / "horses").glob("*.png"))
    photographs, copies = (Photographs([root / "horses"], "train") for root in (source, target))
    assert len(photographs) == len(copies)
    original, copy = (p.read(0, np.random.default_rng(0)) for p in (photographs, copies))
    assert np.array_equal(original.masks, copy.masks)
    assert original.image.shape == copy.image.shape
    clips = VOSFolder(target / "davis2016-train/JPEGImages", target / "davis2016-train/Annotations", num_frames=3)
    assert clips.load(0, np.random.default_rng(0)).masks.sum() == 3 * 20 * 30
    sizes = [sum(p.stat().st_size for p in (root / "horses").glob("*.jpg")) for root in (source, target)]
    assert sizes[1] < 0.6 * sizes[0]


def test_wrong_arguments(pack, source: Path, tmp_path: Path, outcome) -> None:
    for arguments, expected, message in (
        ([tmp_path / "nothing", tmp_path / "pack"], 1, "has none of the folders bsds500"),
        ([source, source], 1, "already exists: give a new folder"),
        ([source, tmp_path / "pack", "--quality", "0"], 2, "--quality: expected a whole number from 1 to 100"),
    ):
        status, text = outcome(pack.main, *arguments)
        assert status == expected
        assert message in text
        assert not (tmp_path / "pack").exists()
