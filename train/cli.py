"""The command line of the training, `python train/train.py`: from a config to a `Trainer`.

python train/train.py -c i2v-train [KEY=VALUE ...]           # one process; torchrun starts several (train.sh)
python train/train.py -c i2v-train --check                   # check the config, the model and all files without training
python train/train.py -c i2v-train --slurm slurm.nodes=4     # submit the job to Slurm
python train.py -c configs/i2v-train --use-cluster 0 --num-gpus 8 [--num-nodes 4]   # as the published code: train.sh or Slurm
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from i2v.build_i2v import predictor_settings
from i2v.load_config import load_config
from i2v.modeling.sam_i2v import SAMI2V
from i2v.typed_config import ConfigError, build, config_message, description, names_in, section
from i2v.utils.command_line import EXPECTED_ERRORS, whole_number
from i2v.utils.slurm import SlurmSettings, submit_job
from train.dataset.mixture import (
    MixtureDataset,
    MixturePart,
    MixtureSchedule,
    SampleReader,
    TooManyBadSamplesError,
    collate,
)
from train.dataset.sample import ClipDataset
from train.model.activation_checkpointing import recompute_activations
from train.model.rollout import ClipRollout, PromptSampling
from train.optimizer import OptimizerSettings
from train.trainer import NonFiniteLossError, Trainer, TrainerSettings
from train.utils.processes import Processes, find_device, start_processes
from train.utils.seeds import derive_seed, seeded
from train.validation import Validation

log = logging.getLogger("train")

ROOT = Path(__file__).resolve().parents[1]
CONFIG_DIR = ROOT / "configs"
# Errors of a config that names wrong files, values or types, when it is put into effect.
_CONFIG_ERRORS = (OSError, ValueError, TypeError, RuntimeError, ImportError, MemoryError, OmegaConfBaseException)


@dataclass
class PartSettings:
    """A data set's part of the mixture, as in the config.

    Attributes:
        dataset: description of a `ClipDataset`.
        transform: description of a transform.
        batch_size (int): number of clips per step and process.
        repeat (int): how often a pass through the data repeats the data set.
    """

    dataset: Any
    transform: Any
    batch_size: int
    repeat: int = 1


@dataclass
class DataSettings:
    """The section `data` of a config.

    Attributes:
        parts (Mapping[str, PartSettings]): data sets of the mixture by name.
        max_failures (int): number of consecutive unreadable samples that stop the training.
        steps_per_epoch (int or None): number of steps in an epoch; None for one pass through the data.
    """

    parts: Mapping[str, PartSettings]
    max_failures: int
    steps_per_epoch: int | None = None


def known_experiments() -> list[str]:
    """Names of the experiments in configs/."""
    return sorted(path.stem for path in CONFIG_DIR.glob("*.yaml"))


def load_experiment(name: str, overrides: Sequence[str]) -> DictConfig:
    """Compose the config of an experiment. Data sets and validations that are null are left out.

    Args:
        name (str): name of an experiment in configs/, or path of a YAML file.
        overrides (Sequence[str]): Hydra overrides, such as "trainer.epochs=1".

    Raises:
        ValueError: the name or a top-level key is unknown, or Hydra cannot compose the config.
    """
    path = CONFIG_DIR / f"{name.removeprefix('configs/')}.yaml"  # SAM 2's and the published scripts write configs/NAME
    if not path.is_file():
        path = Path(name)
        if path.suffix != ".yaml" or not path.is_file():
            raise ValueError(f"unknown config {name!r}: neither a YAML file nor one of {', '.join(known_experiments())}")
    config = load_config(path, overrides)
    with open_dict(config):
        for parts in (OmegaConf.select(config, "data.parts"), config.get("validation")):
            if isinstance(parts, DictConfig):
                for key in [key for key, part in parts.items() if part is None]:
                    del parts[key]
    return config


def check_section(config: DictConfig, name: str) -> None:
    """Check the keys of a section and the types of its values; nothing is built or read.

    Raises:
        ConfigError: a key is unknown, missing or of the wrong type.
    """
    if name == "data":
        section(DataSettings, config, name)
        for part in names_in(config, name, "parts"):
            for key in ("dataset", "transform"):
                description(config, name, "parts", part, key)
    elif name == "seed":
        seed_of(config)
    elif name == "output":
        output_of(config)
    elif name == "device":
        section(str | int | None, config, name)
    elif name == "frozen":
        section(str | Sequence[str], config, name)
    elif name == "activation_checkpointing":
        recomputed_in(config)
    elif name == "trainer":
        build_settings(config)
    elif name == "slurm":
        section(SlurmSettings, config, name)
    elif name == "predictor":
        predictor_settings(config)
    elif name == "initial_weights":
        description(config, name, given=1, optional=True)
    elif name == "validation":
        for validation in names_in(config, name):
            description(config, name, validation)
    elif name in ("model", "prompts", "loss", "optimizer"):
        description(config, name)


def build_model(config: DictConfig) -> SAMI2V:
    """The network with its initial weights; parameters that `frozen` names are not trained."""
    seed = seed_of(config)
    frozen = section(str | Sequence[str], config, "frozen")
    with seeded(seed, torch.device("cpu")):
        model: SAMI2V = build(config, "model", kind=SAMI2V)
    build(config, "initial_weights", arguments=[model], optional=True)
    for prefix in [frozen] if isinstance(frozen, str) else frozen:
        parameters = [p for name, p in model.named_parameters() if name.startswith(prefix)]
        if not parameters:
            raise ConfigError(f"frozen: no parameter's name begins with {prefix!r}")
        for parameter in parameters:
            parameter.requires_grad_(False)
    return model


def seed_of(config: DictConfig) -> int:
    """The random seed of the training."""
    seed: int = section(int, config, "seed")
    if not 0 <= seed < 2**63:
        raise ConfigError(f"seed must be from 0 to 2**63 - 1, not {seed}")
    return seed


def recomputed_in(config: DictConfig) -> Sequence[str]:
    """The names of modules and steps that are recomputed in the backward pass; see `recompute_activations`."""
    if isinstance(section(Any, config, "activation_checkpointing", default=[]), bool):  # as in earlier versions
        raise ConfigError("activation_checkpointing is a list of names, such as [TinyViTBlock,decode]; see docs/training.md")
    return section(Sequence[str], config, "activation_checkpointing", default=[])


def output_of(config: DictConfig) -> Path:
    """The folder of checkpoints and logs."""
    output: str = section(str, config, "output")
    if not output:
        raise ConfigError("output must be the name of a folder, and is empty")
    return Path(output)


def build_sized(config: DictConfig, *keys: str, kind: Any) -> Any:
    """Like `build`, for an object whose `image_size`, if it has one, must be the network's."""
    built = build(config, *keys, kind=kind)
    size = section(int | None, config, "model", "image_size", default=None)
    own = getattr(built, "image_size", size)
    if None not in (own, size) and own != size:
        raise ConfigError(f"{'.'.join(keys)}.image_size is {own}, and model.image_size {size}: give both the same")
    return built


