"""Numerical precision: what runs in bfloat16 or float16, and what stays in float32."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def has_fast_bf16() -> bool:
    """Return whether this CPU has instructions for bfloat16. Emulated products are up to 175 times slower than float32."""
    return torch.backends.cpu.get_cpu_capability() not in ("NO AVX", "AVX2")


def usual_precision(device: torch.device) -> str:
    """Return the precision that users of a device expect: bf16 on a GPU that supports it, else fp32."""
    return "bf16" if device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"


def autocast(device: torch.device, precision: str) -> AbstractContextManager:
    """Run matrix products and convolutions in a precision, a key of `PRECISIONS`."""
    dtype = PRECISIONS[precision]
    return torch.autocast(device.type, dtype=dtype, enabled=dtype != torch.float32)


def full_precision(x: Tensor) -> AbstractContextManager:
    """Disable autocast on the device of `x`, for the few sums whose rounding errors reach the mask."""
    if not torch.amp.is_autocast_available(x.device.type):  # such as the meta device
        return nullcontext()
    return torch.autocast(x.device.type, enabled=False)
