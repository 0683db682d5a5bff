"""tools/extract_sav_frames.py: frames of good videos, a report of bad ones, and resuming after an interruption."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).parents[2]


@pytest.fixture
def tool(load_tool: Callable[[str], ModuleType]) -> ModuleType:
    return load_tool("extract_sav_frames")


@pytest.fixture
def videos(tmp_path: Path, make_video: Callable) -> Path:
    """Two videos of 9 frames; frame t is grey of value 20 t."""
    folder = tmp_path / "videos"
    (folder / "sav_000").mkdir(parents=True)
    frames = np.repeat(20 * np.arange(9, dtype=np.uint8), 48 * 64 * 3).reshape(9, 48, 64, 3)
    for name in ("sav_000/sav_000001.avi", "sav_000002.avi"):
        make_video(folder / name, frames)
    return folder


def names_in(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.*"))


def run(tool: ModuleType, videos: Path, output: Path, *options: str) -> int:
    return tool.main([str(videos), str(output), "--workers", "1", *options])


@pytest.mark.slow
def test_every_fourth_frame(tool: ModuleType, videos: Path, tmp_path: Path) -> None:
    output = tmp_path / "frames"
    assert run(tool, videos, output, "--every", "4", "--quality", "90") == 0
    expected = [f"{name}/{index:05d}.jpg" for name in ("sav_000/sav_000001", "sav_000002") for index in (0, 4, 8)]
    assert names_in(output) == expected
    for name in expected:
        image = np.array(Image.open(output / name))
        assert image.shape == (48, 64, 3)
        assert abs(image.mean() - 20 * int(Path(name).stem)) < 8


def test_quality(tool: ModuleType, tmp_path: Path, make_video: Callable) -> None:
    frames = np.random.default_rng(0).integers(0, 256, (2, 48, 64, 3), np.uint8)
    video = make_video(tmp_path / "a.avi", frames)
    for quality in (20, 95):
        tool.extract_frames(video, tmp_path / str(quality), quality=quality)
    assert (tmp_path / "20/00001.jpg").stat().st_size < 0.7 * (tmp_path / "95/00001.jpg").stat().st_size


@pytest.mark.slow
def test_bad_videos_do_not_stop_the_others(
    tool: ModuleType, videos: Path, tmp_path: Path, make_video: Callable, caplog: pytest.LogCaptureFixture
) -> None:
    (videos / "sav_000000.mp4").write_bytes(b"not a video")
    noise = np.random.default_rng(0).integers(0, 256, (9, 48, 64, 3), np.uint8)
    path = make_video(videos / "sav_000002.avi", noise)
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])
    output = tmp_path / "frames"
    assert run(tool, videos, output) == 1
    assert len(names_in(output)) == 9
    assert not list(output.glob("*00000")) and not list(output.rglob(".*"))
    assert "sav_000000.mp4 is not a video" in caplog.text
    assert "sav_000002.avi is truncated" in caplog.text


@pytest.mark.slow
def test_finished_videos_are_skipped(
    tool: ModuleType, videos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "frames"
    (output / "sav_000002").mkdir(parents=True)
    (output / "sav_000/.sav_000001.partial").mkdir(parents=True)
    (output / "sav_000/.sav_000001.partial/00099.jpg").touch()  # from an interrupted run
    assert run(tool, videos, output) == 0
    assert "2 videos, 1 of them are finished" in capsys.readouterr().out
    assert names_in(output) == [f"sav_000/sav_000001/{index:05d}.jpg" for index in range(9)]
    assert run(tool, videos, output) == 0
    assert "0 videos extracted" in capsys.readouterr().out


def test_folders_are_not_shared_by_videos(tool: ModuleType, videos: Path, tmp_path: Path, outcome: Callable) -> None:
    output = tmp_path / "frames"
    output.mkdir()
    (output / "sav_000002").touch()
    status, text = outcome(tool.main, videos, output, "--workers", "1")
    assert status == 1
    assert f"{output / 'sav_000002'} is a file, but the frames of" in text
    (output / "sav_000002").unlink()
    (videos / "sav_000002.mp4").touch()
    status, text = outcome(tool.main, videos, output, "--workers", "1")
    assert status == 1
    assert f"{videos / 'sav_000002.avi'} and {videos / 'sav_000002.mp4'} would share the folder" in text
    assert names_in(output) == []


def test_wrong_folder(tool: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for folder, message in ((tmp_path, f"no videos in {tmp_path}"), (tmp_path / "nowhere", "no such folder")):
        with pytest.raises(SystemExit) as error:
            run(tool, folder, tmp_path / "frames")
        assert error.value.code == 2
        assert message in capsys.readouterr().err
    with pytest.raises(SystemExit):
        run(tool, tmp_path, tmp_path / "frames", "--every", "0")
