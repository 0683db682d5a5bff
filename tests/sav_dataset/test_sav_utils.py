"""The loader of SA-V's videos and masklets."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from i2v.data.rle import mask_to_rle
from sav_dataset.sav_utils import Masklets, SAVDataset, draw_frame, draw_masks

HEIGHT, WIDTH = 48, 64


@pytest.fixture(scope="module")
def masks() -> np.ndarray:
    """The masks of 2 objects in 3 annotated frames, (3, 2, H, W) bool."""
    masks = np.zeros((3, 2, HEIGHT, WIDTH), bool)
    for i, (large, small) in enumerate(masks):
        large[5:40, 5 + i : 50] = True
        small[20:30, 20 + i : 60] = True
    return masks


@pytest.fixture
def annotation(masks: np.ndarray) -> dict[str, Any]:
    """The content of a JSON file of SA-V, as far as it is read."""
    rles = [[mask_to_rle(mask) for mask in frame] for frame in masks]
    return {"video_height": HEIGHT, "video_width": WIDTH, "masklet_id": [0, 7], "masklet": rles}


@pytest.fixture
def root(
    tmp_path: Path, make_video: Callable[[Path, np.ndarray], Path], tiny_video: np.ndarray, annotation: dict[str, Any]
) -> Path:
    """A folder like SA-V's training set: two videos, one with masklets."""
    for folder, name in (("sav_001", "sav_001002"), ("sav_000", "sav_000001")):
        (tmp_path / folder).mkdir()
        make_video(tmp_path / folder / f"{name}.mp4", tiny_video)
    (tmp_path / "sav_000" / "sav_000001_manual.json").write_text(json.dumps(annotation))
    return tmp_path


@pytest.mark.slow
def test_dataset(root: Path, masks: np.ndarray, tiny_video: np.ndarray) -> None:
    dataset = SAVDataset(root)
    assert dataset.video_ids == ["sav_000001", "sav_001002"]
    video = dataset.load("sav_000001")
    assert video.frames.num_frames == len(tiny_video)
    assert np.abs(video.frames[5].astype(int) - tiny_video[5]).mean() < 30  # the codec is lossy
    assert video.automatic is None
    assert video.manual.object_ids == [0, 7]
    assert video.manual.annotated_frames == [0, 4, 8]
    assert np.array_equal(video.manual.masks(8), masks[2])
    assert dataset.load("sav_001002").manual is None


@pytest.mark.slow
def test_picture(root: Path, masks: np.ndarray) -> None:
    dataset = SAVDataset(root)
    video = dataset.load("sav_000001")
    frame, picture = video.frames[4], draw_frame(video, 4)
    assert picture.shape == frame.shape
    assert picture.dtype == np.uint8
    assert not np.array_equal(picture, frame)
    nowhere = ~cv2.dilate(masks[1].any(axis=0).astype(np.uint8), np.ones((3, 3), np.uint8)).astype(bool)
    assert np.array_equal(picture[nowhere], frame[nowhere])
    assert np.array_equal(draw_frame(video, 4, manual=False), frame)
    other = dataset.load("sav_001002")
    assert np.array_equal(draw_frame(other, 4), other.frames[4])


def test_smaller_masks_are_on_top(masks: np.ndarray) -> None:
    image = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    picture = draw_masks(image, masks[0])
    assert tuple(picture[10, 10]) == (64, 0, 0)  # half of DAVIS' first colour
    assert tuple(picture[25, 30]) == (0, 64, 0)
    assert np.array_equal(picture[25, 30], draw_masks(image, np.stack([masks[0, 0] & ~masks[0, 1], masks[0, 1]]))[25, 30])


def test_frames_and_objects_without_masks(tmp_path: Path, masks: np.ndarray, annotation: dict[str, Any]) -> None:
    annotation["masklet"][0] = None
    annotation["masklet"][2][1] = None
    path = tmp_path / "masklets.json"
    path.write_text(json.dumps(annotation))
    masklets = Masklets(path, stride=1)
    assert masklets.annotated_frames == [1, 2]
    assert np.array_equal(masklets.masks(2)[0], masks[2, 0])
    assert not masklets.masks(2)[1].any()
    with pytest.raises(ValueError, match="no masks of frame 0"):
        masklets.masks(0)


@pytest.mark.parametrize("key", ["masklet", "masklet_id", "video_height"])
def test_incomplete_json(tmp_path: Path, annotation: dict[str, Any], key: str) -> None:
    del annotation[key]
    path = tmp_path / "masklets.json"
    path.write_text(json.dumps(annotation))
    with pytest.raises(ValueError, match=f"not a JSON file of SA-V's masklets: KeyError\\('{key}'"):
        Masklets(path)


def test_no_objects(tmp_path: Path) -> None:
    path = tmp_path / "masklets.json"
    path.write_text(json.dumps({"masklet_id": [], "masklet": [[]], "video_height": 48, "video_width": 64}))
    masks = Masklets(path).masks(0)
    assert masks.shape == (0, 48, 64)
    assert masks.dtype == bool


