"""SA-V's reader."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from i2v.data.rle import mask_to_rle
from train.dataset.sample import SampleError
from train.dataset.sav import SAV

SIZE = (48, 64)
ANNOTATED = 6
# pycocotools does not know NumPy 2 well.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


def square(index: int, t: int, size: tuple[int, int] = SIZE) -> np.ndarray:
    """The mask of object `index` in annotated frame t."""
    mask = np.zeros(size, bool)
    mask[10 * index : 10 * index + 8, 8 * t : 8 * t + 8] = True
    return mask


def masklets(objects: range, size: tuple[int, int] = SIZE) -> list[list]:
    """Per annotated frame, per object. Object 1 is there from annotated frame 2 on only."""
    absent = [None, {"size": list(size), "counts": ""}]
    return [[absent[t] if i == 1 and t < 2 else mask_to_rle(square(i, t, size)) for i in objects] for t in range(ANNOTATED)]


def annotation(frames: list, size: tuple[int, int] = SIZE) -> dict:
    """What SA-V's JSON holds, as far as it is read."""
    return {"masklet_id": list(range(len(frames[0]))), "video_height": size[0], "video_width": size[1], "masklet": frames}


def write_json(folder: Path, suffix: str, frames: list) -> None:
    (folder / f"sav_000001_{suffix}.json").write_text(json.dumps(annotation(frames)))


@pytest.fixture
def folder(tmp_path: Path, make_video: Callable) -> Path:
    """A video of 21 frames, frame t grey of value 10 t; masklets 0 and 1 are manual, 2 and 3 automatic."""
    folder = tmp_path / "sav"
    folder.mkdir()
    video = np.broadcast_to(10 * np.arange(4 * ANNOTATED - 3, dtype=np.uint8)[:, None, None, None], (21, *SIZE, 3))
    make_video(folder / "sav_000001.avi", np.ascontiguousarray(video)).rename(folder / "sav_000001.mp4")
    write_json(folder, "manual", masklets(range(2)))
    write_json(folder, "auto", masklets(range(2, 4)))
    return folder


@pytest.fixture
def frames(tmp_path: Path) -> Path:
    """Every fourth frame of that video."""
    folder = tmp_path / "frames"
    (folder / "sav_000001").mkdir(parents=True)
    for t in range(ANNOTATED):
        Image.new("RGB", SIZE[::-1], (40 * t,) * 3).save(folder / "sav_000001" / f"{4 * t:05d}.jpg")
    return folder


def load(*args, seed: int = 0, num_frames: int = 3, **options):
    return SAV(*args, num_frames=num_frames, **options).load(0, np.random.default_rng(seed))


@pytest.mark.slow
@pytest.mark.parametrize("extracted", [False, True])
@pytest.mark.parametrize("options", [{"max_objects": 9, "masklets": "both"}, {"max_objects": 1}, {"masklets": "auto"}])
def test_load(folder: Path, frames: Path, extracted: bool, options: dict) -> None:
    starts = set()
    for seed in range(30):
        clip = load(folder, frames if extracted else None, seed=seed, **options)
        assert clip.frames.shape == (3, 3, *SIZE)
        assert clip.masks.shape[0] == 3
        times = (clip.frames.float().mean((1, 2, 3)) / 40).round().int().tolist()
        assert times == list(range(times[0], times[0] + 3))
        starts.add(times[0])
        objects = {"auto": [2, 3], "both": [0, 1, 2, 3]}.get(options.get("masklets"), [0, 1])
        visible = [i for i in objects if i != 1 or times[0] >= 2]
        expected = np.stack([[square(i, t) & (i != 1 or t >= 2) for i in visible] for t in times])
        if options.get("max_objects") != 1:
            assert np.array_equal(clip.masks, expected)
        else:
            assert any(np.array_equal(clip.masks[:, 0], expected[:, j]) for j in range(len(visible)))
    assert starts == {0, 1, 2, 3}


def test_clip_begins_with_an_object(folder: Path, frames: Path) -> None:
    write_json(folder, "manual", [rles[1:] for rles in masklets(range(2))])
    assert all(load(folder, frames, seed=seed).masks[0, 0].any() for seed in range(10))
    write_json(folder, "manual", [[None] for _ in range(ANNOTATED)])
    with pytest.raises(SampleError, match=r"sav_000001_manual\.json.*no clip of 3 frames begins with a visible object"):
        load(folder, frames)


