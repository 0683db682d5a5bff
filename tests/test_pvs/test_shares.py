"""Several processes that each do a share of one run, as on the nodes of a cluster."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from test_pvs.runner import run_videos
from test_pvs.runs import OutputFolder, Run, video_lock
from test_pvs.semi_supervised import parse_run
from tests.test_pvs import layouts


@pytest.fixture
def run(tmp_path: Path) -> Run:
    data = layouts.folders(tmp_path / "data", every=4)
    arguments = ["mose", str(data), "--output", str(tmp_path / "run"), "--system", "static-mask", "--input", "gm"]
    return parse_run(arguments)[0]


def finished(run: Run) -> list[str]:
    return sorted(path.parent.name for path in run.output.glob("masks/*/result.json"))


def test_shares_are_all_videos_and_a_run_without_shares_collects_them(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run_videos(run, ["cpu"], share=(0, 2)) == {}
    assert finished(run) == ["one"]
    assert run_videos(run, ["cpu"], share=(1, 2)) == {}
    assert finished(run) == ["one", "two"]
    assert not (run.output / "results.json").exists()
    monkeypatch.setattr("test_pvs.runner.evaluate_all", None)  # nothing is left to do
    assert run_videos(run, ["cpu"]) == {}
    assert sorted(json.loads((run.output / "results.json").read_text())["videos"]) == ["one", "two"]


def test_shares_share_the_folder_but_not_with_a_whole_run(run: Run) -> None:
    settings = run.settings()
    with OutputFolder(run.output, settings, shared=True) as first, OutputFolder(run.output, settings, shared=True) as second:
        first.claim()
        second.claim()
        with (
            OutputFolder(run.output, settings) as whole,
            pytest.raises(ValueError, match=r"another run writes into .*/run: wait until it ends"),
        ):
            whole.claim()
    with OutputFolder(run.output, settings) as whole:
        whole.claim()


def test_a_video_that_another_process_evaluates_is_skipped(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    run_videos(run, ["cpu"], share=(0, 2))
    with video_lock(run.output, "two"):
        assert run_videos(run, ["cpu"], share=(1, 2)) == {}
    assert "skipped: another run evaluates two for" in caplog.text
    assert finished(run) == ["one"]
    assert run_videos(run, ["cpu"], share=(1, 2)) == {}
    assert finished(run) == ["one", "two"]
