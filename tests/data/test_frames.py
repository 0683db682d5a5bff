"""Frame sources: all give the same frames in the same order, read lazily, and name bad frames."""

from __future__ import annotations

import gc
import os
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from i2v.data.frame_order import gaps, match_frames
from i2v.data.frames import ImageFolder, IteratorFrames, LiveFrames, open_frames
from i2v.data.video_file import VideoFile

ASSETS = Path(__file__).parents[2] / "assets"


def grey(value: int, width: int = 16, height: int = 8) -> Image.Image:
    return Image.new("RGB", (width, height), (value, value, value))


def values(frames) -> list[int]:
    """The grey value of each frame, rounded to tens (JPEG is not exact)."""
    return [round(float(frames[i].mean()), -1) for i in range(frames.count())]


@pytest.mark.parametrize(
    "names",
    [
        ["frame_9.jpg", "frame_000010.jpg", "frame_11.jpeg"],
        ["2.PNG", "10.png", "0100.png"],
        ["img_9.webp", "IMG_10.webp", "img_11.WEBP"],
        ["0.bmp", "1.bmp", "2.bmp"],
        ["1.tif", "2.tiff", "3.TIF"],
        ["1305031102.875304.png", "1305031102.911185.png", "1305031103.011234.png"],
        ["2024-01-15_12-30-58.png", "2024-01-15_12-30-59.png", "2024-01-15_12-31-00.png"],
        ["f_0001_jpg.rf.9b3c.jpg", "f_0002_jpg.rf.2a1f.jpg", "f_0004_jpg.rf.1d5e.jpg"],
        ["0008_cam3.jpg", "0009_cam3.jpg", "0010_cam3.jpg"],
        ["take1_frame1.png", "take1_frame2.png", "take2_frame1.png"],
        ["12-30-44.png", "12-30-58.png", "12-31-12.png"],
        ["15-01-2024_9.png", "15-01-2024_10.png", "15-01-2024_11.png"],
        ["f_0001_jpg.rf.9f31.jpg", "f_0007_jpg.rf.72a2.jpg", "f_0030_jpg.rf.1b05.jpg"],
        ["1305031102.966666.png", "1305031103.000000.png", "1305031103.033333.png"],
        ["20231231_235959.png", "20240101_000000.png", "20240101_000001.png"],
        ["23.12.30.png", "23.12.31.png", "24.01.01.png"],
        ["231231235959.png", "240101000000.png", "240101000001.png"],
        ["10-10-23.png", "10-11-05.png", "14-02-05.png"],
        ["2024-01-15_10-10-05.png", "2024-01-15_13-09-05.png", "2024-01-15_14-01-05.png"],
        ["01011899.png", "01011900.png", "01011901.png"],
        ["01012098.png", "01012099.png", "01012100.png"],
        ["30122023_1.png", "31122023_1.png", "31122023_2.png"],
        ["scene_01_02_1998.png", "scene_01_02_1999.png", "scene_01_02_2000.png"],  # not dates: only the year counts
        ["-5abcXYZ_000000.png", "-5abcXYZ_000001.png", "-5abcXYZ_000002.png"],  # an id
    ],
)
def test_folder_is_in_natural_order_of_names(tmp_path, names):
    for value, name in zip((10, 20, 30), names, strict=True):
        grey(value).save(tmp_path / name)
    assert values(ImageFolder(tmp_path)) == [10, 20, 30]


