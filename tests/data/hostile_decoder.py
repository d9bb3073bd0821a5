"""The decoding process, in which some files do what no image should: a program for tests, run as the real one is.

Production code is not changed: Pillow's ``open`` is replaced before it runs, and looks at the first word of the file.
"""

import ctypes
import os
import runpy
import signal
import sys
import time
from io import BytesIO
from pathlib import Path
from typing import Any

from PIL import Image

import feclip

CHILD = Path(feclip.__file__).parent / "data" / "_decoding_process.py"
open_image = Image.open


def kill_once(name: bytes) -> None:
    marker = Path(os.fsdecode(name))
    if not marker.exists():
        marker.touch()
        os.kill(os.getpid(), signal.SIGKILL)


def fill_memory() -> None:
    held = []
    while True:
        held.append(bytearray(1 << 24))


DEEDS = {
    b"segfault": lambda _: ctypes.string_at(0),
    b"abort": lambda _: os.abort(),
    b"exit": lambda _: os._exit(3),
    b"kill": lambda _: os.kill(os.getpid(), signal.SIGKILL),
    b"kill_once": kill_once,
    b"hang": lambda _: time.sleep(3600),
    b"stop": lambda _: os.kill(os.getpid(), signal.SIGSTOP),
    b"memory": lambda _: fill_memory(),
    b"babble": lambda _: os.write(0, b"\xff" * 64),
    b"lie": lambda _: os.write(0, b"\0\0\0\2" + b"\0" * 8 + b"{}"),
    b"assert": lambda _: (_ for _ in ()).throw(AssertionError),
}


def hostile_open(file: BytesIO, **options: Any) -> Image.Image:  # noqa: ANN401
    word, _, rest = file.getvalue().partition(b" ")
    if word in DEEDS:
        DEEDS[word](rest)
    return open_image(file, **options)


if __name__ == "__main__":
    Image.open = hostile_open  # type: ignore[assignment]
    runpy.run_path(str(CHILD), run_name="__main__")
    sys.exit(0)
