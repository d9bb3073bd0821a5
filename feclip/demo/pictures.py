"""The pictures of the demonstration, drawn by as many processes as there are cores.

<root>/train     what fine-tuning sees, MVTec layout
<root>/unseen    families that nothing learns from, MVTec layout: what judges
<root>/normals   a field archive without defects, of those families: what calibrates
<root>/archive   another one with defects: what is scored
"""

import logging
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import MappingProxyType

from feclip.errors import RunError

__all__ = ["write_pictures"]

logger = logging.getLogger(__name__)

IMAGE_SIZE = 128  # pixels

_SQUARES = ("mvtec", "--num_train_good", "0")
_PHOTOGRAPHS = ("archive", "--families", "unseen")

SETS: Mapping[str, Sequence[str]] = MappingProxyType(  # longest first
    {
        "train": (
            *(*_SQUARES, "--families", "finetuning", "--seed", "0"),
            *("--num_test_good", "110", "--num_per_defect", "10"),
        ),
        "unseen": (*_SQUARES, "--families", "unseen", "--seed", "1", "--num_test_good", "40", "--num_per_defect", "5"),
        "archive": (*_PHOTOGRAPHS, "--num_images", "150", "--seed", "11"),
        "normals": (*_PHOTOGRAPHS, "--num_images", "120", "--defect_fraction", "0", "--seed", "10"),
    }
)
"""Folder, and the arguments of ``python -m feclip.demo`` that fill it."""


def write_pictures(root: Path) -> None:
    """Write the sets that are not there yet, each whole or not at all.

    Args:
        root: Folder to write below, local.

    Raises:
        RunError: If a set cannot be written.
    """
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        tuple(pool.map(lambda name: _write(root / name, SETS[name]), SETS))


def _write(folder: Path, arguments: Sequence[str]) -> None:
    if folder.is_dir():
        return
    command, *flags = arguments
    done = subprocess.run(  # noqa: S603 - our own program, whose drawing holds the interpreter's lock
        [sys.executable, "-m", "feclip.demo", command, str(folder), "--image_size", str(IMAGE_SIZE), *flags],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if done.returncode:
        told = done.stdout.strip().splitlines() or [f"python -m feclip.demo ended with {done.returncode}"]
        msg = f"The pictures of {folder} cannot be written: {told[-1]}"
        raise RunError(msg)
    logger.info("Pictures drawn: %s", folder)
