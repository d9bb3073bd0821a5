"""A model as a torch.export program (.pt2): a zip archive of JSON and of weights as plain bytes.

torch pickles into such an archive the inputs that a program was traced with, and tensors of other classes than its own.
The first are taken out, and a program that holds the second is refused. `torch.export.load` unpickles what it finds: it
is for files of one's own.
"""

import io
import json
import zipfile

import torch

from feclip.errors import RunError
from feclip.export.model import ExportedModel
from feclip.export.runner import Arrays, Runner, quiet

__all__ = ["RECIPE_FILE", "encode_torch", "find_pickles", "open_torch"]

RECIPE_FILE = "feclip.json"
"""Name of the recipe among the program's extra files."""
_INPUTS = "data/sample_inputs/"


def encode_torch(model: ExportedModel, *, batch_size: int, recipe: str) -> bytes:
    """Return a program's bytes.

    Args:
        model: What is exported.
        batch_size: B, which is fixed in the program.
        recipe: What the file says of itself, JSON.

    Raises:
        RunError: If this torch would pickle some of it.
    """
    program = model.traced(batch_size)
    program.example_inputs = None
    sink = io.BytesIO()
    with quiet():
        torch.export.save(program, sink, extra_files={RECIPE_FILE: recipe})
    content = sink.getvalue()
    if pickled := find_pickles(content):
        msg = f"torch {torch.__version__} would pickle {', '.join(pickled)} into the program; take format onnx."
        raise RunError(msg)
    return content


def find_pickles(content: bytes) -> list[str]:
    """Return what is pickled in a program, told from the program's own lists of its parts.

    Args:
        content: Its bytes.
    """
    pickled = []
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        for entry in archive.infolist():
            if _INPUTS in entry.filename and entry.file_size:
                pickled.append(entry.filename)
            elif entry.filename.endswith(("_weights_config.json", "_constants_config.json")):
                parts = json.loads(archive.read(entry))["config"]
                pickled += [name for name, part in parts.items() if part["use_pickle"]]
    return pickled


def open_torch(content: bytes) -> tuple[Runner, str]:
    """Return what runs a program on this CPU, and its recipe.

    Args:
        content: Bytes that this process made: see above.
    """
    extra_files = {RECIPE_FILE: ""}
    module = torch.export.load(io.BytesIO(content), extra_files=extra_files).module()

    def run(**inputs: object) -> Arrays:
        with torch.no_grad():
            found = module(**{name: torch.as_tensor(array) for name, array in inputs.items()})
        return {name: tensor.numpy() for name, tensor in found.items()}

    return run, extra_files[RECIPE_FILE]
