"""The training loop.

A step depends on the seed, its number and the weights, and on nothing else: data, prompts and dropout are drawn from generators
that are seeded by them. So a checkpoint of weights, optimizer and step is all that a resumed run needs to go on as if it had
never stopped, and the global random state is never touched.
"""

from __future__ import annotations

import logging
import math
import signal
import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import DataLoader

from i2v.modeling.layers import autocast
from i2v.utils.checkpoints import check_names, checked_weights, read_checkpoint, save_checkpoint
from i2v.utils.process_memory import peak_memory
from i2v.utils.processes import end_with_parent, worker_died
from train.dataset.mixture import Batch, MixtureDataset
from train.losses import ClipLoss
from train.model.activation_checkpointing import original_name
from train.model.rollout import ClipRollout, PromptedFrame
from train.optimizer import OptimizerSettings, build_optimizer
from train.utils.log import TrainingLog
from train.utils.processes import Processes
from train.utils.seeds import derive_seed, seeded
from train.utils.signals import StopRequest, deaf_children, kill_children
from train.validation import Validation, validate

log = logging.getLogger(__name__)

_PRECISIONS = ("fp32", "bf16")  # fp16 would need its losses scaled

# What a checkpoint holds, and the type of it.
_CHECKPOINT_TYPES = {
    **{"model": dict, "optimizer": dict, "parameters": list, "step": int, "best": float, "validation_due": bool},
    **{"num_steps": int, "seed": int, "world_size": int, "config": str},
}
# With averaged weights also these.
_AVERAGED_TYPES = {"current": dict, "num_averaged": int}


