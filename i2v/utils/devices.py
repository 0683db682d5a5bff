"""Devices by name: which one to use, and whether it works."""

from __future__ import annotations

import torch

from i2v.utils.command_line import one_line


def default_device() -> torch.device:
    """Return CUDA if there is any, else MPS, else the CPU."""
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def usable_device(device: str | int | torch.device | None = None) -> torch.device:
    """Return a device on which PyTorch works, by default `default_device()`.

    Raises:
        ValueError: there is no such device.
    """
    device = default_device() if device is None else device
    try:
        return torch.empty(0, device=device).device
    # AssertionError: PyTorch without CUDA; ImportError: a kind that needs a missing package; ValueError: a large number
    except (RuntimeError, AssertionError, ImportError, TypeError, ValueError) as error:
        raise ValueError(f"cannot use the device {str(device)!r}: {one_line(error)}") from error


def device_of_option(text: str | None) -> torch.device:
    """Return the device that `--device` names, by default `default_device()`. As in Python, a number is that of a GPU.

    Raises:
        ValueError: there is no such device, or it cannot compute.
    """
    try:
        # Longer numbers are not those of a GPU.
        device = usable_device(int(text) if text is not None and text.isdecimal() and len(text) < 19 else text)
        if device.type == "meta":
            raise ValueError("nothing is computed on the device 'meta'")
    except ValueError as error:
        raise ValueError(f"--device is cuda, cuda:NUMBER, mps or cpu: {error}") from error
    return device
