"""The formats of results: what is in their files, and what a full disk or a cancelled export leaves."""

from __future__ import annotations

import errno
import json
from collections.abc import Callable
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask

from i2v.data.frames import ArrayFrames, open_frames
from i2v.data.mask_files import read_labels
from i2v.data.masklets import Masklets
from i2v.data.rle import mask_to_rle
from i2v.exports import FILES, FORMATS, export
from i2v.prompt import Prompt
from i2v.prompt_files import NamedObject, PromptFile, PromptStep, read_prompt_file
from i2v.utils.visualization import draw_overlay
from tests.conftest import moving_disc

# pycocotools does not know NumPy 2 well.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

HEIGHT, WIDTH = 47, 63  # odd, and codecs want even sides
TRACKED = [1, 2, 4]  # of 6 frames
IMAGE_FORMATS = sorted(set(FORMATS) - {"prompts"})


class Squares:
    """Two squares that overlap and move to the right; the second is not in frame 1."""

    name = "squares"

    def __init__(self, second: int = 2) -> None:
        self.frames = ArrayFrames(moving_disc(6, HEIGHT, WIDTH) + np.uint8(20))
        self.second = second
        self.colours = {2: (10, 200, 250)}
        self.decoded: list[int] = []

    def tracked(self) -> list[int]:
        return TRACKED

    def obj_ids(self) -> list[int]:
        return [1, self.second]

    def masks(self, frame: int) -> dict[int, np.ndarray]:
        y, x = np.mgrid[:HEIGHT, :WIDTH]
        first = (y >= 10) & (y < 30) & (x >= 4 * frame) & (x < 4 * frame + 20)
        second = (y >= 20) & (x >= WIDTH - 30)  # to the last row and column
        return {1: first} if frame == 1 else {1: first, self.second: second}

    def rles(self, frame: int) -> dict[int, dict]:
        return {obj_id: mask_to_rle(mask) for obj_id, mask in self.masks(frame).items()}

    def labels(self, frame: int) -> np.ndarray:
        return np.max([mask * np.uint8(obj_id) for obj_id, mask in self.masks(frame).items()], axis=0)

    def visible(self, frame: int) -> np.ndarray:
        return np.any(list(self.masks(frame).values()), axis=0)

    def prompts(self, frame: int) -> dict[int, Prompt]:
        return {1: Prompt.of_clicks([(30, 25, 1)])} if frame == 2 else {}

    def read_frame(self, index: int) -> np.ndarray:
        self.decoded.append(index)
        return self.frames[index]


PROMPTS = PromptFile([NamedObject(1, "a", (255, 0, 0))], [PromptStep(2, 1, Prompt.of_clicks([(30, 25, 1)]))])


def read_video(path: Path) -> np.ndarray:
    """(T, H, W, 3) uint8 RGB, cropped to the size of the frames."""
    frames = open_frames(path)
    assert (frames.width, frames.height) == (WIDTH + 1, HEIGHT + 1)
    return np.stack([frames[i][:HEIGHT, :WIDTH] for i in range(frames.count())])


def read_transparent(path: Path) -> np.ndarray:
    """(T, H, W, 4) uint8 RGBA. FFmpeg's own decoder does not know VP9's transparency."""
    decoder = av.CodecContext.create("libvpx-vp9", "r")
    with av.open(str(path)) as container:
        packets = [packet if packet.size else None for packet in container.demux(video=0)]
        images = [frame.to_ndarray(format="rgba") for packet in packets for frame in decoder.decode(packet)]
    assert {image.shape for image in images} == {(HEIGHT + 1, WIDTH + 1, 4)}
    return np.stack(images)[:, :HEIGHT, :WIDTH]


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[Squares, Path, list[tuple[int, int]]]:
    """All formats of `Squares`: they, the folder, and the progress that was reported."""
    results, folder, steps = Squares(), tmp_path_factory.mktemp("exported") / "new" / "out", []
    export(results, FORMATS, folder, results.read_frame, lambda *step: steps.append(step), PROMPTS)
    return results, folder, steps


def test_all_formats_in_one_pass(exported) -> None:
    results, folder, steps = exported
    assert {path.name for path in folder.iterdir()} == set(FILES.values())
    assert results.decoded == TRACKED
    assert steps == [(1, 3), (2, 3), (3, 3)]


def test_frames_are_not_decoded_for_masks(tmp_path) -> None:
    results = Squares()
    export(results, ["masks", "objects", "json"], tmp_path, lambda index: pytest.fail("it was decoded"))
    assert {path.name for path in tmp_path.iterdir()} == {"masks", "objects", "masklets.json"}