@pytest.mark.parametrize(
    ("names", "by_name", "by_number"),
    [
        (["take2_shot7_8.JPG", "take1_shot9_9.JPG", "take1_shot1_10.JPG"], "take1_shot1_10.JPG, take1", "take2_shot7_8.JPG, t"),
        (["0.25.png", "0.5.png", "0.75.png"], "0.5.png, 0.25.png, 0.75.png", "0.25.png, 0.5.png, 0.75.png"),
        (
            [f"take{1 + (i < 240)}_{i}.jpg" for i in range(0, 391, 30)],
            "take1_240.jpg, take1_270.jpg",
            "take2_0.jpg, take2_30.jpg",
        ),
        (
            [f"take{1 + (i < 9)}_{i}.jpg" for i in range(1, 13) if i != 5],
            "take1_9.jpg, take1_10.jpg",
            "take2_1.jpg, take2_2.jpg",
        ),
        (["b_1.jpg", "a_2.jpg"], "a_2.jpg, b_1.jpg", "b_1.jpg, a_2.jpg"),
        (["cam2_0001.png", "cam1_0002.png"], "cam1_0002.png, cam2_0001.png", "cam2_0001.png, cam1_0002.png"),
        (["9f3a_0000.jpg", "c10b_0001.jpg", "7d2e_0002.jpg"], "7d2e_0002.jpg, 9f3a_0000.jpg", "9f3a_0000.jpg, c10b_0001.jpg"),
        (["9f3a_0000.jpg", "7d2e_0002.jpg", "4a91_0003.jpg"], "4a91_0003.jpg, 7d2e_0002.jpg", "9f3a_0000.jpg, 7d2e_0002.jpg"),
        (["4th_0001.png", "3rd_0002.png", "2nd_0003.png"], "2nd_0003.png, 3rd_0002.png", "4th_0001.png, 3rd_0002.png"),
        (
            ["0_1700000000.1.png", "1_1700000000.2.png", "0_1700000001.1.png", "1_1700000001.2.png"],
            "0_1700000000.1.png, 0_1700000001.1.png",
            "0_1700000000.1.png, 1_1700000000.2.png",
        ),
        (["0,25.png", "0,5.png"], "0,5.png, 0,25.png", "0,25.png, 0,5.png"),
    ],
)
def test_contradicting_orders_are_both_shown(tmp_path, names, by_name, by_number):
    for name in names:
        grey(0).save(tmp_path / name)
    with pytest.raises(ValueError, match=f"order .*by name it is {re.escape(by_name)}.*number .*{re.escape(by_number)}"):
        ImageFolder(tmp_path)


@pytest.mark.parametrize(("first", "cycle"), [("12-30-%02d.png", 60), ("2024-01-15_%02d.png", 24)])
def test_clock_that_wraps_keeps_counting(tmp_path, first, cycle):
    later = {60: "12-31-%02d.png", 24: "2024-01-16_%02d.png"}[cycle]
    names = [(first % i if i < cycle else later % (i - cycle)) for i in range(7, 7 + cycle)]
    for name in names:
        grey(0).save(tmp_path / name)
    assert [path.name for path in ImageFolder(tmp_path).paths] == names


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["0.05.png", "0.5.png"], r"0\.05\.png and 0\.5\.png differ only in leading zeros or suffix"),
        (["t-1.png", "t0.png", "t1.png"], r"no number in their names counts them \(t0\.png, t1\.png, t-1\.png\)"),
        (["f_-2.png", "f_-1.png"], r"no number in their names counts them \(f_-1\.png, f_-2\.png\)"),
        (["31-01-2024_1.png", "01-02-2024_1.png"], r"no number in their names counts them \(01-02-2024_1\.png, 31-"),
        (["31-Dec-2023 9.png", "31-Dec-2023 10.png", "1-Jan-2024 0.png"], r"no number in their names counts them \(1-Jan"),
        (["31122023_235959.png", "01012024_000000.png"], r"no number .*\(01012024_000000\.png, 31"),
        (["VID_31122023_235959.png", "VID_01012024_000000.png"], r"no number .*\(VID_01012024"),
        (["31122023235959.png", "01012024000000.png"], r"no number .*\(01012024000000"),
        (["31012024.png", "01022024.png", "02022024.png"], r"no number .*\(01022024"),
        (["12312023.png", "01012024.png"], r"no number .*\(01012024"),
        (["30.12.23.png", "31.12.23.png", "01.01.24.png"], r"no number .*\(01\.01\.24"),
        (["30_12_23.png", "31_12_23.png", "1_1_24.png"], r"no number .*\(1_1_24"),
        (["IMG_311223_235959.png", "IMG_010124_000000.png"], r"no number .*\(IMG_010124"),
        (["f1a.png", "f1b.png", "f2a.png"], r"no number in their names counts them \(f1a\.png, f1b\.png, f2a\.png\)"),
    ],
)
def test_unclear_orders(tmp_path, names, message):
    for name in names:
        grey(0).save(tmp_path / name)
    with pytest.raises(ValueError, match=message):
        ImageFolder(tmp_path)


