"""Count the GPU memory that a training step needs, for several settings of activation checkpointing.

    python -m train.measure_memory [--config i2v-train] [OVERRIDE ...]

Nothing is computed, and no GPU is needed: the step runs on PyTorch's fake tensors, which have shapes and types but no data, in
bfloat16 autocast and with fused attention. Every allocation is followed, forward and backward, so that the peak includes what
is recomputed. Overrides such as data.parts.sav.dataset.max_objects=4 change what is counted. It takes some minutes.
"""

from __future__ import annotations

import argparse
import sys
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple
from unittest.mock import patch

import torch
import torch.nn.functional as F
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from i2v.typed_config import build
from i2v.utils.command_line import command_line, given_text
from i2v.utils.json_form import require_form
from train.cli import load_experiment, recomputed_in
from train.model.activation_checkpointing import recompute_activations
from train.model.rollout import ClipRollout

GIBI = 2**30
# What can be recomputed, by its name in the table: entries of the config's `activation_checkpointing`.
RECOMPUTABLE = {
    "trunk": ["image_encoder.trunk_image.*blocks.*"],
    "TFI": ["TemporalNet"],
    "memory attention": ["MemoryAttentionLayer"],
    "decoder and memory encoder": ["decode", "remember"],
    "loss": ["PredictionLoss"],
}
# Float32 numbers per parameter: itself, gradient, DDP's copy of the gradient, and AdamW's two averages.
_NUMBERS_PER_PARAMETER = 5

# The entries of a config that are read.
_SECTION = {"_target_": str}
_FORM = {
    "data": {"parts": {str: {"batch_size": int, "dataset": {**_SECTION, "max_objects": int}}}},
    **dict.fromkeys(("model", "prompts", "loss"), _SECTION),
}

_layer_norm = F.layer_norm


class StepMemory(NamedTuple):
    """Memory of the activations of a step.

    Attributes:
        kept (int): bytes that are kept from the forward to the backward pass.
        peak (int): largest number of bytes at any time in both passes.
    """

    kept: int
    peak: int


