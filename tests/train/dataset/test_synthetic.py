"""Synthetic clips: masks that fit the pixels, motion that is forced, chance that is drawn from the given generator only."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from i2v.data.rle import mask_to_rle
from train import show_clips
from train.dataset.sample import RawClip, SampleError
from train.dataset.synthetic import CameraEffects, Motion, Scene, SyntheticClips

SIZE = 64
PERFECT = CameraEffects(1, 1, 0, 0, 0, 0, 0, 0, 0, (90, 90), 0, 1)
CALM = Motion(fast_probability=0, speed=(0.01, 0.02), leave_probability=0, occlude_probability=0)
LONE = {"extra_probability": 0, "twin_probability": 0, "object_size": (0.3, 0.4), "feather": (0, 0)}
SCENES = {
    "in place": Scene(in_place_probability=1, moved_probability=0, **LONE),
    "moved": Scene(in_place_probability=0, moved_probability=1, **LONE),
    "pasted": Scene(in_place_probability=0, moved_probability=0, **LONE),
}


def write_still(folder: Path, name: str, radius: int = 10) -> None:
    """A red disc on grey, 80x64 pixels; without a mask if the radius is 0."""
    image = np.full((64, 80, 3), 100, np.uint8)
    mask = np.zeros((64, 80), np.uint8)
    if radius:
        cv2.circle(mask, (40, 32), radius, 1, -1)
    image[mask > 0] = (250, 0, 0)
    Image.fromarray(image).save(folder / f"{name}.jpg", quality=100, subsampling=0)
    annotations = [{"segmentation": mask_to_rle(mask)}] if radius else []
    (folder / f"{name}.json").write_text(json.dumps({"annotations": annotations}))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for i in range(4):
        write_still(tmp_path, f"still{i}")
    return tmp_path


@pytest.fixture
def make(folder: Path) -> Callable[..., SyntheticClips]:
    """A function: arguments -> a data set of small clips without flaws."""

    def build(**arguments: object) -> SyntheticClips:
        return SyntheticClips([folder], **{"size": SIZE, "camera_effects": PERFECT, **arguments})

    return build


def load_many(dataset: SyntheticClips, count: int = 10) -> list[RawClip]:
    return [dataset.load(seed % len(dataset), np.random.default_rng(seed)) for seed in range(count)]


def red_pixels(clip: RawClip) -> np.ndarray:
    """Where more than half of the colour is the object's: (T, H, W) bool."""
    return clip.frames[:, 1].numpy() < 50


@pytest.mark.slow
def test_clips_are_complete(make: Callable[..., SyntheticClips]) -> None:
    for clip in load_many(make(num_frames=5, scene=Scene(extra_probability=1), camera_effects=None)):
        num_objects = clip.masks.shape[1]
        assert 1 <= num_objects <= 3
        assert clip.frames.shape == (5, 3, SIZE, SIZE) and clip.frames.dtype == torch.uint8
        assert clip.masks.shape == (5, num_objects, SIZE, SIZE) and clip.masks.dtype == torch.bool
        assert (clip.masks[0].float().mean((1, 2)) >= 0.003).all()
        assert not (clip.masks.sum(1) > 1).any(), "what covers an object is not part of it"


def test_deterministic(make: Callable[..., SyntheticClips]) -> None:
    dataset = make(camera_effects=CameraEffects(noise_probability=1, jpeg_probability=1))
    torch.manual_seed(1)
    first = dataset.load(0, np.random.default_rng(7))
    torch.manual_seed(2)
    np.random.seed(2)
    random.seed(2)
    cv2.setRNGSeed(2)
    states = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()
    again = dataset.load(0, np.random.default_rng(7))
    assert torch.equal(first.frames, again.frames) and torch.equal(first.masks, again.masks)
    assert torch.equal(torch.get_rng_state(), states[0])
    assert np.array_equal(np.random.get_state()[1], states[1])
    assert random.getstate() == states[2]
    assert not torch.equal(first.frames, dataset.load(0, np.random.default_rng(8)).frames)


