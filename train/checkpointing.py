"""Checkpoints of a training: everything that a resumed run needs to continue as if it had never stopped."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

from i2v.utils.checkpoints import check_names, checked_weights, read_checkpoint, save_checkpoint
from i2v.utils.json_form import require_form
from train.model.activation_checkpointing import original_name
from train.utils.processes import Processes

log = logging.getLogger(__name__)

# The entries of a checkpoint.
_FORM = {
    "model": dict,
    "optimizer": dict,
    "parameters": list,
    "step": int,
    "best": float,
    "validation_due": bool,
    "num_steps": int,
    "seed": int,
    "world_size": int,
    "config": str,
}
# Further entries of a training that averages its weights.
_AVERAGE_FORM = {"current": dict, "num_averaged": int}


@dataclass
class Progress:
    """How far a training has come.

    Attributes:
        step (int): number of steps that are done.
        best (float): best score of the first validation so far.
        validation_due (bool): whether a validation comes before the next step.
    """

    step: int = 0
    best: float = float("-inf")
    validation_due: bool = False


class Checkpoints:
    """Saves a training to its output folder, and resumes it.

    Args:
        folder (Path): the output folder.
        model (nn.Module): the network.
        optimizer (torch.optim.Optimizer): its optimizer.
        average (AveragedModel or None): moving average of its weights, or None.
        num_steps (int): length of the whole training in steps.
        seed (int): random seed of the training.
        processes (Processes): the processes that train.
        config (str): the experiment's config as YAML, for the record.
    """

    def __init__(
        self,
        folder: Path,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        average: AveragedModel | None,
        num_steps: int,
        seed: int,
        processes: Processes,
        config: str,
    ) -> None:
        self.folder = folder
        self.model = model
        self.optimizer = optimizer
        self.average = average
        self.num_steps = num_steps
        self.seed = seed
        self.processes = processes
        self.config = config

    def save(self, name: str, progress: Progress) -> None:
        """Write NAME.pt, in the first process.

        "model" holds the weights to use: the averaged ones, if there are any. "current" then holds those that are trained.

        Raises:
            OSError: the file cannot be written; a previous one stays.
        """
        if not self.processes.is_first:
            return
        average = self.average
        checkpoint: dict[str, Any] = {"model": (self.model if average is None else average.module).state_dict()}
        if average is not None:
            checkpoint |= {"current": self.model.state_dict(), "num_averaged": int(average.n_averaged)}
        checkpoint |= {
            "optimizer": self.optimizer.state_dict(),
            "parameters": self._parameter_names(),
            **vars(progress),
            "num_steps": self.num_steps,
            "seed": self.seed,
            "world_size": self.processes.world_size,
            "config": self.config,
        }
        save_checkpoint(self.folder / f"{name}.pt", checkpoint)

    def remove_fragments(self) -> None:
        """Remove the temporary files of checkpoints that a killed run was writing."""
        for path in self.folder.glob(".*.pt"):
            path.unlink()

    def resume(self) -> Progress:
        """Load last.pt, if it exists, into the network, optimizer and average.

        Raises:
            ValueError: the checkpoint is of another training, or not every process sees it.
        """
        path = self.folder / "last.pt"
        progress = self._load(path) if path.exists() else Progress()
        steps = self.processes.gather([progress.step])
        if len(set(steps)) > 1:
            raise ValueError(f"the processes are at the steps {steps}: {path} must be in a folder that all of them share")
        return progress

    def _load(self, path: Path) -> Progress:
        checkpoint = read_checkpoint(path)
        self._check(path, checkpoint)
        self.model.load_state_dict(checkpoint.get("current", checkpoint["model"]))
        # PyTorch would restore the learning rates, too; those of the config count.
        rates = [{name: group[name] for name in ("peak_lr", "weight_decay")} for group in self.optimizer.param_groups]
        self.optimizer.load_state_dict(checkpoint["optimizer"])
        for group, ours in zip(self.optimizer.param_groups, rates, strict=True):
            group.update(ours)
        if self.average is not None:
            self.average.module.load_state_dict(checkpoint["model"])
            self.average.n_averaged.fill_(checkpoint.get("num_averaged", 0))
        self._report_differences(path, checkpoint)
        return Progress(checkpoint["step"], checkpoint["best"], checkpoint["validation_due"])

    def _report_differences(self, path: Path, checkpoint: dict[str, Any]) -> None:
        step = checkpoint["step"]
        if checkpoint["config"] != self.config:
            log.warning("the config differs from the one stored in %s; resuming with the new one", path)
        before = (checkpoint["num_steps"], checkpoint["world_size"])
        now = (self.num_steps, self.processes.world_size)
        if before != now:
            log.warning(
                f"{path} was written after {step} of {before[0]} steps, by {before[1]} processes; now there are {now[0]} "
                f"steps, and {now[1]} processes. Learning rate and data continue from step {step}"
            )
        log.info("resuming after step %d of %d", step, self.num_steps)

    def _check(self, path: Path, checkpoint: dict[str, Any]) -> None:
        """Raise a ValueError for a checkpoint that is not one of this training."""
        where = f"cannot resume {path}"
        if missing := sorted(_FORM.keys() - checkpoint.keys()):
            raise ValueError(
                f"{where}: it lacks {', '.join(missing)}. It is not a checkpoint of this version's trainer: give another "
                "folder as output, and the file as initial_weights.path"
            )
        averaged = {name: kind for name, kind in _AVERAGE_FORM.items() if name in checkpoint}
        require_form(checkpoint, _FORM | averaged, where)
        for name in {"model", "current"} & checkpoint.keys():
            weights = checked_weights(checkpoint[name], path)
            check_names(self.model.state_dict(), weights, f"{where}: it is of another model")
        if checkpoint["seed"] != self.seed:
            raise ValueError(f"{where}: its seed is {checkpoint['seed']}, not {self.seed}")
        if not 0 <= checkpoint["step"] <= self.num_steps:
            raise ValueError(
                f"{where}: it was written after step {checkpoint['step']}, and this training has only {self.num_steps} steps. "
                "Raise trainer.epochs or data.steps_per_epoch, or give another folder as output"
            )
        if checkpoint["parameters"] != self._parameter_names():
            raise ValueError(
                f"{where}: other parameters were trained, or in other groups (`frozen`, learning rates). Give another folder "
                "as output, and the file as initial_weights.path"
            )
        self._check_optimizer(f"{where}: 'optimizer' in it", checkpoint["optimizer"])

    def _check_optimizer(self, where: str, state: dict[str, Any]) -> None:
        """Raise a ValueError for the state of another optimizer, or of one for other parameters."""
        own = self.optimizer.state_dict()["param_groups"]
        parameters = [parameter for group in self.optimizer.param_groups for parameter in group["params"]]
        groups, moments = state.get("param_groups"), state.get("state")
        fits = (
            isinstance(groups, list)
            and len(groups) == len(own)
            and all(
                isinstance(group, dict)
                and group.get("params") == ours["params"]
                and all(type(group.get(name, value)) is type(value) for name, value in ours.items())
                for group, ours in zip(groups, own, strict=True)
            )
        )
        if not (
            fits
            and isinstance(moments, dict)
            and all(index in range(len(parameters)) and isinstance(moment, dict) for index, moment in moments.items())
        ):
            raise ValueError(f"{where} is not the state of this training's optimizer")
        for index, moment in moments.items():
            shape = parameters[index].shape
            expected = {"step": torch.empty(()), "exp_avg": torch.empty(shape), "exp_avg_sq": torch.empty(shape)}
            label = f"{where}, parameter {index}"
            check_names(expected, checked_weights(moment, label), label)

    def _parameter_names(self) -> list[list[str]]:
        """The names of each parameter group; the optimizer itself knows parameters only by their order."""
        names = {parameter: original_name(name) for name, parameter in self.model.named_parameters()}
        return [[names[parameter] for parameter in group["params"]] for group in self.optimizer.param_groups]
