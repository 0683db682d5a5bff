"""tools/save_gt_mask_multiprocess.py: known objects, bad videos, and resuming."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from tests.test_pvs import layouts
from tests.test_pvs.layouts import APPEARS

ROOT = Path(__file__).parents[2]


@pytest.fixture
def tool(load_tool: Callable[[str], ModuleType]) -> ModuleType:
    return load_tool("save_gt_mask_multiprocess")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return layouts.sav(tmp_path / "sav_val")


def read(path: Path) -> dict:
    return json.loads(path.read_text())


@pytest.mark.slow
def test_areas_and_boxes_of_the_discs(tool: ModuleType, data: Path, tmp_path: Path) -> None:
    assert tool.main(["sav", str(data), str(tmp_path / "info"), "--workers", "2"]) == 0
    assert sorted(path.name for path in (tmp_path / "info").iterdir()) == ["one.json", "two.json"]
    info = read(tmp_path / "info/one.json")
    assert {name: info[name] for name in ("video", "height", "width", "num_frames", "annotated_frames")} == {
        "video": "one",
        "height": 48,
        "width": 64,
        "num_frames": 12,
        "annotated_frames": [0, 4, 8],
    }
    labels = layouts.discs(0)[1]
    assert info["objects"]["0"]["first_frame"] == 0
    assert info["objects"]["0"]["areas"] == [int((labels[frame] == 1).sum()) for frame in (0, 4, 8)]
    assert info["objects"]["0"]["boxes"] == [[8 + frame, 6, 24 + frame, 22] for frame in (0, 4, 8)]
    assert info["objects"]["1"]["first_frame"] == APPEARS
    assert info["objects"]["1"]["areas"][0] == 0
    assert info["objects"]["1"]["boxes"] == [None, [39, 29, 53, 43], [35, 29, 49, 43]]


@pytest.mark.slow
def test_missing_mask_does_not_mean_absent_object(tool: ModuleType, data: Path, tmp_path: Path) -> None:
    (data / "Annotations_6fps/one/000/00004.png").unlink()
    assert tool.main(["sav", str(data), str(tmp_path / "info"), "--workers", "1"]) == 0
    objects = read(tmp_path / "info/one.json")["objects"]
    assert [area is None for area in objects["0"]["areas"]] == [False, True, False]
    assert objects["0"]["boxes"][1] is None
    assert objects["1"]["areas"][0] == 0


@pytest.mark.slow
def test_command_works_in_any_folder(data: Path, tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "tools/save_gt_mask_multiprocess.py"), "sav", str(data), "info", "--workers", "1"]
    subprocess.run(command, cwd=tmp_path, check=True, timeout=120)
    assert (tmp_path / "info/two.json").exists()


@pytest.mark.slow
def test_bad_video_is_reported_and_retried(
    tool: ModuleType, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    mask = data / "Annotations_6fps/one/000/00004.png"
    good = mask.read_bytes()
    mask.write_bytes(good[:40])
    assert tool.main(["sav", str(data), str(tmp_path / "info"), "--workers", "1"]) == 1
    assert "000/00004.png" in caplog.text
    assert [path.name for path in (tmp_path / "info").iterdir()] == ["two.json"]
    finished = (tmp_path / "info/two.json").stat().st_mtime_ns
    mask.write_bytes(good)
    assert tool.main(["sav", str(data), str(tmp_path / "info"), "--workers", "1"]) == 0
    assert "1 of 2 videos done now, 1 before, 0 failed" in capsys.readouterr().out
    assert (tmp_path / "info/two.json").stat().st_mtime_ns == finished
    assert (tmp_path / "info/one.json").exists()


def test_wrong_folder_is_named(tool: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        tool.main(["sav", str(tmp_path / "nowhere"), str(tmp_path / "info")])
    assert "nowhere" in capsys.readouterr().err
    assert not (tmp_path / "info").exists()
