"""A bundle as one file that other programs run: ONNX, or a torch.export program; neither needs feclip.

    bundle -> ExportedModel (static shapes, from bytes to scores) -> file's bytes -> compared with PyTorch -> written

The file takes letterboxed RGB bytes and valid pixels, and holds what a program needs beside: the recipe of its input
and the thresholds. What disagrees with PyTorch is never written.
"""

from feclip.export.job import export
from feclip.export.model import INPUT_NAMES, OUTPUT_NAMES, ExportedModel

__all__ = ["INPUT_NAMES", "OUTPUT_NAMES", "ExportedModel", "export"]
