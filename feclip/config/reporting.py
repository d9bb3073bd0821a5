"""Pages of a score table or of a training run, and the search through a table."""

from dataclasses import dataclass

from feclip.calibration import Rule, Variant
from feclip.config.checks import require, require_seed, require_texts

__all__ = ["ReportConfig"]

MAX_SHOWN = 1000  # images of a gallery; a page with more opens slowly


@dataclass(frozen=True, kw_only=True)
class ReportConfig:
    """Make a static page of a score table, or print the rows of it that a text is found in."""

    bundle: str
    """Folder or s3:// prefix of the bundle that scored the table; with thresholds, the page decides by them."""
    scores: str | None = None
    """Output of the scoring job; null makes the page of the bundle's training."""
    output: str | None = None
    """Folder or s3:// prefix of the page; index.html goes last, so a folder without it is not finished."""
    find: str | None = None
    """Print as CSV the rows whose uri or error holds this text, upper or lower case, instead of making a page."""
    normals: str | None = None
    """Score table of the normals that the thresholds were fitted on, which drift is measured against; null takes
    <bundle>/_normals where the calibration scored them there."""
    rule: Rule | None = None
    """Decide by image, pixel, either or both; null takes what the bundle was calibrated for."""
    percentile: str | None = None
    """Decide by this one of the calibrated percentiles; null takes the bundle's first."""
    variant: Variant | None = None
    """Decide by percentile or conformal thresholds; null takes what the bundle was calibrated for."""
    group_by: str | None = None
    """Column to compare and filter by; null takes the one that divides the thresholds, or the first of the paths."""
    date_column: str = "date"
    """Column of the dates; without it there is nothing over time."""
    num_shown: int = 48
    """Images of each gallery: the highest, those nearest to the threshold, and a random sample."""
    seed: int = 0
    """Seed of the random sample."""
    with_images: bool = True
    """Whether the shown images are fetched; without them the page has their scores alone."""
    image_side: int = 640
    """Longer side of a shown image, pixels; no image is enlarged."""
    num_readers: int = 8
    """Threads that read from storage at the same time."""

    def __post_init__(self) -> None:
        require_texts(bundle=self.bundle)
        given = {name: getattr(self, name) for name in ("scores", "output", "normals")}
        require_texts(**{name: text for name, text in given.items() if text is not None})
        require("num_shown", self.num_shown, rule=f"in 0..{MAX_SHOWN}", holds=0 <= self.num_shown <= MAX_SHOWN)
        require("image_side", self.image_side, rule="in 64..2048", holds=64 <= self.image_side <= 2048)  # noqa: PLR2004
        require("num_readers", self.num_readers, rule="at least 1", holds=self.num_readers >= 1)
        require_seed("seed", self.seed)
        if (self.output is None) == (self.find is None):
            msg = "give output for a page, or find for rows on the terminal; one of them."
            raise ValueError(msg)
        if self.find is not None and not self.find:
            msg = "find must not be empty: a part of a uri or of an error."
            raise ValueError(msg)
        if self.scores is None and self.find is not None:
            msg = "find looks through a score table; give scores."
            raise ValueError(msg)
