"""docs/extending.md: its examples work as they stand there."""

from __future__ import annotations

import importlib
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from i2v import I2VVideoPredictor, build_i2v, build_i2v_video_predictor
from i2v.pretrained import write_pretrained
from test_pvs import datasets, semi_supervised
from tests.conftest import PROJECT, examples_of_extending, fixed_weight, moving_disc
from tests.test_pvs.layouts import discs, write_frames, write_labels
from tests.train.helpers import disc_clip
from train import cli

PAGE = (PROJECT / "docs" / "extending.md").read_text()
FILES = examples_of_extending()
# The network of the examples, small enough for a test.
SMALL = ("model.image_size=128", "model.embed_dim=32", "model.memory_channels=8")
SMALL_TRAINING = (
    *SMALL,
    *("device=cpu", "initial_weights=null", "trainer.workers=0", "trainer.precision=fp32", "trainer.epochs=1"),
    *("data.steps_per_epoch=1", "prompts.correction_clicks=1"),
)


@pytest.fixture
def examples(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """All files of the page in the working directory, where Python finds them."""
    for name, content in FILES.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    modules = set(sys.modules)
    importlib.invalidate_caches()
    yield tmp_path
    for name in set(sys.modules) - modules:  # those of the next test lie elsewhere
        if name in {Path(file).stem for file in FILES}:
            del sys.modules[name]


def track(config: str, *overrides: str) -> torch.Tensor:
    predictor = build_i2v_video_predictor(config, device="cpu", hydra_overrides_extra=[*SMALL, *overrides])
    model = predictor.model
    model.load_state_dict({name: fixed_weight(name, value) for name, value in model.state_dict().items()})
    state = predictor.init_state(moving_disc())
    predictor.add_new_points_or_box(state, 0, 1, points=[[16, 24]], labels=[1])
    return torch.cat([masks for _, _, masks in predictor.propagate_in_video(state)])


def train(config: str, *overrides: str) -> None:
    overrides = (*SMALL_TRAINING, *overrides)
    assert cli.main(["-c", config, "--check", *overrides]) == 0
    assert cli.main(["-c", config, *overrides]) == 0


def write_archives(folder: Path) -> None:
    folder.mkdir(parents=True)
    for kind in range(2):
        frames, labels = disc_clip(kind)
        np.savez(folder / f"{kind}.npz", frames=frames, masks=np.stack([labels == 1, labels == 2], axis=1))


def test_every_file_of_the_page_is_tested() -> None:
    assert set(FILES) == {
        *("resnet_trunk.py", "model/trunk/resnet.yaml", "i2v-resnet.yaml", "train-resnet.yaml"),
        *("latest_selector.py", "model/memory_selector/latest.yaml", "i2v-latest.yaml"),
        *("archives.py", "i2v-archives.yaml", "small_masks.py", "my_videos.py", "drift.py"),
    }


@pytest.mark.slow
def test_trunk_infers_and_trains(examples: Path) -> None:
    assert track("i2v-resnet.yaml").shape == (12, 1, 48, 64)
    write_archives(examples / "data/archives")
    own = (examples / "i2v-archives.yaml").read_text().replace("  - i2v-train\n", "  - train-resnet\n")
    (examples / "i2v-own.yaml").write_text(own)
    train("i2v-own.yaml", "activation_checkpointing=[BasicBlock]")
    # The trained weights belong to the config of inference.
    build_i2v("i2v-resnet.yaml", "runs/archives/last.pt", device="cpu", hydra_overrides_extra=SMALL)


@pytest.mark.slow
def test_selector_chooses_the_frames(examples: Path) -> None:
    config = ("model.image_encoder.high_res_channels=[8,4,2]", "++checkpoint=null")
    latest, sampled = (track(name, *config) for name in ("i2v-latest.yaml", "i2v-lite"))
    assert latest[:5].equal(sampled[:5])  # there is nothing to choose from yet
    assert not latest[-1].equal(sampled[-1])
    selector = importlib.import_module("latest_selector").LatestSelector()
    assert selector.choose(9, [1, 3, 4, 5], 2, None) == [4, 5]


@pytest.mark.slow
def test_data_set_and_loss_train(examples: Path) -> None:
    write_archives(examples / "data/archives")
    [loss] = re.findall(r"^```yaml\n(loss:.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    own = yaml.safe_load((examples / "i2v-archives.yaml").read_text()) | yaml.safe_load(loss)
    (examples / "i2v-own.yaml").write_text(yaml.safe_dump(own))
    train("i2v-own.yaml")
    assert (examples / "runs/archives/last.pt").is_file()


def test_benchmark_data_set_and_system(examples: Path, outcome) -> None:
    for i, name in enumerate(("one", "two")):
        frames, labels = discs(i)
        write_frames(examples / "mine" / name / "frames", frames)
        write_labels(examples / "mine" / name / "masks", labels)
    assert outcome(datasets.main, "--check", "my_videos:read", "mine")[0] == 0
    arguments = ("my_videos:read", "mine", "--output", "result", "--system", "drift:build", "--devices", "cpu")
    assert outcome(semi_supervised.main, *arguments, "--input", "gm")[0] == 0
    assert sorted(path.name for path in (examples / "result").rglob("00011.png"))


@pytest.mark.slow
def test_exported_model_is_built_from_its_config(examples: Path) -> None:
    weights = build_i2v("i2v-resnet.yaml", device="cpu", hydra_overrides_extra=SMALL).state_dict()
    write_pretrained(examples / "my-model", weights, "i2v-resnet.yaml", SMALL)
    build_i2v("my-model/config.yaml", "my-model/model.pt", device="cpu")
    with pytest.raises(ValueError, match=r"names 'resnet_trunk.ResNetTrunk', which is not a class of i2v.modeling"):
        I2VVideoPredictor.from_pretrained("my-model")
