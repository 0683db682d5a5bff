"""Bad configs and checkpoints: one line that names the file and the key, and status 1, at every entry point.

The next case is a line in a table.
"""

from __future__ import annotations

import logging
import os
import re
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from omegaconf import OmegaConf

from i2v import build_i2v, build_i2v_video_predictor
from i2v.load_config import load_config
from i2v.segment import main as segment
from i2v.utils.checkpoints import load_weights, read_checkpoint, read_weights, save_checkpoint
from test_pvs.systems import SystemSettings, build_system
from tests.conftest import TINY_CONFIG
from tests.train.helpers import TINY_TRAINING, write_clips
from train.cli import build_model, check_section, load_experiment
from train.cli import main as train
from train.trainer import Trainer

DROP = object()  # a key that is left out

# Key, value, and what the message says of it.
MODEL_CASES = [
    ("model.image_size", "abc", "model.image_size must be a whole number, not 'abc'"),
    ("model.image_size", True, "model.image_size must be a whole number, not true"),
    ("model.image_size", 2.5, "model.image_size must be a whole number, not 2.5"),
    ("model.image_size", 100, "model: image_size=100 must be a multiple"),
    ("model.image_size", -16, "image_size=-16 must be a multiple"),
    ("model.image_size", {"a": 1}, "model.image_size must be a whole number, not {'a': 1}"),
    ("model.image_size", "${nothing}", "model: Interpolation key 'nothing' not found"),
    ("model.image_size", "???", "Missing mandatory value: model.image_size"),
    ("model.num_maskmem", None, "model.num_maskmem must be a whole number, not null"),
    ("model.nonsense", 1, "unknown key model.nonsense; SAMI2V takes image_encoder"),
    ("model.embed_dim", 0, "model"),
    ("model.image_encoder", None, "model.image_encoder must be a mapping with a `_target_`, not null"),
    ("model.image_encoder", [], "model.image_encoder must be a mapping with a `_target_`, not []"),
    ("model.image_encoder.levels", 5, "model.image_encoder.levels must be a list, not 5"),
    ("model.image_encoder.levels", ["a"], "model.image_encoder.levels[0] must be a whole number, not 'a'"),
    ("model.image_encoder.trunk_image", DROP, "model.image_encoder lacks trunk_image"),
    (
        "model.image_encoder.trunk_image._target_",
        "os.nothing",
        "not 'os.nothing', which Python does not find: check its spelling, and that PYTHONPATH has",
    ),
    ("model.image_encoder.trunk_image._target_", "os.sep", "_target_ must name a class or a function, not 'os.sep'"),
    ("model.image_encoder.trunk_image._target_", None, "model.image_encoder.trunk_image._target_ must name a class"),
    ("model.memory_attention.dropout", "some", "model.memory_attention.dropout must be a number, not 'some'"),
    ("model.memory_selector.mode", "x", "model.memory_selector: unknown memory selection mode 'x'"),
    ("model.memory_selector.num_local", 5, "num_local=5 frames cannot be chosen from a local pool of local_reach=4"),
    ("model.memory_prompt_generator.masked_attention", "perhaps", "masked_attention must be true or false, not 'perhaps'"),
    ("model._target_", DROP, "model must be a mapping with a `_target_`"),
    ("model", None, "model must be a mapping with a `_target_`, not null"),
    ("model", 3, "model must be a mapping with a `_target_`, not 3"),
    ("model", DROP, "has no section 'model'"),
    ("predictor.fill_hole_area", "x", "predictor.fill_hole_area must be a whole number, not 'x'"),
    ("predictor.fill_hole_area", None, "predictor.fill_hole_area must be a whole number, not null"),
    ("predictor.nonsense", 1, "unknown key predictor.nonsense; I2VVideoPredictor takes fill_hole_area"),
    ("predictor.model", 1, "unknown key predictor.model"),
    ("predictor.precision", "fp99", "predictor: unknown precision 'fp99'"),
    ("predictor.precision", 32, "predictor.precision must be text or null, not 32"),
    ("predictor", None, "predictor must be a mapping, not null"),
    ("predictor", [1], "predictor must be a mapping, not [1]"),
    ("checkpoint", 5, "checkpoint must be text or null, not 5"),
    ("checkpoint", ["a.pt"], "checkpoint must be text or null, not ['a.pt']"),
]
TRAINING_CASES = [
    ("model.image_size", "abc", "model.image_size must be a whole number, not 'abc'"),
    ("model", None, "model must be a mapping with a `_target_`, not null"),
    ("seed", None, "seed must be a whole number, not null"),
    ("seed", True, "seed must be a whole number, not true"),
    ("seed", 1.5, "seed must be a whole number, not 1.5"),
    ("seed", -1, "seed must be from 0 to 2**63 - 1, not -1"),
    ("seed", 2**80, "seed must be from 0 to 2**63 - 1, not 1208925819614629174706176"),
    ("seed", DROP, "seed is missing"),
    ("device", 3, "device must be text or null, not 3"),
    ("output", None, "output must be text, not null"),
    ("output", "", "output must be the name of a folder, and is empty"),
    ("output", DROP, "output is missing"),
    ("frozen", None, "frozen must be text or a list, not null"),
    ("frozen", [1], "frozen must be text or a list, not [1]"),
    ("frozen", "nonsense", "frozen: no parameter's name begins with 'nonsense'"),
    ("initial_weights", 3, "initial_weights must be a mapping with a `_target_` or null, not 3"),
    ("initial_weights", {"path": "a.pt"}, "initial_weights must be a mapping with a `_target_`"),
    (
        "initial_weights",
        {"_target_": "train.model.initial_weights.from_checkpoint"},
        "initial_weights lacks path",
    ),
    (
        "initial_weights",
        {"_target_": "train.model.initial_weights.from_checkpoint", "path": None},
        "initial_weights.path must be text or a path, not null",
    ),
    ("data", None, "data must be a mapping, not null"),
    ("data", 3, "data must be a mapping, not 3"),
    ("data", DROP, "data is missing"),
    ("data.parts", [], "data.parts must be a mapping, not []"),
    ("data.parts", {}, "a mixture needs a data set"),
    ("data.parts.clips", 3, "data.parts.clips must be a mapping, not 3"),
    ("data.parts.clips", [], "data.parts.clips must be a mapping, not []"),
    ("data.parts.clips.dataset", None, "data.parts.clips.dataset must be a mapping with a `_target_`, not null"),
    ("data.parts.clips.dataset.num_frames", "x", "data.parts.clips.dataset.num_frames must be a whole number or null, not 'x'"),
    *(
        (f"data.parts.clips.dataset.{name}", value, f"data.parts.clips.dataset: {name} must be at least 1, not {value}")
        for name, value in (("num_frames", 0), ("max_objects", 0), ("max_stride", 0), ("max_stride", -5))
    ),
    ("data.parts.clips.transform.image_size", 48, "clips.transform.image_size is 48, and model.image_size 64: give both the"),
    ("data.parts.clips.repeat", 10**12, "repeat of clips is too large: a pass has at most 100000000 samples, not 2 samples"),
    ("data.parts.clips.batch_size", 10**9, "batch_size of clips must be at most 1024, not 1000000000"),
    ("data.parts.clips.transform", DROP, "data.parts.clips lacks transform"),
    ("data.parts.clips.batch_size", True, "data.parts.clips.batch_size must be a whole number, not true"),
    ("data.parts.clips.batch_size", DROP, "data.parts.clips lacks batch_size"),
    ("data.max_failures", "few", "data.max_failures must be a whole number, not 'few'"),
    ("data.steps_per_epoch", "all", "data.steps_per_epoch must be a whole number or null, not 'all'"),
    ("data.steps_per_epoch", False, "data.steps_per_epoch must be a whole number or null, not false"),
    ("prompts", None, "prompts must be a mapping with a `_target_`, not null"),
    ("prompts.mask", "often", "prompts.mask must be a number, not 'often'"),
    ("prompts.mask", 2, "prompts.mask must be a probability from 0 to 1"),
    ("prompts.nonsense", 1, "unknown key prompts.nonsense; PromptSampling takes mask"),
    ("loss", [], "loss must be a mapping with a `_target_`, not []"),
    ("loss", DROP, "loss is missing"),
    ("optimizer", 3, "optimizer must be a mapping with a `_target_`, not 3"),
    ("optimizer._target_", DROP, "optimizer must be a mapping with a `_target_`"),
    ("optimizer.learning_rate", None, "optimizer.learning_rate must be a number, not null"),
    ("optimizer.learning_rate", float("nan"), "optimizer.learning_rate must be a number, not nan"),
    ("optimizer", {"_target_": "builtins.dict"}, "optimizer._target_ must make an object of OptimizerSettings, not of "),
    ("loss", {"_target_": "os.getcwd"}, "loss._target_ must make an object of Callable, not of str"),
    (
        "data.parts.clips.dataset",
        {"_target_": "os.getcwd"},
        "clips.dataset._target_ must make an object of ClipDataset",
    ),
    (
        "data.parts.clips.transform",
        {"_target_": "os.getcwd"},
        "clips.transform._target_ must make an object of Callable",
    ),
    ("validation", {"val": {"_target_": "os.getcwd"}}, "validation.val._target_ must make an object of Validation"),
    ("model", {"_target_": "builtins.dict", "image_size": 64}, "model._target_ must make an object of SAMI2V, not of dict"),
    ("data.max_failures", 0, "max_failures must be at least 1, not 0"),
    ("trainer.workers", -1, "trainer.workers must not be negative, but is -1"),
    ("trainer.checkpoint_minutes", -0.5, "trainer.checkpoint_minutes must not be negative, but is -0.5"),
    ("optimizer.warmup_steps", True, "optimizer.warmup_steps must be a whole number, not true"),
    ("trainer", None, "trainer must be a mapping, not null"),
    ("trainer", DROP, "trainer is missing"),
    ("trainer.epochs", True, "trainer.epochs must be a whole number, not true"),
    ("trainer.epochs", 0, "trainer.epochs must be at least 1, not 0"),
    ("trainer.nonsense", 1, "unknown key trainer.nonsense; TrainerSettings takes epochs"),
    ("trainer.checkpoint_minutes", None, "trainer.checkpoint_minutes must be a number, not null"),
    ("trainer.accumulate", 9, "trainer.accumulate=9 is more than the 8 batches of the whole training"),
    *(
        ("trainer.stop_after_minutes", value, f"trainer.stop_after_minutes must be above 0, not {value}")
        for value in (0.0, -1.0)
    ),
    ("activation_checkpointing", "x", "activation_checkpointing must be a list, not 'x'"),
    ("activation_checkpointing", [True], "activation_checkpointing[0] must be text, not true"),
    ("activation_checkpointing", ["MBConvs"], "'MBConvs' is neither a module, nor a class of modules, nor one of the steps"),
    ("activation_checkpointing", ["MBConvs"], "did you mean MBConv?"),
    ("validation", None, "validation must be a mapping, not null"),
    *(
        (
            "validation",
            {"val": {"_target_": "train.validation.ClipValidation", "dataset": "${data.parts.clips.dataset}"} | values},
            message,
        )
        for values, message in (
            ({"image_size": 48, "num_samples": 1, "prompt": "box"}, "validation.val.image_size is 48, and model.image_size 64"),
            ({"image_size": 64, "num_samples": 0, "prompt": "box"}, "validation.val: num_samples must be at least 1, not 0"),
            (
                {"image_size": 64, "num_samples": 1, "prompt": "?"},
                "validation.val: unknown prompt '?'; known: mask, click, box",
            ),
        )
    ),
    ("validation", {"val": 3}, "validation.val must be a mapping with a `_target_`, not 3"),
]
TENSOR = torch.zeros(2, 3)
# What is saved, and what the message says of it.
CHECKPOINT_CASES = {
    "integer key": ({1: TENSOR}, "the name 1 in it is not text"),
    "integer key in model": ({"model": {1: TENSOR}}, "the name 1 in it is not text"),
    "sparse": ({"a": TENSOR.to_sparse()}, "the tensor a is sparse"),
    "compressed": ({"a": TENSOR.to_sparse_csr()}, "the tensor a is sparse"),
    "quantized": ({"a": torch.quantize_per_tensor(TENSOR, 0.1, 0, torch.quint8)}, "the tensor a is quantized"),
    "meta": ({"a": TENSOR.to("meta")}, "the tensor a has no numbers"),
    "complex": ({"a": TENSOR + 1j}, "the tensor a is of complex numbers"),
    "enormous view": ({"a": torch.zeros(1).expand(10**13)}, "the tensor a has fewer numbers than elements"),
    "nan": ({"model": {"a": TENSOR, "b": TENSOR * torch.nan}}, "the tensor b contains NaN or infinity"),
    "infinity": ({"a": TENSOR.half() - torch.inf}, "the tensor a contains NaN or infinity"),
    "infinite as float32": ({"a": TENSOR.double() + 1e300}, "the tensor a contains NaN or infinity"),
    "nested": ({"a": {"b": TENSOR}}, "'a' is a dict, not a tensor"),
    "none": ({"a": None}, "'a' is a NoneType, not a tensor"),
    "number": ({"a": 3}, "'a' is a int, not a tensor"),
    "model is none": ({"model": None}, "contains a NoneType, not a dictionary of weights"),
    "list": ([TENSOR], "contains a list, not a dictionary"),
    "tensor": (TENSOR, "contains a Tensor, not a dictionary"),
    "empty": ({}, "the dictionary is empty"),
}