@pytest.mark.parametrize(
    ("names", "starts"),
    [
        (["cam1_0001", "cam1_0002", "cam2_0001", "cam2_0002"], "cam1_ and after cam2_"),
        (["image_02_0000", "image_02_0001", "image_03_0000", "image_03_0001"], "image_02_ and after image_03_"),
        (["1_1700000000", "1_1700000001", "2_1700000000", "2_1700000001"], "1_ and after 2_"),
        (["1_07_left", "1_08_left", "2_07_left", "2_08_left", "3_07_left", "3_08_left"], "1_ and after 2_"),
        (["12-30-00", "12-30-20", "12-30-40", "12-31-00", "12-31-20", "12-31-40"], None),
        (["2024-01-15_23.40", "2024-01-15_23.50", "2024-01-16_00.00", "2024-01-16_00.10"], None),
        ([f"{i // 30}.{i % 30 * 33333:06d}" for i in range(90)], None),
        (["take1_1", "take1_2", "take2_3", "take2_4"], None),
        (["f_0001_0.93", "f_0002_0.87", "f_0003_0.91"], None),
    ],
)
def test_numbering_that_restarts_may_be_several_videos(tmp_path, names, starts, caplog):
    for name in names:
        grey(0).save(tmp_path / f"{name}.png")
    assert [path.stem for path in ImageFolder(tmp_path).paths] == names
    found = [record.getMessage() for record in caplog.records if "numbering restarts" in record.getMessage()]
    assert bool(found) == (starts is not None)
    if found:
        assert found[0].startswith(f"{tmp_path}: the numbering restarts, the same after {starts}: these may be several videos")


def test_gaps_are_those_of_the_counter_not_of_a_clock():
    assert gaps(["f_1_1003", "f_2_1034", "f_3_1071", "f_9_1290", "f_10_1330"]) == ["f_3_1071"]
    assert gaps(["f_1_1003", "f_2_1034", "f_3_1071"]) == []


FRAMES = [f"{i:05d}" for i in range(1, 8)]


@pytest.mark.parametrize(
    ("masks", "frames", "expected"),
    [
        (["00001"], FRAMES, [0]),
        (["00001_obj2"], FRAMES, [0]),
        (["00001_instance_id_6"], FRAMES, [0]),
        (["obj2_00003"], FRAMES, [2]),
        (["f_0001_cam3_mask"], [f"f_{i:04d}_cam3" for i in range(1, 8)], [0]),
        (["f_0002_cam3_mask", "f_0005_cam3_mask"], [f"f_{i:04d}_cam3" for i in range(1, 8)], [1, 4]),
        (["1305031102.875304_mask"], ["1305031102.875304", "1305031102.911185", "1305031103.011234"], [0]),
        (["mask_1", "mask_5"], [f"frame_{i:04d}" for i in range(8)], [1, 5]),
        (["gt2_take3"], [f"frame_{i:04d}" for i in range(8)], []),  # which number is it?
        (["00011"], ["1", "11", "111"], [1]),
        (["1_cam3", "2_cam3", "3_cam3", "4_cam3"], ["1", "2", "3", "4"], [0, 1, 2, 3]),
        (["000_obj001", "001_obj001", "002_obj001"], ["000", "001", "002"], [0, 1, 2]),
        (["mask1_obj1", "mask2_obj1"], ["1", "2", "3"], [0, 1]),
        (["000_obj001"], ["000", "001"], []),  # which number is it?
    ],
)
def test_masks_match_frames(masks, frames, expected):
    assert list(match_frames(masks, frames).values()) == expected


