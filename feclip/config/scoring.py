"""Scoring an archive, thresholds from normal images, and decisions."""

from dataclasses import dataclass, field
from typing import Literal

from feclip.calibration import CalibrationOptions, Rule, StatisticOptions, Variant
from feclip.config.checks import require, require_member, require_texts, require_uris
from feclip.config.choices import JpegDecoder, Precision
from feclip.config.cluster import ClusterConfig
from feclip.config.lists import Names
from feclip.config.memory_bank import ALL_SHOTS, BankConfig

__all__ = [
    "OPTIONAL_COLUMNS",
    "CalibrateConfig",
    "DecideConfig",
    "ListingConfig",
    "PlanningConfig",
    "ScoreConfig",
    "ScoringConfig",
    "is_manifest",
]

OPTIONAL_COLUMNS = (
    "size", "etag", "sha256", "width", "height", "image_score", "token_map", "valid_box", "valid_mask",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class ListingConfig:
    """Which objects of an archive are images."""

    extensions: Names = field(default=Names((".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")))
    """Ends of names, upper or lower case; other objects are counted and left out."""
    include: Names | None = None
    """Patterns of paths below the archive, written line=1/*,line=2/*; * also crosses folders. Null takes all."""
    exclude: Names | None = None
    """Patterns of paths to leave out, applied last."""

    def __post_init__(self) -> None:
        if not self.extensions or any(not extension.startswith(".") for extension in self.extensions):
            msg = f"listing.extensions must each start with a dot, like .png,.jpg; got {','.join(self.extensions)}."
            raise ValueError(msg)


@dataclass(frozen=True, kw_only=True)
class ScoringConfig:
    """How images are scored."""

    topk_fraction: float = 0.01
    """Share k of the valid pixels that the top-k mean of the map covers, above 0 up to 1: max(1, ceil(k * valid))."""
    smoothing_sigma: float = 0.0
    """Standard deviation of the Gaussian that smooths a map before its statistics, pixels of the model input."""
    precision: Precision = Precision.auto
    """Arithmetic of the trunk: auto takes bfloat16 where the device computes it natively, float32 elsewhere."""
    batch_size: int | None = None
    """Images in one forward pass; null finds it from the free memory of a GPU, of its share where an actor has a share,
    and is 16 on a CPU. A batch never holds more than a slice."""
    compile: bool = False
    """Compile the model once in each actor, for one batch size, in a warm-up that is reported; on a GPU it is replayed
    as CUDA graphs, on a CPU it may be slower than plain. Needs a C++ compiler where the actors run."""
    num_actors: int = 1
    """Actors that hold the model."""
    threads_per_actor: int = 1
    """Threads of the model in each actor on a CPU. An actor reserves one core whatever this is; more pay where decoding
    leaves cores idle, as on a machine of two."""
    gpus_per_actor: float = 0.0
    """GPUs of each actor, possibly a share of one; 0 scores on the CPU. Asked for here and never guessed."""
    jpeg_decoder: JpegDecoder = JpegDecoder.pillow
    """pillow on the cores, or nvjpeg on the actors' GPUs, whose pixels differ by rounding; then slices carry the files
    themselves, so choose a smaller slice_size where these are large."""
    num_readers: int = 8
    """Threads of a decoding task that read from storage at the same time."""
    slice_size: int | None = None
    """Images that are written together and redone together; null keeps the pixels of a slice below 64 MB."""
    columns: Names | None = None
    """Optional columns of the score table to write, of size, etag, sha256, width, height, image_score, token_map,
    valid_box, valid_mask; null writes all. Without token_map, maps and new statistics cannot be had later."""
    max_error_rate: float = 0.01
    """Share of images without a score above which the job ends non-zero, with its table whole; 0 to 1."""

    def __post_init__(self) -> None:
        StatisticOptions(topk_fraction=self.topk_fraction, smoothing_sigma=self.smoothing_sigma)
        for name in ("batch_size", "num_actors", "num_readers", "slice_size", "threads_per_actor"):
            value = getattr(self, name)
            if value is not None:
                require(f"score.{name}", value, rule="at least 1", holds=value >= 1)
        gpus = self.gpus_per_actor
        rule = "a whole number of at least 0, or a share below 1"
        holds = gpus >= 0 and (gpus < 1 or float(gpus).is_integer())
        require("score.gpus_per_actor", gpus, rule=rule, holds=holds)
        require("score.max_error_rate", self.max_error_rate, rule="in [0, 1]", holds=0 <= self.max_error_rate <= 1)
        require_member("score.precision", self.precision, Precision)
        require_member("score.jpeg_decoder", self.jpeg_decoder, JpegDecoder)
        if self.jpeg_decoder is JpegDecoder.nvjpeg and not gpus:
            msg = "score.jpeg_decoder=nvjpeg decodes on the actors' GPUs: set score.gpus_per_actor above 0."
            raise ValueError(msg)
        unknown = sorted({*(self.columns or ())} - {*OPTIONAL_COLUMNS})
        if unknown:
            msg = f"score.columns knows {', '.join(OPTIONAL_COLUMNS)}; got {', '.join(unknown)}."
            raise ValueError(msg)

    @property
    def statistic_options(self) -> StatisticOptions:
        """What the statistics of the maps are computed with."""
        return StatisticOptions(topk_fraction=self.topk_fraction, smoothing_sigma=self.smoothing_sigma)


@dataclass(frozen=True, kw_only=True)
class PlanningConfig:
    """What a plan of a scoring job is made for."""

    sample_size: int = 64
    """Images of the archive that are measured."""
    num_images: int = 100_000_000
    """Images that the table of scales is for."""
    cores_per_actor: int | None = None
    """Cores of an actor with those that feed it, at least 2; null takes as many as its model needs."""
    price_per_hour: float | None = None
    """Price of one hour of an actor with its GPU and its cores, in any currency; null plans no cost."""
    gpu_images_per_second: float | None = None
    """The model's rate on one GPU where this machine has none, as measured elsewhere; null leaves it unknown."""

    def __post_init__(self) -> None:
        for name, least in (("sample_size", 1), ("num_images", 1), ("cores_per_actor", 2)):
            value = getattr(self, name)
            if value is not None:
                require(f"planning.{name}", value, rule=f"at least {least}", holds=value >= least)
        if self.price_per_hour is not None:
            require("planning.price_per_hour", self.price_per_hour, rule="at least 0", holds=self.price_per_hour >= 0)
        rate = self.gpu_images_per_second
        if rate is not None:
            require("planning.gpu_images_per_second", rate, rule="above 0", holds=rate > 0)


@dataclass(frozen=True, kw_only=True)
class ScoreConfig:
    """Score every image of an archive with a bundle and write a score table."""

    bundle: str
    """Folder or s3:// prefix of the bundle; with thresholds, decisions are written too."""
    output: str
    """Folder or s3:// prefix of the score table; submitted again, the run does what is missing."""
    archive: str | None = None
    """Folder or s3:// prefix of the images; with a manifest, what its relative paths start from."""
    manifest: str | None = None
    """Parquet or CSV table with a column uri or path, one row per image, instead of a listing."""
    retry_errors: bool = False
    """Score images that have an error once more."""
    plan: bool = False
    """Measure each stage on a sample of the archive in this process, print rates, cores and cost, and write nothing."""
    listing: ListingConfig = field(default_factory=ListingConfig)
    """Which objects are images."""
    score: ScoringConfig = field(default_factory=ScoringConfig)
    """How images are scored."""
    planning: PlanningConfig = field(default_factory=PlanningConfig)
    """What the plan is made for, with plan."""
    cluster: ClusterConfig = field(default_factory=ClusterConfig)
    """The cluster."""

    def __post_init__(self) -> None:
        require_texts(bundle=self.bundle, output=self.output)
        require_uris("", archive=self.archive, manifest=self.manifest)
        if self.plan and self.score.jpeg_decoder is JpegDecoder.nvjpeg:
            msg = "--plan measures decoding on cores: plan with score.jpeg_decoder=pillow."
            raise ValueError(msg)
        threads = self.score.threads_per_actor
        if self.plan and threads != 1:
            msg = f"--plan counts one core for a model on a CPU: score.threads_per_actor must be 1, got {threads}."
            raise ValueError(msg)
        if not self.plan and self.planning != PlanningConfig():
            msg = "planning is read by --plan alone; give --plan, or leave planning out."
            raise ValueError(msg)
        if self.archive is None and self.manifest is None:
            msg = "archive or manifest is required: a folder or s3:// prefix of images, or a table of them."
            raise ValueError(msg)
        if self.manifest is not None and self.listing != ListingConfig():
            msg = "listing chooses among the objects of an archive; a manifest names its images, so leave it out."
            raise ValueError(msg)


@dataclass(frozen=True, kw_only=True)
class CalibrateConfig:
    """Fit thresholds on normal images and write a calibrated bundle."""

    bundle: str
    """Folder or s3:// prefix of the bundle."""
    normals: str
    """Normal images: an output of the scoring job, a folder or s3:// prefix of images, or a manifest."""
    output: str
    """Folder or s3:// prefix of the calibrated bundle, another than the bundle's own."""
    root: str | None = None
    """What relative paths of a manifest start from; null takes the manifest's folder."""
    allow_trained_images: bool = False
    """Whether images that trained or selected the bundle may calibrate it; their scores are too good."""
    memory_bank: int | Literal["all"] | None = None
    """Normal images (of each group, where the bank has groups) whose tokens go into the bundle, so that what is unlike
    them scores higher; all takes all of bank.images. Null makes no bank."""
    bank: BankConfig = field(default_factory=BankConfig)
    """The memory bank, with memory_bank."""
    calibrate: CalibrationOptions = field(default_factory=CalibrationOptions)
    """Thresholds and what decides."""
    listing: ListingConfig = field(default_factory=ListingConfig)
    """Which objects are images, where normals are a folder."""
    score: ScoringConfig = field(default_factory=ScoringConfig)
    """How images are scored, where normals are not scored yet."""
    cluster: ClusterConfig = field(default_factory=ClusterConfig)
    """The cluster."""

    def __post_init__(self) -> None:
        require_texts(bundle=self.bundle, normals=self.normals, output=self.output)
        require_uris("", root=self.root)
        if self.root is not None and not self.normals_are_manifest:
            msg = "root is what relative paths of a manifest start from, and normals names no .csv or .parquet file."
            raise ValueError(msg)
        if isinstance(self.memory_bank, int):
            require("memory_bank", self.memory_bank, rule="at least 1, or all", holds=self.memory_bank >= 1)
        if self.memory_bank is None and self.bank != BankConfig():
            msg = "bank is read with memory_bank alone; give memory_bank, or leave bank out."
            raise ValueError(msg)
        if self.memory_bank == ALL_SHOTS and self.bank.images is None:
            msg = "memory_bank=all needs bank.images: thresholds are fitted on normals that are not in the bank."
            raise ValueError(msg)

    @property
    def normals_are_manifest(self) -> bool:
        """Whether the normals are named by a table, by the end of its name."""
        return is_manifest(self.normals)


def is_manifest(uri: str) -> bool:
    """Tell whether a name is that of a table of images, by its end.

    Example:
        >>> is_manifest("normals.CSV"), is_manifest("s3://plant/normals")
        (True, False)
    """
    return uri.lower().endswith((".csv", ".parquet"))


@dataclass(frozen=True, kw_only=True)
class DecideConfig:
    """Apply the thresholds of a bundle to an existing score table, without reading an image."""

    bundle: str
    """Folder or s3:// prefix of a calibrated bundle."""
    scores: str
    """Output of the scoring job; decisions are written beside its scores."""
    rule: Rule | None = None
    """Decide by image, pixel, either or both; null takes what the bundle was calibrated for."""
    percentile: str | None = None
    """Decide by this one of the calibrated percentiles; null takes the bundle's first."""
    variant: Variant | None = None
    """Decide by percentile or conformal thresholds; null takes what the bundle was calibrated for."""
    cluster: ClusterConfig = field(default_factory=ClusterConfig)
    """The cluster."""

    def __post_init__(self) -> None:
        require_texts(bundle=self.bundle, scores=self.scores)