def nan_in(values: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """A copy with one NaN in a matrix."""
    name = next(name for name, value in values.items() if value.ndim > 1)
    return values | {name: torch.full_like(values[name], torch.nan)}


# Key of last.pt, how its value is changed, and what the message says of it.
RESUME_CASES: list[tuple[str, Callable[[Any], Any], str]] = [
    *[
        (name, lambda _: None, f"last.pt: {name!r} is null, expected")
        for name in ("model", "optimizer", "step", "config", "parameters")
    ],
    ("step", lambda _: "1", "last.pt: 'step' is "),
    ("step", lambda _: True, "last.pt: 'step' is "),
    ("step", lambda _: 1.0, "last.pt: 'step' is "),
    ("step", lambda _: 9, "it was written after step 9, and this training has only 8 steps. Raise trainer.epochs"),
    ("step", lambda _: -1, "it was written after step -1"),
    ("best", lambda _: "high", "last.pt: 'best' is "),
    ("validation_due", lambda _: 1, "last.pt: 'validation_due' is "),
    ("num_averaged", lambda _: None, "last.pt: 'num_averaged' is "),
    ("seed", lambda _: [3], "last.pt: 'seed' is "),
    ("world_size", lambda _: "two", "last.pt: 'world_size' is "),
    ("parameters", lambda _: [[1, None], 3], "other parameters were trained"),
    ("model", nan_in, "contains NaN or infinity"),
    ("current", nan_in, "contains NaN or infinity"),
    ("current", lambda _: {"a": 1}, "'a' is a int, not a tensor"),
    ("model", lambda value: dict(enumerate(value.values())), "the name 0 in it is not text"),
    ("optimizer", lambda _: {}, "'optimizer' in it is not the state of this training's optimizer"),
    ("optimizer", lambda value: value | {"param_groups": value["param_groups"][1:]}, "'optimizer' in it is not the state"),
    ("optimizer", lambda value: value | {"state": [1]}, "'optimizer' in it is not the state"),
    ("optimizer", lambda value: value | {"state": {0: {"step": 1}}}, "'optimizer' in it, parameter 0"),
    (
        "optimizer",
        lambda value: value | {"state": {0: dict.fromkeys(("step", "exp_avg", "exp_avg_sq"), TENSOR)}},
        "'optimizer' in it, parameter 0; 3 of another shape: step (2, 3)",
    ),
]


@pytest.fixture(autouse=True)
def show_progress(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two clips; read-only."""
    return write_clips(tmp_path_factory.mktemp("clips"))


@pytest.fixture
def training(clips: Path, tmp_path: Path) -> Callable[..., list[str]]:
    """A function: a key and its value -> arguments of a tiny training with a config file of its own."""
    composed = load_experiment(str(TINY_TRAINING), [f"folder={clips}", f"output={tmp_path / 'run'}"])
    config = yaml.safe_load(OmegaConf.to_yaml(composed).replace("${folder}", str(clips)))
    del config["slurm"], config["folder"]
    return lambda key="seed", value=3: ["-c", str(write(tmp_path / "own.yaml", changed(config, key, value)))]


def changed(config: Any, key: str, value: Any) -> Any:
    """A copy of a config with another value."""
    first, _, rest = key.partition(".")
    if rest:
        return config | {first: changed(config[first], rest, value)}
    return {name: old for name, old in config.items() if name != first} | ({} if value is DROP else {first: value})


def write(path: Path, config: Any) -> Path:
    """Write a config without aliases."""
    path.write_text(OmegaConf.to_yaml(OmegaConf.create(config)))
    return path


def one_error(caplog: pytest.LogCaptureFixture) -> str:
    """The only error that was logged, which is one line."""
    (message,) = [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR]
    assert "\n" not in message
    assert "Traceback" not in caplog.text
    return message


@pytest.mark.slow
@pytest.mark.parametrize(("key", "value", "message"), MODEL_CASES)
def test_model_and_predictor(key: str, value: Any, message: str, tmp_path: Path) -> None:
    config = write(tmp_path / "own.yaml", changed(OmegaConf.to_container(load_config(TINY_CONFIG)), key, value))
    with pytest.raises(ValueError, match=re.escape(message)) as error:
        build_i2v_video_predictor(config, device="cpu")
    assert str(config) in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.slow
def test_model_in_the_command_line(png_folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    config = changed(OmegaConf.to_container(load_config(TINY_CONFIG)), "model.image_size", "abc")
    config = write(tmp_path / "own.yaml", config)
    arguments = [str(png_folder), "--config", str(config), "--untrained", "--point", "0,5,5", "--output", str(tmp_path / "out")]
    assert segment(arguments) == 1
    assert one_error(caplog) == f"error: config {str(config)!r}: model.image_size must be a whole number, not 'abc'"


@pytest.mark.slow
@pytest.mark.parametrize("check", [False, True], ids=["train", "check"])
@pytest.mark.parametrize(("key", "value", "message"), TRAINING_CASES)
def test_training(
    key: str,
    value: Any,
    message: str,
    check: bool,
    training: Callable[..., list[str]],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Trainer, "run", lambda _: pytest.fail("it has begun"))
    arguments = training(key, value)
    assert train([*arguments, *["--check"] * check]) == 1
    problems = [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR]
    assert any(message in problem for problem in problems), problems
    # What is wrong with a value that several parts need is said for each of them.
    assert check or len(problems) == 1
    assert not any("\n" in problem for problem in problems)
    assert "Traceback" not in caplog.text
    assert all(arguments[1] in problem for problem in problems)


@pytest.mark.slow
def test_one_name_of_frozen_needs_no_brackets(training: Callable[..., list[str]]) -> None:
    for value in ("image_encoder", ["image_encoder"]):
        model = build_model(load_experiment(training("frozen", value)[1], []))
        trained = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
        assert trained
        assert not any(name.startswith("image_encoder") for name in trained)


@pytest.mark.slow
def test_slurm_settings(training: Callable[..., list[str]], caplog: pytest.LogCaptureFixture) -> None:
    settings = {"nodes": 2, "gpus_per_node": 4, "cpus_per_task": 10, "hours": "many", "partition": None}
    arguments = training("slurm", settings)
    assert train([*arguments, "--slurm"]) == 1
    assert one_error(caplog) == f"error: config {arguments[1]}: slurm.hours must be a number, not 'many'"


# Key with a mistake in it, and the nearest known key, at every level of an experiment.
MISSPELT_CASES = [
    ("vaildation", "validation"),
    ("promts", "prompts"),
    ("initial_weight", "initial_weights"),
    ("optimizer.learning_rates", "learning_rate"),
    ("prompts.masks", "mask"),
    ("loss.mask_weigth", "mask_weight"),
    ("trainer.epoch", "epochs"),
    ("data.max_failure", "max_failures"),
    ("data.part", "parts"),
    ("data.parts.clips.repeats", "repeat"),
    ("data.parts.clips.transfrom", "transform"),
    ("data.parts.clips.dataset.num_frame", "num_frames"),
    ("data.parts.clips.transform.degree", "degrees"),
    ("validation.val.prompts", "prompt"),
    ("validation.val.dataset.max_object", "max_objects"),
    ("initial_weights.prefix", "prefixes"),
    ("slurm.node", "nodes"),
    ("predictor.fill_holes_area", "fill_hole_area"),
    ("model.num_maskmems", "num_maskmem"),
    ("model.image_encoder.trunk_image.embed_dim", "embed_dims"),
]


@pytest.mark.slow
@pytest.mark.parametrize("mode", [[], ["--check"], ["--slurm"]], ids=["train", "check", "slurm"])
@pytest.mark.parametrize(("key", "nearest"), MISSPELT_CASES)
def test_misspelt_key_of_an_experiment(
    key: str, nearest: str, mode: list[str], clips: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    if "--check" not in mode:
        monkeypatch.setattr("train.cli.build_model", lambda _: pytest.fail("work has begun"))
    folders = f"frames: {clips}/JPEGImages, annotations: {clips}/Annotations"
    dataset = f"{{_target_: train.dataset.vos_folder.VOSFolder, {folders}}}"
    settings = f"dataset: {dataset}, image_size: 64, num_samples: 1, prompt: box"
    validation = f"{{_target_: train.validation.ClipValidation, {settings}}}"
    weights = "{_target_: train.model.initial_weights.from_checkpoint, path: a.pt}"
    overrides = [f"+validation.val={validation}", f"initial_weights={weights}", f"++{key}=7"]
    assert train(["-c", str(TINY_TRAINING), f"folder={clips}", *overrides, *mode]) == 1
    errors = [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR]
    assert any(f"unknown key {key} (did you mean {nearest}?)" in error for error in errors), errors
    assert "--check" in mode or len(errors) == 1
    assert all(str(TINY_TRAINING) in error for error in errors)


@pytest.mark.slow
@pytest.mark.parametrize("build", [build_i2v, build_i2v_video_predictor])
@pytest.mark.parametrize("config", ["i2v-lite", "i2v-infer", TINY_CONFIG])
@pytest.mark.parametrize(
    ("key", "nearest"),
    [
        ("predicter", "predictor"),
        ("modle", "model"),
        ("checkpoints", "checkpoint"),
        ("predictor.fill_holes_area", "fill_hole_area"),
        ("model.memory_selector.num_globals", "num_global"),
    ],
)
def test_misspelt_key_of_a_predictor(key: str, nearest: str, config: str | Path, build: Callable[..., Any]) -> None:
    with pytest.raises(ValueError, match=re.escape(f"unknown key {key} (did you mean {nearest}?)")) as error:
        build(config, device="cpu", hydra_overrides_extra=[f"+{key}=1"])
    assert str(config) in str(error.value)


@pytest.mark.slow
def test_variables_of_a_config_are_no_unknown_keys(tmp_path: Path) -> None:
    """A file may define variables, and a file that builds on it may replace whatever refers to them."""
    model = OmegaConf.to_container(load_config(TINY_CONFIG))["model"] | {"image_size": "${size}"}
    write(tmp_path / "first.yaml", {"model": model, "size": 96, "spare_loss": {"_target_": "train.losses.ClipLoss"}})
    write(tmp_path / "second.yaml", {"defaults": ["first", "_self_"], "model": {"image_size": 128}})
    assert load_config(tmp_path / "first.yaml").model.image_size == 96
    assert load_config(tmp_path / "second.yaml").model.image_size == 128
    assert load_config(tmp_path / "first.yaml", ["model.image_size=64"]).model.image_size == 64
    write(tmp_path / "second.yaml", {"defaults": ["first", "_self_"], "sizes": 128})
    with pytest.raises(
        ValueError, match=r"second\.yaml': unknown key sizes \(did you mean size\?\): no \$\{sizes\} refers to it"
    ):
        load_config(tmp_path / "second.yaml")


@pytest.mark.parametrize("case", CHECKPOINT_CASES)
def test_checkpoint(case: str, tmp_path: Path) -> None:
    content, message = CHECKPOINT_CASES[case]
    path = tmp_path / "a.pt"
    torch.save(content, path)
    with pytest.raises(ValueError, match=re.escape(message)) as error:
        read_weights(path)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.slow
def test_checkpoint_with_nan_names_the_parameter(make_tiny_predictor: Callable[..., Any], tmp_path: Path) -> None:
    model = make_tiny_predictor().model
    state = {name: value.clone() for name, value in model.state_dict().items()}
    state["no_mem_embed"].view(-1)[3] = torch.nan
    save_checkpoint(tmp_path / "a.pt", {"model": state})
    with pytest.raises(ValueError, match=r"a\.pt: the tensor no_mem_embed contains NaN"):
        load_weights(model, tmp_path / "a.pt")
    assert model.no_mem_embed.isfinite().all()


@pytest.mark.slow
def test_empty_checkpoint_is_a_missing_file(png_folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for build in (build_i2v, build_i2v_video_predictor):
        with pytest.raises(FileNotFoundError, match="no such checkpoint: its name is empty"):
            build(TINY_CONFIG, "", device="cpu")
    with pytest.raises(FileNotFoundError, match="no such checkpoint: its name is empty"):  # the benchmarks' --checkpoint ""
        build_system(SystemSettings("sam-i2v", str(TINY_CONFIG), "", device="cpu"))
    arguments = [str(png_folder), "--config", str(TINY_CONFIG), "--point", "0,5,5", "--output", str(tmp_path / "out")]
    assert segment([*arguments, "--checkpoint", ""]) == 1
    assert one_error(caplog) == "error: no such checkpoint: its name is empty"


@pytest.fixture(scope="module")
def last(clips: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What last.pt holds after a step, with averaged weights."""
    output = tmp_path_factory.mktemp("last")
    arguments = ["-c", str(TINY_TRAINING), f"folder={clips}", f"output={output}", "trainer.average_decay=0.9"]
    assert train([*arguments, "trainer.epochs=1", "data.steps_per_epoch=1"]) == 0
    return read_checkpoint(output / "last.pt")


@pytest.mark.slow
@pytest.mark.parametrize(("key", "change", "message"), RESUME_CASES)
def test_resume(
    key: str,
    change: Callable[[Any], Any],
    message: str,
    last: dict[str, Any],
    clips: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Trainer, "run", lambda _: pytest.fail("it has begun"))
    save_checkpoint(tmp_path / "last.pt", last | {key: change(last[key])})
    arguments = ["-c", str(TINY_TRAINING), f"folder={clips}", f"output={tmp_path}", "trainer.average_decay=0.9"]
    assert train(arguments) == 1
    error = one_error(caplog)
    assert message in error
    assert str(tmp_path / "last.pt") in error


@pytest.mark.slow
def test_check_finds_what_cannot_be_resumed(
    last: dict[str, Any], clips: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    save_checkpoint(tmp_path / "last.pt", last | {"step": "1"})
    assert train(["-c", str(TINY_TRAINING), f"folder={clips}", f"output={tmp_path}", "--check"]) == 1
    assert "all together: cannot resume" in one_error(caplog)
    assert "last.pt: 'step' is a text, expected a whole number" in one_error(caplog)


@pytest.mark.slow
def test_finished_training_is_no_error(
    last: dict[str, Any], clips: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    save_checkpoint(tmp_path / "last.pt", last)
    arguments = ["-c", str(TINY_TRAINING), f"folder={clips}", f"output={tmp_path}", "trainer.average_decay=0.9"]
    assert train([*arguments, "trainer.epochs=1", "data.steps_per_epoch=1"]) == 0
    assert "nothing to do: step 1 of 1 is done" in caplog.text


# YAML that is small on the disk and large in memory, or deep.
BOMBS = {
    "deep, flow": ("[" * 10_000, "nest"),  # PyYAML's parser in C has a limit of its own
    "deep, block": ("\n".join(" " * i + "a:" for i in range(500)), "is nested more than 50 deep"),
    "deep by aliases": (
        "a0: &a0 1\n" + "\n".join(f"a{i}: &a{i} [[[[[[[[[[*a{i - 1}]]]]]]]]]]" for i in range(1, 9)),
        "is nested more than 50 deep",
    ),
    "billion laughs": (
        "a0: &a0 [lol]\n" + "\n".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 10)),
        "more than 10000 values",
    ),
    "in itself": ("a: &a [*a]", "the alias *a is undefined, or inside its own value"),
    "huge": ("a: 1\n" * 300_000, "more than 1048576 bytes"),
    "many values": ("a: [" + "1, " * 20_000 + "]", "more than 10000 values"),
    "long value": ("a: '" + "${b}" * 10_000 + "'", "more than 4000 characters"),
    "hexadecimal": ("model:\n  image_size: 0x" + "f" * 3900, "line 2: the number 0xffffffff... has more than 1000 digits"),
    "sexagesimal": ("a: -" + ":".join(["59"] * 1300), "line 1: the number -59:59:59:... has more than 1000 digits"),
    "not UTF-8": (b"\xff\xfe\x00", "is not YAML"),
    "no YAML": ("a: [1, 2", "is not YAML"),
    "tag of Python": ("a: !!python/object/apply:os.system [true]", "could not determine a constructor"),
    "no number": ("a: !!int x", "invalid literal for int()"),
}


@pytest.fixture
def limits() -> Iterator[None]:
    """Within two seconds."""
    started = time.process_time()
    yield
    assert time.process_time() - started < 2


@pytest.mark.slow
@pytest.mark.usefixtures("limits")
@pytest.mark.parametrize("place", ["named", "pulled in"])
@pytest.mark.parametrize("bomb", BOMBS)
def test_yaml_bombs(bomb: str, place: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    content, message = BOMBS[bomb]
    path = tmp_path / "bomb.yaml"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    config = path
    if place == "pulled in":
        config = tmp_path / "own.yaml"
        config.write_text("defaults: [bomb, _self_]\n")
    for build in (build_i2v, build_i2v_video_predictor, load_config):
        with pytest.raises(ValueError, match=re.escape(message)) as error:
            build(config)
        assert str(path) in str(error.value)
        assert "\n" not in str(error.value)
    assert train(["-c", str(config)]) == 1
    assert message in one_error(caplog)


@pytest.mark.usefixtures("limits")
@pytest.mark.parametrize("kind", ["pipe", "socket", "device", "folder", "broken link"])
def test_what_is_no_file_is_refused_at_once(kind: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "own.yaml"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(str(path))
    elif kind == "folder":
        path.mkdir()
    else:
        path.symlink_to("/dev/zero" if kind == "device" else "/nowhere")
    with pytest.raises(ValueError, match=r"unknown config .*own\.yaml': neither a YAML file nor one of"):
        load_config(path)
    assert train(["-c", str(path)]) == 1
    assert "own.yaml': neither a YAML file nor one of" in one_error(caplog)
    (tmp_path / "mine.yaml").write_text("defaults: [own, _self_]\n")
    with pytest.raises(ValueError, match="Could not load 'own'"):
        load_config(tmp_path / "mine.yaml")


def own_config() -> dict[str, Any]:
    """A complete config, as one that is distributed with weights must be."""
    return OmegaConf.to_container(load_config(TINY_CONFIG), resolve=True)


# Key, value, and what the message says, of configs that are distributed with weights.
UNTRUSTED_CASES = [
    ("model._target_", "os.system", "model._target_ names 'os.system'"),
    ("model._target_", "hydra.utils.call", "model._target_ names 'hydra.utils.call'"),
    ("model._target_", "torch.hub.load", "model._target_ names 'torch.hub.load'"),
    ("model._target_", "i2v.modeling.layers.torch.hub.load", "model._target_ names"),
    ("model._target_", "i2v.modeling.sam_i2v.torch", "model._target_ names"),
    ("model._target_", "i2v.modeling.sam_i2v.nn.Module", "model._target_ names"),
    ("model._target_", "i2v.modeling.sam_i2v.Tensor", "model._target_ names"),
    ("model._target_", "i2v.modeling.precision.autocast", "model._target_ names"),
    ("model._target_", "i2v.segment.ResultWriter", "model._target_ names"),
    ("model._target_", "i2v.modeling.nothing.Nothing", "model._target_ names"),
    ("model._target_", "${model.name}", "model._target_ names '${model.name}'"),
    ("model._target_", ["os.system"], "model._target_ names ['os.system']"),
    ("model._target_", None, "model._target_ names None"),
    ("model.image_encoder.trunk_image._target_", "os.system", "model.image_encoder.trunk_image._target_ names 'os.system'"),
    ("model.image_size", {"_target_": "builtins.eval", "_args_": ["1"]}, "model.image_size._args_ is not allowed"),
    ("model.image_encoder.levels", [2, [{"_target_": "os.getpid"}]], "model.image_encoder.levels.1.0._target_ names"),
    ("model._partial_", True, "model._partial_ is not allowed"),
    ("model._args_", [1], "model._args_ is not allowed"),
    ("model._recursive_", False, "model._recursive_ is not allowed"),
    ("model.image_size", "${oc.env:HOME}", "model.image_size has an interpolation"),
    ("model.image_size", "${oc.decode:${oc.env:HOME}}", "model.image_size has an interpolation"),
    ("model.image_size", "${model.embed_dim}", "model.image_size has an interpolation"),
    ("predictor.precision", "x${oc.env:HOME}", "predictor.precision has an interpolation"),
    ("model.memory_attention.num_layers", 10_000_000, "model.memory_attention.num_layers is 10000000: at most 64 is allowed"),
    ("model.memory_attention.num_layers", "1_000", "model.memory_attention.num_layers is 1_000: at most 64 is allowed"),
    (
        "model.image_encoder.trunk_image.depths",
        [1, 1, 10**6, 1],
        "model.image_encoder.trunk_image.depths.2 is 1000000: at most 64 is allowed",
    ),
    ("model.sam_mask_decoder.transformer.depth", 65, "model.sam_mask_decoder.transformer.depth is 65: at most 64 is"),
    ("model.image_size", 32_000_000, "model.image_size is 32000000: at most 4096 is allowed"),
    ("model.image_encoder.high_res_channels", [8] * 2000, "model.image_encoder.high_res_channels is a list of 2000 items: at"),
    ("model.image_encoder.levels", list(range(65)), "model.image_encoder.levels is a list of 65 items: at most 64 are allowed"),
    ("predictor.others", [[0] * 65], "predictor.others.0 is a list of 65 items: at most 64 are allowed"),
    ("model.embed_dim", -(2**80), f"model.embed_dim is -{2**80}: at most 4096 is allowed"),
    ("model.memory_attention.hidden", 10_000, "model.memory_attention.hidden is 10000: at most 4096 is allowed"),
    ("model.image_encoder.trunk_image.mlp_ratio", 1e9, "model.image_encoder.trunk_image.mlp_ratio is 1000000000.0: at most"),
    (
        "model.image_encoder.trunk_video.stem_kernel",
        99,
        "model.image_encoder.trunk_video.stem_kernel is 99: at most 64 is allowed",
    ),
    ("predictor", {"_target_": "os.system"}, "predictor._target_ names 'os.system'"),
    ("defaults", ["i2v-infer"], "defaults is not allowed"),
    ("hydra", {"searchpath": ["pkg://nonsense"]}, "hydra is not allowed"),
    ("checkpoint", "../other.pt", "checkpoint must be the name of a file"),
    ("checkpoint", "/etc/passwd", "checkpoint must be the name of a file"),
    ("checkpoint", "..", "checkpoint must be the name of a file"),
    ("checkpoint", "", "checkpoint must be the name of a file"),
    ("checkpoint", 3, "checkpoint must be the name of a file"),
]


def test_number_of_thousands_of_digits_in_an_untrusted_config(tmp_path: Path) -> None:
    path = write(tmp_path / "config.yaml", own_config())
    path.write_text(path.read_text().replace("image_size: 128", f"image_size: 0x{'f' * 3900}"))
    with pytest.raises(ValueError, match=r"config\.yaml, line \d+: the number 0xffffffff\.\.\. has more than 1000 digits"):
        build_i2v(path, device="cpu", trusted=False)


@pytest.mark.parametrize(("key", "value", "message"), UNTRUSTED_CASES)
def test_untrusted_config(key: str, value: Any, message: str, tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(changed(own_config(), key, value)))
    with pytest.raises(ValueError, match=re.escape(f"{str(path)!r} comes with weights, and is not trusted: {message}")):
        build_i2v_video_predictor(path, device="cpu", trusted=False)


@pytest.mark.slow
@pytest.mark.parametrize(
    "overrides",
    [
        ["model.memory_attention.num_layers=64", "model.image_encoder.high_res_channels=[1024,512,256]"],
        [
            *("model.image_size=4096", "model.feature_stride=8", "model.dense_prompt_encoder=null"),
            *("model.image_encoder.high_res_levels=[]", "model.image_encoder.high_res_channels=[]"),
        ],
    ],
)
def test_untrusted_network_must_not_be_huge(overrides: list[str], tmp_path: Path) -> None:
    """Each number alone is allowed: the first makes too many parameters, the second too large position encodings."""
    config = load_config("i2v-lite", ["model.embed_dim=4096", *overrides])
    path = write(tmp_path / "config.yaml", OmegaConf.to_container(config, resolve=True))
    message = r"model has [\d,]+ million parameters and constants: at most 1,000 million are allowed"
    with pytest.raises(ValueError, match=message):
        build_i2v(path, device="cpu", trusted=False)


def test_package_line_of_hydra_is_not_trusted(tmp_path: Path) -> None:
    path = write(tmp_path / "config.yaml", own_config())
    path.write_text(f"# @package hydra.job\n{path.read_text()}")
    with pytest.raises(ValueError, match="not trusted: @package is not allowed"):
        load_config(path, trusted=False)


@pytest.mark.slow
def test_config_saved_with_the_weights_builds_the_network(tmp_path: Path) -> None:
    path = write(tmp_path / "config.yaml", own_config())
    config = load_config(path, ["predictor.precision=bf16"], trusted=False)
    assert config.predictor.precision == "bf16"
    assert OmegaConf.to_container(load_config(path)) == own_config()
    assert build_i2v(path, device="cpu", trusted=False).image_size == 128


@pytest.mark.slow
@pytest.mark.parametrize("trusted", [True, False])
def test_config_that_is_a_link_is_read_where_it_leads_to(trusted: bool, tmp_path: Path) -> None:
    """As in the cache of Hugging Face."""
    for folder in ("blobs", "snapshot"):
        (tmp_path / folder).mkdir()
    write(tmp_path / "blobs/abc123", own_config())
    write(tmp_path / "blobs/config.yaml", {"model": "another one"})
    path = tmp_path / "snapshot/config.yaml"
    path.symlink_to("../blobs/abc123")
    assert OmegaConf.to_container(load_config(path, trusted=trusted)) == own_config()
    assert build_i2v(path, device="cpu", trusted=trusted).image_size == 128


def test_parts_of_a_config_are_found_beside_its_link_and_beside_the_file(tmp_path: Path) -> None:
    for folder in ("there/model", "here/predictor"):
        (tmp_path / folder).mkdir(parents=True)
    write(tmp_path / "there/model/blue.yaml", {"colour": "blue"})
    write(tmp_path / "here/predictor/small.yaml", {"size": "small"})
    write(tmp_path / "there/own.yaml", {"defaults": [{"model": "blue"}, {"predictor": "small"}, "_self_"]})
    (tmp_path / "here/own.yaml").symlink_to("../there/own.yaml")
    config = load_config(tmp_path / "here/own.yaml")
    assert (config.model.colour, config.predictor.size) == ("blue", "small")


@pytest.mark.slow
def test_own_file_may_name_own_classes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_classes.py").write_text(
        "from i2v.modeling.sam_i2v import SAMI2V\n\nclass Mine(SAMI2V):\n"
        "    def __init__(self, colour: int, **others):\n        super().__init__(**others)\n        self.colour = colour\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    config = own_config()
    config["model"] |= {"_target_": "my_classes.Mine", "colour": "blue"}  # hints of others are not enforced
    assert build_i2v(write(tmp_path / "own.yaml", config), device="cpu").colour == "blue"


@pytest.mark.parametrize(
    ("override", "section_name", "message"),
    [
        ("+data.parts.sav.transform.degrees=0", "data", "data.parts.sav.transform must be a mapping with a `_target_`"),
        ("data.parts.sav.dataset.num_frames=many", "data", "data.parts.sav.dataset.num_frames must be"),
        ("seed=abc", "seed", "seed must be a whole number, not 'abc'"),
        ("output=[1]", "output", "output must be text"),
        ("device=[1]", "device", "device must be"),
        ("frozen=[[1]]", "frozen", "frozen"),
        ("activation_checkpointing=true", "activation_checkpointing", "is a list of names, such as .* see docs/training.md"),
    ],
)
def test_sections_are_checked_without_building(override: str, section_name: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_section(load_experiment("i2v-train", [override]), section_name)


def test_misspelt_variable_or_object_names_the_nearest_one() -> None:
    with pytest.raises(ValueError, match=r"unknown key num_framess \(did you mean num_frames\?\)"):
        load_experiment("i2v-lite-video", ["+num_framess=10"])
    with pytest.raises(ValueError, match=r"unknown key clip_transfrm \(did you mean clip_transform\?\)"):
        load_experiment("i2v-train", ["+clip_transfrm={_target_: train.dataset.transforms.ClipTransform}"])
