"""The training loop: steps, checkpoints, interruptions, logs."""

from __future__ import annotations

import logging
import os
import random
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn

from i2v.utils.checkpoints import read_checkpoint, save_checkpoint
from tests.train.helpers import PLAIN, SIZE, TINY_TRAINING, difference, finish, same, start, use_fixed_weights
from train.trainer import NonFiniteLossError, Trainer, TrainerSettings, average_of
from train.training_log import draw_clip
from train.validation import Validation

MakeTrainer = Callable[..., Trainer]


def checkpoint_of(folder: Path, name: str = "last") -> dict[str, Any]:
    return read_checkpoint(folder / f"{name}.pt")


def before_step(trainer: Trainer, step: int, action: Callable[[], Any]) -> Trainer:
    """Do something before a step."""
    train_step = trainer._train_step

    def wrapped(*arguments: Any) -> None:
        if trainer.step == step:
            action()
        train_step(*arguments)

    trainer._train_step = wrapped
    return trainer


def terminate() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


class Broken(nn.Module):
    """A loss that goes wrong for some clips."""

    def __init__(self, trainer: Trainer, steps: set[int], kind: str) -> None:
        super().__init__()
        self.trainer, self.loss, self.steps, self.kind = trainer, trainer.loss, steps, kind

    def forward(self, frames: Any, masks: torch.Tensor, num_objects: Any) -> dict[str, torch.Tensor]:
        losses = self.loss(frames, masks, num_objects)
        if self.trainer.step in self.steps:
            bad = losses["mask"] * torch.nan if self.kind == "loss" else (losses["mask"] * 0).sqrt()
            losses["total"] = losses["total"] + bad
        return losses


