"""test_pvs.photographs: which instances are segmented, and what is reported."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from i2v.data.rle import mask_to_rle
from test_pvs import photographs
from tests.test_pvs.stubs import ErringSystem


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A photograph of 40x50 pixels with a large, a middle and a tiny instance."""
    masks = np.zeros((3, 40, 50), bool)
    masks[0, 5:25, 5:15], masks[1, 20:38, 20:48], masks[2, 0:2, 0:3] = True, True, True
    (tmp_path / "set").mkdir()
    Image.fromarray(np.full((40, 50, 3), 90, np.uint8)).save(tmp_path / "set/a.jpg")
    annotations = [{"segmentation": mask_to_rle(mask)} for mask in masks]
    (tmp_path / "set/a.json").write_text(json.dumps({"annotations": annotations}))
    return tmp_path


def test_instances(folder: Path) -> None:
    masks = photographs.instance_masks(folder / "set/a.jpg", 0.01, None)
    assert [int(mask.sum()) for mask in masks] == [18 * 28, 20 * 10]
    assert len(photographs.instance_masks(folder / "set/a.jpg", 0.0, None)) == 3
    assert len(photographs.instance_masks(folder / "set/a.jpg", 0.0, 1)) == 1


def test_clicks_until_nothing_is_wrong(folder: Path) -> None:
    [mask] = photographs.instance_masks(folder / "set/a.jpg", 0.01, 1)
    system = ErringSystem(np.where(mask, 0, 9)[None], needed=3)  # object 0 is the instance
    [entry] = photographs.segment(system, folder / "set/a.jpg", [mask], 5)
    assert entry["clicks"][2:] == [1.0, 1.0, 1.0]
    assert entry["clicks"][0] < 1
    text = photographs.summarise([entry])
    assert text.startswith("1 instances, mean IoU: ")
    assert "100.0 after 3, 100.0 after 5 clicks" in text


@pytest.mark.parametrize(("names", "message"), [("nothing", r"lacks nothing\.jpg"), (None, r"has no \*\.jpg"), ("b", None)])
def test_missing_photographs(names: str | None, message: str, tmp_path: Path) -> None:
    file_list = None
    if names is not None:
        file_list = tmp_path / "list.txt"
        file_list.write_text(names)
    if message is not None:
        with pytest.raises((FileNotFoundError, ValueError), match=message):
            photographs.photograph_paths(tmp_path, file_list)
        return
    # Suffixes in capitals and hidden files, as in all readers.
    for name in ("B.JPG", "c.jpeg", "._a.jpg", ".ipynb_checkpoints/a.jpg"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        Image.new("RGB", (8, 8)).save(path)
        path.with_suffix(".json").write_text('{"annotations": []}')
    file_list.write_text("B")
    assert photographs.photograph_paths(tmp_path, file_list) == [tmp_path / "B.JPG"]
    assert photographs.photograph_paths(tmp_path, None) == [tmp_path / "B.JPG", tmp_path / "c.jpeg"]


def test_an_annotation_of_another_kind_is_named(folder: Path) -> None:
    (folder / "set/a.json").write_text("{}")
    with pytest.raises(ValueError, match=r"a\.json is unreadable or malformed: KeyError: 'annotations'"):
        photographs.instance_masks(folder / "set/a.jpg", 0.01, None)


def test_command_line(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [str(folder), "--output", str(folder / "out.json"), "--system", "static-mask", "--clicks", "2"]
    assert photographs.main(arguments) == 0
    results = json.loads((folder / "out.json").read_text())
    assert list(results["photographs"]) == ["set/a.jpg"]
    assert [len(entry["clicks"]) for entry in results["photographs"]["set/a.jpg"]] == [2, 2]
    assert "2 instances, mean IoU" in capsys.readouterr().out
    assert results["settings"]["system"] == "static-mask"
    assert photographs.main([str(folder / "nowhere"), "--output", str(folder / "x.json")]) == 1


def test_a_photograph_that_cannot_be_used_does_not_stop_the_others(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    (folder / "set/b.jpg").write_bytes(b"no image")
    (folder / "set/b.json").write_text("{}")
    arguments = [str(folder), "--output", str(folder / "out.json"), "--system", "static-mask", "--clicks", "1"]
    assert photographs.main(arguments) == 1
    results = json.loads((folder / "out.json").read_text())
    assert list(results["photographs"]) == ["set/a.jpg"]
    assert list(results["failures"]) == ["set/b.jpg"]
    assert "failed: set/b.jpg" in caplog.text