class MemoryTracker(TorchDispatchMode):
    """Follows the tensors that are made while it is active.

    Attributes:
        current: bytes of those that still exist.
        peak: largest number of bytes at any time.
    """

    def __init__(self) -> None:
        super().__init__()
        self.current = self.peak = 0
        self._known: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None) -> Any:
        if func is torch.ops.aten._local_scalar_dense.default:
            return False  # the rollout branches on whether memories repeat, and whether to click on the error or on the object
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor):
                self._add(tensor.untyped_storage())
        return result

    def _add(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key not in self._known:
            self._known.add(key)
            self.current += size
            self.peak = max(self.peak, self.current)
            weakref.finalize(storage, self._remove, key, size)

    def _remove(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.current -= size


class FusedAttention(torch.autograd.Function):
    """Allocates and keeps what a GPU's fused attention does: no scores, but one number per query."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        output = q.new_empty(*q.shape[:-1], v.shape[-1])
        ctx.save_for_backward(q, k, v, output, q.new_empty(q.shape[:-1], dtype=torch.float32))
        return output

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, ...]:
        return tuple(torch.empty_like(x) for x in ctx.saved_tensors[:3])


def _fused_attention(q: Tensor, k: Tensor, v: Tensor, **_: Any) -> Tensor:
    return FusedAttention.apply(q.bfloat16(), k.bfloat16(), v.bfloat16())


def _float32_layer_norm(x: Tensor, *arguments: Any) -> Tensor:
    return _layer_norm(x.float(), *arguments)


@contextmanager
def like_a_gpu() -> Iterator[None]:
    """A context with fake tensors on the CPU that are handled as on a GPU.

    Autograd would ask the driver about fake tensors on a GPU. Where autocast differs on a GPU, this is imitated.
    """
    with (
        FakeTensorMode(allow_non_fake_inputs=True),
        patch.object(F, "layer_norm", _float32_layer_norm),
        patch.object(F, "scaled_dot_product_attention", _fused_attention),
    ):
        yield


def step_memory(config: DictConfig, recomputed: Sequence[str], clips: int, frames: int, objects: int) -> StepMemory:
    """The memory of a step's activations with the costliest prompts: all rounds of clicks, in as many frames as allowed.

    Args:
        config (DictConfig): the experiment.
        recomputed (Sequence[str]): what is computed again in the backward pass; see `recompute_activations`.
        clips (int): number of clips in the batch.
        frames (int): number of frames in each clip.
        objects (int): number of objects in each clip.
    """
    with torch.device("meta"):
        model = build(config, "model")
    prompts = build(config, "prompts")
    plan = prompts.costliest(frames)
    with like_a_gpu():
        rollout = ClipRollout(model.to_empty(device="cpu"), prompts).train()
        loss = build(config, "loss")
        recompute_activations(rollout, loss, recomputed)
        images = torch.empty(clips, frames, 3, model.image_size, model.image_size)
        masks = torch.empty(clips * objects, frames, model.image_size, model.image_size, dtype=torch.bool)
        video = torch.arange(clips * objects) // objects
        with MemoryTracker() as tracker:
            with torch.autocast("cpu", torch.bfloat16):
                results = rollout(images, masks, video, torch.Generator(), plan)
            total = loss([frame.predictions for frame in results], masks, float(len(masks)))["total"]
            kept = tracker.current
            total.backward()
    return StepMemory(kept, tracker.peak)


def batches_of(config: DictConfig) -> dict[str, tuple[int, int, int]]:
    """The numbers of clips, frames and objects of the largest batch of each data set.

    Raises:
        ValueError: a number is missing or not positive.
    """
    batches = {}
    for name, part in config.data.parts.items():
        batches[name] = batch = (part.batch_size, part.dataset.get("num_frames", 1), part.dataset.max_objects)
        if not all(isinstance(number, int) and number > 0 for number in batch):
            raise ValueError(
                f"data.parts.{name}: batch_size, num_frames and max_objects are {batch}, expected numbers from 1 on"
            )
    return batches


def settings_of(config: DictConfig) -> dict[str, Sequence[str]]:
    """The rows of the table: a title, and what is recomputed."""
    everything = [entry for entries in RECOMPUTABLE.values() for entry in entries]
    own = recomputed_in(config)
    return {
        "nothing": [],
        **{f"only {name}": entries for name, entries in RECOMPUTABLE.items()},
        "everything": everything,
        f"the config's: {', '.join(own) or 'nothing'}": own,
    }


@command_line
def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--config", type=given_text, default="i2v-train", help="an experiment or a YAML file (default: i2v-train)"
    )
    parser.add_argument("overrides", nargs="*", metavar="OVERRIDE", help="values of the config to change, KEY=VALUE")
    args = parser.parse_args(argv)
    try:
        config = load_experiment(args.config, args.overrides)
        recomputed_in(config)
        require_form(OmegaConf.to_container(config, resolve=True), _FORM, f"the config {args.config}")
        print_table(config)
    except (HydraException, OmegaConfBaseException) as error:
        raise ValueError(f"the config {args.config} cannot be used: {error}") from error


def print_table(config: DictConfig) -> None:
    """Print the table of all settings of `settings_of`."""
    batches = batches_of(config)
    with torch.device("meta"):
        parameters = sum(p.numel() for p in build(config, "model").parameters())
    print(f"weights, gradients, AdamW, DDP: {parameters * 4 * _NUMBERS_PER_PARAMETER / GIBI:.2f} GiB")
    print("\nGiB of activations: peak (kept after the forward pass)\n")
    titles = [f"{name}: {c} x {t} frames, {o} objects each" for name, (c, t, o) in batches.items()]
    print("| recomputed |", " | ".join(titles), "|")
    print("|---|" + "---|" * len(titles))
    for row, recomputed in settings_of(config).items():
        memories = [step_memory(config, recomputed, *batch) for batch in batches.values()]
        cells = [f"{memory.peak / GIBI:.1f} ({memory.kept / GIBI:.1f})" for memory in memories]
        print(f"| {row} |", " | ".join(cells), "|", flush=True)


if __name__ == "__main__":
    sys.exit(main())
