"""Videos as phones, cameras and editors write them: intact ones are read exactly, truncated ones are detected."""

from __future__ import annotations

import copy
import multiprocessing
import os
import pickle
import re
import threading
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image

from i2v.data import frames as frames_module
from i2v.data import video_file
from i2v.data.frames import LiveFrames, open_frames
from i2v.data.video_file import VideoFile, read_frames

NUM_FRAMES, HEIGHT, WIDTH, RATE = 60, 32, 128, 30


def picture(number: int) -> np.ndarray:
    """A frame whose blocks encode its number."""
    bits = [(number >> bit & 1) * 255 for bit in range(WIDTH // 16)]
    return np.broadcast_to(np.repeat(np.uint8(bits), 16)[None, :, None], (HEIGHT, WIDTH, 3)).copy()


def number_in(image: np.ndarray) -> int:
    return sum(int(image[HEIGHT // 2, 16 * bit + 8].mean() > 128) << bit for bit in range(WIDTH // 16))


def write(
    path: Path,
    sound: float = 0,
    times: Any = lambda i: i,
    unit: Fraction = Fraction(1, RATE),
    codec: str = "libx264",
    show: Any = picture,
    **options: str,
) -> Path:
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=RATE)
        stream.width, stream.height, stream.pix_fmt, stream.gop_size = WIDTH, HEIGHT, "yuv420p", 15
        stream.codec_context.time_base = unit
        stream.options = options
        audio = container.add_stream("aac", rate=48000, layout="mono") if sound else None
        for i in range(NUM_FRAMES):
            frame = av.VideoFrame.from_ndarray(show(i), format="rgb24")
            frame.pts, frame.time_base = times(i), unit
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
        for k in range(int(sound * 48000 / 1024)):
            samples = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
            samples.sample_rate, samples.pts, samples.time_base = 48000, 1024 * k, Fraction(1, 48000)
            container.mux(audio.encode(samples))
        if audio is not None:
            container.mux(audio.encode())
    return path


def trim(source: Path, path: Path, first_kept: int, first_shown: int) -> Path:
    """Cut a video without decoding it: an edit list hides the frames between the last key frame and the cut."""
    with av.open(str(source)) as old, av.open(str(path), "w", options={"use_editlist": "1"}) as new:
        stream = old.streams.video[0]
        copied = new.add_stream_from_template(stream)
        start, shown = (int(frame / RATE / stream.time_base) for frame in (first_kept, first_shown))
        for packet in old.demux(stream):
            if packet.dts is not None and packet.pts >= start:
                packet.pts, packet.dts, packet.stream = packet.pts - shown, packet.dts - shown, copied
                new.mux(packet)
    return path


def shown_by(path: Path, a: int, b: int, c: int, d: int) -> Path:
    """The video whose pixels (x, y) are shown at (a x + c y, b x + d y)."""
    source = write(path.with_name("upright.mp4"))
    data = source.read_bytes()
    matrix = np.array([65536, 0, 0, 0, 65536, 0, 0, 0, 2**30], ">i4").tobytes()
    other = np.array([65536 * a, 65536 * b, 0, 65536 * c, 65536 * d, 0, 0, 0, 2**30], ">i4").tobytes()
    place = data.index(matrix, data.index(b"tkhd"))
    path.write_bytes(data[:place] + other + data[place + 36 :])
    return path


KINDS = {
    "plain.mp4": (write, {}, range(NUM_FRAMES)),
    "sound.mkv": (write, {"sound": 5}, range(NUM_FRAMES)),
    "varying.mp4": (
        write,
        {"times": lambda i: 33 * i + 4 * (i % 7) + 400 * (i > 20), "unit": Fraction(1, 1000)},
        range(NUM_FRAMES),
    ),
    "open_groups.mp4": (write, {"x264-params": "open-gop=1:keyint=12:min-keyint=12:bframes=3"}, range(NUM_FRAMES)),
    "no_times.h264": (write, {}, range(NUM_FRAMES)),
    "edit.mp4": (
        lambda path: trim(write(path.with_name("whole.mp4"), bf="0"), path, first_kept=15, first_shown=22),
        {},
        range(22, NUM_FRAMES),
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", KINDS)
def test_intact_videos_are_exact_in_any_order(name, tmp_path, caplog):
    make, options, expected = KINDS[name]
    path = make(tmp_path / name, **options)
    frames = VideoFile(path)
    assert not caplog.records  # it is intact
    images = [frames[i] for i in range(frames.count())]
    assert [number_in(image) for image in images] == list(expected)
    other = VideoFile(path)
    jumps = np.random.RandomState(0).randint(0, len(images), 40)
    for i in (*range(len(images) - 1, -1, -1), *jumps):
        np.testing.assert_array_equal(other[i], images[i])
    np.testing.assert_array_equal(read_frames(path, [3, 9]), [images[3], images[9]])


@pytest.mark.parametrize(
    ("matrix", "expected"),
    [
        ((0, 1, -1, 0), lambda image: np.rot90(image, -1)),
        ((-1, 0, 0, -1), lambda image: np.rot90(image, 2)),
        ((0, -1, 1, 0), np.rot90),
        ((-1, 0, 0, 1), np.fliplr),
        ((1, 0, 0, -1), np.flipud),
        ((0, 1, 1, 0), lambda image: image.transpose(1, 0, 2)),
        ((0, -1, -1, 0), lambda image: np.rot90(image, 2).transpose(1, 0, 2)),
    ],
    ids=["quarter", "half", "three quarters", "left-right", "upside down", "transposed", "other diagonal"],
)
def test_video_is_rotated_and_mirrored_as_specified(matrix, expected, tmp_path):
    frames = VideoFile(shown_by(tmp_path / "turned.mp4", *matrix))
    upright = VideoFile(tmp_path / "upright.mp4")
    assert number_in(upright[5]) == 5
    np.testing.assert_array_equal(frames[5], expected(upright[5]))
    assert (frames.height, frames.width) == frames[5].shape[:2]


def with_index_in_front(path: Path) -> bytes:
    """The content of a video file with the same packets, but its index before them, so it can be truncated after the index."""
    target = path.with_stem("fast")
    with av.open(str(path)) as old, av.open(str(target), "w", options={"movflags": "+faststart"}) as new:
        copied = new.add_stream_from_template(old.streams.video[0])
        for packet in old.demux(old.streams.video[0]):
            if packet.dts is not None:
                packet.stream = copied
                new.mux(packet)
    return target.read_bytes()


@pytest.mark.parametrize("share", [0.5, 0.8])
def test_truncated_video(share, tmp_path):
    path = write(tmp_path / "cut.mp4", movflags="+faststart")
    data = with_index_in_front(path)
    path.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(ValueError, match=r"cut\.mp4 is truncated"):
        VideoFile(path)


def test_truncated_gif(tmp_path, caplog):
    whole, cut = tmp_path / "whole.gif", tmp_path / "cut.gif"
    images = [Image.fromarray(picture(i)) for i in range(4)]
    images[0].save(whole, save_all=True, append_images=images[1:])
    data = whole.read_bytes()
    for end in (b"", bytes(100)):
        whole.write_bytes(data + end)
        assert VideoFile(whole).num_frames == 4
    assert not caplog.records
    for share in (len(data) - 1, len(data) * 7 // 8, len(data) // 2):
        cut.write_bytes(data[:share])
        with pytest.raises(ValueError, match=r"cut\.gif is truncated: .*, after \d frames"):
            VideoFile(cut)


def test_avi_with_bidirectional_frames_is_intact(tmp_path, caplog):
    def moving(number: int) -> np.ndarray:
        image = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
        image[10:20, 2 * number : 2 * number + 4] = 255
        return image

    path = write(tmp_path / "a.avi", show=moving)
    frames = VideoFile(path)
    assert not caplog.records
    places = [int(np.flatnonzero(frames[i][15, :, 0] > 128)[0]) for i in range(frames.count())]
    assert places == pytest.approx(range(0, 2 * NUM_FRAMES, 2), abs=1)
    np.testing.assert_array_equal(read_frames(path, [3, NUM_FRAMES - 1]), [frames[3], frames[NUM_FRAMES - 1]])


def test_ignored_properties_cause_warnings(tmp_path, caplog):
    def say(path: Path, message: str) -> VideoFile:
        caplog.clear()
        frames = VideoFile(path)
        assert f"{path.name}{message}" in caplog.text
        assert len(caplog.records) == 1
        return frames

    small, large = write(tmp_path / "small.h264"), tmp_path / "large.h264"
    with av.open(str(large), "w") as container:
        stream = container.add_stream("libx264", rate=RATE, width=2 * WIDTH, height=2 * HEIGHT, pix_fmt="yuv420p")
        container.mux(stream.encode(av.VideoFrame(2 * WIDTH, 2 * HEIGHT, "yuv420p")))
        container.mux(stream.encode())
    both = tmp_path / "both.h264"
    both.write_bytes(small.read_bytes() + large.read_bytes())
    frames = say(both, ": 1 of its frames, first frame 60, differ in size from the first one: they are scaled to 128x32")
    assert frames[NUM_FRAMES].shape == (HEIGHT, WIDTH, 3)
    with av.open(str(tmp_path / "two.mp4"), "w") as container:
        streams = [container.add_stream("libx264", rate=RATE, width=WIDTH, height=HEIGHT, pix_fmt="yuv420p") for _ in range(2)]
        for stream in streams:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture(1), format="rgb24")))
            container.mux(stream.encode())
    say(tmp_path / "two.mp4", " holds 2 video streams: only the first one is read")
    with av.open(str(tmp_path / "wide.mp4"), "w") as container:
        stream = container.add_stream("libx264", rate=RATE, width=WIDTH, height=HEIGHT, pix_fmt="yuv420p")
        stream.codec_context.sample_aspect_ratio = Fraction(4, 3)
        container.mux(stream.encode(av.VideoFrame.from_ndarray(picture(1), format="rgb24")))
        container.mux(stream.encode())
    say(tmp_path / "wide.mp4", ": its pixels should be shown 4/3 times as wide as high")


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "BMP", "WEBP"])
def test_image_named_like_a_video(kind, tmp_path):
    Image.fromarray(noise(0)).save(tmp_path / "a.mp4", format=kind)
    with pytest.raises(ValueError, match=r"a\.mp4 is not a video but an image: correct its suffix"):
        open_frames(tmp_path / "a.mp4")


@pytest.mark.parametrize("name", ["a.mp4", "a.mov", "a.mkv", "a.avi"])
def test_video_named_like_an_image(name, tmp_path):
    write(tmp_path / name).rename(tmp_path / "0.jpg")
    with pytest.raises(ValueError, match=r"0\.jpg has the suffix of an image but is a video"):
        open_frames(tmp_path / "0.jpg")
    with pytest.raises(ValueError, match=r"0\.jpg is not an image but a video"):
        open_frames(tmp_path)


def test_video_truncated_within_its_index(tmp_path):
    path = write(tmp_path / "a.mov")
    data = with_index_in_front(path)
    for end in (b"trak", b"minf", b"stsd", b"stsz"):
        path.write_bytes(data[: data.index(end)])
        with pytest.raises(ValueError, match=r"a\.mov .*truncated"):
            VideoFile(path)


def noise(number: int) -> np.ndarray:
    """A frame that fills many packets of a stream."""
    return np.random.RandomState(number).randint(0, 256, (HEIGHT, WIDTH, 3)).astype(np.uint8)


@pytest.mark.parametrize("name", ["cut.ts", "cut.mpg", "cut.h264"])
def test_truncated_stream(name, tmp_path, caplog):
    path = write(tmp_path / name, show=noise, codec="mpeg2video" if name == "cut.mpg" else "libx264", bf="0")
    data = path.read_bytes()
    whole = VideoFile(path)
    assert whole.num_frames == NUM_FRAMES
    assert not caplog.records
    path.write_bytes(data[: int(len(data) * 0.83)])
    with pytest.raises(ValueError, match=rf"{name} is truncated: it ends in a decoding error, after \d\d frames") as error:
        VideoFile(path)
    assert int(re.search(r"after (\d+) frames", str(error.value))[1]) == pytest.approx(0.83 * NUM_FRAMES, abs=2)


def test_damaged_pictures_within_a_stream_cause_a_warning(tmp_path, caplog):
    path = write(tmp_path / "a.ts", show=noise, bf="0")
    data = path.read_bytes()
    middle = len(data) // 2 // 188 * 188
    path.write_bytes(data[:middle] + data[middle + 188 :])
    assert VideoFile(path).num_frames == NUM_FRAMES
    assert re.search(r"a\.ts: \d+ of its frames are damaged, first frame (29|30|31): their pictures may be wrong", caplog.text)


def test_name_that_looks_like_a_url(tmp_path, monkeypatch):
    write(tmp_path / "a.mp4").rename(tmp_path / "12:30.mp4")
    monkeypatch.chdir(tmp_path)
    assert VideoFile("12:30.mp4").num_frames == NUM_FRAMES


@pytest.mark.slow
def test_kept_frames_are_bounded_in_bytes(tmp_path, monkeypatch):
    monkeypatch.setattr(video_file, "MAX_BYTES", 4 * 3 * HEIGHT * WIDTH)
    frames = VideoFile(write(tmp_path / "a.mp4"))
    assert [number_in(frames[i]) for i in range(NUM_FRAMES - 1, -1, -1)] == list(range(NUM_FRAMES - 1, -1, -1))
    assert sum(image.nbytes for image in frames._recent.values()) <= 4 * 3 * HEIGHT * WIDTH


def test_live_frames_beyond_the_memory_limit_are_on_disk(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    frames = LiveFrames(num_usable=6, num_kept=6, max_bytes=2 * 3 * HEIGHT * WIDTH)
    for i in range(10):
        frames.append(picture(i))
    assert [number_in(frames[i]) for i in range(4, 10)] == list(range(4, 10))
    assert len(list(tmp_path.rglob("*.png"))) == 4
    assert frames_module.MAX_BYTES < 2**30


@pytest.mark.slow
def test_one_open_video_in_several_threads(tmp_path):
    frames = VideoFile(write(tmp_path / "a.mp4"))
    wrong: list[int] = []

    def read(seed: int) -> None:
        wrong.extend(i for i in np.random.RandomState(seed).randint(0, NUM_FRAMES, 50) if number_in(frames[i]) != i)

    threads = [threading.Thread(target=read, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not wrong


@pytest.mark.slow
def test_two_sessions_share_a_video(tiny_predictor, tmp_path):
    frames = open_frames(write(tmp_path / "a.mp4"))
    results = []
    for _ in range(2):
        state = tiny_predictor.init_state(frames)
        tiny_predictor.add_new_points_or_box(state, 0, 1, [[16, 24]], [1])
        results.append(tiny_predictor.propagate_in_video(state, max_frame_num_to_track=20))
    for (frame, _, one), (_, _, other) in zip(*results, strict=True):  # in turn, each with its own thread
        np.testing.assert_array_equal(one, other, err_msg=str(frame))


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="Windows does not fork")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_session_after_a_fork(tiny_predictor, tmp_path):
    state = tiny_predictor.init_state(write(tmp_path / "a.mp4"))
    tiny_predictor.add_new_points_or_box(state, 0, 1, [[16, 24]], [1])
    results = tiny_predictor.propagate_in_video(state)
    for _ in range(3):
        next(results)

    def track() -> list[float]:
        return [float(masks.sum()) for _, _, masks in tiny_predictor.propagate_in_video(state, 3, 4)]

    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    process = context.Process(target=lambda: queue.put(track()))
    process.start()
    found = queue.get(timeout=120)
    process.join(30)
    assert process.exitcode == 0
    assert found == pytest.approx(track(), rel=1e-4)


def test_state_cannot_be_pickled(tiny_predictor, tiny_video, tmp_path):
    state = tiny_predictor.init_state(tiny_video)
    for copied in (pickle.dumps, copy.deepcopy, copy.copy):
        with pytest.raises(TypeError, match=r"session .*cannot be pickled .*init_state"):
            copied(state)
    frames = VideoFile(write(tmp_path / "a.mp4"))
    assert number_in(pickle.loads(pickle.dumps(frames))[7]) == 7
    with pytest.raises(TypeError, match=r"iterator cannot be pickled"):
        pickle.dumps(open_frames(iter(tiny_video)))


@pytest.mark.parametrize("fill", [b"\0", b"\x5a"])
def test_damage_within_a_video_causes_a_warning(fill, tmp_path, caplog):
    path = write(tmp_path / "a.mp4")
    with av.open(str(path)) as container:
        packets = [(packet.pos, packet.size) for packet in container.demux(container.streams.video[0]) if packet.size]
    with path.open("r+b") as file:
        for position, size in packets[20:26]:
            file.seek(position)
            file.write(fill * size)
    assert VideoFile(path).num_frames < NUM_FRAMES
    assert "a.mp4 is damaged in " in caplog.text
    with pytest.raises(ValueError, match=r"a\.mp4 is damaged after \d+ frames, so later frames would have wrong numbers"):
        read_frames(path, [10, 50])
    assert number_in(read_frames(path, [10])[0]) == 10  # frames before the damage are intact


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="Windows does not fork")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_new_session_after_a_fork(tiny_predictor, tiny_video):
    def segment() -> list[int]:
        state = tiny_predictor.init_state(tiny_video)
        tiny_predictor.add_new_points_or_box(state, 0, 1, points=[[16, 24]], labels=[1])
        return [int((masks > 0).sum()) for _, _, masks in tiny_predictor.propagate_in_video(state)]

    expected = segment()
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    process = context.Process(target=lambda: queue.put(segment()))
    process.start()
    assert queue.get(timeout=60) == expected
    process.join()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="Windows does not fork")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_forked_process_leaves_the_frames_on_disk_alone(tiny_video):
    frames = LiveFrames(num_usable=3, num_kept=4, max_bytes=2 * tiny_video[0].nbytes)
    for frame in tiny_video[:5]:
        frames.append(frame)

    def keep_reading() -> None:
        for frame in tiny_video[5:10]:
            frames.append(frame)

    process = multiprocessing.get_context("fork").Process(target=keep_reading)
    process.start()
    process.join()
    assert process.exitcode == 0
    np.testing.assert_array_equal(frames[2], tiny_video[2])


def test_another_reader_of_the_same_file(tmp_path, monkeypatch):
    """It has a decoder of its own, and the file is not decoded again for it."""
    frames = VideoFile(write(tmp_path / "a.mp4"))
    monkeypatch.setattr("i2v.data.video_file._scan", None)
    other = frames.another()
    assert (other.count(), other.size, other.frames_per_second) == (frames.count(), frames.size, frames.frames_per_second)
    assert [number_in(frames[i]) for i in (0, 1)] == [0, 1]
    assert number_in(other[NUM_FRAMES - 1]) == NUM_FRAMES - 1 and frames._position == 2
    frames.close()
    assert number_in(other[5]) == 5
    third = other.another()
    other.close()
    assert number_in(third[7]) == 7
    os.utime(tmp_path / "a.mp4", (0, 0))
    with pytest.raises(ValueError, match="was changed"):
        third.another()
