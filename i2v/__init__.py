"""SAM-I2V: promptable video segmentation on a small budget."""

from __future__ import annotations

import importlib
import importlib.metadata
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from i2v.build_i2v import build_i2v, build_i2v_video_predictor
    from i2v.i2v_video_predictor import I2VVideoPredictor

__all__ = ["I2VVideoPredictor", "build_i2v", "build_i2v_video_predictor"]


def __getattr__(name: str) -> Any:
    # Imported on first use: code that only reads masks, such as the processes of the evaluator, does not load PyTorch.
    if name == "__version__":
        return importlib.metadata.version("sam-i2v")
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = "i2v.i2v_video_predictor" if name == "I2VVideoPredictor" else "i2v.build_i2v"
    return getattr(importlib.import_module(module), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]


class _Package(ModuleType):
    """Keeps the function `build_i2v` where importing the module of that name would put the module in its place."""

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, value.build_i2v if name == "build_i2v" and isinstance(value, ModuleType) else value)


sys.modules[__name__].__class__ = _Package