def test_pngs_beside_jpegs_are_masks(tmp_path):
    for i in range(3):
        grey(100 + 10 * i).save(tmp_path / f"{i:05d}.jpg")
        Image.new("L", (16, 8), 1).save(tmp_path / f"{i:05d}.png")
    (tmp_path / "notes.txt").write_text("not a frame")
    (tmp_path / ".00003.jpg").write_bytes(b"hidden, not a frame")
    assert values(ImageFolder(tmp_path)) == [100, 110, 120]


@pytest.mark.parametrize(
    ("names", "named"),
    [
        (["a.jpg", "b.jpg"], r"a\.jpg has no number .*Rename the files, or pass .* a list"),
        (["1.jpg", "frame_01.jpg"], "frame_01.jpg"),
        (["1.jpg", "0001.jpg"], "0001.jpg"),
    ],
)
def test_folder_without_a_clear_order(tmp_path, names, named):
    for name in names:
        grey(0).save(tmp_path / name)
    with pytest.raises(ValueError, match=named):
        ImageFolder(tmp_path)


@pytest.mark.parametrize("name", ["x", "x-1", "1"])
def test_a_single_frame_needs_no_number(name, tmp_path):
    grey(10).save(tmp_path / f"{name}.png")
    assert values(ImageFolder(tmp_path)) == [10]


def test_names_unlike_the_others_are_shown(tmp_path):
    for name in (*(f"{i:03d}" for i in range(12)), "005_1"):
        grey(0).save(tmp_path / f"{name}.jpg")
    with pytest.raises(ValueError, match=r"unlike most are 005_1\.jpg\. Rename"):
        ImageFolder(tmp_path)


def test_orders_are_shown_from_their_first_difference(tmp_path):
    for name in ("1.10", "1.25", "1.40", "1.55", "1.70", "1.85", "2.5", "2.25"):
        grey(0).save(tmp_path / f"{name}.png")
    with pytest.raises(ValueError, match=r"is \.\.\., 1\.85\.png, 2\.5\.png, .* them it is \.\.\., 1\.85\.png, 2\.25\.png"):
        ImageFolder(tmp_path)


SOURCES = {
    "array": lambda video, folder: video,
    "list": lambda video, folder: list(video),
    "tuple": lambda video, folder: tuple(video),
    "PIL": lambda video, folder: [Image.fromarray(frame) for frame in video],
    "iterator": lambda video, folder: iter(video),
    "PIL iterator": lambda video, folder: (Image.fromarray(frame) for frame in video),
    "folder": lambda video, folder: folder,
    "folder's name": lambda video, folder: str(folder),
}


@pytest.mark.slow
@pytest.mark.parametrize("source", SOURCES)
def test_all_sources_give_the_same_frames_and_masks(source, tiny_predictor, tiny_video, png_folder):
    frames = open_frames(SOURCES[source](tiny_video, png_folder))
    for i in (0, 5, 2, 11, 0):  # back and forth
        np.testing.assert_array_equal(frames[i], tiny_video[i])
    assert (frames.width, frames.height) == (64, 48)
    assert [frames.has(i) for i in (-1, 0, 11, 12)] == [False, True, True, False]
    assert frames.count() == frames.num_frames == 12

    def masks(video):
        state = tiny_predictor.init_state(video)
        tiny_predictor.add_new_points_or_box(state, 0, 1, [[16, 24]], [1])
        return [mask.numpy() for _, _, mask in tiny_predictor.propagate_in_video(state)]

    np.testing.assert_array_equal(masks(SOURCES[source](tiny_video, png_folder)), masks(tiny_video))


@pytest.mark.slow
def test_iterator_is_read_on_demand_and_can_go_back(tiny_predictor, tiny_video):
    taken = []

    def source():
        for i, frame in enumerate(tiny_video):
            taken.append(i)
            yield frame

    state = tiny_predictor.init_state(source())
    assert taken == [0]
    assert state.num_frames is None
    _, _, first = tiny_predictor.add_new_points_or_box(state, 0, 1, [[16, 24]], [1])
    results = tiny_predictor.propagate_in_video(state)
    for _ in range(4):
        next(results)
    assert len(taken) == 4  # no frame is read before it is requested
    results.close()
    frame, _, again = next(tiny_predictor.propagate_in_video(state, 0, 0))
    assert frame == 0
    np.testing.assert_array_equal(again, first)
    assert len(list(tiny_predictor.propagate_in_video(state))) == state.num_frames == len(taken) == 12


