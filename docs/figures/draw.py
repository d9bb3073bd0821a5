"""Draw every figure of the documentation anew: `python docs/figures/draw.py`."""

import importlib
import sys
from pathlib import Path

FOLDER = Path(__file__).parent
FIGURES = ("how_many_normals", "scoring_flow", "tapped_forward", "thin_lines", "windows")


def main() -> None:
    """Write the SVG of each figure beside its script."""
    for name in FIGURES:
        (FOLDER / f"{name}.svg").write_text(importlib.import_module(name).draw(), encoding="utf-8")
        sys.stdout.write(f"{name}.svg\n")


if __name__ == "__main__":
    main()
