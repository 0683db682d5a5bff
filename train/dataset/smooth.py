"""Random numbers that change smoothly over the frames of a clip."""

from __future__ import annotations

import numpy as np


def curve(controls: np.ndarray, num_frames: int) -> np.ndarray:
    """The polynomial through control points (K, D) at equal times: (T, D)."""
    coefficients = np.polynomial.polynomial.polyfit(np.linspace(0, 1, len(controls)), controls, len(controls) - 1)
    return np.polynomial.polynomial.polyval(np.linspace(0, 1, num_frames), coefficients).T


def drift(rng: np.random.Generator, num_frames: int, most: float) -> np.ndarray:
    """A smooth change from 0, (T,), whose largest deviation is a random share of `most`."""
    change = curve(rng.uniform(-1, 1, (4, 1)), num_frames)[:, 0]
    change -= change[0]
    return change * (most * rng.random() / np.abs(change).max())


def log_uniform(rng: np.random.Generator, limits: tuple[float, float]) -> float:
    """A random number between the limits whose logarithm is uniform."""
    return float(np.exp(rng.uniform(*np.log(limits))))