@pytest.fixture(scope="module")
def uninterrupted(clips: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The last checkpoint of a training of 8 steps, with dropout, augmentation and all kinds of prompts."""
    output = tmp_path_factory.mktemp("uninterrupted")
    assert "error" not in finish(start(sys.executable, "train/train.py", *arguments(clips, output)))
    return checkpoint_of(output)


def arguments(clips: Path, output: Path, *overrides: str) -> list[str]:
    """Of the command line."""
    return ["-c", str(TINY_TRAINING), f"folder={clips}", f"output={output}", *overrides]


@pytest.mark.slow
def test_a_checkpoint_holds_all(uninterrupted: dict[str, Any], make_trainer: MakeTrainer, clips: Path) -> None:
    assert uninterrupted["step"] == 8
    assert uninterrupted["seed"] == 3
    assert f"folder: {clips}" in uninterrupted["config"]
    trainer = make_trainer()
    names = [name for name, p in trainer.model.named_parameters() if p.requires_grad]
    assert uninterrupted["model"].keys() == trainer.model.state_dict().keys()
    assert 0.9 * len(names) < len(uninterrupted["optimizer"]["state"]) <= len(names)  # of those that were used
    assert not same(uninterrupted["model"], trainer.model.state_dict())


@pytest.mark.slow
@pytest.mark.parametrize(("stop", "workers"), [(3, 0), (5, 1)])
def test_resumed_equals_uninterrupted(
    make_trainer: MakeTrainer, uninterrupted: dict[str, Any], tmp_path: Path, stop: int, workers: int
) -> None:
    before_step(make_trainer(), stop, terminate).run()
    assert checkpoint_of(tmp_path / "run")["step"] == stop + 1  # the step that was running was finished
    torch.rand(7)  # the global state must not matter
    make_trainer(f"trainer.workers={workers}").run()
    resumed = checkpoint_of(tmp_path / "run")
    assert same({**resumed, "config": ""}, {**uninterrupted, "config": ""})


@pytest.mark.slow
def test_averaged_weights(make_trainer: MakeTrainer, uninterrupted: dict[str, Any], tmp_path: Path) -> None:
    make_trainer("trainer.average_decay=0.6").run()
    averaged = checkpoint_of(tmp_path / "run")
    assert same(averaged["current"], uninterrupted["model"])  # the training itself is the same
    assert averaged["num_averaged"] == 8
    assert not same(averaged["model"], averaged["current"])
    # Interrupted, it comes to the same average.
    output = f"output={tmp_path / 'other'}"
    before_step(make_trainer("trainer.average_decay=0.6", output), 3, terminate).run()
    make_trainer("trainer.average_decay=0.6", output).run()
    resumed = checkpoint_of(tmp_path / "other")
    assert same(resumed["model"], averaged["model"])
    assert same(resumed["current"], averaged["current"])


def test_the_average_forgets_where_it_started() -> None:
    model = nn.Linear(1, 1)
    nn.init.constant_(model.weight, 100)
    average = average_of(model, decay=0.999)
    nn.init.zeros_(model.weight)
    average.update_parameters(model)
    assert float(average.module.weight.detach()) == 0  # the first step is copied
    nn.init.ones_(model.weight)
    for _ in range(100):
        average.update_parameters(model)
    assert 0.99 < float(average.module.weight.detach()) < 1


@pytest.mark.slow
def test_runs_depend_on_the_seed(make_trainer: MakeTrainer, uninterrupted: dict[str, Any], tmp_path: Path) -> None:
    make_trainer("seed=4").run()
    assert not same(checkpoint_of(tmp_path / "run")["model"], uninterrupted["model"])


@pytest.mark.slow
def test_finished_run_does_nothing(make_trainer: MakeTrainer, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    make_trainer("trainer.epochs=1").run()
    written = (tmp_path / "run" / "last.pt").stat().st_mtime_ns
    with caplog.at_level(logging.INFO):
        make_trainer("trainer.epochs=1").run()
    assert "nothing to do: step 4 of 4 is done" in caplog.text
    assert (tmp_path / "run" / "last.pt").stat().st_mtime_ns == written


@pytest.mark.slow
def test_what_cannot_be_resumed(make_trainer: MakeTrainer, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    before_step(make_trainer(), 0, terminate).run()
    with pytest.raises(ValueError, match=r"cannot resume .*last\.pt: its seed is 3, not 4"):
        make_trainer("seed=4")
    with pytest.raises(ValueError, match=r"cannot resume .*last\.pt: it is of another model; .* missing"):
        make_trainer("model.memory_attention.num_layers=3")
    assert make_trainer().step == 1
    assert "the config differs from the one stored in" not in caplog.text
    make_trainer("trainer.epochs=7")
    assert "the config differs from the one stored in" in caplog.text
    path = tmp_path / "run" / "last.pt"
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(ValueError, match=r"last\.pt is not a readable checkpoint"):
        make_trainer()


@pytest.mark.slow
def test_resume_with_other_parameters(make_trainer: MakeTrainer) -> None:
    before_step(make_trainer(), 0, terminate).run()
    with pytest.raises(ValueError, match=r"cannot resume .*last\.pt: other parameters were trained"):
        make_trainer("frozen=[image_encoder.trunk_image]")


@pytest.mark.slow
def test_resume_with_as_many_other_parameters(make_trainer: MakeTrainer) -> None:
    before_step(make_trainer("frozen=[memory_attention.layers.0]"), 0, terminate).run()
    with pytest.raises(ValueError, match=r"cannot resume .*last\.pt: other parameters were trained"):
        make_trainer("frozen=[memory_attention.layers.1]")


@pytest.mark.slow
def test_resume_of_exported_weights(make_trainer: MakeTrainer, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    save_checkpoint(tmp_path / "run" / "last.pt", {"model": make_trainer().model.state_dict()})
    with pytest.raises(ValueError, match=r"cannot resume .*last\.pt: it lacks best, config, num_steps, .*give another"):
        make_trainer()


@pytest.mark.slow
def test_resume_of_a_run_of_another_length(make_trainer: MakeTrainer, caplog: pytest.LogCaptureFixture) -> None:
    before_step(make_trainer(), 0, terminate).run()
    make_trainer("trainer.epochs=7")
    assert "was written after 1 of 8 steps, by 1 processes; now there are 28 steps, and 1 processes" in caplog.text


@pytest.mark.slow
def test_resumed_with_other_rates(make_trainer: MakeTrainer) -> None:
    before_step(make_trainer(), 0, terminate).run()
    groups = make_trainer("optimizer.learning_rate=0.125", "+optimizer.weight_decay=0.25").optimizer.param_groups
    assert max(group["peak_lr"] for group in groups) == 0.125
    assert {group["weight_decay"] for group in groups} == {0, 0.25}


@pytest.mark.slow
def test_time_is_up(make_trainer: MakeTrainer, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        make_trainer("+trainer.stop_after_minutes=0.0001").run()
    assert 0 < checkpoint_of(tmp_path / "run")["step"] < 8
    assert "rerun the same command to resume" in caplog.text


@pytest.mark.slow
def test_checkpoints_in_between(make_trainer: MakeTrainer, tmp_path: Path) -> None:
    steps = []

    def look() -> None:
        steps.append(checkpoint_of(tmp_path / "run")["step"])

    before_step(make_trainer("trainer.checkpoint_minutes=0"), 3, look).run()
    assert steps == [3]


@pytest.mark.slow
def test_checkpoints_of_epochs_stay(make_trainer: MakeTrainer, tmp_path: Path) -> None:
    make_trainer("trainer.keep_every=2", "trainer.epochs=4", "data.steps_per_epoch=3", "trainer.accumulate=2").run()
    assert sorted(path.name for path in (tmp_path / "run").glob("*.pt")) == ["checkpoint_2.pt", "checkpoint_4.pt", "last.pt"]
    assert [checkpoint_of(tmp_path / "run", f"checkpoint_{epoch}")["step"] for epoch in (2, 4)] == [3, 6]
    with pytest.raises(ValueError, match=r"trainer\.keep_every must be at least 1 epoch, or null, not 0"):
        make_trainer("trainer.keep_every=0")


@pytest.mark.slow
def test_what_photographs_do_not_use_stays_as_it_is(make_trainer: MakeTrainer) -> None:
    """Without gradient, AdamW neither moves nor decays the memory's parameters."""
    trainer = make_trainer("data.parts.clips.dataset.num_frames=1", "+optimizer.weight_decay=0.5")
    before = {name: parameter.detach().clone() for name, parameter in trainer.model.named_parameters()}
    trainer.run()
    changed = {name for name, p in trainer.model.named_parameters() if not torch.equal(p, before[name])}
    memory = ("memory_attention.", "memory_encoder.")
    assert any(name.startswith("sam_mask_decoder.") for name in changed)
    assert not any(name.startswith(memory) for name in changed)
    assert all(p.grad is None for name, p in trainer.model.named_parameters() if name.startswith(memory))


def wait_for_checkpoint(process: subprocess.Popen, output: Path, after: int = 0) -> None:
    """Wait until a training has written a checkpoint, `after` some time in nanoseconds."""
    path = output / "last.pt"
    deadline = time.monotonic() + 60
    while not path.exists() or path.stat().st_mtime_ns <= after:
        assert process.poll() is None, finish(process)
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.slow
def test_killed_at_any_time(clips: Path, tmp_path: Path) -> None:
    output, rng = tmp_path / "run", random.Random(0)
    steps = [0]
    for _ in range(2):
        process = start(
            sys.executable, "train/train.py", *arguments(clips, output, "trainer.checkpoint_minutes=0", "trainer.epochs=50")
        )
        wait_for_checkpoint(process, output, after=(output / "last.pt").stat().st_mtime_ns if steps[-1] else 0)
        time.sleep(rng.uniform(0, 0.6))
        process.kill()
        process.wait()
        steps.append(checkpoint_of(output)["step"])
        assert steps[-1] > steps[-2]
    assert steps[-1] < 200


DIES_WHILE_SAVING = """
import os, signal, sys, torch
from train.cli import main

save, count = torch.save, 0

def half(checkpoint, path):
    global count
    count += 1
    save(checkpoint, path)
    if count == 3:
        os.truncate(path, os.path.getsize(path) // 2)
        os.kill(os.getpid(), signal.SIGKILL)

torch.save = half
main(sys.argv[1:])
"""


@pytest.mark.slow
def test_killed_while_saving(clips: Path, tmp_path: Path, uninterrupted: dict[str, Any], make_trainer: MakeTrainer) -> None:
    output = tmp_path / "run"
    process = start(sys.executable, "-c", DIES_WHILE_SAVING, *arguments(clips, output, "trainer.checkpoint_minutes=0"))
    finish(process)
    assert process.returncode == -signal.SIGKILL
    assert checkpoint_of(output)["step"] == 2
    assert len(list(output.glob(".*last.pt"))) == 1  # what was written of the third one
    make_trainer().run()
    assert same({**checkpoint_of(output), "config": ""}, {**uninterrupted, "config": ""})
    assert list(output.glob(".*")) == []


@pytest.mark.slow
def test_full_disk(make_trainer: MakeTrainer, tmp_path: Path) -> None:
    trainer = make_trainer("trainer.checkpoint_minutes=0")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    before_step(trainer, 2, lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, limits[1])))
    try:
        with pytest.raises(OSError, match=r"cannot write .*last\.pt; the previous one is untouched\. Is the disk full"):
            trainer.run()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert checkpoint_of(tmp_path / "run")["step"] == 2
    assert list((tmp_path / "run").glob(".*")) == []


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["loss", "gradient"])
def test_non_finite(make_trainer: MakeTrainer, tmp_path: Path, kind: str, caplog: pytest.LogCaptureFixture) -> None:
    trainer = make_trainer("trainer.checkpoint_minutes=0")
    trainer.loss = Broken(trainer, {2}, kind)
    with pytest.raises(NonFiniteLossError, match=rf"the {kind} of step 2 is not finite. Samples: .*/clip[01]\."):
        trainer.run()
    saved = checkpoint_of(tmp_path / "run")
    assert saved["step"] == 2
    assert all(value.isfinite().all() for value in saved["model"].values())

    trainer = make_trainer("trainer.skip_non_finite=true")
    trainer.loss = Broken(trainer, {2}, kind)
    weights = []
    for step in (2, 3):
        before_step(trainer, step, lambda: weights.append({n: p.clone() for n, p in trainer.model.named_parameters()}))
    trainer.run()
    assert same(*weights)  # the step has changed nothing
    assert f"step 2 is skipped, its {kind} is not finite: " in caplog.text
    assert "/clip" in caplog.text
    last = checkpoint_of(tmp_path / "run")
    assert last["step"] == 8
    assert all(value.isfinite().all() for value in last["model"].values())
    assert not same(last["model"], saved["model"])


