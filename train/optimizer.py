"""AdamW with learning rates that decay with the trunk's depth, and a cosine schedule (SAM-I2V, section 4.1)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from i2v.modeling.sam_i2v import SAMI2V


@dataclass
class OptimizerSettings:
    """Settings of AdamW and of its schedule.

    Attributes:
        learning_rate (float): learning rate of everything except the trunk.
        trunk_learning_rate (float): learning rate of the trunk's last group of modules, the neck.
        layer_decay (float): factor of the learning rate from each group of the trunk to the one before it.
        weight_decay (float): weight decay of everything except biases and the scales of `nn.LayerNorm`.
        decay_scales (bool): apply weight decay to all other scales, as published: those of normalisations over maps, and of
            residual branches.
        final_factor (float): share of the learning rates to which they fall along a cosine.
        warmup_steps (int): number of first steps, in which the learning rates rise linearly.
        max_gradient_norm (float): largest norm of the gradient, to which longer ones are clipped.
    """

    learning_rate: float = 3e-4
    trunk_learning_rate: float = 6e-5
    layer_decay: float = 0.9
    weight_decay: float = 0.1
    decay_scales: bool = True
    final_factor: float = 0.01
    warmup_steps: int = 0
    max_gradient_norm: float = 0.1

    def factor(self, step: int, num_steps: int) -> float:
        """The factor of the learning rates in a step."""
        if step < self.warmup_steps:
            return (step + 1) / (self.warmup_steps + 1)
        progress = (step - self.warmup_steps) / max(num_steps - self.warmup_steps, 1)
        return self.final_factor + (1 - self.final_factor) * 0.5 * (1 + math.cos(math.pi * progress))


def build_optimizer(model: SAMI2V, settings: OptimizerSettings) -> torch.optim.AdamW:
    """AdamW over the parameters that are trained.

    Each parameter group has its own "peak_lr", which the schedule scales.

    Raises:
        ValueError: all parameters are frozen.
    """
    trunk_rates = trunk_learning_rates(model, settings)
    layer_norms = {p for module in model.modules() if isinstance(module, nn.LayerNorm) for p in module.parameters()}
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        rate = trunk_rates.get(parameter, settings.learning_rate)
        is_scale = parameter.ndim == 1  # or a bias, which its name tells; attention biases have two dimensions
        free = "bias" in name or parameter in layer_norms or (is_scale and not settings.decay_scales)
        groups.setdefault((rate, 0.0 if free else settings.weight_decay), []).append(parameter)
    if not groups:
        raise ValueError("no parameter is left to train: `frozen` matches all of them")
    return torch.optim.AdamW(
        [{"params": p, "lr": rate, "peak_lr": rate, "weight_decay": decay} for (rate, decay), p in groups.items()]
    )


def trunk_learning_rates(model: SAMI2V, settings: OptimizerSettings) -> dict[nn.Parameter, float]:
    """The learning rate of each parameter of the trunk.

    Raises:
        ValueError: a parameter of the trunk that is trained is in none of its depth groups.
    """
    trunk = model.image_encoder.trunk_image
    groups: Sequence[Sequence[nn.Module]] = trunk.depth_groups()
    rates: dict[nn.Parameter, float] = {}
    for depth, modules in enumerate(reversed(groups)):
        for module in modules:
            rate = settings.trunk_learning_rate * settings.layer_decay**depth
            rates |= dict.fromkeys(module.parameters(), rate)
    left = [name for name, parameter in trunk.named_parameters() if parameter.requires_grad and parameter not in rates]
    if left:
        raise ValueError(f"{type(trunk).__name__}.depth_groups() leaves out {', '.join(left)}")
    return rates
