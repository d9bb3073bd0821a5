"""What a user sets: one frozen dataclass per thing, each field with its unit and origin.

The dotted field names are the flags of the jobs, the keys of their YAML files, the keys of search spaces and what a
bundle records. Values are checked where they are born, in ``__post_init__``.
"""

import dataclasses
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType
from typing import Any, Self, TypeVar

from jsonargparse.typing import register_type

from feclip.calibration import CalibrationOptions, Percentiles, Rule, StatisticOptions, Variant

__all__ = [
    "OPTIONAL_COLUMNS",
    "PRESET_NAMES",
    "CalibrateConfig",
    "ClusterConfig",
    "Comparison",
    "DataConfig",
    "Dataset",
    "DecideConfig",
    "EvaluateConfig",
    "EvaluatedSplit",
    "EvaluationDataConfig",
    "FinetuneConfig",
    "Indices",
    "Layout",
    "LfsStatistic",
    "ListingConfig",
    "LossConfig",
    "ModelConfig",
    "Names",
    "OptimConfig",
    "PaddingMode",
    "Precision",
    "Protocol",
    "Resize",
    "ScoreConfig",
    "ScoringConfig",
    "SearchMethod",
    "Shares",
    "SweepConfig",
    "TrialScheduling",
    "TuneConfig",
    "ValidRegion",
    "changed_fields",
    "flat_fields",
    "plain",
]

_Item = TypeVar("_Item")

DEMO_BACKBONE = "feclip-demo"
DEMO_DEFAULTS: Mapping[str, Any] = MappingProxyType({"pretrained": "shipped", "image_size": 112})
OPTIONAL_COLUMNS = (
    "size", "etag", "sha256", "width", "height", "image_score", "token_map", "valid_box", "valid_mask",
)  # fmt: skip
USUAL_TRIALS = 20
PRESET_NAMES = ("feclip", "community-518")
PAPER_DEFAULTS: Mapping[str, Any] = MappingProxyType({"pretrained": "openai", "image_size": 336})


class Names(tuple[str, ...]):
    """Names, written ``a,b`` on the command line and in files (an unquoted ``[a,b]`` is a shell glob)."""

    __slots__ = ()


class Indices(tuple[int, ...]):
    """Zero-based indices, written ``5,11``."""

    __slots__ = ()


class Shares(tuple[float, ...]):
    """Fractions of a whole, written ``0.6,0.2,0.2``."""

    __slots__ = ()


def _read_list(
    kind: Callable[[Iterable[Any]], tuple[_Item, ...]], item: Callable[[Any], _Item]
) -> Callable[[Any], Any]:
    def read(value: str | float | Iterable[Any]) -> tuple[_Item, ...]:
        parts: Iterable[Any]
        if isinstance(value, str):
            parts = [part.strip() for part in value.strip().removeprefix("[").removesuffix("]").split(",")]
        elif isinstance(value, Iterable):
            parts = value
        else:
            parts = [value]
        if any(part == "" for part in parts):
            msg = f"expected values separated by commas, like a,b; got {value!r}"
            raise ValueError(msg)
        return kind(item(part) for part in parts)

    return read


def _write_list(value: Iterable[Any]) -> str:
    return ",".join(str(part) for part in value)


register_type(Names, serializer=_write_list, deserializer=_read_list(Names, str))
register_type(Indices, serializer=_write_list, deserializer=_read_list(Indices, int))
register_type(Shares, serializer=_write_list, deserializer=_read_list(Shares, float))
register_type(Percentiles, serializer=_write_list, deserializer=_read_list(Percentiles, str))


class LfsStatistic(StrEnum):
    """What the LFS adapter averages over the coefficients of a window."""

    signed = "signed"
    magnitude = "magnitude"
    power = "power"


class PaddingMode(StrEnum):
    """How the model treats tokens that hold padding only."""

    ignore = "ignore"
    masked = "masked"
    attention = "attention"


class Resize(StrEnum):
    """How an image becomes the square that the model reads."""

    letterbox = "letterbox"
    squash = "squash"


class ValidRegion(StrEnum):
    """Where the image ends and padding begins."""

    letterbox = "letterbox"
    uniform_border = "uniform_border"
    mask_uri = "mask_uri"