@pytest.mark.slow
def test_non_finite_input_leaves_the_running_statistics(make_trainer: MakeTrainer) -> None:
    trainer = make_trainer("trainer.skip_non_finite=true", "trainer.epochs=1")
    forward = trainer.rollout.forward

    def bad_frames(frames: torch.Tensor, *arguments: Any) -> Any:
        return forward(frames * (torch.nan if trainer.step == 1 else 1), *arguments)

    trainer.rollout.forward = bad_frames
    trainer.run()
    assert all(buffer.isfinite().all() for buffer in trainer.model.buffers())


@pytest.mark.slow
def test_non_finite_part_of_a_step(make_trainer: MakeTrainer, caplog: pytest.LogCaptureFixture) -> None:
    trainer = make_trainer("trainer.accumulate=2", "trainer.skip_non_finite=true", "trainer.epochs=1")
    loss, calls = trainer.loss, []

    def first_part_is_bad(*arguments: Any) -> dict[str, torch.Tensor]:
        losses = loss(*arguments)
        calls.append(losses)
        return {**losses, "total": losses["total"] * torch.inf} if len(calls) == 1 else losses

    trainer.loss = first_part_is_bad
    before = {name: p.clone() for name, p in trainer.model.named_parameters()}
    before_step(trainer, 1, lambda: calls.append(same(before, dict(trainer.model.named_parameters()))))
    trainer.run()
    assert calls[2] is True
    assert "step 0 is skipped" in caplog.text
    assert not same(before, dict(trainer.model.named_parameters()))