def test_masks(exported) -> None:
    results, folder, _ = exported
    paths = sorted((folder / "masks").iterdir())
    assert [path.name for path in paths] == ["00001.png", "00002.png", "00004.png"]
    for frame, path in zip(TRACKED, paths, strict=True):
        np.testing.assert_array_equal(read_labels(path), results.labels(frame))
        assert Image.open(path).getpalette()[:9] == [0, 0, 0, 128, 0, 0, 10, 200, 250]


def test_objects(exported) -> None:
    results, folder, _ = exported
    found = {path.relative_to(folder / "objects").as_posix() for path in folder.glob("objects/*/*")}
    assert found == {"1/00001.png", "1/00002.png", "1/00004.png", "2/00002.png", "2/00004.png"}
    for frame in TRACKED:
        for obj_id, mask in results.masks(frame).items():
            image = Image.open(folder / f"objects/{obj_id}/{frame:05d}.png")
            assert image.mode == "L"
            np.testing.assert_array_equal(np.asarray(image), mask * 255)


def test_json(exported) -> None:
    results, folder, _ = exported
    masklets = Masklets(folder / "masklets.json", stride=1)
    assert masklets.annotated_frames == TRACKED
    np.testing.assert_array_equal(masklets.masks(4), list(results.masks(4).values()))
    assert json.loads((folder / "masklets.json").read_text()) == {
        "video_id": "squares",
        "video_frame_count": 6,
        "video_height": HEIGHT,
        "video_width": WIDTH,
        "masklet_num": 2,
        "masklet_id": [1, 2],
        "masklet_first_appeared_frame": [1, 2],
        "masklet": [[results.rles(frame).get(obj_id) for obj_id in (1, 2)] if frame in TRACKED else None for frame in range(6)],
    }


def test_cutout(exported) -> None:
    results, folder, _ = exported
    paths = sorted((folder / "cutout").iterdir())
    assert [path.name for path in paths] == ["00001.png", "00002.png", "00004.png"]
    for frame, path in zip(TRACKED, paths, strict=True):
        image = Image.open(path)
        assert image.mode == "RGBA"
        pixels, visible = np.asarray(image), results.visible(frame)
        np.testing.assert_array_equal(pixels[..., 3], visible * 255)
        np.testing.assert_array_equal(pixels[visible, :3], results.frames[frame][visible])
        assert not pixels[~visible].any()  # what is cut away is not in the file


def test_transparent_video(exported) -> None:
    results, folder, _ = exported
    images = read_transparent(folder / "cutout.webm")
    assert len(images) == 3
    assert open_frames(folder / "cutout.webm").frames_per_second == pytest.approx(24)
    for frame, image in zip(TRACKED, images, strict=True):
        visible = results.visible(frame)
        np.testing.assert_array_equal(image[..., 3] > 127, visible)
        assert np.abs(image[..., 3].astype(int) - 255 * visible).mean() < 2
        assert np.abs(image[visible, :3].astype(int) - results.frames[frame][visible]).mean() < 16
    far = cv2.dilate(results.visible(1).astype(np.uint8), np.ones((33, 33), np.uint8)) == 0
    assert far.any() and images[0][far, :3].max() < 10  # what is cut away is not in the file


def test_green(exported) -> None:
    results, folder, _ = exported
    for frame, image in zip(TRACKED, read_video(folder / "green.mp4"), strict=True):
        visible = results.visible(frame)
        inside = cv2.erode(visible.astype(np.uint8), np.ones((5, 5), np.uint8)) > 0
        outside = cv2.dilate(visible.astype(np.uint8), np.ones((5, 5), np.uint8)) == 0
        np.testing.assert_allclose(image[outside].mean(0), (0, 255, 0), atol=6)
        assert np.abs(image[inside].astype(int) - results.frames[frame][inside]).mean() < 16


def test_overlay_has_the_colours_and_prompts(exported) -> None:
    results, folder, _ = exported
    for frame, image in zip(TRACKED, read_video(folder / "overlay.mp4"), strict=True):
        drawn = draw_overlay(results.frames[frame], results.labels(frame), results.prompts(frame), colours={2: (10, 200, 250)})
        assert np.abs(image.astype(int) - drawn).mean() < 16
    blue = draw_overlay(np.zeros((9, 9, 3), np.uint8), np.full((9, 9), 2, np.uint8), colours={2: (10, 200, 250)})[4, 4]
    assert blue.tolist() == [5, 100, 125]


def test_prompts(exported) -> None:
    results, folder, _ = exported
    read = read_prompt_file(folder / "prompts.json", results.frames)
    assert read.objects == PROMPTS.objects
    assert read.prompts()[2, 1].clicks == [(30, 25, 1)]


