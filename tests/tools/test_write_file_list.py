"""tools/write_file_list.py lists samples with masks, all or a random choice."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def tool(load_tool: Callable[[str], ModuleType]) -> ModuleType:
    return load_tool("write_file_list")


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """20 images with masks, one without, and masks without an image."""
    folder = tmp_path / "images"
    for i in range(20):
        for suffix in (".jpg", ".json"):
            path = folder / f"sa_{i % 2:06d}" / f"sa_{i}{suffix}"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
    (folder / "alone.jpg").touch()
    (folder / "lost.json").touch()
    return folder


def run(tool: ModuleType, output: Path, data: str, folder: Path, *options: str) -> list[str]:
    tool.main([data, str(folder), str(output), *options])
    return output.read_text().splitlines()


def test_images(tool: ModuleType, images: Path, tmp_path: Path) -> None:
    output = tmp_path / "txt" / "list.txt"
    names = run(tool, output, "sa1b", images, "--count", "8")
    assert len(set(names)) == 8
    assert all((images / f"{name}.jpg").exists() and (images / f"{name}.json").exists() for name in names)
    assert run(tool, output, "sa1b", images, "--count", "8") == names
    assert run(tool, output, "sa1b", images, "--count", "8", "--seed", "1") != names
    assert len(run(tool, output, "sa1b", images, "--count", "20")) == 20
    assert [path.name for path in output.parent.iterdir()] == ["list.txt"]


def test_videos(tool: ModuleType, tmp_path: Path) -> None:
    folder, output = tmp_path / "sav", tmp_path / "list.txt"
    folder.mkdir()
    for name in ("a.mp4", "a_manual.json", "a_auto.json", "b.mp4", "b_auto.json", "c.mp4", "d_manual.json"):
        (folder / name).touch()
    assert run(tool, output, "sav", folder) == ["a", "d"]  # as published: manual masklets
    assert run(tool, output, "sav", folder, "--masklets", "both") == ["a", "b", "d"]
    assert run(tool, output, "sav", folder, "--masklets", "auto") == ["a", "b"]
    assert len(run(tool, output, "sav", folder, "--count", "1")) == 1


def test_errors(tool: ModuleType, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "list.txt"
    (tmp_path / "empty").mkdir()
    cases = {
        "no such folder": ["sa1b", str(tmp_path / "nowhere")],
        "has 20 samples with masks, --count is 10000": ["sa1b", str(images)],
        "--count: expected a whole number from 1 on, got '-1'": ["sa1b", str(images), "--count", "-1"],
        "empty has 0 samples with masks": ["sav", str(tmp_path / "empty")],
    }
    for message, (data, folder, *options) in cases.items():
        with pytest.raises(SystemExit):
            tool.main([data, folder, str(output), *options])
        assert message in capsys.readouterr().err
    assert not output.exists()
