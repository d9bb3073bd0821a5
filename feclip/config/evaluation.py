"""Evaluation of bundles on labelled images."""

from dataclasses import dataclass, field

from feclip.config.checks import require, require_seed, require_texts, require_uris
from feclip.config.choices import Comparison, Dataset, EvaluatedSplit, Layout
from feclip.config.cluster import ClusterConfig
from feclip.config.finetuning import DataConfig, require_layout
from feclip.config.lists import Names, Shares
from feclip.config.scoring import ScoringConfig

__all__ = ["PRESET_NAMES", "EvaluateConfig", "EvaluationDataConfig"]

PRESET_NAMES = ("feclip", "community-518")


@dataclass(frozen=True, kw_only=True)
class EvaluationDataConfig:
    """The labelled images that a bundle is judged on: a folder or a manifest."""

    root: str | None = None
    """Folder or s3:// prefix of the data set; with a manifest, what its relative paths start from."""
    manifest: str | None = None
    """Parquet or CSV table, one row per image, instead of a folder."""
    layout: Layout = Layout.auto
    """Layout of the folder: MVTec AD, VisA, BTAD, MPDD, DTD-Synthetic or DAGM; auto looks at its upper levels."""
    categories: Names | None = None
    """Categories to judge, written screw,grid; null takes all."""
    fractions: Shares | None = None
    """Shares of train, held_out and report that a split is a part of; null takes those the bundle was trained with."""
    group_column: str | None = None
    """Manifest column whose equal values no split divides; null takes what the bundle was trained with."""
    seed: int | None = None
    """Seed of the splits; null takes the bundle's."""
    num_workers: int = 4
    """Threads that read and decode images, per task that looks at them."""

    def __post_init__(self) -> None:
        require_uris("data.", root=self.root, manifest=self.manifest)
        require_layout(self.layout, manifest=self.manifest)
        require("data.num_workers", self.num_workers, rule="at least 1", holds=self.num_workers >= 1)
        if self.seed is not None:
            require_seed("data.seed", self.seed)
        if self.fractions is not None:
            DataConfig(fractions=self.fractions)
        if self.root is None and self.manifest is None:
            msg = "data.root or data.manifest is required: a folder of labelled images, or a table of them."
            raise ValueError(msg)


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig:
    """Judge one or several bundles on labelled images they have never seen."""

    bundle: Names
    """Folder or s3:// prefix of the bundle; several, written a,b,c, are seeds of one recipe: mean and deviation."""
    data: EvaluationDataConfig
    """The labelled images."""
    output: str | None = None
    """Folder or s3:// prefix of the result; null takes <bundle>/evaluations/<digest of data, split and preset> beside
    the first bundle. Submitted again, images that are scored stay scored."""
    split: EvaluatedSplit | None = None
    """Judge this split alone, as protocol b divides the images; null takes all test images."""
    preset: str = "feclip"
    """feclip: images as the bundle was trained with, maps at that size, smoothed by score.smoothing_sigma;
    community-518: squash to 518 px, maps smoothed by sigma 4, as the peers do."""
    dataset: Dataset | None = None
    """Which of the paper's data sets this is; null tells it from the names of the categories."""
    compare: Comparison | None = None
    """paper: show the paper's numbers beside ours."""
    allow_trained_images: bool = False
    """Whether images that trained, selected or calibrated a bundle may judge it; every number is marked then."""
    score: ScoringConfig = field(default_factory=ScoringConfig)
    """How images are scored; every image needs a score, whatever max_error_rate says."""
    cluster: ClusterConfig = field(default_factory=ClusterConfig)
    """The cluster."""

    def __post_init__(self) -> None:
        for uri in self.bundle:
            require_texts(bundle=uri)
        if len(set(self.bundle)) < len(self.bundle):
            msg = f"bundle names one bundle twice: {','.join(self.bundle)}."
            raise ValueError(msg)
        if self.output is not None:
            require_texts(output=self.output)
        if self.preset not in PRESET_NAMES:
            msg = f"preset must be one of {', '.join(PRESET_NAMES)}, got {self.preset!r}."
            raise ValueError(msg)
        if self.score.columns is not None:
            msg = "score.columns must be null: an evaluation reads the token maps and the valid pixels."
            raise ValueError(msg)
