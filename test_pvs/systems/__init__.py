"""The systems that are compared, behind one interface (`VideoSystem`, `VideoSession`).

`SystemSettings` says which system to run and how. Modules of systems are imported when they are used, so that the packages
which a system needs are needed for that system alone.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from i2v.load_config import DEFAULT_CONFIG, load_config, shipped_checkpoint
from i2v.utils.files import sha256
from i2v.utils.messages import did_you_mean
from test_pvs.systems.checked import CheckedSystem
from test_pvs.systems.interface import SystemBuilder, SystemSettings, VideoSession, VideoSystem
from test_pvs.user_functions import find_function

if TYPE_CHECKING:
    from test_pvs.systems.carried_masks import CarriedMaskSession, OpticalFlow, StaticMask
    from test_pvs.systems.predictors import PredictorSession, SAM2System, SAMI2VSystem
    from test_pvs.systems.segment_then_propagate import Propagator, SegmentThenPropagate

__all__ = [
    "SYSTEMS",
    "CarriedMaskSession",
    "CheckedSystem",
    "OpticalFlow",
    "PredictorSession",
    "SAM2System",
    "SAMI2VSystem",
    "SegmentThenPropagate",
    "StaticMask",
    "SystemBuilder",
    "SystemSettings",
    "VideoSession",
    "VideoSystem",
    "build_system",
    "recorded_settings",
    "require_package",
]

# Modules of the names that `__getattr__` imports.
_MODULES = {
    "CarriedMaskSession": "carried_masks",
    "OpticalFlow": "carried_masks",
    "StaticMask": "carried_masks",
    "PredictorSession": "predictors",
    "SAM2System": "predictors",
    "SAMI2VSystem": "predictors",
    "SegmentThenPropagate": "segment_then_propagate",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)


def _sam_i2v(settings: SystemSettings) -> VideoSystem:
    from test_pvs.systems.predictors import SAMI2VSystem

    config = settings.config or DEFAULT_CONFIG
    return SAMI2VSystem(config, settings.checkpoint, settings.device, settings.precision, settings.overrides)


def _sam2(settings: SystemSettings) -> VideoSystem:
    from test_pvs.systems.predictors import SAM2System

    config = settings.config or "configs/sam2.1/sam2.1_hiera_t.yaml"
    return SAM2System(config, settings.checkpoint, settings.device, settings.precision, settings.overrides)


def _optical_flow(settings: SystemSettings) -> VideoSystem:
    from test_pvs.systems.carried_masks import OpticalFlow

    return OpticalFlow()


def _static_mask(settings: SystemSettings) -> VideoSystem:
    from test_pvs.systems.carried_masks import StaticMask

    return StaticMask()


def _segment_then(name: str) -> SystemBuilder:
    """Make the builder of a segmenter with a propagator, a class in `propagators`."""

    def build(settings: SystemSettings) -> VideoSystem:
        from test_pvs.systems import propagators
        from test_pvs.systems.segment_then_propagate import SegmentThenPropagate

        propagator: Callable[[str, Mapping[str, str]], Propagator] = getattr(propagators, name)
        return SegmentThenPropagate.build(settings, propagator)

    return build


SYSTEMS: dict[str, SystemBuilder] = {
    "sam-i2v": _sam_i2v,
    "sam2": _sam2,
    "optical-flow": _optical_flow,
    "static-mask": _static_mask,
    "sam+cutie": _segment_then("Cutie"),
    "sam+xmem++": _segment_then("XMemPlusPlus"),
    "sam+optical-flow": _segment_then("FlowPropagator"),
}
# The baselines, which have no settings.
_BASELINES = ("optical-flow", "static-mask")


def recorded_settings(settings: SystemSettings) -> dict[str, Any]:
    """List what the results of a system depend on.

    Returns:
        All settings but the device, and the SHA-256 of the config and weights; of the baselines only the name.

    Raises:
        ValueError, FileNotFoundError: the config cannot be used, or its weights are missing.
    """
    used = SystemSettings(settings.system) if settings.system in _BASELINES else settings
    recorded = {name: value for name, value in asdict(used).items() if name != "device"}
    return recorded | {"config_sha256": _sha256(used.config), "weights_sha256": _sha256(_weights(used))}


def _weights(settings: SystemSettings) -> str | Path | None:
    """Find the weights: the checkpoint, by default the one bundled with SAM-I2V's config."""
    if settings.checkpoint is not None or not settings.system.startswith(("sam-i2v", "sam+")):
        return settings.checkpoint
    from test_pvs.systems.segment_then_propagate import adapter_options

    options, segmenter = adapter_options(settings)
    if "segmenter" in options:
        return None
    return shipped_checkpoint(load_config(segmenter.config or DEFAULT_CONFIG, segmenter.overrides))


def _sha256(path: str | Path | None) -> str | None:
    """Hash the content of a file; None if there is no such file, as for the name of a bundled config."""
    if path is None or not Path(path).is_file():
        return None
    state = Path(path).stat()
    return _sha256_of(Path(path).resolve(), state.st_mtime_ns, state.st_size)


@lru_cache
def _sha256_of(path: Path, changed: int, size: int) -> str:
    """Hash a file, once for each time of change in ns and size in bytes: a table has many runs with the same weights."""
    return sha256(path)


def require_package(settings: SystemSettings) -> None:
    """Check that the package of a system is installed, without loading anything onto a device.

    Raises:
        ImportError: it is not; the message says how to get it.
        FileNotFoundError: XMem++ has no weights.
    """
    if settings.system == "sam2":
        from test_pvs.systems.predictors import import_sam2

        import_sam2()
    elif settings.system == "sam+cutie":
        from test_pvs.systems.propagators import import_cutie

        import_cutie()
    elif settings.system == "sam+xmem++":
        from test_pvs.systems.propagators import import_xmem
        from test_pvs.systems.segment_then_propagate import adapter_options

        import_xmem(adapter_options(settings)[0])


def build_system(settings: SystemSettings) -> VideoSystem:
    """Build a system. The outputs of user-defined systems are checked.

    Raises:
        ValueError: the system is unknown or its settings cannot be used, or a user-defined function returns something other
            than a `VideoSystem`.
        ImportError: a package that the system needs is missing.
    """
    if settings.system in SYSTEMS:
        return SYSTEMS[settings.system](settings)
    if ":" not in settings.system:
        known, hint = ", ".join(SYSTEMS), did_you_mean(settings.system.lower(), SYSTEMS)
        raise ValueError(f"unknown system {settings.system!r}{hint}: give {known}, or package.module:function for another one")
    return CheckedSystem(find_function(settings.system)(settings), settings.system)
