"""The training loop.

A step depends only on the seed, its number and the weights: data, prompts and dropout use generators that are seeded by them.
So a checkpoint of weights, optimizer and step number is all that a resumed run needs to continue as if it had never stopped,
and the global random state is never touched.
"""

from __future__ import annotations

import logging
import math
import signal
import time
from collections.abc import Generator, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from multiprocessing.process import BaseProcess
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import DataLoader

from i2v.modeling.precision import autocast
from i2v.modeling.sam_i2v import SAMI2V
from i2v.utils.process_memory import peak_memory
from i2v.utils.processes import end_with_parent, worker_died
from train.checkpointing import Checkpoints
from train.dataset.mixture import Batch, MixtureDataset
from train.losses import Loss, check_losses
from train.model.rollout import ClipRollout, PromptedFrame
from train.optimizer import OptimizerSettings, build_optimizer
from train.training_log import TrainingLog
from train.utils.processes import Processes
from train.utils.seeds import derive_seed, seeded
from train.utils.signals import StopRequest, ignoring_signals, killed_children
from train.validation import Validation, validate

log = logging.getLogger(__name__)

_PRECISIONS = ("fp32", "bf16")  # fp16 would need scaled losses


@dataclass
class TrainerSettings:
    """How long and how a training runs.

    Attributes:
        epochs (int): number of passes through the data.
        precision (str): "fp32", or "bf16" for autocast.
        accumulate (int): number of batches per step of the optimizer.
        workers (int): number of processes that read data, for each process that trains.
        checkpoint_minutes (float): time between checkpoints in minutes.
        keep_every (int or None): number of epochs between checkpoints that are kept, as checkpoint_1.pt and so on; None to
            keep none.
        validate_every (int): number of steps between validations.
        log_every (int): number of steps between log entries of TensorBoard.
        picture_every (int): number of steps between pictures in TensorBoard.
        skip_non_finite (bool): skip a step whose loss or gradient is not finite, instead of stopping.
        freeze_batch_norm (bool): normalise with the running statistics, and do not update them. Those of frozen layers are
            never updated.
        stop_after_minutes (float or None): write a checkpoint and stop after this time, to be resumed later; None to train to
            the end.
        average_decay (float or None): decay per step of an exponential moving average of the weights, which is validated, and
            is "model" in the checkpoints; None for no average.
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
        if self.stop_after_minutes is not None and self.stop_after_minutes <= 0:  # no run would get past its first step
            raise ValueError(f"trainer.stop_after_minutes must be above 0, not {self.stop_after_minutes}")
        if self.average_decay is not None and not 0 <= self.average_decay < 1:
            raise ValueError(f"trainer.average_decay must be at least 0 and below 1, not {self.average_decay}")


def average_of(model: nn.Module, decay: float) -> AveragedModel:
    """An exponential moving average of a network's weights.

    It forgets faster in the first steps, because the initial weights may be random.
    """

    def update(
        average: tuple[Tensor, ...] | list[Tensor], current: tuple[Tensor, ...] | list[Tensor], count: Tensor | int
    ) -> None:
        get_ema_multi_avg_fn(min(decay, float((1 + count) / (10 + count))))(average, current, count)

    return AveragedModel(model, multi_avg_fn=update)


class NonFiniteLossError(RuntimeError):
    """The loss or its gradient is infinite or not a number; the message names the samples."""


@dataclass
class _StepReport:
    """What the batches of a step gave.

    Attributes:
        losses (dict[str, float]): mean over batches and processes, by name.
        names (list[str]): names of this process's clips.
        suspects (list[str]): names of this process's clips in batches whose loss is not finite.
        num_frames (int): number of frames in all processes.
        seconds_waited (float): time spent on waiting for data.
        batch (Batch or None): the last batch.
        frames (list[PromptedFrame]): what happened in the frames of the last batch.
    """

    losses: dict[str, float] = field(default_factory=dict)
    names: list[str] = field(default_factory=list)
    suspects: list[str] = field(default_factory=list)
    num_frames: int = 0
    seconds_waited: float = 0.0
    batch: Batch | None = None
    frames: list[PromptedFrame] = field(default_factory=list)


class Trainer:
    """Trains a network; resumes where an earlier run into the same folder stopped.

    Args:
        rollout (ClipRollout): the network unrolled over clips.
        loss (Loss): the training loss.
        data (MixtureDataset): the batches of all steps.
        optimizer (OptimizerSettings): settings of the optimizer.
        settings (TrainerSettings): settings of the training.
        processes (Processes): the processes that train.
        output (Path): folder of checkpoints and logs.
        seed (int): random seed of everything.
        validations (Mapping[str, Validation] or None): validation sets by name; the first one decides which checkpoint is the
            best.
        config (str): the experiment's config as YAML, kept in the checkpoints for the record.

    Attributes:
        step (int): number of steps that are done.
        num_steps: number of steps of the whole training.

    Raises:
        FileNotFoundError, ValueError: a checkpoint that cannot be resumed.
    """

    def __init__(
        self,
        rollout: ClipRollout,
        loss: Loss,
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
        self.output, self.seed = Path(output), seed
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
        self._checkpoints = Checkpoints(
            self.output, self.model, self.optimizer, self.average, self.num_steps, seed, processes, config
        )
        self._progress = self._checkpoints.resume()
        self._stop_request = StopRequest()
        self._network: nn.Module = self.rollout
        if processes.world_size > 1:
            cuda = processes.device.type == "cuda"
            self._network = DistributedDataParallel(self.rollout, device_ids=[processes.device] if cuda else None)

    @property
    def step(self) -> int:
        return self._progress.step

    def run(self) -> signal.Signals | None:
        """Train to the last step, or until the time is up or a signal (SIGTERM, SIGINT) asks to stop.

        A checkpoint is written in each case.

        Returns:
            The signal that stopped this or another process; None without one.

        Raises:
            NonFiniteLossError: the loss or its gradient is not finite.
            TooManyBadSamplesError: too many consecutive samples cannot be read.
            WorkerDiedError: a process that reads data died.
            OSError: a checkpoint cannot be written. The last checkpoint stays in all of these cases.
        """
        if self._is_done():
            log.info("nothing to do: step %d of %d is done", self.step, self.num_steps)
            return None
        with self._stop_request, self._opened_log() as board, self._opened_data() as batches:
            stop = self._train(batches, board)
            if stop:
                self._save("last")
                log.info("stopped after step %d of %d; rerun the same command to resume", self.step, self.num_steps)
            else:
                log.info("finished after %d steps: the weights are in %s", self.num_steps, self.output / "last.pt")
            received = self.processes.gather([self._stop_request.made])  # nobody ends while the first process writes
            return next((kind for kind in received if kind is not None), None) if stop else None

    def _train(self, batches: Iterator[Batch], board: TrainingLog | None) -> bool:
        """Train and validate to the end; returns whether it was asked to stop before."""
        started = saved = time.monotonic()
        while not self._is_done():
            if self._stop_together(started):
                return True
            if self._progress.validation_due:
                self._progress.validation_due = not self._validate(board)
            else:
                self._train_step(batches, board)
                self._progress.step += 1
                if epoch := self._epoch_to_keep():
                    self._save(f"checkpoint_{epoch}")
                self._progress.validation_due = bool(self.validations) and (
                    self.step % self.settings.validate_every == 0 or self.step == self.num_steps
                )
            # Validation takes long: one that is interrupted by a signal or kill is repeated when the run is resumed.
            late = time.monotonic() - saved > 60 * self.settings.checkpoint_minutes
            if late or self._progress.validation_due or self._is_done():
                self._save("last")
                saved = time.monotonic()
        return False

    def _save(self, name: str) -> None:
        self._checkpoints.save(name, self._progress)

    def _epoch_to_keep(self) -> int | None:
        """The epoch that the last step completed, if its checkpoint is kept."""
        accumulate, batches = self.settings.accumulate, len(self.data.schedule)
        before, epoch = ((self.step - 1) * accumulate) // batches, self.step * accumulate // batches
        return epoch if self.settings.keep_every and epoch > before and epoch % self.settings.keep_every == 0 else None

    def _is_done(self) -> bool:
        return self.step >= self.num_steps and not self._progress.validation_due

    @contextmanager
    def _opened_log(self) -> Iterator[TrainingLog | None]:
        """The log, in the first process."""
        if not self.processes.is_first:
            yield None
            return
        self._checkpoints.remove_fragments()
        with closing(TrainingLog(self.output / "tensorboard", self.step, self.num_steps)) as board:
            yield board

    @contextmanager
    def _opened_data(self) -> Iterator[Iterator[Batch]]:
        """The batches of all remaining steps. The processes that read them end with the context."""
        with _dead_readers_named(), killed_children() as workers, closing(self._batches(workers)) as batches:
            yield batches

    def _batches(self, workers: list[BaseProcess]) -> Generator[Batch]:
        num_workers, accumulate = self.settings.workers, self.settings.accumulate
        loader = DataLoader(
            self.data,
            sampler=range(self.step * accumulate, self.num_steps * accumulate),
            batch_size=None,
            num_workers=num_workers,
            pin_memory=self.processes.device.type == "cuda",
            # The workers' base seed, which would otherwise be taken from the global generator.
            generator=torch.Generator().manual_seed(self.seed),
            # Forking a process that runs threads, as this one does, can hang it.
            multiprocessing_context="spawn" if num_workers else None,
            worker_init_fn=_start_reader,
        )
        with ignoring_signals(workers):
            batches = iter(loader)
        yield from batches

    def _train_step(self, batches: Iterator[Batch], board: TrainingLog | None) -> None:
        started = time.monotonic()
        settings = self.optimizer_settings
        factor = settings.factor(self.step, self.num_steps)
        for group in self.optimizer.param_groups:
            group["lr"] = group["peak_lr"] * factor
        self._train_mode()
        self.optimizer.zero_grad(set_to_none=True)
        skipping = self.settings.skip_non_finite
        statistics = [buffer.clone() for buffer in self._running_statistics(self.model)] if skipping else []
        report = self._accumulate_gradients(batches)
        self._forget_unused()
        norm = float(nn.utils.clip_grad_norm_(self.model.parameters(), settings.max_gradient_norm))
        if not math.isfinite(report.losses["total"]):
            self._reject("loss", report.suspects, statistics)
        elif not math.isfinite(norm):
            self._reject("gradient", report.names, statistics)
        else:
            self.optimizer.step()
            if self.average is not None:
                self.average.update_parameters(self.model)
        if board is not None:
            self._log_step(board, report, factor, norm, time.monotonic() - started)

    def _accumulate_gradients(self, batches: Iterator[Batch]) -> _StepReport:
        report = _StepReport()
        for part in range(self.settings.accumulate):
            asked = time.monotonic()
            batch = next(batches).to(self.processes.device, non_blocking=True)
            report.seconds_waited += time.monotonic() - asked
            report.frames = []  # the previous ones would keep their graph if their batch was skipped
            report.frames, losses, finite = self._forward_backward(batch, part)
            for name, value in losses.items():
                report.losses[name] = report.losses.get(name, 0.0) + value / self.settings.accumulate
            report.names += batch.names
            report.suspects += [] if finite else batch.names
            report.num_frames += batch.frames.shape[0] * batch.frames.shape[1] * self.processes.world_size
            report.batch = batch
        return report

    def _log_step(self, board: TrainingLog, report: _StepReport, factor: float, norm: float, seconds: float) -> None:
        board.step(report.losses)
        if self.step % self.settings.log_every == 0:
            scalars = {f"loss/{name}": value for name, value in report.losses.items()}
            scalars["learning_rate/trunk"] = self.optimizer_settings.trunk_learning_rate * factor
            scalars["learning_rate/others"] = self.optimizer_settings.learning_rate * factor
            scalars["gradient_norm"] = norm
            scalars["frames_per_second"] = report.num_frames / seconds
            scalars["seconds_waited_for_data"] = report.seconds_waited
            scalars["peak_memory_megabytes"] = peak_memory(self.processes.device) / 2**20
            board.scalars(scalars, self.step)
        if self.step % self.settings.picture_every == 0 and report.batch is not None:
            board.picture("training", report.batch, report.frames, self.step)

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
            stack.enter_context(seeded(seed, device))  # dropout uses the global generators
            if isinstance(self._network, DistributedDataParallel) and not synchronise:
                stack.enter_context(self._network.no_sync())
            # All processes prompt alike, so that they take equally long.
            plan = self.rollout.prompts.sample(
                batch.frames.shape[1], torch.Generator().manual_seed(derive_seed(self.seed, self.step, part))
            )
            with autocast(device, self.settings.precision):
                frames = self._network(batch.frames, batch.masks, batch.video, torch.Generator(device).manual_seed(seed), plan)
            count = processes.mean(torch.tensor(float(len(batch.masks)), device=device))
            losses = self.loss([frame.predictions for frame in frames], batch.masks, count.clamp(min=1))
            losses = check_losses(losses)
            # Every parameter takes part in every step, with a gradient of zero where a clip does not use it, so that DDP needs
            # no search for unused parameters.
            total = losses["total"] + sum(p.sum() for p in self.model.parameters() if p.requires_grad) * 0.0
            values = torch.stack([value.detach() for value in (losses | {"total": total}).values()])
            means = dict(zip(losses, processes.mean(values).tolist(), strict=True))
            if math.isfinite(means["total"]):
                (total / self.settings.accumulate).backward()
        return frames, means, bool(total.isfinite())

    def _forget_unused(self) -> None:
        """Remove the gradients of parameters that no process used.

        If all clips are photographs, the memory's gradients are zero, and AdamW would still move and decay its parameters.
        """
        parameters = [(parameter, parameter.grad) for parameter in self.model.parameters() if parameter.grad is not None]
        if parameters:  # empty in a step that is skipped
            norms = torch.stack([gradient.norm() for _, gradient in parameters]).tolist()
            for (parameter, _), norm in zip(parameters, norms, strict=True):
                if norm == 0:
                    parameter.grad = None

    @staticmethod
    def _running_statistics(model: nn.Module) -> list[Tensor]:
        modules = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
        return [buffer for module in modules for buffer in module.buffers()]

    def _reject(self, what: str, suspects: list[str], statistics: list[Tensor]) -> None:
        """Stop, or skip the step and restore the running statistics from before it."""
        names = ", ".join(self.processes.gather(suspects))
        if not self.settings.skip_non_finite:
            raise NonFiniteLossError(
                f"the {what} of step {self.step} is not finite. Samples: {names}. "
                "Look at them, lower the learning rate, or set trainer.skip_non_finite=true"
            )
        for buffer, before in zip(self._running_statistics(self.model), statistics, strict=True):
            buffer.copy_(before)
        log.warning("step %d is skipped, its %s is not finite: %s", self.step, what, names)

    def _train_mode(self) -> None:
        self.rollout.train()
        for module in self.model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.train(module.weight.requires_grad and not self.settings.freeze_batch_norm)

    def _validated_model(self) -> SAMI2V:
        """The averaged weights, if there are any."""
        model = self.model if self.average is None else self.average.module
        assert isinstance(model, SAMI2V)
        return model

    def _validate(self, board: TrainingLog | None) -> bool:
        """Validate; returns whether it was completed, not interrupted by a signal."""
        # DDP synchronises BatchNorm buffers only before a forward pass: broadcast them, so that every rank validates the same.
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
        if not scores:  # validations were removed from the config after the run stopped before one
            return True
        log.info("step %d: %s", self.step, ", ".join(f"{name} {score:.1f}" for name, score in scores.items()))
        if board is not None:
            board.scalars({f"validation/{name}": score for name, score in scores.items()}, self.step)
        first = next(iter(scores.values()))
        if first > self._progress.best:
            self._progress.best = first
            self._save("best")
        return True

    def _stop_together(self, started: float) -> bool:
        """Whether any process was asked to stop, or the time is up; the same answer in all processes."""
        minutes = self.settings.stop_after_minutes
        timed_out = minutes is not None and time.monotonic() - started > 60 * minutes
        stop = torch.tensor(float(self._stop_request.made is not None or timed_out), device=self.processes.device)
        return bool(self.processes.sum(stop) > 0)


@contextmanager
def _dead_readers_named() -> Iterator[None]:
    """Replace PyTorch's error for a dead worker, which may come at any time, by one that names the setting."""
    try:
        yield
    except (RuntimeError, ConnectionError, EOFError) as error:  # the last two if it dies while it sends a batch
        if isinstance(error, RuntimeError) and not str(error).startswith("DataLoader worker (pid"):
            raise
        raise worker_died("trainer.workers") from error


def _start_reader(_: int) -> None:
    """Initialise a process that reads data; the DataLoader passes its number."""
    end_with_parent()