class Protocol(StrEnum):
    """What the labelled test images are used for."""

    a = "a"
    b = "b"


class Precision(StrEnum):
    """Number format of the trunk's arithmetic."""

    auto = "auto"
    float32 = "float32"
    bfloat16 = "bfloat16"


class SearchMethod(StrEnum):
    """What proposes the values of the next trial."""

    optuna = "optuna"
    random = "random"


class TrialScheduling(StrEnum):
    """Whether trials that are behind end early."""

    asha = "asha"
    none = "none"


def _require(name: str, value: float, *, rule: str, holds: bool) -> None:
    if not holds or not math.isfinite(value):
        msg = f"{name} must be {rule}, got {value}."
        raise ValueError(msg)


def _require_member(name: str, value: object, kind: type[StrEnum]) -> None:
    if value not in list(kind):
        msg = f"{name} must be one of {', '.join(kind)}, got {value!r}."
        raise ValueError(msg)


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The model: a frozen CLIP and the adapters on it."""

    backbone: str = "ViT-L-14-336"
    """open_clip model name; resolved to its QuickGELU form where its weights were trained so (paper, Section 4.2)."""
    pretrained: str | None = None
    """open_clip weight tag, a local .safetensors or .pt file, or ``none`` for a trunk initialised from init_seed;
    null takes ``openai``, and for ``feclip-demo`` what ships with it (``shipped``)."""
    init_seed: int = 0
    """Seed of the trunk when pretrained is ``none``; without effect otherwise."""
    image_size: int | None = None
    """Side of the square input, pixels; a multiple of the backbone's patch size. Null takes 336 (paper, Section 4.2),
    and for ``feclip-demo`` the 112 it was trained at."""
    num_taps: int = 4
    """Blocks that are tapped, at the ends of as many equal stages (N of the paper, Section 3.2)."""
    tap_blocks: Indices | None = None
    """Zero-based blocks to tap instead, ascending, written 5,11,17,23; null takes them from num_taps."""
    ffe_window_size: int = 3
    """Window side of the FFE adapter, tokens (P of the paper, Section 3.3)."""
    lfs_window_size: int = 3
    """Window side of the LFS adapter, tokens (Q of the paper, Section 3.4)."""
    lfs_statistic: LfsStatistic = LfsStatistic.signed
    """Statistic of the window's coefficients; signed is the paper's (docs/adr/0004-lfs-statistic.md)."""
    lfs_kernel_size: int = 3
    """Kernel side of the LFS convolution, tokens, odd (guide, 4.3)."""
    fusion_weight: float = 0.1
    """Share of the adapters in the fused tokens, 0 to 1 (lambda of Eq. 2)."""
    temperature: float = 0.07
    """Divisor of the cosine similarities, above 0 (tau of Eq. 1)."""
    noun: str = "object"
    """What the prompts name: 'A photo of a normal <noun>'."""
    padding: PaddingMode = PaddingMode.masked
    """Tokens on padding: ignored as such, masked in the adapters, or masked in the trunk's attention too; only then
    does no score depend on the padding's colour."""
    use_ffe: bool = True
    """Whether the FFE adapter acts."""
    use_lfs: bool = True
    """Whether the LFS adapter acts."""

    def __post_init__(self) -> None:
        if self.image_size is not None:
            _require("model.image_size", self.image_size, rule="at least 1", holds=self.image_size >= 1)
        for name in ("num_taps", "ffe_window_size", "lfs_window_size"):
            _require(f"model.{name}", getattr(self, name), rule="at least 1", holds=getattr(self, name) >= 1)
        _require(
            "model.lfs_kernel_size",
            self.lfs_kernel_size,
            rule="odd and at least 1",
            holds=self.lfs_kernel_size >= 1 and self.lfs_kernel_size % 2 == 1,
        )
        _require("model.fusion_weight", self.fusion_weight, rule="in [0, 1]", holds=0 <= self.fusion_weight <= 1)
        _require("model.temperature", self.temperature, rule="above 0", holds=self.temperature > 0)
        _require("model.init_seed", self.init_seed, rule="at least 0", holds=self.init_seed >= 0)
        _require_member("model.lfs_statistic", self.lfs_statistic, LfsStatistic)
        _require_member("model.padding", self.padding, PaddingMode)
        for name in ("backbone", "pretrained", "noun"):
            if getattr(self, name) is not None and not getattr(self, name).strip():
                msg = f"model.{name} must not be empty."
                raise ValueError(msg)
        if self.tap_blocks is not None and list(self.tap_blocks) != sorted({b for b in self.tap_blocks if b >= 0}):
            msg = f"model.tap_blocks must be ascending zero-based blocks without repeats, got {list(self.tap_blocks)}."
            raise ValueError(msg)

    def settled(self) -> Self:
        """Return the config with what depends on the backbone filled in where it was left null.

        Example:
            >>> ModelConfig(backbone="feclip-demo").settled().image_size
            112
        """
        usual = DEMO_DEFAULTS if self.backbone == DEMO_BACKBONE else PAPER_DEFAULTS
        return dataclasses.replace(self, **{name: usual[name] for name in usual if getattr(self, name) is None})


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """The labelled images: an MVTec folder or a manifest."""

    root: str | None = None
    """Folder or s3:// prefix of the MVTec layout; with a manifest, what its relative paths start from."""
    categories: Names | None = None
    """Categories to use, written screw,grid; null takes all."""
    manifest: str | None = None
    """Parquet or CSV table, one row per image, instead of a folder layout."""
    resize: Resize = Resize.letterbox
    """Keep the aspect ratio and pad, or squash to the square as the peers do."""
    padding_color: str = "white"
    """Colour of the padding: white, black, mean, or r,g,b in 0..255."""
    valid_region: ValidRegion = ValidRegion.letterbox
    """Where padding is: ours only, also a uniform border that the image brings, or told by a file per image."""
    protocol: Protocol = Protocol.a
    """a: all test images train; b: they are divided by fractions, so that some are held out and some reported."""
    fractions: Shares = field(default=Shares((0.6, 0.2, 0.2)))
    """Shares of train, held_out and report under protocol b; they sum to 1."""
    group_column: str | None = None
    """Manifest column whose equal values (a part, a lot) must not be divided between splits."""
    num_workers: int = 4
    """Threads that read and decode images, per training worker."""

    def __post_init__(self) -> None:
        _require_member("data.resize", self.resize, Resize)
        _require_member("data.valid_region", self.valid_region, ValidRegion)
        _require_member("data.protocol", self.protocol, Protocol)
        _require("data.num_workers", self.num_workers, rule="at least 1", holds=self.num_workers >= 1)
        if (
            len(self.fractions) != len(("train", "held_out", "report"))
            or any(not 0 <= share <= 1 for share in self.fractions)
            or not math.isclose(sum(self.fractions), 1.0, abs_tol=1e-9)
        ):
            msg = f"data.fractions must be three shares (train, held_out, report) that sum to 1, got {self.fractions}."
            raise ValueError(msg)
        if self.fractions[0] <= 0:
            msg = f"data.fractions must leave a share to train, got {self.fractions}."
            raise ValueError(msg)


