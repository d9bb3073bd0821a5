"""Generated industrial surfaces and parts, flawless and damaged, with exact masks.

One seed and one index name one picture, whatever the order or the process that draws it.
"""

from pathlib import Path

from feclip.demo.archive import write_archive
from feclip.demo.datasets import DATASETS, write_dataset
from feclip.demo.defects import DEFECT_TYPES, LINE_DEFECTS, Difficulty
from feclip.demo.families import ALL_FAMILIES, FAMILIES, GENERIC_NOUN, Role, caption, noun_of
from feclip.demo.mvtec import write_mvtec
from feclip.demo.pictures import write_pictures
from feclip.demo.sampling import Sample, draw_sample, render

__all__ = [
    "ALL_FAMILIES",
    "DATASETS",
    "DEFECT_TYPES",
    "FAMILIES",
    "GENERIC_NOUN",
    "LINE_DEFECTS",
    "RECIPE",
    "Difficulty",
    "Role",
    "Sample",
    "caption",
    "draw_sample",
    "noun_of",
    "render",
    "write_archive",
    "write_dataset",
    "write_mvtec",
    "write_pictures",
]

RECIPE = Path(__file__).with_name("recipe.yaml")
"""Config of the demonstration's fine-tuning."""
