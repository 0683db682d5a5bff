"""The reader of DAVIS-like folders."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from i2v.data.mask_files import save_label_image
from train.dataset.sample import SampleError
from train.dataset.vos_folder import VOSFolder

SIZE = (24, 32)
NUM_FRAMES = 6


def labels_of(t: int) -> np.ndarray:
    """Object 1 on the left in all frames, object 3 on the right from frame 2 on."""
    labels = np.zeros(SIZE, np.uint8)
    labels[t : t + 4, :8] = 1
    if t >= 2:
        labels[t : t + 4, 20:30] = 3
    return labels


@pytest.fixture(params=["palette", "binary", "colour", "per object", "numbers without zeros"])
def layout(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def folder(tmp_path: Path, layout: str) -> Path:
    """One video in some layout, with one frame that has no annotation. Frame t is grey of value 40 t."""
    images = tmp_path / "JPEGImages" / "480p" / "video"
    masks = tmp_path / "Annotations" / "480p" / "video"
    for path in (images, masks, *(masks / name for name in ("000", "002") if layout == "per object")):
        path.mkdir(parents=True, exist_ok=True)
    for t in range(NUM_FRAMES):
        name = str(5 * t) if layout == "numbers without zeros" else f"{5 * t:05d}"
        labels = labels_of(t)
        Image.new("RGB", SIZE[::-1], (40 * t,) * 3).save(images / f"{name}.jpg")
        if layout in ("palette", "numbers without zeros"):
            save_label_image(masks / f"{name}.png", labels)
        elif layout == "binary":
            Image.fromarray(np.uint8(255 * (labels == 1))).save(masks / f"{name}.png")
        elif layout == "colour":
            Image.fromarray(np.uint8([200, 0, 0] * (labels == 1)[..., None])).save(masks / f"{name}.png")
        else:
            Image.fromarray(labels == 1).save(masks / "000" / f"{name}.png")
            if t >= 2:
                Image.fromarray(labels == 3).save(masks / "002" / f"{name}.png")
    Image.new("RGB", SIZE[::-1]).save(images / "00007.jpg")
    return tmp_path


def dataset(folder: Path, num_frames: int = 3, **options) -> VOSFolder:
    return VOSFolder(folder / "JPEGImages/480p", folder / "Annotations/480p", num_frames=num_frames, **options)


def load(folder: Path, seed: int = 0, **options):
    return dataset(folder, **options).load(0, np.random.default_rng(seed))


def times_of(clip) -> list[int]:
    return (clip.frames.float().mean((1, 2, 3)) / 40).round().int().tolist()


def test_load(folder: Path, layout: str) -> None:
    starts = set()
    for seed in range(30):
        clip = load(folder, seed)
        times = times_of(clip)
        assert times == list(range(times[0], times[0] + 3))
        starts.add(times[0])
        both = layout not in ("binary", "colour") and times[0] >= 2
        expected = np.stack([[labels_of(t) == label for label in ((1, 3) if both else (1,))] for t in times])
        assert np.array_equal(clip.masks, expected)
    assert starts == {0, 1, 2, 3}


@pytest.mark.parametrize("layout", ["palette"], indirect=True)
def test_stride_and_objects(folder: Path) -> None:
    clips = [load(folder, seed, max_stride=9, max_objects=1) for seed in range(30)]
    strides = {tuple(np.diff(times_of(clip))) for clip in clips}
    assert strides == {(1, 1), (2, 2)}
    assert all(clip.masks.shape[1] == 1 for clip in clips)
    assert load(folder, num_frames=1, max_stride=9).masks.shape[0] == 1
    assert times_of(load(folder, num_frames=NUM_FRAMES, max_stride=9)) == list(range(NUM_FRAMES))
    with pytest.raises(SampleError, match=r"video.*6 annotated frames are too few for a clip of 7"):
        load(folder, num_frames=7)


def test_whole_video(folder: Path, layout: str) -> None:
    for seed in range(3):
        clip = load(folder, seed, num_frames=None, max_objects=None, max_stride=3)
        assert times_of(clip) == list(range(NUM_FRAMES))
        labels = (1,) if layout in ("binary", "colour") else (1, 3)  # the second one appears later
        expected = np.stack([[labels_of(t) == label for label in labels] for t in range(NUM_FRAMES)])
        assert np.array_equal(clip.masks, expected)
        assert load(folder, seed, num_frames=None, max_objects=1).masks.shape[1] == 1
    for path in (folder / "Annotations/480p/video").rglob("*.png"):
        Image.new("L", SIZE[::-1]).save(path)
    with pytest.raises(SampleError, match=r"video.*no frame has a visible object"):
        load(folder, num_frames=None, max_objects=None)
    for path in (folder / "Annotations/480p/video").rglob("*.png"):
        path.unlink()
    (folder / "Annotations/480p/other").mkdir()
    Image.new("L", SIZE[::-1]).save(folder / "Annotations/480p/other/00000.png")
    with pytest.raises(SampleError, match=r"video.*no frame has a visible object"):
        dataset(folder, num_frames=None).load(1, np.random.default_rng(0))


def test_all_objects_of_a_clip(folder: Path, layout: str) -> None:
    if layout in ("binary", "colour"):
        return
    assert load(folder, num_frames=NUM_FRAMES, max_objects=None).masks.shape[1] == 1  # only one is in the first frame
    counts = {load(folder, seed, num_frames=2, max_objects=None).masks.shape[1] for seed in range(30)}
    assert counts == {1, 2}


def first_mask(folder: Path) -> Path:
    return min((folder / "Annotations/480p/video").rglob("*.png"), key=lambda path: (len(path.stem), path.stem))


def test_bad_masks(folder: Path) -> None:
    path = first_mask(folder)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(SampleError, match=str(path)):
        load(folder, num_frames=NUM_FRAMES)
    path.write_bytes(b"")
    with pytest.raises(SampleError, match=str(path)):
        load(folder, num_frames=NUM_FRAMES)
    Image.new("L", (33, 24), 1).save(path)
    with pytest.raises(SampleError, match=f"{path} is 33x24 pixels, but the video is 32x24"):
        load(folder, num_frames=NUM_FRAMES)


def test_no_objects(folder: Path) -> None:
    for path in (folder / "Annotations/480p/video").rglob("*.png"):
        Image.new("L", SIZE[::-1]).save(path)
    with pytest.raises(SampleError, match=r"video.*no clip of 3 frames begins with a visible object"):
        load(folder)


@pytest.mark.parametrize("layout", ["palette"], indirect=True)
def test_bad_frames(folder: Path) -> None:
    path = folder / "JPEGImages/480p/video/00010.jpg"
    data = path.read_bytes()
    path.write_bytes(data[:-30])
    with pytest.raises(SampleError, match=str(path)):
        load(folder, num_frames=NUM_FRAMES)
    path.unlink()
    with pytest.raises(SampleError, match=r"masks for frame 00010, but .*video has no such frame"):
        load(folder, num_frames=NUM_FRAMES)


@pytest.mark.parametrize("layout", ["palette"], indirect=True)
def test_wrong_folders(folder: Path, tmp_path: Path) -> None:
    images, masks = folder / "JPEGImages/480p", folder / "Annotations/480p"
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="empty has no folders"):
        VOSFolder(images, tmp_path / "empty")
    with pytest.raises(ValueError, match="empty has no frames, JPEG or other"):
        VOSFolder(tmp_path / "empty", masks)
    with pytest.raises(FileNotFoundError, match="nowhere"):
        VOSFolder(images, tmp_path / "nowhere")
    with pytest.raises(ValueError, match="480p has no PNG"):
        VOSFolder(images, images)
    (tmp_path / "list.txt").write_text("video\nother\n")
    with pytest.raises(FileNotFoundError, match=r"480p lacks other of the 2 names in .*list\.txt"):
        VOSFolder(images, masks, tmp_path / "list.txt")


def test_real_data(shared: Path) -> None:
    for name in ("davis2016-dev", "pumavos-chair"):
        images, masks = shared / "data" / name / "JPEGImages", shared / "data" / name / "Annotations"
        if (images / "480p").exists():
            images, masks = images / "480p", masks / "480p"
        clip = VOSFolder(images, masks, num_frames=2).load(0, np.random.default_rng(0))
        assert clip.masks.shape == (2, 1, *clip.frames.shape[2:])
        assert 0 < clip.masks.float().mean() < 0.5
