"""A folder of tiny clips, and trainings of tests/configs/tiny-train.yaml on them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from i2v.modeling.sam_i2v import SAMI2V
from tests.train.helpers import TINY_TRAINING, use_fixed_weights, write_clips
from train.cli import build_model, build_trainer, load_experiment
from train.trainer import Trainer
from train.utils.processes import Processes


@pytest.fixture(scope="session")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two clips; read-only."""
    return write_clips(tmp_path_factory.mktemp("clips"))


@pytest.fixture
def make_trainer(clips: Path, tmp_path: Path) -> Callable[..., Trainer]:
    """A function: overrides of the tiny training -> a trainer whose output is in tmp_path / "run"."""

    def make(*overrides: str) -> Trainer:
        defaults = [f"folder={clips}", f"output={tmp_path / 'run'}"]
        return build_trainer(load_experiment(str(TINY_TRAINING), [*defaults, *overrides]), Processes(0, 1, torch.device("cpu")))

    return make


@pytest.fixture
def make_model() -> Callable[..., SAMI2V]:
    """A function: overrides of the tiny training -> its network in evaluation mode, always with the same weights."""

    def make(*overrides: str) -> SAMI2V:
        model = build_model(load_experiment(str(TINY_TRAINING), ["folder=unused", *overrides]))
        return use_fixed_weights(model).eval()

    return make
