"""The notebook runs from its first cell to its last, and shows what its text promises."""

import re
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

REPOSITORY = Path(__file__).parents[2]
PATH = REPOSITORY / "docs" / "notebooks" / "first-bundle.ipynb"


@pytest.fixture(scope="module")
def printed() -> str:
    """What the cells print, run in a kernel of their own."""
    notebook = nbformat.read(PATH, as_version=4)
    NotebookClient(notebook, timeout=240, resources={"metadata": {"path": str(REPOSITORY)}}).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    assert any("image/png" in output.get("data", {}) for output in outputs)
    return "".join(output.text for output in outputs if output.output_type == "stream" and output.name == "stdout")


def test_the_backbone_ranks_damage_above_chance(printed: str) -> None:
    (auroc,) = re.findall(r"image AUROC (\S+),", printed)
    assert 0.5 < float(auroc) < 1


def test_the_threshold_stops_few_good_parts(printed: str) -> None:
    ((found, damaged, stopped, normal),) = re.findall(r"(\d+) of (\d+) damaged, (\d+) of (\d+) normal", printed)
    assert int(damaged) + int(normal) == 60
    assert int(stopped) <= int(normal) // 4
    assert int(found) > 0


def test_padding_lies_above_and_below_a_wide_picture(printed: str) -> None:
    ((grid, with_image, padding),) = re.findall(r"\((\d+), \d+\) rows with image (\d+) rows of padding (\d+)", printed)
    assert int(with_image) + int(padding) == int(grid)
    assert int(padding) > 0


def test_no_output_is_kept_in_the_repository() -> None:
    cells = nbformat.read(PATH, as_version=4).cells
    assert not any(cell.get("outputs") or cell.get("execution_count") for cell in cells)