def gradients_after_one_step(trainer: Trainer) -> dict[str, torch.Tensor]:
    use_fixed_weights(trainer.model)
    before_step(trainer, 0, terminate).run()
    return {name: p.grad for name, p in trainer.model.named_parameters() if p.grad is not None}


@pytest.mark.slow
def test_accumulation(make_trainer: MakeTrainer, tmp_path: Path) -> None:
    unclipped = "optimizer.max_gradient_norm=1e9"
    together = gradients_after_one_step(
        make_trainer(*PLAIN, unclipped, "data.parts.clips.batch_size=2", f"output={tmp_path / 'together'}")
    )
    apart = gradients_after_one_step(make_trainer(*PLAIN, unclipped, "trainer.accumulate=2", f"output={tmp_path / 'apart'}"))
    one = gradients_after_one_step(make_trainer(*PLAIN, unclipped, f"output={tmp_path / 'one'}"))
    assert difference(together, apart) < 1e-4
    assert difference(together, one) > 0.05


@pytest.mark.slow
def test_resume_with_accumulation(make_trainer: MakeTrainer, tmp_path: Path) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    make_trainer("trainer.accumulate=2", f"output={whole}").run()
    before_step(make_trainer("trainer.accumulate=2", f"output={parts}"), 1, terminate).run()
    make_trainer("trainer.accumulate=2", f"output={parts}").run()
    assert checkpoint_of(whole)["step"] == 4
    assert same({**checkpoint_of(whole), "config": ""}, {**checkpoint_of(parts), "config": ""})