@dataclass(frozen=True, kw_only=True)
class LossConfig:
    """Weights of the three loss terms, each a mean over the taps (paper, Eq. 4-5)."""

    class_weight: float = 1.0
    """Weight of the binary cross entropy on the image score."""
    focal_weight: float = 1.0
    """Weight of the focal loss on the anomaly map."""
    dice_weight: float = 1.0
    """Weight of the dice loss on the anomaly map."""
    focal_gamma: float = 2.0
    """Focusing exponent of the focal loss (Lin et al., 2017)."""
    focal_alpha: float = 0.25
    """Weight of anomalous pixels in the focal loss, 0 to 1; normal ones get the rest (Lin et al., 2017)."""

    def __post_init__(self) -> None:
        for name in ("class_weight", "focal_weight", "dice_weight", "focal_gamma"):
            _require(f"loss.{name}", getattr(self, name), rule="at least 0", holds=getattr(self, name) >= 0)
        _require("loss.focal_alpha", self.focal_alpha, rule="in [0, 1]", holds=0 <= self.focal_alpha <= 1)


@dataclass(frozen=True, kw_only=True)
class OptimConfig:
    """Optimiser settings of one training run."""

    learning_rate: float = 5e-4
    """Adam step size (paper, Section 4.2)."""
    epochs: int = 9
    """Passes over the training images (paper, Section 4.2); 0 writes a valid zero-shot bundle."""
    batch_size: int = 16
    """Images per optimiser step over all workers (paper, Section 4.2)."""
    grad_clip: float | None = None
    """Largest norm of the gradient of all trained parameters together; null leaves it as it is."""
    weight_decay: float = 0.0
    """L2 penalty that Adam adds to the gradient."""
    precision: Precision = Precision.auto
    """Arithmetic of the trunk: auto takes bfloat16 where the device computes it natively, float32 elsewhere."""

    def __post_init__(self) -> None:
        _require("optim.learning_rate", self.learning_rate, rule="above 0", holds=self.learning_rate > 0)
        _require("optim.epochs", self.epochs, rule="at least 0", holds=self.epochs >= 0)
        _require("optim.batch_size", self.batch_size, rule="at least 1", holds=self.batch_size >= 1)
        _require("optim.weight_decay", self.weight_decay, rule="at least 0", holds=self.weight_decay >= 0)
        if self.grad_clip is not None:
            _require("optim.grad_clip", self.grad_clip, rule="above 0", holds=self.grad_clip > 0)
        _require_member("optim.precision", self.precision, Precision)