def build_validation(config: DictConfig, name: str) -> Validation:
    """Build a validation set."""
    return build_sized(config, "validation", name, kind=Validation)


def build_reader(config: DictConfig, name: str) -> SampleReader:
    """Build the reader of a data set."""
    part = ("data", "parts", name)
    dataset = build(config, *part, "dataset", kind=ClipDataset)
    if not len(dataset):
        raise ConfigError(f"{'.'.join(part)}.dataset: {dataset.name} has no images or videos")
    return SampleReader(
        dataset,
        build_sized(config, *part, "transform", kind=Callable),
        section(int, config, "data", "max_failures"),
    )


def build_part(config: DictConfig, name: str, num_samples: int) -> MixturePart:
    """Build a data set's part of the mixture."""
    part: PartSettings = section(PartSettings, config, "data", "parts", name)
    return MixturePart(name, num_samples, part.batch_size, part.repeat)


def build_data(config: DictConfig, processes: Processes) -> MixtureDataset:
    """Build the batches of all data sets."""
    readers = {name: build_reader(config, name) for name in names_in(config, "data", "parts")}
    parts = [build_part(config, name, len(reader)) for name, reader in readers.items()]
    steps = section(int | None, config, "data", "steps_per_epoch", default=None)
    schedule = MixtureSchedule(parts, seed_of(config), processes.world_size, processes.rank, steps)
    return MixtureDataset(list(readers.values()), schedule)


def build_settings(config: DictConfig) -> TrainerSettings:
    """Build the trainer's settings."""
    return section(TrainerSettings, config, "trainer")


