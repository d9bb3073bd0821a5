"""Tensors read from files and checked by name, shape and value before anything is loaded."""

import hashlib
import pickle  # nosec B403
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

_NAMES_SHOWN = 5


def check_tensors(expected: Mapping[str, torch.Tensor], state: Mapping[str, torch.Tensor], *, source: str) -> None:
    """Refuse a state that does not fit, naming every kind of difference.

    Args:
        expected: What the module holds.
        state: What is to be loaded into it.
        source: Where ``state`` comes from, for the message.

    Raises:
        ValueError: If tensors are missing, unknown, of another shape or not finite.

    Example:
        >>> check_tensors({"bias": torch.ones(2)}, {"bias": torch.ones(3)}, source="weights.safetensors")
        Traceback (most recent call last):
            ...
        ValueError: weights.safetensors does not fit: reshaped bias (3,), expected (2,).
    """
    common = [name for name in expected if name in state]
    reshaped = [name for name in common if state[name].shape != expected[name].shape]
    problems = {
        "missing": [name for name in expected if name not in state],
        "unknown": [name for name in state if name not in expected],
        "reshaped": [f"{name} {tuple(state[name].shape)}, expected {tuple(expected[name].shape)}" for name in reshaped],
        "non-finite": [name for name in common if not bool(torch.isfinite(state[name]).all())],
    }
    found = [f"{kind} {_join(names)}" for kind, names in problems.items() if names]
    if found:
        msg = f"{source} does not fit: {'; '.join(found)}."
        raise ValueError(msg)


def _join(names: Iterable[str]) -> str:
    names = list(names)
    more = [f"and {len(names) - _NAMES_SHOWN} more"] if len(names) > _NAMES_SHOWN else []
    return ", ".join(names[:_NAMES_SHOWN] + more)


def tensor_digest(tensors: Mapping[str, torch.Tensor]) -> str:
    """Return the SHA-256 over name, type, shape and bytes of all tensors, in the order of their names.

    Args:
        tensors: Tensors by name, on any device.

    Returns:
        64 hexadecimal digits.

    Example:
        >>> tensor_digest({"a": torch.zeros(2)}) == tensor_digest({"a": torch.zeros(2, 1)})
        False
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name}\n{tensor.dtype}\n{tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def read_weights(path: Path) -> dict[str, torch.Tensor]:
    """Read the tensors of a CLIP from a file, without running code from it.

    A ``state_dict`` entry is unwrapped, and a ``module.`` prefix is taken off, as training leaves them.

    Args:
        path: A ``.safetensors`` file; anything else is read by ``torch.load(weights_only=True)``.

    Returns:
        Tensors by name, on the CPU.

    Raises:
        ValueError: If the file is no such file, is TorchScript, or holds anything but tensors.
    """
    state: object
    try:
        if path.suffix == ".safetensors":
            state = load_file(path)
        else:
            _refuse_torchscript(path)
            state = torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, pickle.UnpicklingError, zipfile.BadZipFile, RuntimeError, EOFError, OSError) as error:
        lines = str(error).strip().splitlines()
        reason = lines[0] if lines else type(error).__name__
        msg = f"Weight file {path} cannot be read as safetensors or as tensors saved by torch: {reason}"
        raise ValueError(msg) from error
    if isinstance(state, dict) and isinstance(state.get("state_dict"), dict):
        state = state["state_dict"]
    if not isinstance(state, dict) or not state or not all(isinstance(value, torch.Tensor) for value in state.values()):
        msg = f"Weight file {path} must hold a dictionary of tensors by name, got {_describe(state)}."
        raise ValueError(msg)
    wrapped = all(str(name).startswith("module.") for name in state)
    return {str(name).removeprefix("module.") if wrapped else str(name): value for name, value in state.items()}


def _describe(state: object) -> str:
    if not isinstance(state, dict) or not state:
        return f"an empty {type(state).__name__}" if state == {} else f"a {type(state).__name__}"
    name, value = next((name, value) for name, value in state.items() if not isinstance(value, torch.Tensor))
    return f"{name!r}: {type(value).__name__}"


def _refuse_torchscript(path: Path) -> None:
    if not zipfile.is_zipfile(path):
        return
    with zipfile.ZipFile(path) as archive:
        scripted = any(name.endswith("/constants.pkl") for name in archive.namelist())
    if scripted:
        msg = (
            f"Weight file {path} is a TorchScript archive (OpenAI's original format), which can run code; "
            "convert its state_dict to safetensors."
        )
        raise ValueError(msg)