@pytest.mark.parametrize("formats", [["masks"], ["overlay"], ["green", "masks"]])
def test_large_object_ids_are_refused_where_they_do_not_fit(formats, tmp_path) -> None:
    results = Squares(second=256)
    with pytest.raises(ValueError, match="can show objects 1 to 255, but not object 256"):
        export(results, formats, tmp_path / "out", results.read_frame)
    assert not results.decoded and not (tmp_path / "out").exists()


def test_large_object_ids_where_they_fit(tmp_path) -> None:
    results = Squares(second=300)
    export(results, ["objects", "json", "cutout"], tmp_path, results.read_frame)
    assert Masklets(tmp_path / "masklets.json", stride=1).object_ids == [1, 300]
    assert len(list((tmp_path / "objects" / "300").iterdir())) == 2
    assert np.asarray(Image.open(tmp_path / "cutout" / "00004.png"))[..., 3].sum() == 255 * results.visible(4).sum()


class NoMasks(Squares):
    def tracked(self) -> list[int]:
        return []


@pytest.mark.parametrize(
    ("results", "formats", "said"),
    [
        (Squares(), ["gif"], "unknown format 'gif'; known: masks, objects"),
        (Squares(), ["masks", "prompts"], "no prompts to export"),
        (NoMasks(), ["masks"], "no masks to export"),
    ],
)
def test_what_cannot_be_exported(results, formats, said, tmp_path) -> None:
    with pytest.raises(ValueError, match=said):
        export(results, formats, tmp_path / "out", results.read_frame)
    assert not (tmp_path / "out").exists()


def test_prompts_without_masks(tmp_path) -> None:
    export(NoMasks(), ["prompts"], tmp_path, NoMasks().read_frame, prompts=PROMPTS)
    assert [path.name for path in tmp_path.iterdir()] == ["prompts.json"]


class CancelledError(Exception):
    pass


def failing_at(count: int, error: Exception) -> Callable[[int, int], None]:
    def progress(done: int, _: int) -> None:
        if done == count:
            raise error

    return progress


@pytest.mark.parametrize("name", IMAGE_FORMATS)
def test_cancelled_export_leaves_nothing_and_can_be_repeated(name, tmp_path) -> None:
    results = Squares()
    with pytest.raises(CancelledError):
        export(results, [name], tmp_path, results.read_frame, failing_at(2, CancelledError()))
    assert list(tmp_path.iterdir()) == []
    for _ in range(2):  # over nothing, and over the result of an earlier export
        export(results, [name], tmp_path, results.read_frame)
        assert [path.name for path in tmp_path.iterdir()] == [FILES[name]]
    with pytest.raises(CancelledError):
        export(results, [name], tmp_path, results.read_frame, failing_at(3, CancelledError()))
    assert [path.name for path in tmp_path.iterdir()] == [FILES[name]]


@pytest.mark.parametrize("name", IMAGE_FORMATS)
def test_full_disk_is_named(name, tmp_path) -> None:
    results = Squares()
    with pytest.raises(OSError, match=rf"cannot write {tmp_path}/{FILES[name]}: the disk is full") as error:
        export(results, [name], tmp_path, results.read_frame, failing_at(2, OSError(errno.ENOSPC, "No space left on device")))
    assert error.value.__cause__ is not None
    assert list(tmp_path.iterdir()) == []


class Noise(Squares):
    """Frames that cannot be compressed to little."""

    def read_frame(self, index: int) -> np.ndarray:
        return np.random.default_rng(index).integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["objects", "json", "cutout", "cutout_webm", "green"])
def test_file_that_does_not_fit_on_the_disk(name, tmp_path) -> None:
    resource = pytest.importorskip("resource", reason="Windows limits no file's size")
    results, before = Noise(), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, before[1]))
    try:
        with pytest.raises(OSError, match=FILES[name]):
            export(results, [name], tmp_path, results.read_frame)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert list(tmp_path.iterdir()) == []


def test_areas_agree(exported) -> None:
    """The masks of all formats are the same."""
    _, folder, _ = exported
    annotation = json.loads((folder / "masklets.json").read_text())
    for frame in TRACKED:
        alpha = np.asarray(Image.open(folder / "cutout" / f"{frame:05d}.png"))[..., 3]
        rles = [rle for rle in annotation["masklet"][frame] if rle]
        assert (
            coco_mask.area(coco_mask.merge(rles))
            == (alpha > 0).sum()
            == (read_labels(folder / f"masks/{frame:05d}.png") > 0).sum()
        )