@pytest.mark.parametrize("kind", SCENES)
def test_masks_follow_the_pixels(make: Callable[..., SyntheticClips], kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    grey = np.full((64, 80, 3), 100, np.uint8)  # a sprite's background must not have another disc
    monkeypatch.setattr(SyntheticClips, "_sample_background", lambda *_: grey)
    for clip in load_many(make(scene=SCENES[kind], motion=CALM)):
        masks, green = clip.masks[:, 0].numpy(), clip.frames[:, 1].numpy()
        assert masks.any((1, 2)).all()
        # An edge is as wide as a pixel; next to it, masks and colours agree.
        rim = [cv2.morphologyEx(mask.astype(np.uint8), cv2.MORPH_GRADIENT, np.ones((3, 3))) > 0 for mask in masks]
        assert not (np.where(masks, green > 65, green < 35) & ~np.stack(rim)).any()
        assert (red_pixels(clip) != masks).sum() < 0.05 * masks.sum()


@pytest.mark.slow
def test_objects_leave_and_return(make: Callable[..., SyntheticClips]) -> None:
    motion = Motion(leave_probability=1, occlude_probability=0)
    for kind in ("moved", "pasted"):
        for clip in load_many(make(scene=SCENES[kind], motion=motion)):
            visible = clip.masks[:, 0].any(2).any(1)
            assert visible[0] and visible[-1] and not visible[3:5].any()


@pytest.mark.slow
@pytest.mark.parametrize("kind", SCENES)
def test_objects_are_covered(make: Callable[..., SyntheticClips], kind: str) -> None:
    def least_visible(motion: Motion) -> np.ndarray:
        areas = [clip.masks[:, 0].sum((1, 2)) for clip in load_many(make(scene=SCENES[kind], motion=motion))]
        return np.array([float(area.min() / area[0]) for area in areas])

    still = {"leave_probability": 0.0, "scale": 1.01, "camera_scale": 1.01, "fast_probability": 0.0, "speed": (0.001, 0.002)}
    still |= {"camera_speed": (0.001, 0.002)}
    assert np.median(least_visible(Motion(**still, occlude_probability=0))) > 0.8
    assert np.median(least_visible(Motion(**still, occlude_probability=1))) < 0.4


def test_a_twin_is_not_annotated(make: Callable[..., SyntheticClips]) -> None:
    scene = Scene(in_place_probability=0, moved_probability=1, extra_probability=0, twin_probability=1)
    clips = load_many(make(scene=scene, motion=CALM))
    assert all(clip.masks.shape[1] == 1 for clip in clips)
    assert sum(red_pixels(clip).sum() for clip in clips) > 1.4 * sum(int(clip.masks.sum()) for clip in clips)


def test_other_photographs_help_out(folder: Path) -> None:
    write_still(folder, "aaa", radius=0)
    dataset = SyntheticClips([folder], size=SIZE)
    assert dataset.photographs.paths[0].name == "aaa.jpg"
    assert dataset.load(0, np.random.default_rng(0)).masks[0].any()


def test_bad_input(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="num_frames must be at least 2, not 1"):
        SyntheticClips([folder], num_frames=1)
    with pytest.raises(FileNotFoundError, match="nowhere"):
        SyntheticClips([tmp_path / "nowhere"])
    for i in range(4):
        write_still(folder, f"still{i}", radius=0)
    with pytest.raises(SampleError, match=r"still.\.jpg: none of 20 clips shows an object"):
        SyntheticClips([folder]).load(0, np.random.default_rng(0))
    for i in range(4):
        (folder / f"still{i}.jpg").write_bytes(b"no image")
    with pytest.raises(SampleError, match=r"still0\.jpg"):
        SyntheticClips([folder]).load(0, np.random.default_rng(0))


@pytest.mark.slow
def test_contact_sheet(folder: Path, tmp_path: Path) -> None:
    for i, options in enumerate(([], ["--plain"], ["--stills"])):
        sheet = tmp_path / f"sheet{i}.png"
        show_clips.main([str(sheet), "--folders", str(folder), "--count", "2", "--cell", "32", *options])
        assert Image.open(sheet).size == ((40, 72) if "--stills" in options else (8 * 32, 72))


def test_real_photographs(shared: Path) -> None:
    data = shared / "data"
    dataset = SyntheticClips([data / "bsds500", data / "coco128"], "validation", data / "clips")
    assert len(dataset) == 60
    clip = dataset.load(3, np.random.default_rng(1))
    assert clip.frames.shape == (8, 3, 384, 384)
    assert clip.masks[0].flatten(1).any(1).all()