@pytest.mark.parametrize("bad", [np.zeros((3, 3, 3), np.uint8), None])  # None does not end the video
def test_bad_frame_of_an_iterator_stays_bad(bad, tiny_predictor, tiny_video):
    frames = [*tiny_video[:6], bad, *tiny_video[7:]]
    state = tiny_predictor.init_state(iter(frames))
    tiny_predictor.add_new_points_or_box(state, 0, 1, [[16, 24]], [1])
    for start in (0, 5):  # the next frame must not take its place
        with pytest.raises(ValueError, match="frame 6 "):
            list(tiny_predictor.propagate_in_video(state, start))
    assert 6 not in state.objects[1].bank


@pytest.mark.parametrize("error", [RuntimeError("camera gone"), KeyboardInterrupt(), SystemExit("bye")])
def test_failing_iterator_does_not_end_the_video(error, tiny_video):
    def camera():
        yield tiny_video[0]
        raise error

    frames = IteratorFrames(camera())
    with pytest.raises(type(error)):
        frames.count()
    with pytest.raises((RuntimeError, ValueError), match=r"camera gone|iterator .* was interrupted: open it again"):
        frames.count()
    assert frames.has(0)


def test_image_replaced_by_another_with_the_same_time(tmp_path):
    for name, value in (("0.bmp", 10), ("1.bmp", 20), ("other.bmp", 30)):
        grey(value).save(tmp_path / name)
        os.utime(tmp_path / name, (1, 1))
    other = (tmp_path / "other.bmp").rename(tmp_path.parent / "other.bmp")
    frames = ImageFolder(tmp_path)
    other.replace(tmp_path / "1.bmp")
    with pytest.raises(ValueError, match=r"1\.bmp was changed since the video was opened"):
        frames[1]


