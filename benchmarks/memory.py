"""Memory of processes, what several share divided among them; without torch or ray."""

import contextlib
from pathlib import Path


def pss(process: Path) -> int:
    """Return the memory of a process in bytes, a page that n processes share counted as 1 / n; 0 if it has ended.

    Args:
        process: Its folder below ``/proc``.
    """
    with contextlib.suppress(OSError):
        for line in (process / "smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) << 10
    return 0


def descendants(pid: int) -> list[Path]:
    """Return all that a process started and that is still below it, as folders below ``/proc``."""
    parents = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            with contextlib.suppress(OSError):
                parents[int(folder.name)] = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
    found = {pid}
    while more := {child for child, parent in parents.items() if parent in found} - found:
        found |= more
    return [Path("/proc", str(child)) for child in found - {pid}]
