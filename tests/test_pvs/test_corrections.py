"""test_pvs.corrections: what is measured when a tracked frame is corrected."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from test_pvs import corrections
from test_pvs.corrections import summarise
from test_pvs.datasets import EvaluationVideo, read_dataset
from test_pvs.finished_runs import read_run
from tests.test_pvs import layouts
from tests.test_pvs.stubs import ErringSystem, Error

OPTIONS = {"distance": 4, "after": 3, "clicks": 3, "seed": None}
LABELS = np.where(layouts.discs(0)[1] == 1, 1, 0).astype(np.uint8)


@pytest.fixture
def video(tmp_path: Path) -> EvaluationVideo:
    layouts.write_frames(tmp_path / "JPEGImages/video", layouts.discs(0)[0])
    layouts.write_labels(tmp_path / "Annotations/video", LABELS)
    return read_dataset("mose", tmp_path)[0]


def half(frame: int) -> np.ndarray:
    mask = LABELS[frame] == 1
    return mask & (np.arange(mask.shape[1]) <= np.nonzero(mask)[1].mean())


def test_a_system_that_follows_corrections(video: EvaluationVideo, tmp_path: Path) -> None:
    system = ErringSystem(LABELS, [Error(1, 3, 11, half(4))])
    [entry] = corrections.corrections(system, video, OPTIONS, tmp_path)["objects"]
    assert entry["frame"] == 0
    assert entry["given"] == entry["clicked_given"] == entry["corrected"] == entry["after_corrected"] == 1
    assert 0.4 < entry["before"] < 0.7
    assert entry["after"] < entry["before"]  # the object moves on, the error does not
    [click] = entry["clicks"]
    assert click["right"]
    assert click["label"] == 1
    assert LABELS[4, click["y"], click["x"]] == 1
    # Tracked past the frame, corrected there, and tracked again from the next one on.
    assert [call for call in system.calls if call[0] == "propagate"] == [("propagate", 0, 7), ("propagate", 5, 7)]


def test_a_system_that_ignores_corrections(video: EvaluationVideo, tmp_path: Path) -> None:
    system = ErringSystem(LABELS, [Error(1, 3, 11, half(4))], needed=9)
    [entry] = corrections.corrections(system, video, OPTIONS, tmp_path)["objects"]
    assert [click["right"] for click in entry["clicks"]] == [False] * 3
    assert entry["before"] == entry["corrected"]
    text = summarise({"video": {"objects": [entry]}})
    assert "pixel is right afterwards: 0.0 %" in text
    assert f"corrected frame: {100 * entry['before']:.1f} -> {100 * entry['before']:.1f}" in text


def test_an_object_that_is_gone_is_not_corrected(video: EvaluationVideo, tmp_path: Path) -> None:
    [entry] = corrections.corrections(ErringSystem(LABELS), video, {**OPTIONS, "distance": 40}, tmp_path)["objects"]
    assert entry.keys() == {"object", "frame", "given", "clicked_given"}
    assert "0 correction clicks" in summarise({"video": {"objects": [entry]}})


def test_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = layouts.folders(tmp_path / "data")
    arguments = ["mose", str(data), "--output", str(tmp_path / "out"), "--system", "static-mask", "--distance", "2"]
    assert corrections.main(arguments) == 0
    assert "corrected frame:" in capsys.readouterr().out
    settings = json.loads((tmp_path / "out/results.json").read_text())["settings"]
    assert settings["protocol"] == "corrections"
    assert settings["distance"] == 2
    with pytest.raises(ValueError, match="a run of the protocol 'corrections', which the report does not support"):
        read_run(tmp_path / "out")
