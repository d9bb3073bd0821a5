"""FE-CLIP as a model of anomalib: `Engine` trains, tests and predicts with it, and it reads and writes our bundles.

image, gt mask -> pre-processor (letterbox) -> model (logits) -> post-processor (thresholds) -> evaluator, visualizer

Everything between is on one scale, the logits of a score table. anomalib is not part of the package: docs/anomalib.md
says how both are installed.
"""

from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from feclip.errors import ConfigError

if TYPE_CHECKING:
    from feclip.integrations.anomalib.components import FeClipEvaluator, FeClipVisualizer
    from feclip.integrations.anomalib.labelled import LabelledMVTec
    from feclip.integrations.anomalib.lightning_model import FeClip
    from feclip.integrations.anomalib.post_processor import FeClipPostProcessor
    from feclip.integrations.anomalib.pre_processor import FeClipPreProcessor

__all__ = [
    "FeClip",
    "FeClipEvaluator",
    "FeClipPostProcessor",
    "FeClipPreProcessor",
    "FeClipVisualizer",
    "LabelledMVTec",
]

_MODULES = {
    "FeClip": "lightning_model",
    "FeClipEvaluator": "components",
    "FeClipPostProcessor": "post_processor",
    "FeClipPreProcessor": "pre_processor",
    "FeClipVisualizer": "components",
    "LabelledMVTec": "labelled",
}


def __getattr__(name: str) -> Any:  # noqa: ANN401 - what a module has by that name
    if name not in _MODULES:
        msg = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(msg)
    if find_spec("anomalib") is None:
        msg = f"{__name__}.{name} needs anomalib, which is not installed; docs/anomalib.md says how to install both."
        raise ConfigError(msg)
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
