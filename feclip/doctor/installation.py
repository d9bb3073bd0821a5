"""Versions, and what this machine has to compute with."""

import os
import platform
import shutil
from collections.abc import Iterator
from importlib import metadata
from typing import TYPE_CHECKING

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from feclip import __version__
from feclip.doctor.finding import Finding, failed, ok, warning

if TYPE_CHECKING:  # docs/adr/0020
    import torch

__all__ = ["check_devices", "check_installation", "installed_versions"]

SHOWN = ("torch", "open_clip_torch", "ray", "pyarrow", "s3fs", "pillow", "numpy")
LEAST_MEMORY = 4 << 30
"""Bytes; the paper's backbone takes 1.7 GB and its training about as much again."""


def check_installation() -> Iterator[Finding]:
    """Compare what is installed with what feclip needs."""
    versions = installed_versions()
    shown = ", ".join(f"{name} {versions.get(name, 'absent')}" for name in SHOWN)
    yield ok("versions", f"feclip {__version__}, Python {platform.python_version()}, {shown}")
    try:
        needed = metadata.requires("feclip") or []
    except metadata.PackageNotFoundError:
        yield warning("dependencies", "feclip is on the path but not installed", advice="pip install -e . once")
        return
    requirements = [Requirement(text) for text in needed]
    wanted = [item for item in requirements if item.marker is None or item.marker.evaluate({"extra": ""})]
    known = {canonicalize_name(name): version for name, version in versions.items()}
    unfit = []
    for item in wanted:
        found = known.get(canonicalize_name(item.name))
        if found is None:
            unfit.append(f"{item.name} is missing")
        elif not item.specifier.contains(found, prereleases=True):
            unfit.append(f"{item.name} is {found}, and feclip needs {item.specifier}")
    for told in unfit:
        yield failed("dependencies", told, advice="install it anew, with make env")
    if not unfit:
        yield ok("dependencies", f"all {len(wanted)} are there in versions that fit")


def installed_versions() -> dict[str, str]:
    """Return the version of every installed distribution by its name."""
    return {found.metadata["Name"]: found.version for found in metadata.distributions() if found.metadata["Name"]}


def check_devices(device: str, precision: str) -> Iterator[Finding]:
    """Tell which device and number format a model gets here.

    Args:
        device: ``auto``, ``cpu`` or ``cuda``.
        precision: ``auto``, ``float32`` or ``bfloat16``.
    """
    import torch  # noqa: PLC0415 - see docs/adr/0020

    from feclip.building import find_device  # noqa: PLC0415 - see docs/adr/0020

    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    cores = f"{len(os.sched_getaffinity(0))} cores, {memory / (1 << 30):.1f} GiB of memory"
    if memory < LEAST_MEMORY:
        yield warning("machine", cores, advice="too little for large backbones; feclip-demo and ViT-B fit")
    else:
        yield ok("machine", cores)
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        yield ok("GPU", f"{index}: {properties.name}, {properties.total_memory / (1 << 30):.0f} GiB")
    if not torch.cuda.is_available() and shutil.which("nvidia-smi") is not None:
        told = f"torch {torch.__version__} sees none, though there is a driver"
        yield warning("GPU", told, advice="look at CUDA_VISIBLE_DEVICES, and whether the driver suits this torch")
    yield _precision(find_device(device), precision)


def _precision(device: "torch.device", precision: str) -> Finding:
    import torch  # noqa: PLC0415 - see docs/adr/0020

    from feclip.model import autocast  # noqa: PLC0415 - see docs/adr/0020

    def is_native() -> bool:
        return isinstance(autocast("auto", device=device), torch.autocast)

    computed = "bfloat16" if isinstance(autocast(precision, device=device), torch.autocast) else "float32"
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    if computed == "bfloat16" and not is_native():
        told = f"bfloat16 on {name}, which has to emulate it"
        return warning("precision", told, advice="precision float32 is several times faster here")
    return ok("precision", f"{computed} on {name}")
