"""The experiments in configs/."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import pytest
import torch
from hydra.utils import get_class, instantiate
from omegaconf import DictConfig, OmegaConf

from i2v.typed_config import build
from train.cli import CONFIG_DIR, build_settings, check, known_experiments, load_experiment
from train.losses import ClipLoss
from train.model.rollout import PromptSampling
from train.optimizer import OptimizerSettings
from train.trainer import TrainerSettings

# Experiments for the rows of the paper's tables, and what each changes in i2v-train.
PAPER = {
    "i2v-train-ta": ["model/upgrade=ta"],
    "i2v-train-sa-ta": ["model/upgrade=sa_ta"],
    "i2v-train-st-adapter": ["model/upgrade=st_adapter_ta"],
    "i2v-train-no-mpg": ["model.memory_prompt_generator=null"],
    "i2v-train-mpg-1": ["model.memory_prompt_generator.num_tokens=1"],
    "i2v-train-mpg-5": ["model.memory_prompt_generator.num_tokens=5"],
    "i2v-train-no-mca": ["model.memory_prompt_generator.masked_attention=false"],
    "i2v-train-48h": ["trainer.epochs=20"],
    "i2v-train-16gpu": ["trainer.epochs=20", "slurm.nodes=2"],
    "i2v-train-32gpu": ["trainer.epochs=40", "slurm.nodes=4"],
}


def targets_in(node: object) -> set[str]:
    """All that a config instantiates."""
    if isinstance(node, dict):
        own = {node["_target_"]} if "_target_" in node else set()
        return own.union(*map(targets_in, node.values()))
    return set().union(*map(targets_in, node)) if isinstance(node, list) else set()


def test_names() -> None:
    lite = [f"i2v-lite-{name}" for name in ("ablation", "gpu", "image", "image-sams", "long", "paper", "video")]
    assert known_experiments() == sorted([*lite, "i2v-train", *PAPER])


@pytest.mark.slow
@pytest.mark.parametrize(("name", "overrides"), PAPER.items())
def test_rows_of_the_paper_differ_from_its_training_in_nothing_else(name: str, overrides: list[str]) -> None:
    assert load_experiment(name, []) == load_experiment("i2v-train", [*overrides, f"output=runs/{name}"])


@pytest.mark.parametrize("name", [name for name in PAPER if name.endswith(("48h", "gpu"))])
def test_assumed_epochs_are_in_the_first_line(name: str) -> None:
    first, *_ = (CONFIG_DIR / f"{name}.yaml").read_text().splitlines()
    assert first.startswith(f"# Assumption: {load_experiment(name, []).trainer.epochs} epochs")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["i2v-train-ta", "i2v-train-sa-ta", "i2v-train-st-adapter", "i2v-train-no-mpg"])
def test_only_files_are_missing(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    problems = check(load_experiment(name, ["device=cpu", f"output={tmp_path / 'run'}"]))
    assert [problem.split(":")[0] for problem in problems] == ["model and initial weights", "data set sa1b", "data set sav"]
    assert all("no such" in problem for problem in problems)


@pytest.mark.slow
@pytest.mark.parametrize("name", known_experiments())
def test_composes(name: str) -> None:
    config = load_experiment(name, [])
    resolved = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    for target in targets_in(resolved):
        module, _, last = target.rpartition(".")
        assert hasattr(__import__(module, fromlist=[last]), last), target
    with torch.device("meta"):
        model = build(config, "model")
    assert model.image_size == config.clip_transform.image_size
    assert set(config.trainer) == {field.name for field in fields(TrainerSettings)}  # overrides need no +
    build_settings(config)
    for part in ("prompts", "optimizer", "loss"):
        build(config, part)
    names = [parameter for parameter, _ in model.named_parameters()]
    assert all(any(parameter.startswith(prefix) for parameter in names) for prefix in config.frozen)


@pytest.mark.slow
def test_null_leaves_out_a_data_set_and_a_validation(tmp_path: Path) -> None:
    own = tmp_path / "it's mine.yaml"  # a file anywhere builds on the experiments
    own.write_text(
        "defaults: [i2v-lite-video, _self_]\ndata: {parts: {stills: null}}\nvalidation: {davis: null, stills_clicks: null}\n"
    )
    config = load_experiment(str(own), ["validation.stills_click=null"])
    assert list(config.data.parts) == ["davis", "others", "clips"]
    assert list(config.validation) == []


@pytest.mark.slow
def test_example_of_the_docs_composes(tmp_path: Path) -> None:
    docs = Path(__file__).parents[2] / "docs" / "training.md"
    (example,) = [block for block in docs.read_text().split("```yaml\n")[1:] if block.startswith("defaults: [base/lite")]
    own = tmp_path / "mine.yaml"
    own.write_text(example.split("```")[0])
    config = load_experiment(str(own), [])
    assert list(config.data.parts) == ["mine"]
    assert build_settings(config).epochs == 1


@pytest.fixture
def paper() -> DictConfig:
    return load_experiment("i2v-train", [])


def test_values_of_the_paper(paper: DictConfig) -> None:
    assert instantiate(paper.optimizer) == OptimizerSettings(
        learning_rate=3e-4,
        trunk_learning_rate=6e-5,
        layer_decay=0.9,
        weight_decay=0.1,
        decay_scales=True,
        final_factor=0.01,
        warmup_steps=0,
        max_gradient_norm=0.1,
    )
    assert instantiate(paper.prompts) == PromptSampling(
        mask=0.5,
        box=0.5,
        max_prompted_frames=2,
        max_corrected_frames=2,
        correction_clicks=7,
        ground_truth_clicks=0.1,
    )
    loss: ClipLoss = instantiate(paper.loss)
    assert loss.weights == {"mask": 20, "iou": 1, "presence": 1}
    assert loss.full_size
    assert (paper.trainer.epochs, paper.trainer.precision) == (10, "bf16")
    assert paper.initial_weights.path == "checkpoints/tinysam.pth"
    assert get_class(paper.data.parts.sa1b.dataset._target_).__name__ == "SA1B"
    assert Path(paper.data.parts.sa1b.dataset.file_list).name == "sa1b_10k_train_list.txt"
    assert get_class(paper.data.parts.sav.dataset._target_).__name__ == "SAV"
    assert (paper.data.parts.sa1b.batch_size, paper.data.parts.sav.batch_size) == (8, 1)
    assert paper.data.parts.sav.dataset.num_frames == 8
    assert [part.dataset.max_objects for part in paper.data.parts.values()] == [1, 1]
    assert paper.data.parts.sav.dataset.masklets == "manual"
    assert (paper.seed, paper.trainer.keep_every, paper.activation_checkpointing) == (2024, 1, [])


@pytest.mark.slow
def test_ablation_starts_from_the_image_segmenter_alone() -> None:
    """What makes a video segmenter of it is trained from the start."""
    with torch.device("meta"):
        model = build(load_experiment("i2v-lite-ablation", []), "model")
    prefixes = tuple(load_experiment("i2v-lite-ablation", []).initial_weights.prefixes)
    untrained = {name.split(".")[0] for name in model.state_dict() if not name.startswith(prefixes)}
    assert {"memory_attention", "memory_encoder", "memory_prompt_generator", "image_encoder"} <= untrained
    assert not any(name.startswith("image_encoder.trunk_video") for name in model.state_dict() if name.startswith(prefixes))
    for prefix in prefixes:
        assert any(name.startswith(prefix) for name in model.state_dict()), prefix
