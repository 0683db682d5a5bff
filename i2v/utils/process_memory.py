"""The memory of this process."""

from __future__ import annotations

import ctypes
import sys

import torch


def release_free_memory() -> None:
    """Give memory that is free back to the system, where the C library is glibc; elsewhere nothing.

    Results that stay lie between large tensors that come and go with every frame, so that free memory falls into pieces and
    more and more is taken from the system: 0.2 MB per full-size frame. Takes some milliseconds.
    """
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)


def peak_memory(device: torch.device) -> int:
    """Bytes: the most that PyTorch held on a CUDA device, elsewhere the most that this process ever had resident."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    import resource  # not on Windows

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
