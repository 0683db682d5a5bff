"""The memory of this process."""

from __future__ import annotations

import ctypes
import sys

import torch


def release_free_memory() -> None:
    """Return free memory to the system, if the C library is glibc; elsewhere do nothing.

    Results that are kept lie between large tensors that come and go with every frame, so free memory becomes fragmented, and
    the process grows by 0.2 MB per full-size frame. Takes some milliseconds.
    """
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)


def peak_memory(device: torch.device) -> int:
    """Peak memory in bytes: PyTorch's on a CUDA device, elsewhere this process's resident memory."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    import resource  # not on Windows

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