@dataclass
class TrainerSettings:
    """How long and how a training runs.

    Attributes:
        epochs: passes through the data. precision: "fp32" or "bf16" autocast. accumulate: batches per step of the optimizer.
        workers: processes that read data, for each process that trains. checkpoint_minutes: between checkpoints.
        keep_every: epochs between checkpoints that stay, as checkpoint_1.pt and so on; None for none.
        validate_every: steps between validations. log_every, picture_every: steps. skip_non_finite: leave out a step whose
            loss or gradient is not finite, instead of stopping. freeze_batch_norm: use the running statistics, and keep them;
            those of frozen layers are kept in any case.
        stop_after_minutes: write a checkpoint and end, to go on another time; None to train to the end.
        average_decay: of an exponential moving average of the weights, per step. It is what is validated, and "model" in the
            checkpoints. None for none.
    """

    epochs: int = 10
    precision: str = "bf16"
    accumulate: int = 1
    workers: int = 4
    checkpoint_minutes: float = 10.0
    keep_every: int | None = None
    validate_every: int = 2000
    log_every: int = 20
    picture_every: int = 500
    skip_non_finite: bool = False
    freeze_batch_norm: bool = False
    stop_after_minutes: float | None = None
    average_decay: float | None = None

    def __post_init__(self) -> None:
        if self.precision not in _PRECISIONS:
            raise ValueError(f"unknown trainer.precision {self.precision!r}; known: {', '.join(_PRECISIONS)}")
        for name in ("epochs", "accumulate", "validate_every", "log_every", "picture_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"trainer.{name} must be at least 1, not {getattr(self, name)}")
        for name in ("workers", "checkpoint_minutes"):
            if getattr(self, name) < 0:
                raise ValueError(f"trainer.{name} must not be negative, but is {getattr(self, name)}")
        if self.keep_every is not None and self.keep_every < 1:
            raise ValueError(f"trainer.keep_every must be at least 1 epoch, or null, not {self.keep_every}")
        if self.stop_after_minutes is not None and self.stop_after_minutes <= 0:  # it would go on from the same step for ever
            raise ValueError(f"trainer.stop_after_minutes must be above 0, not {self.stop_after_minutes}")
        if self.average_decay is not None and not 0 <= self.average_decay < 1:
            raise ValueError(f"trainer.average_decay must be at least 0 and below 1, not {self.average_decay}")


def average_of(model: nn.Module, decay: float) -> AveragedModel:
    """An exponential moving average of a network's weights, which forgets faster in the first steps: those that it starts from
    may be random."""

    def update(average: Sequence[torch.Tensor], current: Sequence[torch.Tensor], count: torch.Tensor) -> None:
        get_ema_multi_avg_fn(min(decay, float((1 + count) / (10 + count))))(average, current, count)

    return AveragedModel(model, multi_avg_fn=update)


class NonFiniteLossError(RuntimeError):
    """The loss or its gradient is infinite or not a number; the message names the samples."""


class Trainer:
    """Trains a network; goes on where a former run into the same folder stopped.

    Args:
        rollout: the network unrolled over clips. loss, data: of the training. validations: by name; the first one decides
            which checkpoint is the best. output: folder of checkpoints and logs. seed: of everything random.
        config: kept in the checkpoint, for the record.

    Raises:
        FileNotFoundError, ValueError: a checkpoint that cannot be resumed.
    """

    def __init__(
        self,
        rollout: ClipRollout,
        loss: ClipLoss,
        data: MixtureDataset,
        optimizer: OptimizerSettings,
        settings: TrainerSettings,
        processes: Processes,
        output: Path,
        seed: int,
        validations: Mapping[str, Validation] | None = None,
        config: str = "",
    ) -> None:
        self.model = rollout.model.to(processes.device)
        self.rollout = rollout.to(processes.device)
        self.loss, self.data, self.settings, self.processes = loss, data, settings, processes
        self.output, self.seed, self.config = Path(output), seed, config
        self.validations = dict(validations or {})
        self.optimizer_settings = optimizer
        self.optimizer = build_optimizer(self.model, optimizer)
        self.average = None if settings.average_decay is None else average_of(self.model, settings.average_decay)
        batches = settings.epochs * len(data.schedule)
        self.num_steps = batches // settings.accumulate
        if self.num_steps < 1:
            raise ValueError(
                f"trainer.accumulate={settings.accumulate} is more than the {batches} batches of the whole training, "
                "which would have no step"
            )
        self.step = 0
        self.best = float("-inf")
        self._validation_due = False
        self._stop_request = StopRequest()
        self._resume()
        self._network: nn.Module = self.rollout
        if processes.world_size > 1:
            cuda = processes.device.type == "cuda"
            self._network = DistributedDataParallel(self.rollout, device_ids=[processes.device] if cuda else None)

    def run(self) -> signal.Signals | None:
        """Train to the last step, or until the time is up or a signal asks to stop (SIGTERM, SIGINT; a checkpoint is
        written then).

        Returns:
            The signal that this or another process was stopped by; None without one.

        Raises:
            NonFiniteLossError, TooManyBadSamplesError: see there. OSError: a checkpoint cannot be written. WorkerDiedError: a
                process that reads data died. The last checkpoint stays in all cases.
        """
        if self._is_done():
            log.info("nothing to do: step %d of %d is done", self.step, self.num_steps)
            return None
        with ExitStack() as stack:
            stack.enter_context(self._stop_request)
            board = None
            if self.processes.is_first:
                self._remove_fragments()
                board = TrainingLog(self.output / "tensorboard", self.step, self.num_steps)
            if board is not None:
                stack.callback(board.close)
            stack.enter_context(_dead_readers_named())
            workers: list[BaseProcess] = []
            stack.callback(kill_children, workers)
            batches = self._batches(workers)
            stack.callback(batches.close)  # asks them to end
            started = saved = time.monotonic()
            stop = False
            while not self._is_done() and not (stop := self._stop_together(started)):
                if self._validation_due:
                    self._validation_due = not self._validate(board)
                else:
                    self._train_step(batches, board)
                    self.step += 1
                    if epoch := self._epoch_to_keep():
                        self._save(f"checkpoint_{epoch}")
                    self._validation_due = bool(self.validations) and (
                        self.step % self.settings.validate_every == 0 or self.step == self.num_steps
                    )
                # A validation takes long: what a signal or a kill interrupts is done first when the run goes on.
                late = time.monotonic() - saved > 60 * self.settings.checkpoint_minutes
                if late or self._validation_due or self._is_done():
                    self._save("last")
                    saved = time.monotonic()
            if stop:
                self._save("last")
                log.info("stopped after step %d of %d; the same command goes on", self.step, self.num_steps)
            else:
                log.info("finished after %d steps: the weights are in %s", self.num_steps, self.output / "last.pt")
            received = self.processes.gather([self._stop_request.made])  # nobody ends while the first process writes
            return next((kind for kind in received if kind is not None), None) if stop else None

    def _epoch_to_keep(self) -> int | None:
        """The epoch that the last step has ended, if its checkpoint is to stay."""
        accumulate, batches = self.settings.accumulate, len(self.data.schedule)
        before, epoch = ((self.step - 1) * accumulate) // batches, self.step * accumulate // batches
        return epoch if self.settings.keep_every and epoch > before and epoch % self.settings.keep_every == 0 else None

    def _is_done(self) -> bool:
        return self.step >= self.num_steps and not self._validation_due

    def _batches(self, workers: list[BaseProcess]) -> Generator[Batch]:
        """The batches of all steps to come. The processes that read them are added to `workers`, and end with the generator."""
        num_workers, accumulate = self.settings.workers, self.settings.accumulate
        loader = DataLoader(
            self.data,
            sampler=range(self.step * accumulate, self.num_steps * accumulate),
            batch_size=None,
            num_workers=num_workers,
            pin_memory=self.processes.device.type == "cuda",
            # The workers' own seed; otherwise it would be drawn from the global generator.
            generator=torch.Generator().manual_seed(self.seed),
            # Forking a process that runs threads, as this one does, can hang it.
            multiprocessing_context="spawn" if num_workers else None,
            worker_init_fn=_start_reader,
        )
        with deaf_children(workers):
            batches = iter(loader)
        yield from batches

    def _train_step(self, batches: Iterator[Batch], board: TrainingLog | None) -> None:
        started = time.monotonic()
        settings, device = self.optimizer_settings, self.processes.device
        factor = settings.factor(self.step, self.num_steps)
        for group in self.optimizer.param_groups:
            group["lr"] = group["peak_lr"] * factor
        self._train_mode()
        self.optimizer.zero_grad(set_to_none=True)
        totals: dict[str, float] = {}
        names: list[str] = []
        suspects: list[str] = []
        num_frames, waited = 0, 0.0
        statistics = (
            [buffer.clone() for buffer in self._running_statistics(self.model)] if self.settings.skip_non_finite else []
        )
        for part in range(self.settings.accumulate):
            asked = time.monotonic()
            batch = next(batches).to(device, non_blocking=True)
            waited += time.monotonic() - asked
            frames = None  # those of the part before would keep its graph, if it was left out
            frames, losses, finite = self._forward_backward(batch, part)
            for name, value in losses.items():
                totals[name] = totals.get(name, 0.0) + value / self.settings.accumulate
            names += batch.names
            suspects += [] if finite else batch.names
            num_frames += batch.frames.shape[0] * batch.frames.shape[1] * self.processes.world_size
        self._forget_unused()
        norm = float(nn.utils.clip_grad_norm_(self.model.parameters(), settings.max_gradient_norm))
        if not math.isfinite(totals["total"]):
            self._reject("loss", suspects, statistics)
        elif not math.isfinite(norm):
            self._reject("gradient", names, statistics)
        else:
            self.optimizer.step()
            if self.average is not None:
                self.average.update_parameters(self.model)
        if board is not None:
            board.step(totals)
            if self.step % self.settings.log_every == 0:
                seconds = time.monotonic() - started
                scalars = {f"loss/{name}": value for name, value in totals.items()}
                scalars["learning_rate/trunk"] = settings.trunk_learning_rate * factor
                scalars["learning_rate/others"] = settings.learning_rate * factor
                scalars["gradient_norm"] = norm
                scalars |= {"frames_per_second": num_frames / seconds, "seconds_waited_for_data": waited}
                scalars["peak_memory_megabytes"] = peak_memory(device) / 2**20
                board.scalars(scalars, self.step)
            if self.step % self.settings.picture_every == 0:
                board.picture("training", batch, frames, self.step)

    def _forward_backward(self, batch: Batch, part: int) -> tuple[list[PromptedFrame], dict[str, float], bool]:
        """Add the gradients of a batch, if the losses of all processes are finite.

        Returns:
            What happened in the frames, the mean losses of all processes, and whether the loss of this one is finite.
        """
        processes = self.processes
        device = processes.device
        seed = derive_seed(self.seed, self.step, part, processes.rank)
        synchronise = part + 1 == self.settings.accumulate
        with ExitStack() as stack:
            stack.enter_context(seeded(seed, device))  # dropout draws from the global generators
            if isinstance(self._network, DistributedDataParallel) and not synchronise:
                stack.enter_context(self._network.no_sync())
            # All processes prompt alike, so that they take equally long.
            plan = self.rollout.prompts.draw(
                batch.frames.shape[1], torch.Generator().manual_seed(derive_seed(self.seed, self.step, part))
            )
            with autocast(device, self.settings.precision):
                frames = self._network(batch.frames, batch.masks, batch.video, torch.Generator(device).manual_seed(seed), plan)
            count = processes.mean(torch.tensor(float(len(batch.masks)), device=device))
            losses = self.loss([frame.predictions for frame in frames], batch.masks, count.clamp(min=1))
            # Every parameter takes part in every step, with a gradient of zero where a clip does not use it: so DDP
            # needs no search for those that are not used.
            losses["total"] = losses["total"] + sum(p.sum() for p in self.model.parameters() if p.requires_grad) * 0.0
            means = processes.mean(torch.stack([value.detach() for value in losses.values()])).tolist()
            means = dict(zip(losses, means, strict=True))
            if math.isfinite(means["total"]):
                (losses["total"] / self.settings.accumulate).backward()
        return frames, means, bool(losses["total"].isfinite())

    def _forget_unused(self) -> None:
        """Leave parameters as they are that no process has used, such as the memory's where all clips are photographs: with a
        gradient of zero, AdamW would still move and decay them."""
        parameters = [parameter for parameter in self.model.parameters() if parameter.grad is not None]
        if parameters:  # there is none where the step is left out
            norms = torch.stack([parameter.grad.norm() for parameter in parameters]).tolist()
            for parameter, norm in zip(parameters, norms, strict=True):
                if norm == 0:
                    parameter.grad = None

    @staticmethod
    def _running_statistics(model: nn.Module) -> list[torch.Tensor]:
        modules = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
        return [buffer for module in modules for buffer in module.buffers()]

    def _reject(self, what: str, suspects: list[str], statistics: list[torch.Tensor]) -> None:
        """Stop, or leave out the step: the running statistics become what they were before it."""
        names = ", ".join(self.processes.gather(suspects))
        if not self.settings.skip_non_finite:
            raise NonFiniteLossError(
                f"the {what} of step {self.step} is not finite. Samples: {names}. "
                "Look at them, lower the learning rate, or set trainer.skip_non_finite=true"
            )
        for buffer, before in zip(self._running_statistics(self.model), statistics, strict=True):
            buffer.copy_(before)
        log.warning("step %d is left out, its %s is not finite: %s", self.step, what, names)

    def _train_mode(self) -> None:
        self.rollout.train()
        for module in self.model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.train(module.weight.requires_grad and not self.settings.freeze_batch_norm)

    def _validate(self, board: TrainingLog | None) -> bool:
        """Returns whether it was done, not interrupted by a signal."""
        # Each process has gone on with its own ones since DDP made them equal, before the last forward pass.
        self.processes.broadcast(self._running_statistics(self.model) + self._running_statistics(self._validated_model()))
        scores = {}
        for name, validation in self.validations.items():
            score = validate(
                validation,
                self._validated_model(),
                self.processes,
                self.settings.precision,
                lambda: self._stop_request.made is not None,
            )
            if score is None:
                return False
            scores[name] = score
        if not scores:  # where the run was stopped, there were some
            return True
        log.info("step %d: %s", self.step, ", ".join(f"{name} {score:.1f}" for name, score in scores.items()))
        if board is not None:
            board.scalars({f"validation/{name}": score for name, score in scores.items()}, self.step)
        first = next(iter(scores.values()))
        if first > self.best:
            self.best = first
            self._save("best")
        return True

    def _save(self, name: str) -> None:
        if not self.processes.is_first:
            return
        checkpoint = {
            **self._weights(),
            "optimizer": self.optimizer.state_dict(),
            "parameters": self._parameter_names(),
            "step": self.step,
            "best": self.best,
            "validation_due": self._validation_due,
            "num_steps": self.num_steps,
            "seed": self.seed,
            "world_size": self.processes.world_size,
            "config": self.config,
        }
        save_checkpoint(self.output / f"{name}.pt", checkpoint)

    def _validated_model(self) -> nn.Module:
        """The averaged weights, if there are any."""
        return self.model if self.average is None else self.average.module

    def _weights(self) -> dict[str, Any]:
        """What a checkpoint holds: the weights to use, and those that training goes on with, if these are others."""
        weights = {"model": self._validated_model().state_dict()}
        if self.average is not None:
            weights |= {"current": self.model.state_dict(), "num_averaged": int(self.average.n_averaged)}
        return weights

    def _parameter_names(self) -> list[list[str]]:
        """Of each of the optimizer's groups, which knows them by their order alone."""
        names = {parameter: original_name(name) for name, parameter in self.model.named_parameters()}
        return [[names[parameter] for parameter in group["params"]] for group in self.optimizer.param_groups]

    def _remove_fragments(self) -> None:
        """Of checkpoints that were being written when a former run was killed."""
        for path in self.output.glob(".*.pt"):
            path.unlink()

    def _resume(self) -> None:
        path = self.output / "last.pt"
        if path.exists():
            checkpoint = read_checkpoint(path)
            missing = sorted(_CHECKPOINT_TYPES.keys() - checkpoint.keys())
            if missing:
                raise ValueError(
                    f"cannot resume {path}: it lacks {', '.join(missing)}. It is not a checkpoint of this version's trainer: "
                    "give another folder as output, and the file as initial_weights.path"
                )
            self._check_values(path, checkpoint)
            for name in ("model", "current"):
                if name in checkpoint:
                    weights = checked_weights(checkpoint[name], path)
                    check_names(self.model.state_dict(), weights, f"cannot resume {path}: it is of another model")
            if checkpoint["seed"] != self.seed:
                raise ValueError(f"cannot resume {path}: its seed is {checkpoint['seed']}, not {self.seed}")
            if not 0 <= checkpoint["step"] <= self.num_steps:
                raise ValueError(
                    f"cannot resume {path}: it was written after step {checkpoint['step']}, and this training has only "
                    f"{self.num_steps} steps. Raise trainer.epochs or data.steps_per_epoch, or give another folder as output"
                )
            self.model.load_state_dict(checkpoint.get("current", checkpoint["model"]))
            # PyTorch would restore the rates, too; those of the config count.
            rates = [{name: group[name] for name in ("peak_lr", "weight_decay")} for group in self.optimizer.param_groups]
            if checkpoint["parameters"] != self._parameter_names():
                raise ValueError(
                    f"cannot resume {path}: other parameters were trained, or in other groups (`frozen`, learning rates). Give "
                    "another folder as output, and the file as initial_weights.path"
                )
            self._check_optimizer(path, checkpoint["optimizer"])
            self.optimizer.load_state_dict(checkpoint["optimizer"])
            for group, ours in zip(self.optimizer.param_groups, rates, strict=True):
                group.update(ours)
            if self.average is not None:
                self.average.module.load_state_dict(checkpoint["model"])
                self.average.n_averaged.fill_(checkpoint.get("num_averaged", 0))
            self.step, self.best = checkpoint["step"], checkpoint["best"]
            self._validation_due = checkpoint["validation_due"]
            if checkpoint["config"] != self.config:
                log.warning("the config is another one than that of %s: the run goes on with the new one", path)
            before = (checkpoint["num_steps"], checkpoint["world_size"])
            if before != (self.num_steps, self.processes.world_size):
                log.warning(
                    "%s was written after %d of %d steps, by %d processes; now there are %d steps, and %d processes. The rate "
                    "and the data go on from step %d",
                    *(path, self.step, *before, self.num_steps, self.processes.world_size, self.step),
                )
            log.info("going on after step %d of %d", self.step, self.num_steps)
        steps = self.processes.gather([self.step])
        if len(set(steps)) > 1:
            raise ValueError(f"the processes are at the steps {steps}: {path} must be in a folder that all of them share")

    def _check_values(self, path: Path, checkpoint: dict[str, Any]) -> None:
        """Raise a ValueError for a checkpoint whose values have other types."""
        for name, expected in (_CHECKPOINT_TYPES | _AVERAGED_TYPES).items():
            value = checkpoint.get(name)
            if name in checkpoint and (not isinstance(value, expected) or (expected is int and isinstance(value, bool))):
                raise ValueError(f"cannot resume {path}: {name!r} in it must be of type {expected.__name__}, not {value!r:.50}")

    def _check_optimizer(self, path: Path, state: dict[str, Any]) -> None:
        """Raise a ValueError for an optimizer's state that is not of these parameters."""
        own = self.optimizer.state_dict()["param_groups"]
        parameters = [parameter for group in self.optimizer.param_groups for parameter in group["params"]]
        groups, moments = state.get("param_groups"), state.get("state")
        fits = (
            isinstance(groups, list)
            and isinstance(moments, dict)
            and len(groups) == len(own)
            and all(
                isinstance(group, dict)
                and group.get("params") == ours["params"]
                and all(type(group.get(name, value)) is type(value) for name, value in ours.items())
                for group, ours in zip(groups, own, strict=True)
            )
            and all(index in range(len(parameters)) and isinstance(moment, dict) for index, moment in moments.items())
        )
        if not fits:
            raise ValueError(f"cannot resume {path}: 'optimizer' in it is not the state of this training's optimizer")
        for index, moment in moments.items():
            shape = parameters[index].shape
            expected = {"step": torch.empty(()), "exp_avg": torch.empty(shape), "exp_avg_sq": torch.empty(shape)}
            where = f"cannot resume {path}: 'optimizer' in it, parameter {index}"
            check_names(expected, checked_weights(moment, where), where)

    def _stop_together(self, started: float) -> bool:
        """Whether any process was asked to stop, or the time is up; the same answer in all processes."""
        minutes = self.settings.stop_after_minutes
        timed_out = minutes is not None and time.monotonic() - started > 60 * minutes
        stop = torch.tensor(float(self._stop_request.made is not None or timed_out), device=self.processes.device)
        return bool(self.processes.sum(stop) > 0)


@contextmanager
def _dead_readers_named() -> Iterator[None]:
    """PyTorch's error, which comes at any time, says nothing of the settings."""
    try:
        yield
    except (RuntimeError, ConnectionError, EOFError) as error:  # the last two where it dies while it hands over a batch
        if isinstance(error, RuntimeError) and not str(error).startswith("DataLoader worker (pid"):
            raise
        raise worker_died("trainer.workers") from error


def _start_reader(_: int) -> None:
    """Start of a process that reads data; the DataLoader gives its number."""
    end_with_parent()