def build_trainer(config: DictConfig, processes: Processes) -> Trainer:
    """Build everything that a training needs."""
    rollout = ClipRollout(build_model(config), build(config, "prompts", kind=PromptSampling))
    loss = build(config, "loss", kind=Callable)
    recompute_activations(rollout, loss, recomputed_in(config))
    return Trainer(
        rollout=rollout,
        loss=loss,
        data=build_data(config, processes),
        optimizer=build(config, "optimizer", kind=OptimizerSettings),
        settings=build_settings(config),
        processes=processes,
        output=output_of(config),
        seed=seed_of(config),
        validations={name: build_validation(config, name) for name in names_in(config, "validation")},
        config=OmegaConf.to_yaml(config, resolve=True),
    )


def check(config: DictConfig) -> list[str]:
    """Build everything, and read one batch of each data set.

    Returns:
        A line for each problem; empty if the training can start.
    """
    problems: list[str] = []

    def names_of(*keys: str) -> list[str]:
        try:
            return names_in(config, *keys)
        except ConfigError as error:
            problems.append(str(error))
            return []

    def attempt(what: str, function: Callable[..., str | None], *arguments: Any) -> None:
        try:
            summary = function(*arguments)
        except _CONFIG_ERRORS as error:
            message = config_message(error)
            if not any(problem.endswith(message) for problem in problems):
                problems.append(f"{what}: {message}")
        else:
            log.info("%s: fine%s", what, f", {summary}" if summary else "")

    attempt("device", lambda: str(find_device(section(str | None, config, "device"))))
    attempt("model and initial weights", _check_model, config)
    for name in names_of("data", "parts"):
        attempt(f"data set {name}", _check_data, config, name)
    for name in names_of("validation"):
        attempt(f"validation {name}", lambda name: build_validation(config, name).read_one(), name)
    attempt("output folder", _check_output, config)
    for name, kind in (("prompts", PromptSampling), ("loss", Callable), ("optimizer", OptimizerSettings)):
        attempt(name, lambda name, kind: type(build(config, name, kind=kind)).__name__, name, kind)
    attempt("trainer", lambda: f"{build_settings(config).epochs} epochs")
    for name in ("data", "slurm", "predictor"):
        if name in config:
            attempt(name, check_section, config, name)
    if not problems:
        attempt("all together", _check_trainer, config)
    return problems


def _check_model(config: DictConfig) -> str:
    trained = sum(p.numel() for p in build_model(config).parameters() if p.requires_grad)
    return f"{trained / 1e6:.1f} M parameters are trained"


def _check_data(config: DictConfig, name: str) -> str:
    reader = build_reader(config, name)
    count = build_part(config, name, len(reader)).batch_size
    batch = collate([reader.read(i % len(reader), derive_seed(seed_of(config), i)) for i in range(count)])
    return f"{len(reader)} samples; a batch has frames {tuple(batch.frames.shape)} and {len(batch.masks)} objects"


def _check_output(config: DictConfig) -> str:
    folder = output_of(config)
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=folder):
        return str(folder)


def _check_trainer(config: DictConfig) -> str:
    trainer = build_trainer(config, Processes(0, 1, torch.device("cpu")))
    return f"{trainer.num_steps} steps in one process; the next one is {trainer.step}"


def submit(arguments: list[str], config: DictConfig) -> None:
    """Hand the training to Slurm: one task per GPU, on `slurm.nodes` nodes.

    Args:
        arguments (list[str]): arguments of the command line for each task.
        config (DictConfig): the experiment, with a section `slurm`.

    Raises:
        OSError: Slurm is not available.
        ValueError: the config has no section `slurm`.
    """
    if "slurm" not in config:
        raise ValueError("the config has no part `slurm`: see that of configs/i2v-train.yaml")
    settings = section(SlurmSettings, config, "slurm")
    submit_job(
        SlurmTask(arguments),
        settings,
        ROOT / output_of(config) / "slurm",
        ROOT,
        tasks_per_node=settings.gpus_per_node,
        slurm_srun_args=["--kill-on-bad-exit=1"],
    )


class SlurmTask:
    """What each Slurm task runs; when its time runs out, it is resubmitted and resumes from its checkpoint."""

    def __init__(self, arguments: list[str]) -> None:
        self.arguments = arguments

    def __call__(self) -> None:
        import submitit

        submitit.helpers.TorchDistributedEnvironment().export(set_cuda_visible_devices=False)
        if main(self.arguments):
            raise RuntimeError("training did not finish; see the log above")

    def checkpoint(self, *_: Any) -> Any:
        import submitit

        return submitit.helpers.DelayedSubmission(self)


