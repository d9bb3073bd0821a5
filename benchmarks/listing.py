#!/usr/bin/env python
"""Seconds to list an archive in one go and in parts.

python benchmarks/listing.py --objects 200000 --folder runs/listing
"""

import statistics
import sys
import time
from pathlib import Path

from jsonargparse import auto_cli

from feclip.archive import Source, list_part, plan_parts
from feclip.config import ListingConfig, Names
from feclip.data import list_files


def listing(*, folder: Path, objects: int = 200_000, repeats: int = 3) -> None:
    """Print seconds to list an archive in one go and in parts, one after another in this process.

    Args:
        folder: Working folder, which gets empty files.
        objects: Objects of the archive, in 200 folders.
        repeats: How often each is measured.
    """
    root = folder / "objects"
    if not root.is_dir():
        for number in range(objects):
            path = root / f"line={number % 10}" / f"date={number // 10 % 20}" / f"{number:08d}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
    source = Source(archive=str(root.absolute()), manifest=None, listing=ListingConfig(extensions=Names((".jpg",))))
    seconds: dict[str, list[float]] = {"walk": [], "parts": []}
    for _ in range(repeats):
        start = time.perf_counter()
        walked = sum(1 for _ in list_files(str(root)))
        seconds["walk"].append(time.perf_counter() - start)
        start = time.perf_counter()
        parts = plan_parts(source)
        listed = sum(len(block.table) for part in parts for block in list_part(part, source))
        seconds["parts"].append(time.perf_counter() - start)
        assert walked == listed == objects
    for name, values in seconds.items():
        rate = objects / statistics.median(values)
        sys.stdout.write(
            f"{name}: {statistics.median(values):.1f} s ({min(values):.1f} to {max(values):.1f}), {rate:.0f}/s\n"
        )
    sys.stdout.write(f"{len(parts)} parts; Ray tasks divide them\n")


if __name__ == "__main__":
    auto_cli(listing)
