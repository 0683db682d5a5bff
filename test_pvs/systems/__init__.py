"""The systems that are compared, behind one interface (`VideoSystem`, `VideoSession`).

`SystemSettings` says which system and how; it is built where it runs: in every worker, on the worker's device.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass

from i2v.build_i2v import DEFAULT_CONFIG
from test_pvs.systems.carried_masks import CarriedMaskSession, OpticalFlow, StaticMask
from test_pvs.systems.interface import Box, Point, VideoSession, VideoSystem
from test_pvs.systems.predictors import SAM2, SAMI2V, PredictorSession

__all__ = [
    "SAM2",
    "SAMI2V",
    "SYSTEMS",
    "Box",
    "CarriedMaskSession",
    "OpticalFlow",
    "Point",
    "PredictorSession",
    "StaticMask",
    "SystemSettings",
    "VideoSession",
    "VideoSystem",
    "build_system",
]


@dataclass(frozen=True)
class SystemSettings:
    """Which system to run, and how.

    Attributes:
        system: one of `SYSTEMS`, or "package.module:function" of one's own, which is called with these settings and returns a
            VideoSystem. config, checkpoint, precision, overrides: of systems that have such; None for their defaults.
    """

    system: str = "sam-i2v"
    config: str | None = None
    checkpoint: str | None = None
    device: str = "cpu"
    precision: str | None = None
    overrides: tuple[str, ...] = ()


SYSTEMS: dict[str, Callable[[SystemSettings], VideoSystem]] = {
    "sam-i2v": lambda s: SAMI2V(s.config or DEFAULT_CONFIG, s.checkpoint, s.device, s.precision, s.overrides),
    "sam2": lambda s: SAM2(s.config or "configs/sam2.1/sam2.1_hiera_b+.yaml", s.checkpoint, s.device, s.precision, s.overrides),
    "optical-flow": lambda s: OpticalFlow(),
    "static-mask": lambda s: StaticMask(),
}


def build_system(settings: SystemSettings) -> VideoSystem:
    """Build a system.

    Raises:
        ValueError: an unknown one, or see its class. ImportError: a package that it needs is missing.
    """
    if settings.system in SYSTEMS:
        return SYSTEMS[settings.system](settings)
    module, colon, function = settings.system.partition(":")
    if not colon:
        raise ValueError(
            f"unknown system {settings.system!r}: the known ones are {', '.join(SYSTEMS)}, others are package.module:function"
        )
    found = getattr(importlib.import_module(module), function, None)
    if found is None:
        raise ValueError(f"the module {module} has no {function}")
    return found(settings)
