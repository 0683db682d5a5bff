"""Worker processes: how many, and what happens when one dies."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from i2v.utils import processes
from i2v.utils.processes import WorkerDiedError, available_memory, default_workers, worker_pool
from sav_dataset import sav_evaluator
from tests.test_pvs import layouts

DIED = "a worker process died, probably because memory ran out: give a lower"


def die(*_: object) -> None:
    """Kill the process, as the system does when memory runs out."""
    os.kill(os.getpid(), signal.SIGKILL)


def square(number: int) -> int:
    return number**2


def fail(number: int) -> None:
    raise ValueError(f"number {number}")


@pytest.mark.slow
def test_results_come_in_order() -> None:
    with worker_pool(2, "-n") as pool:
        assert list(pool.map(square, range(5))) == [0, 1, 4, 9, 16]


@pytest.mark.slow
def test_a_dead_worker_is_an_error() -> None:
    with pytest.raises(WorkerDiedError, match=f"{DIED} -n"), worker_pool(2, "-n") as pool:
        list(pool.map(die, range(5)))


@pytest.mark.slow
def test_an_error_passes_and_does_not_wait_for_the_others() -> None:
    started = time.monotonic()
    with pytest.raises(ValueError, match="number 3"), worker_pool(2, "-n") as pool:
        pool.submit(time.sleep, 60)
        pool.submit(fail, 3).result()
    assert time.monotonic() - started < 30


@pytest.fixture
def masks(tmp_path: Path) -> Path:
    """Two videos with a perfect prediction."""
    for kind in ("gt", "pred"):
        for video in ("one", "two"):
            (tmp_path / kind / video).mkdir(parents=True)
            for frame in range(3):
                Image.fromarray(np.full((8, 8), 255, np.uint8)).save(tmp_path / kind / video / f"{frame:05d}.png")
    return tmp_path


@pytest.mark.slow
def test_the_evaluator_ends_when_a_worker_dies(masks: Path, outcome: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = ["--gt_root", masks / "gt", "--pred_root", masks / "pred", "-n", "2", "-q"]
    assert outcome(sav_evaluator.main, *arguments)[0] == 0
    monkeypatch.setattr(sav_evaluator, "_one_thread", die)
    status, text = outcome(sav_evaluator.main, *arguments)
    assert status == 1
    assert f"error: {DIED} -n" in text


@pytest.mark.slow
def test_the_tools_end_when_a_worker_dies(
    load_tool: Callable, make_video: Callable, tmp_path: Path, outcome: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "videos").mkdir()
    make_video(tmp_path / "videos/a.avi", np.zeros((3, 48, 64, 3), np.uint8))
    data = layouts.sav(tmp_path / "sav_val")
    for tool, function, arguments in (
        ("extract_sav_frames", "extract_frames", [tmp_path / "videos", tmp_path / "frames"]),
        ("save_gt_mask_multiprocess", "save_mask_info", ["sav", data, tmp_path / "info"]),
    ):
        module = load_tool(tool)
        monkeypatch.setattr(module, function, die)
        status, text = outcome(module.main, *arguments, "--workers", "1")
        assert status == 1
        assert f"error: {DIED} --workers" in text


@pytest.mark.parametrize(("available", "workers"), [(None, 8), (10**12, 8), (5 * 10**9, 4), (10**8, 1)])
def test_workers_fit_into_the_memory(available: int | None, workers: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    monkeypatch.setattr(processes, "available_memory", lambda: available)
    assert default_workers(10**9) == workers


def test_available_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    meminfo, limit = tmp_path / "meminfo", tmp_path / "memory.max"
    monkeypatch.setattr(processes, "_MEMINFO", meminfo)
    monkeypatch.setattr(processes, "_CGROUP_LIMIT", limit)
    assert available_memory() == os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")  # neither file, as on macOS
    monkeypatch.delattr(os, "sysconf")
    assert available_memory() is None
    meminfo.write_text("MemTotal:       2000 kB\nMemFree:         100 kB\nMemAvailable:   1000 kB\n")
    assert available_memory() == 1_024_000
    limit.write_text("max\n")
    assert available_memory() == 1_024_000
    limit.write_text("500000\n")
    assert available_memory() == 500_000
    meminfo.write_text("nonsense")
    assert available_memory() == 500_000