@pytest.mark.slow
def test_gradients_are_clipped_and_rates_scheduled(make_trainer: MakeTrainer) -> None:
    trainer = make_trainer("optimizer.max_gradient_norm=0.01", "trainer.epochs=1")
    rates = []
    for step in range(1, 4):
        before_step(trainer, step, lambda: rates.append([group["lr"] for group in trainer.optimizer.param_groups]))
    trainer.run()
    norm = torch.stack([p.grad.norm() for p in trainer.model.parameters() if p.grad is not None]).norm()
    assert norm == pytest.approx(0.01, rel=1e-3)
    peaks = [group["peak_lr"] for group in trainer.optimizer.param_groups]
    expected = [[peak * trainer.optimizer_settings.factor(step, 4) for peak in peaks] for step in range(3)]
    assert rates == expected


@pytest.mark.slow
def test_global_random_state_is_not_touched(make_trainer: MakeTrainer) -> None:
    def state() -> tuple[Any, ...]:
        return torch.get_rng_state().tolist(), random.getstate(), [str(part) for part in np.random.get_state()]

    before = state()
    trainer = make_trainer("trainer.epochs=1")
    trainer.validations = {"scores": Scores([1])}
    trainer.run()
    assert state() == before


@pytest.mark.slow
def test_batch_normalisation_can_be_frozen(make_trainer: MakeTrainer, tmp_path: Path) -> None:
    def change(*overrides: str) -> bool:
        trainer = make_trainer("trainer.epochs=1", *overrides)
        name = "image_encoder.trunk_image.patch_embed.seq.0.bn.running_mean"
        before = trainer.model.state_dict()[name].clone()
        trainer.run()
        return not torch.equal(before, trainer.model.state_dict()[name])

    assert change(f"output={tmp_path / 'a'}")
    assert not change(f"output={tmp_path / 'b'}", "trainer.freeze_batch_norm=true")
    assert not change(f"output={tmp_path / 'c'}", "frozen=[image_encoder.trunk_image]")


class Scores(Validation):
    """Gives one score after another."""

    def __init__(self, scores: list[float]) -> None:
        self.scores = iter(scores)

    def __len__(self) -> int:
        return 1

    def score(self, model: nn.Module, index: int, precision: str) -> float:
        assert not model.training
        return next(self.scores)

    def read_one(self) -> None:
        pass


@pytest.mark.slow
def test_best_and_last(make_trainer: MakeTrainer, tmp_path: Path) -> None:
    trainer = make_trainer("trainer.validate_every=2", "trainer.checkpoint_minutes=0")
    trainer.validations = {"first": Scores([float("nan"), 70, 60]), "second": Scores([1, 2, 3, 4])}
    before_step(trainer, 6, terminate).run()
    best = checkpoint_of(tmp_path / "run", "best")
    assert (best["step"], best["best"]) == (4, 70)
    assert checkpoint_of(tmp_path / "run")["best"] == 70

    trainer = make_trainer("trainer.validate_every=2")
    trainer.validations = {"first": Scores([65])}
    trainer.run()
    assert checkpoint_of(tmp_path / "run", "best")["step"] == 4
    assert checkpoint_of(tmp_path / "run")["step"] == 8


class Interrupted(Scores):
    """Is killed before it gives a score."""

    def score(self, model: nn.Module, index: int, precision: str) -> float:
        raise KeyboardInterrupt