@dataclass(frozen=True, kw_only=True)
class ClusterConfig:
    """What the job asks of the Ray cluster."""

    num_workers: int = 1
    """Training workers (DDP ranks)."""
    use_gpu: bool = False
    """Whether each worker gets one GPU; asked for here and never guessed where the job starts."""
    max_failures: int = 3
    """Worker failures after which the run gives up; it goes on from the last epoch each time."""
    storage_endpoint: str | None = None
    """URL of an S3-compatible server; null takes AWS_ENDPOINT_URL, or AWS itself."""
    storage_patience: float = 120.0
    """Seconds for which a running job tries a request again while storage fails; its first look takes 20."""

    def __post_init__(self) -> None:
        _require("cluster.num_workers", self.num_workers, rule="at least 1", holds=self.num_workers >= 1)
        _require("cluster.max_failures", self.max_failures, rule="at least 0", holds=self.max_failures >= 0)
        patience = self.storage_patience
        _require("cluster.storage_patience", patience, rule="at least 0", holds=0 <= patience < float("inf"))


@dataclass(frozen=True, kw_only=True)
class FinetuneConfig:
    """Fine-tune the FE-CLIP adapters on labelled images and write a bundle."""

    output: str
    """Folder or s3:// prefix of the bundle; submitted again, the run goes on from its last epoch."""
    data: DataConfig = field(default_factory=DataConfig)
    """The labelled images; not read where optim.epochs is 0."""
    model: ModelConfig = field(default_factory=ModelConfig)
    """The model."""
    loss: LossConfig = field(default_factory=LossConfig)
    """The loss."""
    optim: OptimConfig = field(default_factory=OptimConfig)
    """The optimiser."""
    cluster: ClusterConfig = field(default_factory=ClusterConfig)
    """The cluster."""
    seed: int = 0
    """Seed of the adapters, the order of the images and the splits."""

    def __post_init__(self) -> None:
        if not self.output.strip():
            msg = "output must not be empty: a folder or an s3:// prefix for the bundle."
            raise ValueError(msg)
        object.__setattr__(self, "model", self.model.settled())  # a run, its resumption and its bundle say the same
        _require("seed", self.seed, rule="at least 0", holds=self.seed >= 0)
        if self.optim.epochs and self.data.root is None and self.data.manifest is None:
            msg = "data.root or data.manifest is required: an MVTec folder, or a Parquet or CSV table of images."
            raise ValueError(msg)
        if self.optim.epochs and self.optim.batch_size < self.cluster.num_workers:
            msg = (
                f"optim.batch_size must be at least cluster.num_workers ({self.cluster.num_workers}), "
                f"since it counts the images of all workers; got {self.optim.batch_size}."
            )
            raise ValueError(msg)


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
    batch_size: int = 16
    """Images in one forward pass."""
    num_actors: int = 1
    """Actors that hold the model."""
    gpus_per_actor: float = 0.0
    """GPUs of each actor, possibly a share of one; 0 scores on the CPU. Asked for here and never guessed."""
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
        for name in ("batch_size", "num_actors", "num_readers"):
            _require(f"score.{name}", getattr(self, name), rule="at least 1", holds=getattr(self, name) >= 1)
        if self.slice_size is not None:
            _require("score.slice_size", self.slice_size, rule="at least 1", holds=self.slice_size >= 1)
        gpus = self.gpus_per_actor
        rule = "a whole number of at least 0, or a share below 1"
        holds = gpus >= 0 and (gpus < 1 or float(gpus).is_integer())
        _require("score.gpus_per_actor", gpus, rule=rule, holds=holds)
        _require("score.max_error_rate", self.max_error_rate, rule="in [0, 1]", holds=0 <= self.max_error_rate <= 1)
        _require_member("score.precision", self.precision, Precision)
        unknown = sorted({*(self.columns or ())} - {*OPTIONAL_COLUMNS})
        if unknown:
            msg = f"score.columns knows {', '.join(OPTIONAL_COLUMNS)}; got {', '.join(unknown)}."
            raise ValueError(msg)

    @property
    def statistic_options(self) -> StatisticOptions:
        """What the statistics of the maps are computed with."""
        return StatisticOptions(topk_fraction=self.topk_fraction, smoothing_sigma=self.smoothing_sigma)


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
    listing: ListingConfig = field(default_factory=ListingConfig)
    """Which objects are images."""
    score: ScoringConfig = field(default_factory=ScoringConfig)
    """How images are scored."""
    cluster: ClusterConfig = field(default_factory=ClusterConfig)
    """The cluster."""

    def __post_init__(self) -> None:
        _require_texts(bundle=self.bundle, output=self.output)
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
    calibrate: CalibrationOptions = field(default_factory=CalibrationOptions)
    """Thresholds and what decides."""
    listing: ListingConfig = field(default_factory=ListingConfig)
    """Which objects are images, where normals are a folder."""
    score: ScoringConfig = field(default_factory=ScoringConfig)
    """How images are scored, where normals are not scored yet."""
    cluster: ClusterConfig = field(default_factory=ClusterConfig)
    """The cluster."""

    def __post_init__(self) -> None:
        _require_texts(bundle=self.bundle, normals=self.normals, output=self.output)
        if self.root is not None and not self.normals_are_manifest:
            msg = "root is what relative paths of a manifest start from, and normals names no .csv or .parquet file."
            raise ValueError(msg)

    @property
    def normals_are_manifest(self) -> bool:
        """Whether the normals are named by a table, by the end of its name."""
        return self.normals.lower().endswith((".csv", ".parquet"))


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
        _require_texts(bundle=self.bundle, scores=self.scores)


