"""tools/benchmark.py runs and prints what it promises."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

ROOT = Path(__file__).parents[2]
TINY = ["--config", str(ROOT / "tests" / "configs" / "tiny.yaml"), "--device", "cpu"]


@pytest.fixture
def benchmark(load_tool: Callable[[str], ModuleType], monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    module = load_tool("benchmark")
    monkeypatch.setattr(module, "MATRIX_PRODUCT", (64, 64, 64))
    return module


@pytest.mark.slow
def test_tracking(benchmark: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    benchmark.main([*TINY, "--frames", "2", "--objects", "2", "--precision", "bf16"])
    lines = capsys.readouterr().out.splitlines()
    components = [line.split("|")[1].strip() for line in lines if line.count("%") == 2]
    assert components == ["all (median)", *benchmark.COMPONENTS, "rest"]
    shares = [float(line.split("|")[3].strip().rstrip("%")) for line in lines if line.count("%") == 2]
    assert sum(shares[1:]) == pytest.approx(100, abs=1)
    assert all(share >= 0 for share in shares)
    assert any(line.startswith("time of 2 objects: ") for line in lines)
    assert any(line.startswith("peak memory: ") for line in lines)


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["sample", "consecutive"])
def test_frames_are_timed_at_full_memory(benchmark: ModuleType, mode: str) -> None:
    overrides = [f"model/memory_selector={mode}"]
    predictor = benchmark.build_i2v_video_predictor(TINY[1], device="cpu", hydra_overrides_extra=overrides)
    model = predictor.model
    sizes = []
    condition = model.condition

    def record(features, memory):
        sizes.append((memory.features.shape[1], int(memory.repeats.max()), memory.pointers.shape[1]))
        return condition(features, memory)

    model.condition = record
    with torch.inference_mode():
        benchmark.measure_tracking(predictor, [1], 2)
    frames = 1 + model.memory_selector.num_tracked
    assert sizes[-2:] == [(frames, 1, model.memory_selector.max_pointers if mode == "consecutive" else frames)] * 2


@pytest.mark.slow
def test_memory(benchmark: ModuleType, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(benchmark, "SETTLED", 3)
    benchmark.main([*TINY, "--memory", "6"])
    assert capsys.readouterr().out.strip().endswith("MB/frame/object")


@pytest.mark.slow
def test_clicks(benchmark: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    benchmark.main([*TINY, "--clicks"])
    assert re.search(r"^median \d+ ms, 90 % \d+ ms, largest \d+ ms of 48 clicks$", capsys.readouterr().out, re.MULTILINE)


def test_attention(benchmark: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    benchmark.main([*TINY, "--attention"])
    printed = capsys.readouterr().out
    assert "| fp32 " in printed
    assert "| bf16 " in printed


def test_video_never_repeats(benchmark: ModuleType) -> None:
    video = benchmark.SyntheticVideo(num_objects=2)
    assert not np.array_equal(video[3], video[4])
    assert np.array_equal(video[3], video[3])
    assert (video[3][video.mask(3, 1)][:, 0] == 255).all()


@pytest.mark.parametrize("arguments", [["--frames", "0"], ["--objects", "0"], ["--memory", "40"]])
def test_bad_arguments(benchmark: ModuleType, arguments: list[str]) -> None:
    with pytest.raises(SystemExit):
        benchmark.main([*TINY, *arguments])
