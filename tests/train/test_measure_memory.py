"""train/measure_memory.py: the allocations it follows, and its table."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from omegaconf import DictConfig
from torch import nn
from torch.utils.checkpoint import checkpoint

from train import measure_memory

ROOT = Path(__file__).parents[2]
TINY = str(ROOT / "tests" / "configs" / "tiny-train.yaml")


def test_follows_allocations() -> None:
    with measure_memory.like_a_gpu():
        before = torch.empty(1000)
        with measure_memory.MemoryTracker() as tracker:
            a = before * 2
            assert tracker.current == 4000
            view = a.view(10, 100)[2:]
            b = torch.cat([a, a]).bfloat16()  # the float32 tensor in between is freed
            assert (tracker.current, tracker.peak) == (8000, 16000)
            del a
            assert tracker.current == 8000  # its view is there
            del view, b
            assert tracker.current == 0


def test_follows_what_is_kept_for_the_backward_pass() -> None:
    layers = nn.Sequential(*[nn.Tanh() for _ in range(8)])  # each keeps its output
    peaks = {}
    for recompute in (False, True):
        with measure_memory.like_a_gpu():
            x = torch.empty(1000, requires_grad=True)
            with measure_memory.MemoryTracker() as tracker:
                y = checkpoint(layers, x, use_reentrant=False) if recompute else layers(x)
                kept = tracker.current
                y.sum().backward()
            peaks[recompute] = tracker.peak
            assert kept == (4000 if recompute else 8 * 4000)
    assert peaks[True] >= peaks[False] >= 8 * 4000


def test_fused_attention_keeps_no_scores() -> None:
    with measure_memory.like_a_gpu():
        q = torch.empty(1, 1, 500, 16, requires_grad=True)
        with measure_memory.MemoryTracker() as tracker:
            nn.functional.scaled_dot_product_attention(q, q, q).sum().backward()
    assert tracker.peak < 500 * 500 * 2


@pytest.mark.slow
def test_recomputing_saves_memory() -> None:
    overrides = ["folder=unused", "data.parts.clips.dataset.num_frames=2", "prompts.correction_clicks=1"]
    config = measure_memory.load_experiment(TINY, overrides)
    batch = measure_memory.batches_of(config)["clips"]
    assert batch == (1, 2, 2)
    rows = measure_memory.settings_of(config)
    nothing, everything = (measure_memory.step_memory(config, rows[row], *batch) for row in ("nothing", "everything"))
    assert everything.kept < nothing.kept / 2
    assert everything.peak < nothing.peak
    assert nothing.kept <= nothing.peak


@pytest.mark.slow
def test_table(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    parts = measure_memory.RECOMPUTABLE.values()

    def gibi_per_part(config: DictConfig, recomputed: Sequence[str], *batch: int) -> object:
        assert batch == (1, 3, 2)
        kept = sum(not set(entries) <= set(recomputed) for entries in parts)
        return measure_memory.StepMemory(kept=kept * 2**30, peak=2**33)

    monkeypatch.setattr(measure_memory, "step_memory", gibi_per_part)
    measure_memory.main(["--config", TINY, "folder=unused", "+activation_checkpointing=[PredictionLoss]"])
    printed = capsys.readouterr().out
    assert "| recomputed | clips: 1 x 3 frames, 2 objects each |" in printed
    rows = dict(line.strip("| ").split(" | ") for line in printed.splitlines() if line.endswith(") |"))
    assert rows == {
        "nothing": "8.0 (5.0)",
        **{f"only {name}": "8.0 (4.0)" for name in measure_memory.RECOMPUTABLE},
        "everything": "8.0 (0.0)",
        "the config's: PredictionLoss": "8.0 (4.0)",
    }