@pytest.mark.slow
@pytest.mark.parametrize("step", [2, 8])
def test_an_interrupted_validation_is_done_when_the_run_goes_on(make_trainer: MakeTrainer, tmp_path: Path, step: int) -> None:
    overrides = (f"trainer.validate_every={step}",)
    trainer = make_trainer(*overrides)
    trainer.validations = {"scores": Interrupted([])}
    with pytest.raises(KeyboardInterrupt):
        trainer.run()
    assert checkpoint_of(tmp_path / "run")["step"] == step  # nothing is lost
    trainer = make_trainer(*overrides)
    trainer.validations = {"scores": Scores([70, 60, 60, 60])}
    trainer.run()
    assert checkpoint_of(tmp_path / "run", "best")["step"] == step
    assert checkpoint_of(tmp_path / "run")["step"] == 8


@pytest.mark.slow
def test_no_validation_after_a_signal(make_trainer: MakeTrainer, tmp_path: Path) -> None:
    trainer = before_step(make_trainer("trainer.validate_every=2"), 1, terminate)
    trainer.validations = {"scores": Interrupted([])}
    assert trainer.run() == signal.SIGTERM
    assert checkpoint_of(tmp_path / "run")["step"] == 2
    trainer = make_trainer("trainer.validate_every=2")
    trainer.validations = {"scores": Scores([70, 60, 60, 60])}
    assert trainer.run() is None
    assert checkpoint_of(tmp_path / "run", "best")["step"] == 2


@pytest.mark.slow
def test_a_signal_during_a_validation(make_trainer: MakeTrainer, tmp_path: Path) -> None:
    class Terminating(Scores):
        def __len__(self) -> int:
            return 2

        def score(self, model: nn.Module, index: int, precision: str) -> float:
            terminate()
            return super().score(model, index, precision)

    trainer = make_trainer("trainer.validate_every=2")
    trainer.validations = {"scores": Terminating([1])}  # it is asked for one score only
    assert trainer.run() == signal.SIGTERM
    assert checkpoint_of(tmp_path / "run")["validation_due"] is True
    trainer = make_trainer("trainer.validate_every=2")  # without validations it trains all the same
    assert trainer.run() is None
    assert checkpoint_of(tmp_path / "run")["step"] == 8


FAILS_IN_A_STEP = """
import sys
from train.cli import main
from train.trainer import Trainer

def fail(*_):
    raise KeyError("something unforeseen")

Trainer._forward_backward = fail
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.slow
def test_an_error_ends_the_workers(clips: Path, tmp_path: Path) -> None:
    process = start(sys.executable, "-c", FAILS_IN_A_STEP, *arguments(clips, tmp_path, "trainer.workers=2"))
    printed = finish(process, timeout=60)  # Python would wait for the workers
    assert process.returncode == 1
    assert "KeyError: 'something unforeseen'" in printed
    assert "DataLoader worker" not in printed


KILLS_ITS_READERS = """
import multiprocessing, sys
from train.cli import main
from train.trainer import Trainer

step = Trainer._train_step

def wrapped(trainer, *arguments):
    step(trainer, *arguments)
    if trainer.step == 2:
        for child in multiprocessing.active_children():
            child.kill()

Trainer._train_step = wrapped
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.slow
def test_a_killed_reader_is_one_line(clips: Path, tmp_path: Path) -> None:
    overrides = ("trainer.workers=1", "trainer.epochs=500")
    process = start(sys.executable, "-c", KILLS_ITS_READERS, *arguments(clips, tmp_path, *overrides))
    printed = finish(process, timeout=60)
    assert process.returncode == 1
    assert "\nerror: a worker process died, probably because memory ran out: give a lower trainer.workers\n" in printed
    assert "Traceback" not in printed


HOLDS_ON_TO_ITS_CALLERS = """
import gc, sys
from train.cli import main
from train.trainer import Trainer

step = Trainer._train_step

def wrapped(*arguments):
    step(*arguments)
    try:
        raise ValueError
    except ValueError as error:
        kept = error  # a cycle of this frame, the error, and its traceback

Trainer._train_step = wrapped
gc.disable()
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.slow
def test_workers_end_with_the_training(clips: Path, tmp_path: Path) -> None:
    """Also where something holds on to the loop's frame and its variables."""
    overrides = ("trainer.workers=1", "trainer.epochs=1")
    process = start(sys.executable, "-c", HOLDS_ON_TO_ITS_CALLERS, *arguments(clips, tmp_path, *overrides))
    printed = finish(process, timeout=60)
    assert process.returncode == 0, printed


