"""Who sees which family, and what a family is called in a caption."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Literal, TypeAlias

from feclip.demo.surfaces import PAINTERS

Role: TypeAlias = Literal["pretraining", "finetuning", "unseen"]

FAMILIES: Mapping[Role, tuple[str, ...]] = MappingProxyType(
    {
        "pretraining": ("weave", "wood", "granite", "circuit_board", "casting", "bottle_cap"),
        "finetuning": ("brushed_metal", "tile", "capsule"),
        "unseen": ("perforated_sheet", "knurled_part", "cable_bundle"),
    }
)
"""Families by role: the backbone trains on the first, the adapters on the second; nothing learns from the third."""

ALL_FAMILIES: tuple[str, ...] = tuple(PAINTERS)
GENERIC_NOUN = "object"
STATES = ("normal", "damaged")  # by label, 0 and 1


def noun_of(family: str) -> str:
    """Return what a family is called in a caption.

    Example:
        >>> noun_of("knurled_part")
        'knurled part'
    """
    return family.replace("_", " ")


def caption(*, noun: str, label: int) -> str:
    """Return the caption of an image.

    Args:
        noun: What it shows, a family's noun or ``GENERIC_NOUN``.
        label: 0 normal, 1 anomalous.

    Example:
        >>> caption(noun="object", label=1)
        'A photo of a damaged object'
    """
    return f"A photo of a {STATES[label]} {noun}"


def check_families(families: tuple[str, ...]) -> None:
    """Raise ``ValueError`` unless ``families`` is a non-empty choice of known families without repetition."""
    unknown = [family for family in families if family not in PAINTERS]
    if unknown or not families or len(set(families)) < len(families):
        msg = f"families must be some of {', '.join(ALL_FAMILIES)}, each once; got {', '.join(families) or 'none'}."
        raise ValueError(msg)
