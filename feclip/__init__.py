"""Train, tune and batch-score FE-CLIP anomaly detection on a Ray cluster."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # loaded when it is asked for: whoever wants the version needs no torch
    from feclip.prediction import Predictor

__all__ = ["Predictor", "__version__"]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:  # noqa: ANN401 - what a module has by that name
    if name == "Predictor":
        return import_module("feclip.prediction").Predictor
    msg = f"module {__name__!r} has no attribute {name!r}"
    raise AttributeError(msg)
