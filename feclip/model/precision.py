"""Number format of the trunk's arithmetic; scores, losses and maps are float32 whatever it is."""

from contextlib import nullcontext

import torch

PRECISIONS = ("auto", "float32", "bfloat16")


def autocast(precision: str, *, device: torch.device) -> torch.autocast | nullcontext[None]:
    """Return the context in which the trunk runs.

    Args:
        precision: ``float32``, ``bfloat16``, or ``auto``: bfloat16 where the device multiplies it natively, which GPUs
            do from Ampere on and CPUs with AMX; elsewhere it is emulated and slower than float32.
        device: Where the model is.

    Returns:
        A context that can be entered once.

    Raises:
        ValueError: If the precision is none of these.

    Example:
        >>> autocast("float32", device=torch.device("cpu"))  # doctest: +ELLIPSIS
        <contextlib.nullcontext object at ...>
    """
    if precision not in PRECISIONS:
        msg = f"precision must be one of {', '.join(PRECISIONS)}, got {precision!r}."
        raise ValueError(msg)
    if precision == "auto":
        if device.type == "cuda":
            native = torch.cuda.is_bf16_supported(including_emulation=False)
        else:
            native = bool(torch.cpu.get_capabilities().get("amx_bf16", False))
        precision = "bfloat16" if native else "float32"
    return nullcontext() if precision == "float32" else torch.autocast(device.type, dtype=torch.bfloat16)
