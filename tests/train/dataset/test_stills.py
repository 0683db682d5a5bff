"""Photographs with masks: both layouts, the splits, what looks like an object, and what is wrong with a file."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from i2v.data.rle import mask_to_rle
from train.dataset.sample import SampleError
from train.dataset.stills import (
    Photograph,
    Photographs,
    StillImages,
    VideoStills,
    cut_out,
    fill_hole,
    is_object_like,
    sample_object,
    unite_with_neighbours,
)


def box_mask(x0: int, y0: int, x1: int, y1: int) -> np.ndarray:
    mask = np.zeros((64, 64), bool)
    mask[y0:y1, x0:x1] = True
    return mask


# An upper and a lower half, and a head, a body and a ball in front.
REGIONS = np.ones((64, 64), np.uint8)
REGIONS[32:] = 2
REGIONS[box_mask(20, 10, 36, 26)] = 3
REGIONS[box_mask(16, 26, 40, 50)] = 4
REGIONS[box_mask(46, 40, 58, 52)] = 5
COLOURS = np.array([[0, 0, 0], [40, 80, 200], [60, 160, 60], [230, 190, 150], [200, 30, 30], [240, 240, 240]], np.uint8)


@pytest.fixture
def regions(tmp_path: Path) -> Path:
    """Twenty photographs with two label maps each: five regions, and one."""
    folder = tmp_path / "regions_folder"
    (folder / "images").mkdir(parents=True)
    (folder / "regions").mkdir()
    for i in range(20):
        Image.fromarray(COLOURS[REGIONS]).save(folder / "images" / f"{i}.jpg")
        Image.fromarray(REGIONS).save(folder / "regions" / f"{i}_0.png")
        Image.fromarray(np.ones_like(REGIONS)).save(folder / "regions" / f"{i}_1.png")
    return folder


@pytest.fixture
def instances(tmp_path: Path) -> Path:
    """Twenty photographs with two masks each."""
    folder = tmp_path / "instances"
    folder.mkdir()
    masks = [REGIONS == 4, REGIONS == 5]
    annotations = {"annotations": [{"segmentation": mask_to_rle(mask)} for mask in masks]}
    for i in range(20):
        Image.fromarray(COLOURS[REGIONS]).save(folder / f"{i}.jpg")
        (folder / f"{i}.json").write_text(json.dumps(annotations))
    return folder


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def test_regions(regions: Path, rng: np.random.Generator) -> None:
    photographs = Photographs([regions], "train")
    seen = set()
    for _ in range(20):
        photograph = photographs.read(0, rng)
        assert photograph.has_parts
        assert photograph.image.shape == (64, 64, 3) and photograph.image.dtype == np.uint8
        assert (photograph.masks.sum(0) == 1).all(), "regions divide the photograph"
        seen.add(len(photograph.masks))
    assert seen == {1, 5}, "label maps are drawn"


def test_instances(instances: Path, rng: np.random.Generator) -> None:
    photograph = Photographs([instances], "train").read(0, rng)
    assert not photograph.has_parts
    assert np.array_equal(photograph.masks, [REGIONS == 4, REGIONS == 5])


def test_regions_of_a_photograph_with_a_similar_name(regions: Path, rng: np.random.Generator) -> None:
    """`1_0.png` is of `1.jpg`, `1_0_0.png` of `1_0.jpg`."""
    for name in ("1_0", "1_1"):
        shutil.copy(regions / "images/1.jpg", regions / f"images/{name}.jpg")
        Image.fromarray(np.full_like(REGIONS, 9)).save(regions / f"regions/{name}_0.png")
    (regions / "regions/1_1.png").unlink()
    photographs = Photographs([regions], "train")
    numbers = {path.stem: i for i, path in enumerate(photographs.paths)}
    assert {len(photographs.read(numbers["1"], rng).masks) for _ in range(8)} == {5}


def test_splits(regions: Path, instances: Path) -> None:
    paths = {split: Photographs([regions, instances], split).paths for split in ("train", "validation")}
    assert len(paths["train"]) + len(paths["validation"]) == 40
    assert not set(paths["train"]) & set(paths["validation"])
    assert 0 < len(paths["validation"]) < 10
    (instances / "new.json").write_text("{}")
    assert set(paths["validation"]) <= set(Photographs([regions, instances], "validation").paths), "by the names alone"


def test_large_photographs_are_reduced(tmp_path: Path, rng: np.random.Generator) -> None:
    mask = np.zeros((400, 1280), bool)
    mask[100:200, 200:600] = True
    Image.fromarray(np.repeat(mask[..., None], 3, axis=2).astype(np.uint8) * 200).save(tmp_path / "large.jpg")
    (tmp_path / "large.json").write_text(json.dumps({"annotations": [{"segmentation": mask_to_rle(mask)}]}))
    photograph = Photographs([tmp_path], "train").read(0, rng)
    assert photograph.image.shape == (200, 640, 3)
    assert np.array_equal(photograph.masks[0], mask[::2, ::2])


def test_wrong_folders(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere"):
        Photographs([tmp_path / "nowhere"], "train")
    with pytest.raises(ValueError, match=str(tmp_path)):
        Photographs([tmp_path], "train")
    (tmp_path / "0.json").write_text("{}")
    with pytest.raises(ValueError, match=r"\*\.json of the validation split"):
        Photographs([tmp_path], "validation")


@pytest.mark.parametrize("layout", ["regions", "instances"])
def test_damaged_files_are_named(layout: str, request: pytest.FixtureRequest, rng: np.random.Generator) -> None:
    folder: Path = request.getfixturevalue(layout)
    photographs = Photographs([folder], "train")
    image = photographs.paths[0]
    masks = sorted((folder / "regions").glob(f"{image.stem}_*")) or [image.with_suffix(".json")]

    def expect_error(path: Path) -> None:
        with pytest.raises(SampleError, match=rf"{image.stem}\w*\{path.suffix}"):
            photographs.read(0, rng)

    for path in masks:
        path.write_bytes(b"{nothing")
    expect_error(masks[0])
    for path in masks:
        path.unlink()
    expect_error(image.with_suffix(".json"))
    image.write_bytes(image.read_bytes()[:600])
    expect_error(image)
    image.unlink()
    expect_error(image)


def test_masks_of_another_size_are_named(regions: Path, instances: Path, rng: np.random.Generator) -> None:
    for folder in (regions, instances):
        photographs = Photographs([folder], "train")
        Image.new("RGB", (30, 40)).save(photographs.paths[0])
        with pytest.raises(SampleError, match="64x64 pixels, the frame is 30x40"):
            photographs.read(0, rng)


@pytest.mark.parametrize(
    ("mask", "expected"),
    [
        (box_mask(20, 20, 40, 45), True),
        (box_mask(20, 20, 24, 24), False),  # tiny
        (box_mask(0, 0, 64, 30), False),  # sky
        (box_mask(10, 30, 60, 34), False),  # a sliver
        (box_mask(10, 10, 50, 50) & ~box_mask(16, 16, 50, 50), False),  # concave: what is around a thing
        (box_mask(4, 4, 60, 60), False),  # most of the photograph
        (np.zeros((64, 64), bool), False),
    ],
)
def test_what_looks_like_an_object(mask: np.ndarray, expected: bool) -> None:
    assert is_object_like(mask) == expected


def test_unions_touch(rng: np.random.Generator) -> None:
    masks = np.array([3, 4, 5])[:, None, None] == REGIONS
    person = masks[0] | masks[1]
    for _ in range(10):
        assert np.array_equal(unite_with_neighbours(masks, 0, rng), person), "the ball is apart"
        assert np.array_equal(unite_with_neighbours(masks, 2, rng), masks[2])


def test_objects_are_drawn(rng: np.random.Generator) -> None:
    masks = np.arange(1, 6)[:, None, None] == REGIONS
    photograph = Photograph("test", COLOURS[REGIONS], masks, has_parts=False)
    drawn = [sample_object(photograph, rng) for _ in range(20)]
    things = masks[2:]
    assert all(mask is not None and (mask == things).all((1, 2)).any() for mask in drawn), "no half of the photograph"
    photograph.has_parts = True
    person = masks[2] | masks[3]
    assert any(np.array_equal(sample_object(photograph, rng), person) for _ in range(40))
    assert sample_object(Photograph("test", photograph.image, masks[:2], has_parts=False), rng) is None
    assert sample_object(Photograph("test", photograph.image, masks[:0], has_parts=False), rng) is None


@pytest.mark.parametrize("scale", [0.5, 1, 2.3])
def test_cut_out(scale: float) -> None:
    mask = REGIONS == 4
    pixels, corner = cut_out(COLOURS[REGIONS], mask, scale, feather=0)
    opacity = pixels[..., 3] / 255
    assert opacity.sum() == pytest.approx(mask.sum() * scale**2, rel=0.05)
    assert not opacity[[0, -1]].any() and not opacity[:, [0, -1]].any()
    rows, columns = np.nonzero(opacity > 0.5)
    centre = np.array([columns.mean(), rows.mean()]) + 0.5
    assert corner + centre / scale == pytest.approx([28, 38], abs=0.6), "of the mask in the photograph"
    expected = COLOURS[4] * opacity[..., None]
    assert np.abs(pixels[..., :3] - expected).max() <= 2, "nothing of what is around shines through"


def test_holes_are_filled() -> None:
    image = COLOURS[np.where(REGIONS == 4, 4, 1)]
    filled = fill_hole(image, REGIONS == 4)
    assert np.abs(filled.astype(int) - COLOURS[1]).max() < 12


@pytest.mark.parametrize("layout", ["regions", "instances"])
def test_still_images(layout: str, request: pytest.FixtureRequest) -> None:
    dataset = StillImages([request.getfixturevalue(layout)], max_objects=2)
    counts = set()
    for seed in range(20):
        clip = dataset.load(seed % len(dataset), np.random.default_rng(seed))
        counts.add(clip.masks.shape[1])
        assert clip.frames.shape == (1, 3, 64, 64) and clip.frames.dtype == torch.uint8
        assert clip.masks.shape[0] == 1 and clip.masks.dtype == torch.bool
        assert clip.masks[0].flatten(1).any(1).all()
    assert counts == ({1, 2} if layout == "regions" else {2})
    again = dataset.load(0, np.random.default_rng(5)), dataset.load(0, np.random.default_rng(5))
    assert torch.equal(again[0].masks, again[1].masks)


def test_still_images_of_things(regions: Path) -> None:
    """Neither the halves, nor the whole photograph, which is all that the second label map has."""
    dataset = StillImages([regions], things_only=True)
    shown = 0
    for seed in range(20):
        try:
            clip = dataset.load(0, np.random.default_rng(seed))
        except SampleError as error:
            assert "looks like an object" in str(error)
        else:
            shown += 1
            assert all(is_object_like(mask) for mask in clip.masks[0].numpy())
    assert 0 < shown < 20


def test_still_images_without_segments(instances: Path, rng: np.random.Generator) -> None:
    dataset = StillImages([instances])
    path = dataset.photographs.paths[0].with_suffix(".json")
    path.write_text('{"annotations": []}')
    with pytest.raises(SampleError, match=r"no segment that is large enough"):
        dataset.load(0, rng)


@pytest.mark.slow
def test_video_stills(
    tmp_path: Path, make_video: Callable[[Path, np.ndarray], Path], tiny_video: np.ndarray, rng: np.random.Generator
) -> None:
    make_video(tmp_path / "a.mp4", np.concatenate([tiny_video] * 3))
    stills = VideoStills(tmp_path, "train")
    drawn = [stills.sample(rng) for _ in range(8)]
    assert all(still.shape == (48, 64, 3) for still in drawn)
    assert len({still.tobytes() for still in drawn}) <= 2, "36 frames have two stills"
    assert np.abs(drawn[0].astype(int) - tiny_video[0]).mean() < 20
    shutil.copy(__file__, tmp_path / "a.mp4")
    with pytest.raises(SampleError, match=r"a\.mp4"):
        VideoStills(tmp_path, "train").sample(rng)


def test_shared_photographs(shared: Path, rng: np.random.Generator) -> None:
    folders = [shared / "data" / "bsds500", shared / "data" / "coco128"]
    splits = [Photographs(folders, split) for split in ("train", "validation")]
    assert [len(split) for split in splits] == [568, 60]
    assert not set(splits[0].paths) & set(splits[1].paths)
    for photographs in splits:
        for index in (0, len(photographs) - 1):
            assert len(photographs.read(index, rng).masks)