@pytest.mark.slow
def test_frames_of_an_iterator_are_removed_from_disk(tiny_video, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    frames = IteratorFrames(iter(tiny_video))
    assert frames.count() == 12
    assert list(tmp_path.iterdir())
    del frames
    gc.collect()
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.parametrize("name", ["vp9.mp4", "vp9.mkv", "jpeg.avi", "bunny.mp4"])
def test_video_file_is_the_same_in_any_order_of_access(name, tmp_path, make_video):
    path = ASSETS / name
    if name != "bunny.mp4":
        video = np.random.RandomState(1).randint(0, 255, (45, 6, 8, 3)).astype(np.uint8)
        path = make_video(tmp_path / name, video.repeat(8, axis=1).repeat(8, axis=2))
    frames, other = VideoFile(path), VideoFile(path)
    sums = [int(frames[i].sum()) for i in range(frames.count())]
    assert len(set(sums)) > 0.9 * len(sums) > 30  # a wrong frame would be noticed
    backward = range(frames.count() - 1, -1, -1)
    assert [int(other[i].sum()) for i in backward] == sums[::-1]
    jumps = np.random.RandomState(2).randint(0, frames.count(), 15)
    assert [int(other[i].sum()) for i in jumps] == [sums[i] for i in jumps]
    for outside in (-1, frames.count()):
        with pytest.raises(IndexError, match=str(outside)):
            frames[outside]


def test_video_file_has_the_colours_and_rate_of_its_source(tmp_path, make_video, tiny_video):
    frames = VideoFile(make_video(tmp_path / "a.avi", tiny_video))
    assert frames.frames_per_second == pytest.approx(10)
    assert (frames.width, frames.height, frames.num_frames) == (64, 48, 12)
    np.testing.assert_allclose(frames[0][24, 16], tiny_video[0][24, 16], atol=25)  # red is not blue


def test_live_frames_keep_the_latest(tiny_video):
    frames = LiveFrames(num_usable=3, num_kept=3)
    assert not frames.has(0)
    assert [frames.append(frame.copy()) for frame in tiny_video[:5]] == [0, 1, 2, 3, 4]
    np.testing.assert_array_equal(frames[2], tiny_video[2])
    with pytest.raises(IndexError, match=r"frame 1 .* gone: only frames 2"):
        frames[1]
    with pytest.raises(ValueError, match=r"frame 5 .* 16x8 .* 64x48"):
        frames.append(np.zeros((8, 16, 3), np.uint8))
    assert frames.count() == 5


def test_live_frames_are_copies(tiny_video):
    frames = LiveFrames(num_usable=1, num_kept=1)
    camera_buffer = tiny_video[0].copy()
    frames.append(camera_buffer)
    camera_buffer[:] = 0
    np.testing.assert_array_equal(frames[0], tiny_video[0])


IMAGE = np.zeros((8, 16, 3), np.uint8)


def objects(*frames: object) -> np.ndarray:
    """An object array, whose elements may differ in shape."""
    array = np.empty(len(frames), object)
    array[:] = frames
    return array


@pytest.mark.parametrize(
    ("frames", "message"),
    [
        ([], "empty"),
        (np.zeros((0, 8, 16, 3), np.uint8), "empty"),
        (iter([]), "empty"),
        (IMAGE, "frame 0 .*uint8 array"),
        (IMAGE[None] / 255, "frame 0 .*float64 array"),
        (np.zeros((2, 3, 8, 16), np.uint8), r"frame 0 .*uint8 array \(3, 8, 16\)"),
        ([IMAGE, "1.png"], "frame 1 .*str"),
        ([IMAGE, IMAGE, IMAGE[:4]], "frame 2 .*16x4 .* 16x8"),
        (objects(IMAGE, IMAGE, IMAGE[:4]), "frame 2 .*16x4 .* 16x8"),
        (objects(IMAGE, "1.png"), "frame 1 .*str"),
        (np.ma.array(np.zeros((2, 8, 16, 3), np.uint8)), r"frame 0 is a masked array"),
        ([IMAGE, np.ma.array(IMAGE)], r"frame 1 is a masked array.*filled"),
    ],
)
def test_bad_arrays(frames, message):
    with pytest.raises(ValueError, match=message):
        open_frames(frames)


@pytest.mark.slow
def test_iterator_with_a_frame_of_another_size(tiny_predictor, tiny_video):
    state = tiny_predictor.init_state(frame if i != 6 else frame[:10] for i, frame in enumerate(tiny_video))
    assert_keeps_what_was_tracked(tiny_predictor, state, "frame 6 .*64x10 .*64x48")


@pytest.mark.slow
@pytest.mark.parametrize("missing", [False, True])
def test_frame_that_fails_within_a_video(missing, tiny_predictor, broken_folder, png_folder):
    state = tiny_predictor.init_state(broken_folder)
    bad = broken_folder / "00006.png"
    if missing:
        bad.unlink()
    assert_keeps_what_was_tracked(tiny_predictor, state, re.escape(str(bad)))
    with pytest.raises(ValueError, match=re.escape(str(bad))):
        tiny_predictor.add_new_points_or_box(state, 6, 2, [[16, 24]], [1])
    assert state.obj_ids == [1]
    # Once the file exists, tracking continues.
    shutil.copy(png_folder / "00006.png", bad)
    assert [frame for frame, _, _ in tiny_predictor.propagate_in_video(state, 6)] == list(range(6, 12))


def assert_keeps_what_was_tracked(predictor, state, message):
    predictor.add_new_points_or_box(state, 0, 1, [[16, 24]], [1])
    done = []
    with pytest.raises(ValueError, match=message):
        done.extend(predictor.propagate_in_video(state))
    assert [frame for frame, _, _ in done] == list(range(6))
    bank = state.objects[1].bank
    assert sorted(bank.conditioning | bank.tracked) == list(range(6))
    for frame, _, masks in predictor.propagate_in_video(state, max_frame_num_to_track=5):
        np.testing.assert_array_equal(masks, done[frame][2])
