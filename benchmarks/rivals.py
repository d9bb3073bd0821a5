"""Environments of rivals that are no dependencies, made by uv from ``requirements-<name>.txt`` beside this file."""

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

FOLDER = Path(__file__).parents[1] / "runs" / "rivals"
"""Git ignores it."""
DIGEST_FILE = "requirements.sha256"


def rival_python(name: str, folder: Path = FOLDER) -> Path:
    """Return the interpreter of a rival's environment, which is made where it is not there or has other pins.

    Args:
        name: ``decoders`` or ``winclip``.
        folder: Where environments lie.

    Raises:
        FileNotFoundError: If there is no uv.
        subprocess.CalledProcessError: If uv cannot make it; it says why on standard error.
    """
    requirements = Path(__file__).with_name(f"requirements-{name}.txt")
    digest = hashlib.sha256(requirements.read_bytes()).hexdigest()
    environment = folder / name
    python, made_of = environment / "bin" / "python", environment / DIGEST_FILE
    if made_of.is_file() and made_of.read_text() == digest:
        return python
    uv = shutil.which("uv", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}")
    if uv is None:
        msg = "uv is not there; make env brings it."
        raise FileNotFoundError(msg)
    shutil.rmtree(environment, ignore_errors=True)
    subprocess.run([uv, "venv", "--quiet", "--python", sys.executable, environment], check=True)  # noqa: S603 - uv
    install = [uv, "pip", "install", "--quiet", "--python", python, "--requirement", requirements]
    subprocess.run(install, check=True)  # noqa: S603 - as above
    made_of.write_text(digest)
    return python