@pytest.mark.slow
def test_workers_end_with_a_killed_training(clips: Path, tmp_path: Path) -> None:
    overrides = ("trainer.workers=2", "trainer.checkpoint_minutes=0", "trainer.epochs=500")
    process = start(sys.executable, "train/train.py", *arguments(clips, tmp_path, *overrides))
    wait_for_checkpoint(process, tmp_path)
    process.kill()
    finish(process, timeout=20)  # waits until nobody has its output open


@pytest.mark.slow
def test_tensorboard(make_trainer: MakeTrainer, tmp_path: Path) -> None:
    overrides = ("trainer.picture_every=4", "trainer.log_every=2", "trainer.validate_every=4")
    trainer = make_trainer(*overrides)
    trainer.validations = {"clips": Scores([50, 60])}
    trainer.run()
    events = EventAccumulator(str(tmp_path / "run" / "tensorboard")).Reload()
    steps = {tag: [event.step for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}
    training = [
        *(f"loss/{name}" for name in ("mask", "iou", "presence", "total")),
        "learning_rate/trunk",
        "learning_rate/others",
        "gradient_norm",
        "frames_per_second",
        "seconds_waited_for_data",
        "peak_memory_megabytes",
    ]
    assert steps == {**{tag: [0, 2, 4, 6] for tag in training}, "validation/clips": [4, 8]}
    assert events.Scalars("learning_rate/others")[0].value == pytest.approx(1e-3)
    assert events.Scalars("learning_rate/trunk")[0].value == pytest.approx(5e-4)
    assert [event.value for event in events.Scalars("validation/clips")] == [50, 60]
    pictures = events.Images("training")
    assert [picture.step for picture in pictures] == [0, 4]
    assert (pictures[0].height, pictures[0].width) == (2 * SIZE, 3 * SIZE)


@pytest.mark.slow
def test_picture_shows_prompts_prediction_and_truth(make_trainer: MakeTrainer) -> None:
    trainer = make_trainer("prompts.mask=0", "data.parts.clips.transform._target_=train.dataset.transforms.PlainTransform")
    batch = trainer.data[0]
    with torch.no_grad():
        frames = trainer.rollout.eval()(batch.frames, batch.masks, batch.video, torch.Generator().manual_seed(0))
    frames[0].predictions[-1].masks[:] = -1
    picture = draw_clip(batch, frames)
    truth = picture[SIZE:, :SIZE].astype(int)
    both = batch.masks[:2, 0].any(0).numpy()
    inside, outside = truth[both], truth[~both]
    assert np.ptp(outside, axis=1).mean() < 10 < np.ptp(inside, axis=1).mean()  # grey background, coloured objects
    above = picture[:SIZE, :SIZE].astype(int)
    changed = np.abs(above - truth).sum(2) > 60
    assert changed[both].mean() > 0.3  # no mask is drawn there, but the true ones below
    x, y = frames[0].points[0, -1].long().tolist()
    assert np.abs(above - truth)[max(y - 2, 0) : y + 3, max(x - 2, 0) : x + 3].sum() > 0


@pytest.mark.slow
def test_ctrl_c_reaches_the_workers(clips: Path, tmp_path: Path) -> None:
    output = tmp_path / "run"
    overrides = ("trainer.checkpoint_minutes=0", "trainer.epochs=500", "trainer.workers=1")
    process = start(sys.executable, "train/train.py", *arguments(clips, output, *overrides))
    wait_for_checkpoint(process, output)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: the workers, too
    printed = finish(process)
    assert process.returncode == 128 + signal.SIGINT, printed
    assert "stopped after step" in printed
    assert "Traceback" not in printed
    assert checkpoint_of(output)["step"] > 0


def test_settings() -> None:
    with pytest.raises(ValueError, match=r"unknown trainer\.precision 'half'; known: fp32, bf16"):
        TrainerSettings(precision="half")
    with pytest.raises(ValueError, match=r"trainer\.accumulate must be at least 1, not 0"):
        TrainerSettings(accumulate=0)


@pytest.mark.slow
def test_bf16(make_trainer: MakeTrainer, tmp_path: Path) -> None:
    make_trainer("trainer.precision=bf16", "trainer.epochs=1").run()
    weights = checkpoint_of(tmp_path / "run")["model"].values()
    assert all(value.dtype in (torch.float32, torch.int64) and value.isfinite().all() for value in weights)
