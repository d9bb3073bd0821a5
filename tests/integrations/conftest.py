"""Bridges are tested where what they lead to is installed: `make anomalib`."""

from importlib.util import find_spec
from pathlib import Path

import pytest

if find_spec("anomalib") is None:
    collect_ignore_glob = ["test_anomalib_*.py"]


@pytest.fixture(scope="session")
def field_images(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with real photographs of many shapes, long ones among them, from three data sets."""
    folder = tmp_path_factory.mktemp("photographs")
    tiles = sorted((shared_data / "field" / "magnetic_tile" / "images").rglob("*.jpg"))[::60]
    others = [
        shared_data / "mvtec" / category / "test" / "good" for category in ("screw", "toothbrush", "hazelnut_toy")
    ]
    for number, path in enumerate([*tiles, *(next(iter(sorted(place.glob("*.*")))) for place in others)]):
        (folder / f"{number:02d}{path.suffix}").symlink_to(path.resolve())
    return folder