@pytest.mark.slow
@pytest.mark.parametrize("place", [True, None, 0.0, np.zeros(2, int), "0"], ids=repr)
def test_frames_and_objects_are_integers(root: Path, masks: np.ndarray, place: Any) -> None:
    masklets = SAVDataset(root).load("sav_000001").manual
    with pytest.raises(TypeError, match="an object's position must be an integer"):
        masklets.masks(4, [place])
    for read in (masklets.masks, masklets.areas):
        with pytest.raises(TypeError, match="a frame must be an integer"):
            read(place)
    with pytest.raises(TypeError, match=r"a frame must be an integer, not 4\.0"):
        masklets.masks(4.0)
    assert np.array_equal(masklets.masks(np.int64(4), np.array([1])), masks[1, 1:])


@pytest.mark.slow
@pytest.mark.parametrize("place", [2, -1])
def test_invalid_positions_of_objects(root: Path, place: int) -> None:
    with pytest.raises(ValueError, match=rf"no object at position {place} in .*manual\.json: it has 2 objects"):
        SAVDataset(root).load("sav_000001").manual.masks(4, [place])


@pytest.mark.parametrize("text", ["", "[]", "null", '{"masklet_id": 3}'])
def test_other_json(tmp_path: Path, text: str) -> None:
    path = tmp_path / "masklets.json"
    path.write_text(text)
    with pytest.raises(ValueError, match="not a JSON file of SA-V's masklets"):
        Masklets(path)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        *(("video_height", value, f"video_height must be an integer, not {value!r}") for value in (math.inf, math.nan, 4.7)),
        *(("video_width", value, f"video_width must be an integer, not {value!r}") for value in ("4", True, None)),
        *(("video_width", value, f"video_width must be at least 1, not {value}") for value in (0, -64)),
        ("video_width", 10**7, "video_height and video_width are 48 and 10000000, more than 100000000 pixels"),
        ("masklet_id", [3, 3], "masklet_id has 3 more than once"),
        ("masklet_id", [3, 3.5], "a masklet_id must be an integer, not 3.5"),
    ],
)
def test_bad_values(tmp_path: Path, annotation: dict[str, Any], key: str, value: Any, message: str) -> None:
    path = tmp_path / "masklets.json"
    path.write_text(json.dumps(annotation | {key: value}))
    with pytest.raises(ValueError, match=re.escape(message)) as error:
        Masklets(path)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


def test_sides_may_be_floats(tmp_path: Path, masks: np.ndarray, annotation: dict[str, Any]) -> None:
    path = tmp_path / "masklets.json"
    path.write_text(json.dumps(annotation | {"video_height": 48.0, "video_width": 64.0}))  # as in SA-V
    assert np.array_equal(Masklets(path).masks(0), masks[0])


@pytest.mark.parametrize("size", [[math.inf, 64], [48, "64"], [10**7, 10**7]])
def test_bad_sizes_of_masks(tmp_path: Path, annotation: dict[str, Any], size: list[Any]) -> None:
    annotation["masklet"][1][0] = {"size": size, "counts": [7]}
    path = tmp_path / "masklets.json"
    path.write_text(json.dumps(annotation))
    masklets = Masklets(path)
    for read in (masklets.masks, masklets.areas):
        with pytest.raises(ValueError, match=r"masklets\.json, frame 4: "):
            read(4)


@pytest.mark.slow
def test_inconsistent_json(root: Path, annotation: dict[str, Any]) -> None:
    annotation["masklet"][0].pop()
    annotation["masklet"][1][0] = mask_to_rle(np.zeros((3, 4), bool))
    path = root / "sav_000" / "sav_000001_auto.json"
    path.write_text(json.dumps(annotation))
    masklets = SAVDataset(root).load("sav_000001").automatic
    with pytest.raises(ValueError, match="frame 0: 1 masks of 2 objects"):
        masklets.masks(0)
    with pytest.raises(ValueError, match=r"frame 4: its mask is 4x3 pixels"):
        masklets.masks(4)
    annotation["masklet"][1][0] = {**mask_to_rle(np.zeros((48, 64), bool)), "counts": [7]}
    path.write_text(json.dumps(annotation))
    with pytest.raises(ValueError, match=r"sav_000001_auto\.json, frame 4: a run-length encoded mask does not fit"):
        SAVDataset(root).load("sav_000001").automatic.masks(4)
    path.write_text(json.dumps({**annotation, "video_width": 100}))
    with pytest.raises(ValueError, match="another size than 64x48"):
        SAVDataset(root).load("sav_000001")


@pytest.mark.slow
def test_bad_dataset(root: Path, tmp_path: Path) -> None:
    with pytest.raises(NotADirectoryError, match="nowhere"):
        SAVDataset(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="no video 'dog'"):
        SAVDataset(root).load("dog")
    with pytest.raises(FileNotFoundError):
        Masklets(tmp_path / "none.json")
    (root / "sav_000" / "sav_001002.mp4").touch()
    with pytest.raises(ValueError, match="have the same name"):
        SAVDataset(root)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="no videos"):
        SAVDataset(tmp_path / "empty")
