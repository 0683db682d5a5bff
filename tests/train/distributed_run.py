"""Run by torchrun: FOLDER_OF_CLIPS OUTPUT MODE. Trains a few steps, and leaves what each process ended with."""

from __future__ import annotations

import logging
import sys
from pathlib import Path

import torch

from i2v.modeling.sam_i2v import SAMI2V
from tests.train.helpers import PLAIN, TINY_TRAINING, use_fixed_weights
from train.cli import build_trainer, load_experiment
from train.model.activation_checkpointing import original_name
from train.utils.processes import start_processes
from train.validation import Validation

clips, output, mode = sys.argv[1:]
overrides = [f"folder={clips}", f"output={output}", "optimizer.max_gradient_norm=1e9", "trainer.epochs=1"]
overrides += PLAIN
if mode == "skip":
    overrides += ["trainer.skip_non_finite=true", "trainer.accumulate=2", "data.steps_per_epoch=8"]
if mode == "recompute":
    overrides.append("+activation_checkpointing=[MBConv,TinyViTBlock,TemporalNet,decode,remember]")
if mode == "validate":
    overrides.append("trainer.freeze_batch_norm=false")
logging.basicConfig(level=logging.INFO, format="%(message)s")


class Statistics(Validation):
    """Keeps what each process validates with."""

    def __len__(self) -> int:
        return 2

    def score(self, model: SAMI2V, index: int, precision: str) -> float:
        torch.save(model.state_dict(), Path(output) / f"validated{index}.pt")
        return index

    def read_one(self) -> None:
        pass


with start_processes() as processes:
    overrides.append(f"data.parts.clips.batch_size={2 // processes.world_size}")
    trainer = build_trainer(load_experiment(str(TINY_TRAINING), overrides), processes)
    use_fixed_weights(trainer.model)
    train_step, loss, calls = trainer._train_step, trainer.loss, []

    def record_first_gradients(*arguments) -> None:
        first = trainer.step == 0
        if mode == "dies" and trainer.step == 1 and processes.rank == 1:
            raise OSError("the disk is gone")
        train_step(*arguments)
        if first:
            gradients = {
                original_name(name): p.grad.clone() for name, p in trainer.model.named_parameters() if p.grad is not None
            }
            torch.save(gradients, Path(output) / f"gradients{processes.rank}.pt")

    def break_some(*arguments) -> dict[str, torch.Tensor]:
        losses = loss(*arguments)
        calls.append(losses)
        # In the first step the last part, in the second one the first part, and in one process only.
        if processes.rank == 1 and (mode == "stop" or (mode == "skip" and len(calls) in (2, 3))):
            losses["total"] = losses["total"] * torch.nan
        return losses

    if mode == "validate":
        trainer.validations = {"statistics": Statistics()}
    trainer._train_step, trainer.loss = record_first_gradients, break_some
    Path(output).mkdir(parents=True, exist_ok=True)
    trainer.run()
    torch.save(trainer.model.state_dict(), Path(output) / f"weights{processes.rank}.pt")