@dataclass(frozen=True, kw_only=True)
class SweepConfig:
    """How a sweep searches, and what each trial gets."""

    search: SearchMethod = SearchMethod.optuna
    """What proposes values: Optuna's TPE, which learns from the trials before, or chance. Both follow the seed."""
    startup_trials: int = 10
    """Trials that TPE proposes by chance before it learns (Optuna's default)."""
    scheduler: TrialScheduling = TrialScheduling.asha
    """asha ends trials that are behind (Li et al., 2020); none trains each to its last epoch."""
    grace_epochs: int = 1
    """Epochs that asha gives every trial."""
    reduction_factor: float = 3.0
    """About one in so many trials goes on at each of asha's rungs, above 1; the next rung is so many times later."""
    max_concurrent: int | None = None
    """Trials at once at most; null takes as many as the cluster has room for."""
    cpus_per_trial: float = 1.0
    """CPUs of each trial; decoding threads share them."""
    gpus_per_trial: float = 0.0
    """GPUs of each trial, possibly a share of one; 0 trains on the CPU. Asked for here and never guessed."""
    image_auroc_weight: float = 0.5
    """Weight of the held-out image AUROC in the objective; the weights are divided by their sum."""
    aupro_weight: float = 0.5
    """Weight of the held-out exact AUPRO in the objective; without effect where no held-out image has a gt mask."""

    def __post_init__(self) -> None:
        for name in ("startup_trials", "grace_epochs"):
            _require(f"tune.{name}", getattr(self, name), rule="at least 1", holds=getattr(self, name) >= 1)
        _require("tune.reduction_factor", self.reduction_factor, rule="above 1", holds=self.reduction_factor > 1)
        if self.max_concurrent is not None:
            _require("tune.max_concurrent", self.max_concurrent, rule="at least 1", holds=self.max_concurrent >= 1)
        _require("tune.cpus_per_trial", self.cpus_per_trial, rule="above 0", holds=self.cpus_per_trial > 0)
        gpus = self.gpus_per_trial
        rule = "a whole number of at least 0, or a share below 1"
        _require("tune.gpus_per_trial", gpus, rule=rule, holds=gpus >= 0 and (gpus < 1 or float(gpus).is_integer()))
        for name in ("image_auroc_weight", "aupro_weight"):
            _require(f"tune.{name}", getattr(self, name), rule="at least 0", holds=getattr(self, name) >= 0)
        if self.image_auroc_weight + self.aupro_weight <= 0:
            msg = "tune.image_auroc_weight and tune.aupro_weight must not both be 0: nothing would be left to compare."
            raise ValueError(msg)
        _require_member("tune.search", self.search, SearchMethod)
        _require_member("tune.scheduler", self.scheduler, TrialScheduling)


