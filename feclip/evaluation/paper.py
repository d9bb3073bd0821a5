"""The numbers of the paper (Gong et al., ICCV 2025), five-run means in per cent, and what its data sets consist of."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from feclip.errors import DataError

__all__ = ["PAPER", "PaperRow", "find_dataset"]


@dataclass(frozen=True, kw_only=True)
class PaperRow:
    """One data set in the paper's main table."""

    title: str
    image_auroc: float
    """Per cent, as all of them."""
    image_ap: float
    pixel_auroc: float
    pro: float
    """Which curve is integrated the paper does not say; the peers' code takes 200 thresholds."""
    trained_on: str
    categories: frozenset[str]

    @property
    def metrics(self) -> dict[str, float]:
        """The numbers, in per cent, by the names of ours that they are set beside."""
        return {
            "image_auroc": self.image_auroc,
            "image_ap": self.image_ap,
            "pixel_auroc": self.pixel_auroc,
            "aupro_community": self.pro,
        }


def _row(
    title: str, *, image: tuple[float, float], pixel: tuple[float, float], categories: str, trained_on: str = "MVTec AD"
) -> PaperRow:
    return PaperRow(
        title=title,
        image_auroc=image[0],
        image_ap=image[1],
        pixel_auroc=pixel[0],
        pro=pixel[1],
        trained_on=f"the test images of {trained_on}",
        categories=frozenset(categories.split()),
    )


PAPER: Mapping[str, PaperRow] = MappingProxyType(
    {
        "mvtec": _row(
            "MVTec AD",
            image=(91.9, 96.5),
            pixel=(92.6, 88.3),
            trained_on="VisA",
            categories="bottle cable capsule carpet grid hazelnut leather metal_nut pill screw tile toothbrush "
            "transistor wood zipper",
        ),
        "visa": _row(
            "VisA",
            image=(84.6, 86.6),
            pixel=(95.9, 92.8),
            categories="candle capsules cashew chewinggum fryum macaroni1 macaroni2 pcb1 pcb2 pcb3 pcb4 pipe_fryum",
        ),
        "mpdd": _row(
            "MPDD",
            image=(78.0, 82.6),
            pixel=(97.0, 90.5),
            categories="bracket_black bracket_brown bracket_white connector metal_plate tubes",
        ),
        "btad": _row("BTAD", image=(90.3, 90.0), pixel=(95.6, 80.4), categories="01 02 03"),
        "dagm": _row(
            "DAGM",
            image=(97.5, 92.3),
            pixel=(98.5, 96.6),
            categories="Class1 Class2 Class3 Class4 Class5 Class6 Class7 Class8 Class9 Class10",
        ),
        "dtd": _row(
            "DTD-Synthetic",
            image=(98.3, 99.4),
            pixel=(99.0, 97.4),
            categories="Blotchy_099 Fibrous_183 Marbled_078 Matted_069 Mesh_114 Perforated_037 Stratified_154 "
            "Woven_001 Woven_068 Woven_104 Woven_125 Woven_127",
        ),
    }
)
"""The paper's main table by our names of the data sets."""


def find_dataset(name: str | None, *, categories: Iterable[str]) -> PaperRow:
    """Return the paper's row for some categories.

    Args:
        name: Key of `PAPER`; None to tell it from the categories.
        categories: Those that are judged.

    Raises:
        DataError: If a category is none of the data set's, or no data set has them all.

    Example:
        >>> find_dataset(None, categories=["tubes", "connector"]).title
        'MPDD'
    """
    judged = sorted(set(categories))
    if name is None:
        rows = [row for row in PAPER.values() if row.categories >= set(judged)]
        if len(rows) == 1:
            return rows[0]
        msg = (
            f"No data set of the paper has the categories {', '.join(judged)}; name it with dataset "
            f"({', '.join(PAPER)}) and its categories with data.categories."
        )
        raise DataError(msg)
    row = PAPER[name]
    foreign = [category for category in judged if category not in row.categories]
    if foreign:
        msg = (
            f"{', '.join(foreign)} is no category of {row.title}, so its mean cannot be set beside the paper's; it has "
            f"{', '.join(sorted(row.categories))}: choose among them with data.categories."
        )
        raise DataError(msg)
    return row