def start_as_published(args: argparse.Namespace) -> int:
    """Follow --use-cluster, --num-gpus and --num-nodes: submit to Slurm, or start a script in place of this process.

    The script is train.sh, or the one for several nodes.

    Returns:
        The exit status of the submission.
    """
    nodes, gpus = args.num_nodes or 1, args.num_gpus
    config = (
        str(Path(args.config).resolve()) if Path(args.config).is_file() else args.config
    )  # the scripts change to the project's folder
    if args.use_cluster:
        sizes = [f"slurm.nodes={nodes}"] + ([f"slurm.gpus_per_node={gpus}"] if gpus else [])
        return main(["-c", config, "--slurm", *sizes, *args.overrides])
    script = "train.sh" if nodes == 1 else "multi_node_train_4_nodes.sh"
    environment = os.environ | {"NODES": str(nodes), "PYTHON": sys.executable} | ({"GPUS": str(gpus)} if gpus else {})
    os.execvpe("sh", ["sh", str(ROOT / "train" / script), config, *args.overrides], environment)


def build_parser() -> argparse.ArgumentParser:
    """Build the parser of the command line."""
    parser = argparse.ArgumentParser(
        prog="python train/train.py",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,  # `main` removes --slurm from the job's arguments by its full name
    )
    known = ", ".join(known_experiments())
    parser.add_argument("-c", "--config", required=True, help=f"one of {known}, or a YAML file")
    mode = parser.add_mutually_exclusive_group()
    mode.add_argument(
        "--check",
        action="store_true",
        help="check the config, build everything and read a batch of each data set, without training",
    )
    mode.add_argument("--slurm", action="store_true", help="submit to Slurm, with the settings in the config's section `slurm`")
    published = parser.add_argument_group("arguments of SAM 2 and of the published code")
    published.add_argument(
        "--use-cluster", type=int, choices=(0, 1), help="1: submit to Slurm; 0: start the processes on this machine"
    )
    published.add_argument("--num-gpus", type=whole_number(1), help="number of GPUs per node (default: 8)")
    published.add_argument(
        "--num-nodes", type=whole_number(1), help="number of nodes, each started by hand or by Slurm (default: 1)"
    )
    parser.add_argument(
        "overrides",
        nargs="*",
        metavar="KEY=VALUE",
        help="values of the config to change, such as trainer.epochs=1 or output=runs/mine",
    )
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Returns:
        The exit status: 0 after the last step or when the time is up, 1 after an error, and 128 plus the number of the signal
        that stopped it, as in shells.
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    first = int(os.environ.get("RANK", 0)) == 0  # the others would log the same
    logging.basicConfig(level=logging.INFO if first else logging.WARNING, format="%(message)s")
    parser = build_parser()
    args = parser.parse_intermixed_args(arguments)
    published = {args.use_cluster, args.num_gpus, args.num_nodes} != {None}
    if published and (args.check or args.slurm):
        parser.error("--use-cluster, --num-gpus and --num-nodes start a training: give them without --check and --slurm")
    try:
        if published:
            return start_as_published(args)
        if args.check:
            log.info("checking %s: building everything, and reading a batch of each data set; nothing is trained", args.config)
        config = load_experiment(args.config, args.overrides)
        if not args.check:
            for name in sorted(config, key=lambda name: name != "model"):  # others refer to it
                check_section(config, name)
        if args.slurm:
            submit([argument for argument in arguments if argument != "--slurm"], config)
            return 0
        if args.check:
            problems = check(config)
            for problem in problems:
                log.error("missing or wrong in %s: %s", args.config, problem)
            if not problems:
                log.info("everything is there; the training can start")
            return min(len(problems), 1)
        with start_processes(section(str | None, config, "device")) as processes:
            try:
                trainer = build_trainer(config, processes)
            except _CONFIG_ERRORS as error:
                raise ConfigError(config_message(error)) from error
            received = trainer.run()
    except ConfigError as error:
        log.error("error: config %s: %s", args.config, error)
        return 1
    except (*EXPECTED_ERRORS, OmegaConfBaseException, NonFiniteLossError, TooManyBadSamplesError) as error:
        log.error("error: %s", config_message(error))
        return 1
    return 0 if received is None else 128 + received
