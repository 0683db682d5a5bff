"""The sound of an overlay."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from numpy.testing import assert_allclose

from i2v.data.video_file import VideoFile
from i2v.segment import main
from i2v.utils.visualization import VideoWriter
from tests.conftest import PROJECT

RATE = 48000  # samples per second
PACKETS = {"aac": 1024, "mp3": 1152, "pcm_mulaw": 1024}  # samples


@pytest.fixture(scope="module")
def film(tiny_video):
    """A function that writes a video whose tone begins after 0.6 seconds.

    Its arguments are the path, the audio codec, the start in seconds, and the times of the frames in tenths of a second.
    """

    def make(path: Path, codec: str | None, delay: float = 0, times: Sequence[int] = range(12)) -> VideoFile:
        with av.open(str(path), "w") as container:
            video = container.add_stream("mpeg4", rate=10)
            video.width, video.height, video.pix_fmt = 64, 48, "yuv420p"
            audio = container.add_stream(codec, rate=RATE, layout="mono") if codec else None  # before the first packet
            for time, picture in zip(times, tiny_video, strict=False):
                frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
                frame.pts = time + round(10 * delay)
                container.mux(video.encode(frame))
            container.mux(video.encode())
            if audio is not None:
                time = np.arange(int(1.2 * RATE)) / RATE
                samples = (0.5 * np.sin(2 * np.pi * 440 * time) * (time >= 0.6)).astype(np.float32)
                step = PACKETS[codec]
                for begin in range(0, len(samples), step):
                    frame = av.AudioFrame.from_ndarray(samples[None, begin : begin + step], format="fltp", layout="mono")
                    frame.sample_rate, frame.time_base = RATE, Fraction(1, RATE)
                    frame.pts = begin + round(RATE * delay)
                    container.mux(audio.encode(frame))
                container.mux(audio.encode())
        return VideoFile(path)

    return make


def write(path: Path, source: VideoFile, frames: Sequence[int]) -> None:
    with VideoWriter(path, source.frames_per_second, source.width, source.height, sound=(source, frames)) as video:
        for i in frames:
            video.write(source[i])


def loudness(path: Path) -> np.ndarray | None:
    """The largest sample in each tenth of a second; None without sound."""
    with av.open(str(path)) as container:
        if not container.streams.audio:
            return None
        heard = {}
        for frame in container.decode(audio=0):
            for i, sample in enumerate(np.atleast_2d(frame.to_ndarray())[0]):
                tenth = int((frame.time + i / RATE) * 10)
                heard[tenth] = max(heard.get(tenth, 0.0), abs(float(sample)))
    return np.array([heard.get(tenth, 0.0) for tenth in range(max(heard) + 1)])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("suffix", "codec", "delay"),
    [(".mp4", "aac", 0), (".mp4", "aac", 0.5), (".mkv", "aac", 0), (".mkv", "aac", 0.5), (".avi", "mp3", 0)],
)
@pytest.mark.parametrize(("first", "count"), [(0, 12), (4, 8), (4, 5)])
def test_sound_is_that_of_the_frames(first, count, suffix, codec, delay, film, tmp_path) -> None:
    write(tmp_path / "overlay.mp4", film(tmp_path / f"film{suffix}", codec, delay), range(first, first + count))
    heard = loudness(tmp_path / "overlay.mp4")
    # A packet is up to 0.03 seconds long, and the codec smears the start of a tone.
    assert abs(len(heard) - count) <= 2
    begin = 6 - first
    assert_allclose(heard[: begin - 1], 0, atol=0.1)
    assert (heard[begin + 1 : count - 1] > 0.3).all()
    assert VideoFile(tmp_path / "overlay.mp4").num_frames == count
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"film{suffix}", "overlay.mp4"]


def test_video_without_sound(film, tmp_path, caplog) -> None:
    write(tmp_path / "overlay.mp4", film(tmp_path / "film.mp4", None), range(12))
    assert loudness(tmp_path / "overlay.mp4") is None
    assert not caplog.messages


@pytest.mark.slow
def test_sound_that_mp4_does_not_support(film, tmp_path, caplog) -> None:
    write(tmp_path / "overlay.mp4", film(tmp_path / "film.avi", "pcm_mulaw"), range(12))
    assert loudness(tmp_path / "overlay.mp4") is None
    assert VideoFile(tmp_path / "overlay.mp4").num_frames == 12
    assert "overlay.mp4 has no sound: that of" in caplog.text
    assert sorted(path.name for path in tmp_path.iterdir()) == ["film.avi", "overlay.mp4"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("times", "frames"),
    [(range(12), [0, 1, 2, 8, 9, 10]), ([0, 1, 2, 3, 8, 9, 10, 11], range(8))],
    ids=["frames left out", "no constant rate"],
)
def test_sound_that_would_be_out_of_sync(times, frames, film, tmp_path, caplog) -> None:
    write(tmp_path / "overlay.mp4", film(tmp_path / "film.mp4", "aac", times=times), frames)
    assert loudness(tmp_path / "overlay.mp4") is None
    assert VideoFile(tmp_path / "overlay.mp4").num_frames == len(frames)
    assert "its frames do not follow each other at a constant rate, or some between them were not tracked" in caplog.text


def test_video_removed_meanwhile(film, tmp_path, caplog) -> None:
    source = film(tmp_path / "film.mp4", "aac")
    with VideoWriter(tmp_path / "overlay.mp4", 10, 64, 48, sound=(source, range(3))) as video:
        for i in range(3):
            video.write(source[i])
        (tmp_path / "film.mp4").unlink()
    assert VideoFile(tmp_path / "overlay.mp4").num_frames == 3
    assert "overlay.mp4 has no sound: that of" in caplog.text


@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError])
def test_interrupt_while_sound_is_copied(error, film, tmp_path, monkeypatch) -> None:
    def fail(*arguments: object) -> bool:
        Path(arguments[-1]).write_bytes(b"a part of it")
        raise error

    monkeypatch.setattr("i2v.utils.visualization.copy_sound", fail)
    with pytest.raises(error):
        write(tmp_path / "overlay.mp4", film(tmp_path / "film.mp4", "aac"), range(12))
    assert [path.name for path in tmp_path.iterdir()] == ["film.mp4"]


@pytest.mark.slow
def test_overlay_of_a_run_has_the_sound_of_its_frames(film, tmp_path) -> None:
    film(tmp_path / "film.mp4", "aac").close()
    arguments = ["--point", "4,20,24", "--max-frames", "6", "--output", str(tmp_path / "out"), "--untrained"]
    config = str(PROJECT / "tests" / "configs" / "tiny.yaml")
    assert main([str(tmp_path / "film.mp4"), "--config", config, *arguments]) == 0
    heard = loudness(tmp_path / "out" / "overlay.mp4")
    assert heard[0] < 0.1 and (heard[3:5] > 0.3).all()