@dataclass(frozen=True, kw_only=True)
class TuneConfig:
    """Search config fields by many fine-tunings that are judged on the held-out split."""

    output: str
    """Folder or s3:// prefix of the sweep; submitted again, it goes on, and a finished one does nothing."""
    space: str | None = None
    """YAML file of the searched fields and their distributions (tune_spaces/); required for a new sweep."""
    num_trials: int | None = None
    """Trials of the sweep, those that end early or fail among them; null takes 20, or as many as the resumed sweep
    has; a sweep may grow."""
    resume: bool = False
    """Whether the sweep in the output goes on, with everything that is not given taken from its own record."""
    refit: bool = False
    """Whether the best config is fine-tuned once more, with cluster.num_workers, to a bundle in <output>/bundle."""
    data: DataConfig = field(default_factory=lambda: DataConfig(protocol=Protocol.b))
    """The labelled images; protocol b, since a sweep is judged on images that are held out."""
    model: ModelConfig = field(default_factory=ModelConfig)
    """The model, where the space does not search it."""
    loss: LossConfig = field(default_factory=LossConfig)
    """The loss, where the space does not search it."""
    optim: OptimConfig = field(default_factory=OptimConfig)
    """The optimiser, where the space does not search it."""
    tune: SweepConfig = field(default_factory=SweepConfig)
    """How the sweep searches."""
    cluster: ClusterConfig = field(default_factory=ClusterConfig)
    """The cluster; its workers are those of the refit, since a trial has one."""
    seed: int = 0
    """Seed of the splits, of every trial's adapters and order of images, and of what is proposed."""

    def __post_init__(self) -> None:
        _require_texts(output=self.output)
        if self.num_trials is None and not self.resume:
            object.__setattr__(self, "num_trials", USUAL_TRIALS)
        if self.num_trials is not None:
            _require("num_trials", self.num_trials, rule="at least 1", holds=self.num_trials >= 1)
        object.__setattr__(self, "model", self.model.settled())
        if self.data.protocol != Protocol.b:
            msg = "data.protocol must be b for a sweep: under a every test image trains and none is left to judge on."
            raise ValueError(msg)
        if self.resume:
            return  # the rest stands in the sweep's record, which was checked when it began
        if self.space is None:
            msg = "space is required: a YAML file like tune_spaces/adapters.yaml; or resume with a sweep's output."
            raise ValueError(msg)
        _require("optim.epochs", self.optim.epochs, rule="at least 1 for a sweep", holds=self.optim.epochs >= 1)
        if self.tune.grace_epochs > self.optim.epochs:
            msg = f"tune.grace_epochs must be at most optim.epochs ({self.optim.epochs}), got {self.tune.grace_epochs}."
            raise ValueError(msg)
        self.finetune()

    def finetune(self) -> FinetuneConfig:
        """Return the fine-tuning that each trial varies; its output is that of the refit."""
        return FinetuneConfig(
            output=f"{self.output.rstrip('/')}/bundle",
            data=self.data,
            model=self.model,
            loss=self.loss,
            optim=self.optim,
            cluster=self.cluster,
            seed=self.seed,
        )


