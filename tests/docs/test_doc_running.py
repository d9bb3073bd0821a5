"""What the documentation tells a reader to run on a laptop is run: the short of it in CI, all of it by `make slow`.

Folders of the examples lie in a temporary folder, and small generated pictures stand for a reader's own.
"""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
from doc_pages import REPOSITORY, Block, blocks
from PIL import Image

from feclip.demo import FAMILIES, write_archive, write_mvtec

DOCS = REPOSITORY / "docs"
NEEDS = {
    DOCS / "command-line.md": [DOCS / "decisions.md"],
    DOCS / "decisions.md": [DOCS / "finetune.md"],
    DOCS / "evaluate.md": [DOCS / "finetune.md"],
    DOCS / "export.md": [DOCS / "decisions.md"],
    DOCS / "few-shots.md": [DOCS / "finetune.md"],
    DOCS / "field-guide.md": [DOCS / "finetune.md"],
    DOCS / "report.md": [DOCS / "decisions.md"],
    DOCS / "watching.md": [DOCS / "finetune.md"],
}
"""Pages that use what another one made."""

PAGES = [REPOSITORY / "README.md", *sorted(DOCS.glob("*.md"))]
RUN = [
    page for page in PAGES if any(block.mark.startswith("run") for block in blocks(page)) and ".ko." not in page.name
]
QUICK = [block for page in PAGES for block in blocks(page) if block.mark == "run: quick" and ".ko." not in page.name]
_EXAMPLE = re.compile(r"(?<![\w./])/(data|runs|scores|results|weights)(?=[/\s\"',]|$)")


class Laptop:
    """A reader's machine: the folders of the examples, and what was run there."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.done: set[Path] = set()

    def run_page(self, page: Path) -> None:
        """Run the blocks of a page, and before them those of pages that it needs; each page once."""
        for needed in NEEDS.get(page, []):
            self.run_page(needed)
        if page not in self.done:
            self.done.add(page)
            for block in blocks(page):
                if block.mark.startswith("run"):
                    self.run(block)

    def run(self, block: Block) -> None:
        """Run one block; a command that fails fails the test."""
        text = _EXAMPLE.sub(lambda found: f"{self.folder}/{found[1]}", block.text)
        command = [sys.executable, "-c", text]
        if block.language != "python":  # the program of this checkout, whatever is installed
            text = f'feclip() {{ python -m feclip "$@"; }}\n{text}'
            command = ["bash", "-euo", "pipefail", "-c", text]
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        environment = os.environ | {"PATH": path, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "2"}
        ran = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=False)
        assert ran.returncode == 0, f"{block}\n{ran.stdout[-2000:]}\n{ran.stderr[-4000:]}"


@pytest.fixture(scope="module")
def laptop(tmp_path_factory: pytest.TempPathFactory) -> Laptop:
    return Laptop(tmp_path_factory.mktemp("laptop"))


@pytest.fixture(scope="module")
def furnished(laptop: Laptop) -> Laptop:
    """The machine with pictures: /data/mvtec, /data/normals, /data/archive, /data/images, labels, one image."""
    data = laptop.folder / "data"
    counts = {"num_train_good": 0, "num_test_good": 10, "num_per_defect": 2}
    write_mvtec(data / "mvtec", seed=0, families=("tile", "capsule"), image_size=96, **counts)
    for family, category in (("tile", "screw"), ("capsule", "toothbrush")):
        (data / "mvtec" / family).rename(data / "mvtec" / category)
    write_archive(
        data / "field", seed=1, families=FAMILIES["unseen"], num_images=24, image_size=96, defect_fraction=0.5
    )
    shutil.move(data / "field" / "images", data / "images")
    shutil.move(data / "field" / "labels.csv", data / "labels.csv")
    shutil.copy(next((data / "images").rglob("*.jpg")), data / "image.jpg")
    write_archive(data / "line", seed=2, families=FAMILIES["unseen"], num_images=24, image_size=96, defect_fraction=0.1)
    shutil.move(data / "line" / "images", data / "archive")
    _write_normals(data / "normals", num=2000)
    return laptop


@pytest.mark.parametrize("block", QUICK, ids=str)
@pytest.mark.timeout(240)
def test_what_takes_seconds_is_run(laptop: Laptop, block: Block) -> None:
    laptop.run(block)


@pytest.mark.slow
@pytest.mark.cluster
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("page", RUN, ids=lambda page: page.name)
def test_a_page_can_be_followed(furnished: Laptop, page: Path) -> None:
    furnished.run_page(page)


def test_pages_that_tell_to_run_something_are_known() -> None:
    assert {page.stem for page in RUN} >= {"README", "start", "finetune", "decisions", "evaluate", "tune", "machines"}
    assert len(QUICK) >= 3


def _write_normals(folder: Path, *, num: int) -> None:
    """Write as many different normal pictures: a few that are drawn, each many times over with other noise."""
    write_archive(
        folder.with_name("drawn"), seed=3, families=FAMILIES["unseen"], num_images=20, image_size=96, defect_fraction=0
    )
    drawn = sorted((folder.with_name("drawn") / "images").rglob("*.jpg"))
    folder.mkdir()
    noise = np.random.default_rng(0)
    for index, path in zip(range(num), _endlessly(drawn), strict=False):
        pixels = np.asarray(Image.open(path)).astype(np.int16)
        noisy = np.clip(pixels + noise.integers(-2, 3, pixels.shape), 0, 255).astype(np.uint8)
        Image.fromarray(noisy).save(folder / f"{index:04d}.jpg", quality=95)


def _endlessly(paths: list[Path]) -> Iterable[Path]:
    while True:
        yield from paths
