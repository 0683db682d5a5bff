"""The systems that are compared, behind one interface (`VideoSystem`, `VideoSession`).

`SystemSettings` says which system and how; it is built where it runs: in every worker, on the worker's device.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from i2v.build_i2v import DEFAULT_CONFIG, load_config, shipped_checkpoint
from i2v.utils.files import sha256
from test_pvs.systems.checked import CheckedSystem
from test_pvs.systems.interface import Box, Point, SystemSettings, VideoSession, VideoSystem
from test_pvs.user_functions import find_function

if TYPE_CHECKING:
    from test_pvs.systems.carried_masks import CarriedMaskSession, OpticalFlow, StaticMask
    from test_pvs.systems.predictors import SAM2, SAMI2V, PredictorSession
    from test_pvs.systems.segment_then_propagate import SegmentThenPropagate

__all__ = [
    "SAM2",
    "SAMI2V",
    "SYSTEMS",
    "Box",
    "CarriedMaskSession",
    "CheckedSystem",
    "OpticalFlow",
    "Point",
    "PredictorSession",
    "SegmentThenPropagate",
    "StaticMask",
    "SystemSettings",
    "VideoSession",
    "VideoSystem",
    "build_system",
    "recorded_settings",
]

# The modules are imported when a system in them is used: a system must not need what another one is made of.
_MODULES = {
    "carried_masks": ("CarriedMaskSession", "OpticalFlow", "StaticMask"),
    "predictors": ("SAM2", "SAMI2V", "PredictorSession"),
    "propagators": ("Cutie", "FlowPropagator", "XMemPlusPlus"),
    "segment_then_propagate": ("SegmentThenPropagate", "adapter_options"),
}


def __getattr__(name: str) -> Any:
    for module, names in _MODULES.items():
        if name in names:
            return getattr(importlib.import_module(f"{__name__}.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


SYSTEMS: dict[str, Callable[[SystemSettings], VideoSystem]] = {
    "sam-i2v": lambda s: __getattr__("SAMI2V")(s.config or DEFAULT_CONFIG, s.checkpoint, s.device, s.precision, s.overrides),
    "sam2": lambda s: __getattr__("SAM2")(
        s.config or "configs/sam2.1/sam2.1_hiera_t.yaml", s.checkpoint, s.device, s.precision, s.overrides
    ),
    "optical-flow": lambda s: __getattr__("OpticalFlow")(),
    "static-mask": lambda s: __getattr__("StaticMask")(),
    "sam+cutie": lambda s: __getattr__("SegmentThenPropagate").build(s, __getattr__("Cutie")),
    "sam+xmem++": lambda s: __getattr__("SegmentThenPropagate").build(s, __getattr__("XMemPlusPlus")),
    "sam+optical-flow": lambda s: __getattr__("SegmentThenPropagate").build(s, __getattr__("FlowPropagator")),
}
# These have nothing that could be set.
_FLOORS = ("optical-flow", "static-mask")


def recorded_settings(settings: SystemSettings) -> dict[str, Any]:
    """What the results depend on: all settings but the device, and what is in the files that they name, as SHA-256; of the
    floors nothing but their name.

    Raises:
        ValueError, FileNotFoundError: the config cannot be used, or its weights are missing.
    """
    used = SystemSettings(settings.system) if settings.system in _FLOORS else settings
    recorded = {name: value for name, value in asdict(used).items() if name != "device"}
    return recorded | {"config_sha256": _sha256(used.config), "weights_sha256": _sha256(_weights(used))}


def _weights(settings: SystemSettings) -> str | Path | None:
    """The checkpoint, or where none is given the one that comes with SAM-I2V's config."""
    if settings.checkpoint is not None or not settings.system.startswith(("sam-i2v", "sam+")):
        return settings.checkpoint
    options, own = __getattr__("adapter_options")(settings)
    return None if "segmenter" in options else shipped_checkpoint(load_config(own.config or DEFAULT_CONFIG, own.overrides))


def _sha256(path: str | Path | None) -> str | None:
    """Of a file's content; None for what is no file, such as a config's name."""
    return sha256(Path(path)) if path is not None and Path(path).is_file() else None


def build_system(settings: SystemSettings) -> VideoSystem:
    """Build a system. What one's own returns is checked.

    Raises:
        ValueError: an unknown one, or see its class; one's own function returns no `VideoSystem`. ImportError: a package that
            it needs is missing.
    """
    if settings.system in SYSTEMS:
        return SYSTEMS[settings.system](settings)
    if ":" not in settings.system:
        raise ValueError(
            f"unknown system {settings.system!r}: the known ones are {', '.join(SYSTEMS)}, others are package.module:function"
        )
    return CheckedSystem(find_function(settings.system)(settings), settings.system)
