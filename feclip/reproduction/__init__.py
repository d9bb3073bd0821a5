"""The paper's protocol: what it asks for, the numbers of its seeds, and the table beside the paper's."""

from feclip.reproduction.numbers import Estimate, SeedResult, estimates, read_result
from feclip.reproduction.plan import TRAINED_ON, FoundSet, Judging, Training, check_images, find_sets, judged_sets, plan
from feclip.reproduction.tables import Reproduction

__all__ = [
    "TRAINED_ON",
    "Estimate",
    "FoundSet",
    "Judging",
    "Reproduction",
    "SeedResult",
    "Training",
    "check_images",
    "estimates",
    "find_sets",
    "judged_sets",
    "plan",
    "read_result",
]
