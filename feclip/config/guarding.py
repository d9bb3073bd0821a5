"""The guard of field tuning: what a tuned bundle is compared on with its parent, beside the held-out field images."""

from dataclasses import dataclass

from feclip.config.checks import require_member, require_uris
from feclip.config.choices import EvaluatedSplit, Layout
from feclip.config.lists import Names

__all__ = ["GuardConfig"]


@dataclass(frozen=True, kw_only=True)
class GuardConfig:
    """Images of the old domain, a folder or a manifest; those that trained the parent are left out."""

    root: str | None = None
    """Folder or s3:// prefix of the old domain; with a manifest, what its relative paths start from."""
    manifest: str | None = None
    """Parquet or CSV table of the old domain, one row per image, instead of a folder."""
    layout: Layout = Layout.auto
    """Layout of the folder: MVTec AD, VisA, BTAD, MPDD or DTD-Synthetic; auto looks at its upper levels."""
    categories: Names | None = None
    """Categories to compare, written screw,grid; null takes all."""
    split: EvaluatedSplit | None = None
    """Split of the old domain, as protocol b divided it for the parent; null takes all test images. Take held_out where
    the report split is to report."""
    fail_if_worse: bool = False
    """Whether the job ends with exit code 1 and no bundle where a domain got worse; may change on a resumed run."""

    def __post_init__(self) -> None:
        require_uris("guard.", root=self.root, manifest=self.manifest)
        require_member("guard.layout", self.layout, Layout)
        if self.split is not None:
            require_member("guard.split", self.split, EvaluatedSplit)
        if self.manifest is not None and self.layout is not Layout.auto:
            msg = f"guard.layout is {self.layout}, but guard.manifest names the images; leave one of them out."
            raise ValueError(msg)
        says_more = self.fail_if_worse or self.layout is not Layout.auto or self.categories or self.split
        if says_more and not self.is_given:
            msg = "guard.root or guard.manifest is required: images of the old domain, for what else guard says."
            raise ValueError(msg)

    @property
    def is_given(self) -> bool:
        """Whether there are images of the old domain."""
        return self.root is not None or self.manifest is not None
