"""A model as an ONNX file, with its weights inside."""

import importlib.util
from collections.abc import Sequence
from typing import Any

import torch

from feclip.errors import ConfigError, RunError
from feclip.export.model import INPUT_NAMES, OUTPUT_NAMES, ExportedModel
from feclip.export.runner import Arrays, Runner, quiet

__all__ = ["RECIPE_KEY", "encode_onnx", "open_onnx", "require_onnx"]

RECIPE_KEY = "feclip"
"""Of the recipe in the file's ``metadata_props``."""
PACKAGES = ("onnx", "onnxscript", "onnxruntime")
MAX_BYTES = 2 << 30
"""Where a protobuf message ends."""
GRAPH_BYTES = 32 << 20
"""Of these at most for all that is no weight."""


def require_onnx(packages: Sequence[str] = PACKAGES) -> None:
    """Refuse to begin where a package is missing.

    Raises:
        ConfigError: If one is.

    Example:
        >>> require_onnx(["numpy"])
    """
    missing = [name for name in packages if importlib.util.find_spec(name) is None]
    if missing:
        msg = f"format onnx needs {', '.join(missing)}, which is not installed: pip install 'feclip[export]'."
        raise ConfigError(msg)


def encode_onnx(model: ExportedModel, *, batch_size: int, recipe: str) -> bytes:
    """Return a file's bytes.

    Args:
        model: What is exported.
        batch_size: B, which is fixed in the file.
        recipe: What the file says of itself, JSON.

    Raises:
        RunError: If one file cannot hold the weights.
    """
    num_bytes = sum(tensor.numel() * tensor.element_size() for tensor in (*model.parameters(), *model.buffers()))
    if num_bytes > MAX_BYTES - GRAPH_BYTES:
        msg = (
            f"The model has {num_bytes / 2**30:.1f} GiB of weights, and an ONNX file ends at 2 GiB; take format torch."
        )
        raise RunError(msg)
    with quiet():
        exported = torch.onnx.export(
            model.traced(batch_size),
            input_names=INPUT_NAMES,
            output_names=OUTPUT_NAMES,
            dynamo=True,
            external_data=False,
            custom_translation_table={torch.ops.aten.log_sigmoid.default: _log_sigmoid},
            verbose=False,
        )
    assert exported is not None
    proto = exported.model_proto
    graph = proto.graph
    # Remarks on the source code, with the paths of this machine.
    for part in (*graph.node, *graph.input, *graph.output, *graph.initializer, *graph.value_info, graph):
        part.ClearField("metadata_props")
    entry = proto.metadata_props.add()
    entry.key, entry.value = RECIPE_KEY, recipe
    return bytes(proto.SerializeToString(deterministic=True))


def _log_sigmoid(logits: Any) -> Any:  # noqa: ANN401 - values of a graph
    """Write ``-softplus(-x)``; the exporter's own ``log(sigmoid(x))`` is minus infinity below -88."""
    from onnxscript import opset18  # noqa: PLC0415 - an extra

    return opset18.Neg(opset18.Softplus(opset18.Neg(logits)))


def open_onnx(content: bytes) -> tuple[Runner, str]:
    """Return what runs a file on this CPU, and its recipe.

    Args:
        content: The file's bytes.
    """
    import onnxruntime  # noqa: PLC0415 - an extra

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])

    def run(**inputs: Any) -> Arrays:  # noqa: ANN401 - arrays of two types
        return dict(zip(OUTPUT_NAMES, session.run(list(OUTPUT_NAMES), inputs), strict=True))

    return run, session.get_modelmeta().custom_metadata_map[RECIPE_KEY]