class Layout(StrEnum):
    """How the folder of a labelled data set is laid out."""

    auto = "auto"
    mvtec = "mvtec"
    visa = "visa"
    btad = "btad"
    mpdd = "mpdd"
    dtd = "dtd"


class EvaluatedSplit(StrEnum):
    """Splits that hold both normal and anomalous images."""

    train = "train"
    held_out = "held_out"
    report = "report"


class Dataset(StrEnum):
    """Data sets of the paper's table."""

    mvtec = "mvtec"
    visa = "visa"
    mpdd = "mpdd"
    btad = "btad"
    dagm = "dagm"
    dtd = "dtd"


class Comparison(StrEnum):
    """What an evaluation is set beside."""

    paper = "paper"


@dataclass(frozen=True, kw_only=True)
class EvaluationDataConfig:
    """The labelled images that a bundle is judged on: a folder or a manifest."""

    root: str | None = None
    """Folder or s3:// prefix of the data set; with a manifest, what its relative paths start from."""
    manifest: str | None = None
    """Parquet or CSV table, one row per image, instead of a folder."""
    layout: Layout = Layout.auto
    """Layout of the folder: MVTec AD, VisA, BTAD, MPDD or DTD-Synthetic; auto looks at its upper levels."""
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
        _require_member("data.layout", self.layout, Layout)
        _require("data.num_workers", self.num_workers, rule="at least 1", holds=self.num_workers >= 1)
        if self.seed is not None:
            _require("data.seed", self.seed, rule="at least 0", holds=self.seed >= 0)
        if self.fractions is not None:
            DataConfig(fractions=self.fractions)
        if self.root is None and self.manifest is None:
            msg = "data.root or data.manifest is required: a folder of labelled images, or a table of them."
            raise ValueError(msg)
        if self.manifest is not None and self.layout is not Layout.auto:
            msg = f"data.layout is {self.layout}, but data.manifest names the images; leave one of them out."
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
            _require_texts(bundle=uri)
        if len(set(self.bundle)) < len(self.bundle):
            msg = f"bundle names one bundle twice: {','.join(self.bundle)}."
            raise ValueError(msg)
        if self.output is not None:
            _require_texts(output=self.output)
        if self.preset not in PRESET_NAMES:
            msg = f"preset must be one of {', '.join(PRESET_NAMES)}, got {self.preset!r}."
            raise ValueError(msg)
        if self.score.columns is not None:
            msg = "score.columns must be null: an evaluation reads the token maps and the valid pixels."
            raise ValueError(msg)


def _require_texts(**texts: str) -> None:
    for name, text in texts.items():
        if not text.strip():
            msg = f"{name} must not be empty: a path or an s3:// URI."
            raise ValueError(msg)


def plain(config: Any) -> dict[str, Any]:  # noqa: ANN401 - any of the dataclasses above
    """Return a config as JSON values: nested dictionaries, lists, strings and numbers.

    Example:
        >>> plain(LossConfig())["focal_alpha"]
        0.25
    """

    def value(item: Any) -> Any:  # noqa: ANN401 - a JSON value
        if isinstance(item, Mapping):
            return {key: value(inner) for key, inner in item.items()}
        if isinstance(item, tuple):
            return list(item)
        return str(item) if isinstance(item, StrEnum) else item

    return {key: value(inner) for key, inner in dataclasses.asdict(config).items()}


def flat_fields(values: Mapping[str, Any], *, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield ``(dotted name, value)`` for the leaves of a plain config.

    Example:
        >>> dict(flat_fields({"optim": {"epochs": 9}, "seed": 0}))
        {'optim.epochs': 9, 'seed': 0}
    """
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from flat_fields(value, prefix=f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def changed_fields(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Return ``{dotted name: (old value, new value)}`` for the fields in which two plain configs differ.

    Example:
        >>> changed_fields({"optim": {"epochs": 2}}, {"optim": {"epochs": 3}})
        {'optim.epochs': (2, 3)}
    """
    before, after = dict(flat_fields(old)), dict(flat_fields(new))
    return {
        name: (before.get(name), after.get(name))
        for name in sorted(before.keys() | after.keys())
        if before.get(name) != after.get(name)
    }