def test_one_kind_of_masklets_is_enough_for_both(folder: Path, frames: Path) -> None:
    (folder / "sav_000001_auto.json").unlink()
    assert load(folder, frames, masklets="both", max_objects=9).masks.shape[1] in (1, 2)
    with pytest.raises(ValueError, match=r"no \*_auto\.json"):
        SAV(folder, frames, masklets="auto")


def test_published_lists_leave_out_sub_folders_and_frames_may_lie_flat(folder: Path, frames: Path, tmp_path: Path) -> None:
    expected = SAV(folder, frames, num_frames=3)
    name = expected.names[0]
    names = tmp_path / "list.txt"
    names.write_text(f"{Path(name).name}\n")
    (folder / "more/deep").mkdir(parents=True)
    for path in list(folder.glob(f"{name}_*.json")):
        path.rename(folder / "more/deep" / path.name)
    if "/" in name:
        (frames / name).rename(frames / Path(name).name)
    dataset = SAV(folder, frames, names, num_frames=3)
    assert dataset.names == [f"more/deep/{Path(name).name}"]
    assert dataset.load(0, np.random.default_rng(0)).masks.shape[0] == 3


def test_wrong_folders(folder: Path, frames: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"empty has no \*_manual\.json"):
        SAV(tmp_path / "empty")
    with pytest.raises(ValueError, match="empty has no extracted frames"):
        SAV(folder, tmp_path / "empty")
    (tmp_path / "list.txt").write_text("sav_000001\nsav_000002\n")
    with pytest.raises(FileNotFoundError, match=r"lacks sav_000002_manual\.json of the 2 names"):
        SAV(folder, frames, tmp_path / "list.txt")
    (folder / "sav_000001.mp4").unlink()
    with pytest.raises(ValueError, match="sav has no MP4"):
        SAV(folder)
    with pytest.raises(ValueError, match="by hand"):
        SAV(folder, frames, masklets="by hand")


BAD_JSON = {
    "corrupt": ("{", "manual.json"),
    "another layout": ('{"masklet": 3}', "manual.json"),
    "masklets missing in a frame": (json.dumps(annotation([[None, None], [None], []])), "no clip of 3 frames"),
    "too short": (json.dumps(annotation(masklets(range(2))[:2])), "2 annotated frames are too few for a clip of 3"),
    "another size": (
        json.dumps(annotation(masklets(range(2), (64, 64)), (64, 64))),
        "its mask is 64x64 pixels, the frame is 64x48",
    ),
}


@pytest.mark.parametrize("case", BAD_JSON)
def test_bad_json(folder: Path, frames: Path, case: str) -> None:
    text, message = BAD_JSON[case]
    (folder / "sav_000001_manual.json").write_text(text)
    with pytest.raises(SampleError, match=rf"sav_000001_manual\.json.*{message}|sav_000001_{message}"):
        load(folder, frames)


def test_json_disappears(folder: Path, frames: Path) -> None:
    dataset = SAV(folder, frames)
    (folder / "sav_000001_manual.json").unlink()
    with pytest.raises(SampleError, match=r"no such file: .*sav_000001_manual\.json"):
        dataset.load(0, np.random.default_rng(0))


def test_bad_videos(folder: Path) -> None:
    dataset = SAV(folder, num_frames=ANNOTATED)
    path = folder / "sav_000001.mp4"
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(SampleError, match=r"sav_000001\.mp4 ends at frame|sav_000001\.mp4 is not a video"):
        dataset.load(0, np.random.default_rng(0))
    path.write_bytes(b"not a video")
    with pytest.raises(SampleError, match=r"sav_000001\.mp4 is not a video"):
        dataset.load(0, np.random.default_rng(0))
    path.unlink()
    with pytest.raises(SampleError, match=r"no such file: .*sav_000001\.mp4"):
        dataset.load(0, np.random.default_rng(0))


def test_bad_frames(folder: Path, frames: Path) -> None:
    dataset = SAV(folder, frames, num_frames=ANNOTATED)
    path = frames / "sav_000001" / "00008.jpg"
    data = path.read_bytes()
    Image.new("RGB", (32, 32)).save(path)
    with pytest.raises(SampleError, match="sav_000001"):
        dataset.load(0, np.random.default_rng(0))
    path.write_bytes(data[:-30])
    with pytest.raises(SampleError, match=r"00008\.jpg"):
        dataset.load(0, np.random.default_rng(0))
    path.unlink()
    with pytest.raises(SampleError, match=r"no such file: .*00008\.jpg"):
        dataset.load(0, np.random.default_rng(0))
