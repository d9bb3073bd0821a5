"""The memory bank of normal images."""

from dataclasses import dataclass

from feclip.config.checks import require, require_seed, require_texts

__all__ = ["ALL_SHOTS", "BankConfig"]

ALL_SHOTS = "all"


@dataclass(frozen=True, kw_only=True)
class BankConfig:
    """How a memory bank is made, with memory_bank (paper, Section 4.6)."""

    images: str | None = None
    """Folder, s3:// prefix or manifest of the bank's normal images; null takes them from normals, whose thresholds are
    then fitted on the others. Needed for all."""
    group_column: str | None = None
    """Column of the listing (a key=value folder, or a manifest's column) whose values have a bank of their own, like
    line or category; null lets all images share one."""
    coreset_fraction: float = 1.0
    """Share of the tokens of each tap and group that are kept, above 0 up to 1, chosen greedily; what this loses is
    recorded and told."""
    seed: int = 0
    """Seed of which images are taken."""

    def __post_init__(self) -> None:
        for name in ("images", "group_column"):
            if getattr(self, name) is not None:
                require_texts(**{f"bank.{name}": getattr(self, name)})
        fraction = self.coreset_fraction
        require("bank.coreset_fraction", fraction, rule="above 0 and at most 1", holds=0 < fraction <= 1)
        require_seed("bank.seed", self.seed)
