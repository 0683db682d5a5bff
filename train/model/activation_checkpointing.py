"""Activation checkpointing: parts of a training step are computed again in the backward pass, to save memory.

It is applied from outside of the network, to modules that the config names.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from fnmatch import fnmatchcase
from functools import partial

from torch import nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import (
    apply_activation_checkpointing,
    checkpoint_wrapper,
)
from torch.nn.modules.batchnorm import _BatchNorm

from i2v.utils.messages import nearest
from train.model.rollout import RECOMPUTABLE_STEPS, ClipRollout

_PREFIX = "_checkpoint_wrapped_module."


def recompute_activations(rollout: ClipRollout, loss: object, names: Sequence[str]) -> None:
    """Recompute the activations of some modules in the backward pass, instead of keeping them.

    State-dict names and gradients stay the same; batch normalisation updates its running statistics once per step.

    Args:
        rollout (ClipRollout): the network unrolled over clips.
        loss (object): the loss; its modules can be recomputed if it is an `nn.Module`.
        names (Sequence[str]): each is the name of a module of the network or of the loss ("memory_encoder"), with * for any
            characters ("memory_attention.layers.*"), the name of a class ("TinyViTBlock"), or one of the rollout's steps
            (`RECOMPUTABLE_STEPS`). Modules inside of a module that is recomputed are not treated separately.

    Raises:
        ValueError: a name matches nothing.
    """
    roots = [rollout.model, loss] if isinstance(loss, nn.Module) else [rollout.model]
    unmatched = set(names) - set(RECOMPUTABLE_STEPS)
    rollout.recomputed_steps = frozenset(names) & frozenset(RECOMPUTABLE_STEPS)
    known = set(RECOMPUTABLE_STEPS)
    for root in roots:
        chosen: dict[str, nn.Module] = {}
        for name, module in root.named_modules():
            kind = type(module).__name__
            known |= {name, kind}
            matching = {pattern for pattern in names if fnmatchcase(name, pattern) or kind == pattern}
            unmatched -= matching
            if name and matching and not any(name.startswith(f"{outer}.") for outer in chosen):
                chosen[name] = module
        modules = set(chosen.values())
        apply_activation_checkpointing(root, _wrapped, modules.__contains__)
    for name in sorted(unmatched):
        near = nearest(name, known)
        raise ValueError(
            f"activation_checkpointing: {name!r} is neither a module, nor a class of modules, nor one of the steps "
            f"{', '.join(RECOMPUTABLE_STEPS)}" + (f"; did you mean {near}?" if near else "")
        )


def original_name(name: str) -> str:
    """The name of a parameter in the network without activation checkpointing."""
    return name.replace(_PREFIX, "")


def _wrapped(module: nn.Module) -> nn.Module:
    return checkpoint_wrapper(module, context_fn=partial(_contexts, module))


def _contexts(module: nn.Module) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    """Contexts of the forward pass and of the recomputation."""
    return nullcontext(), _kept_running_statistics(module)


@contextmanager
def _kept_running_statistics(module: nn.Module) -> Iterator[None]:
    """Normalise batches with their own statistics as before, without another update of the running statistics."""
    norms = [part for part in module.modules() if isinstance(part, _BatchNorm)]
    former = [(norm.momentum, norm.num_batches_tracked) for norm in norms]
    for norm in norms:
        norm.momentum, norm.num_batches_tracked = 0.0, None
    try:
        yield
    finally:
        for norm, (momentum, count) in zip(norms, former, strict=True):
            norm.momentum, norm.num_batches_tracked = momentum, count
