"""Fine-tuning: labelled images, loss, optimiser."""

import math
from dataclasses import dataclass, field

from feclip.config.checks import require, require_member, require_seed, require_uris
from feclip.config.choices import JpegDecoding, Layout, Precision, PrefixCache, Protocol, Resize, ValidRegion
from feclip.config.cluster import ClusterConfig
from feclip.config.guarding import GuardConfig
from feclip.config.lists import Names, Shares
from feclip.config.model import ModelConfig

__all__ = ["SPEED_FIELDS", "DataConfig", "FinetuneConfig", "LossConfig", "OptimConfig", "require_layout"]

SPEED_FIELDS = ("optim.gradient_checkpointing", "optim.prefix_cache", "optim.prefix_cache_folder")
"""Fields that trade time for memory and change a result by rounding alone; a resumed run may have others."""


def require_layout(layout: Layout, *, manifest: str | None) -> None:
    """Refuse what is no layout, and one where a manifest names the images."""
    require_member("data.layout", layout, Layout)
    if manifest is not None and layout is not Layout.auto:
        msg = f"data.layout is {layout}, but data.manifest names the images; leave one of them out."
        raise ValueError(msg)


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """The labelled images: a folder or a manifest."""

    root: str | None = None
    """Folder or s3:// prefix of the data set; with a manifest, what its relative paths start from."""
    layout: Layout = Layout.auto
    """Layout of the folder: MVTec AD, VisA, BTAD, MPDD, DTD-Synthetic or DAGM; auto looks at its upper levels."""
    categories: Names | None = None
    """Categories to use, written screw,grid; null takes all."""
    manifest: str | None = None
    """Parquet or CSV table, one row per image, instead of a folder layout."""
    resize: Resize = Resize.letterbox
    """letterbox keeps the aspect ratio and pads to the square, squash fills the square as the peers do, rectangle keeps
    the aspect ratio without padding: the model reads as many tokens as the image has."""
    padding_color: str = "white"
    """Colour of the padding: white, black, mean, or r,g,b in 0..255."""
    valid_region: ValidRegion = ValidRegion.letterbox
    """Where padding is: ours only, also a uniform border that the image brings, or told by a file per image."""
    jpeg_decoding: JpegDecoding = JpegDecoding.full
    """full, or scaled: large JPEGs are decoded at 1/2, 1/4 or 1/8 of their sides, at least twice what the model reads;
    part of the bundle, since it moves scores a little."""
    protocol: Protocol = Protocol.a
    """a: all test images train; b: they are divided by fractions, so that some are held out and some reported."""
    fractions: Shares = field(default=Shares((0.6, 0.2, 0.2)))
    """Shares of train, held_out and report under protocol b; they sum to 1."""
    group_column: str | None = None
    """Manifest column whose equal values (a part, a lot) must not be divided between splits."""
    num_workers: int = 4
    """Threads that read and decode images, per training worker."""

    def __post_init__(self) -> None:
        require_uris("data.", root=self.root, manifest=self.manifest)
        require_layout(self.layout, manifest=self.manifest)
        require_member("data.resize", self.resize, Resize)
        require_member("data.valid_region", self.valid_region, ValidRegion)
        require_member("data.jpeg_decoding", self.jpeg_decoding, JpegDecoding)
        if self.jpeg_decoding is JpegDecoding.scaled and self.valid_region is ValidRegion.uniform_border:
            msg = "data.valid_region=uniform_border looks for the border on all pixels: take data.jpeg_decoding=full."
            raise ValueError(msg)
        require_member("data.protocol", self.protocol, Protocol)
        require("data.num_workers", self.num_workers, rule="at least 1", holds=self.num_workers >= 1)
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
            require(f"loss.{name}", getattr(self, name), rule="at least 0", holds=getattr(self, name) >= 0)
        require("loss.focal_alpha", self.focal_alpha, rule="in [0, 1]", holds=0 <= self.focal_alpha <= 1)


@dataclass(frozen=True, kw_only=True)
class OptimConfig:
    """Optimiser settings of one training run."""

    learning_rate: float = 5e-4
    """Adam step size (paper, Section 4.2)."""
    epochs: int = 9
    """Passes over the training images (paper, Section 4.2); 0 writes a valid zero-shot bundle."""
    patience: int | None = None
    """Epochs without a higher held-out image AUROC after which the tuning of a parent ends; null takes all epochs."""
    batch_size: int = 16
    """Images per optimiser step over all workers (paper, Section 4.2)."""
    grad_clip: float | None = None
    """Largest norm of the gradient of all trained parameters together; null leaves it as it is."""
    weight_decay: float = 0.0
    """L2 penalty that Adam adds to the gradient."""
    precision: Precision = Precision.auto
    """Arithmetic of the trunk: auto takes bfloat16 where the device computes it natively, float32 elsewhere."""
    gradient_checkpointing: bool = False
    """Whether the backward pass computes the blocks between taps again instead of keeping their activations: less
    memory, more time, the same result."""
    prefix_cache: PrefixCache = PrefixCache.none
    """Where the tokens before the first adapters are kept once an image was seen, so that later epochs neither decode
    it nor run the blocks before: nowhere, in the memory of each worker, or on disk; the size is stated at the start."""
    prefix_cache_folder: str | None = None
    """Local folder of prefix_cache=disk, shared by the workers of a machine; it stays after the run, for the next one,
    and is yours to delete. Without effect otherwise."""

    def __post_init__(self) -> None:
        require("optim.learning_rate", self.learning_rate, rule="above 0", holds=self.learning_rate > 0)
        require("optim.epochs", self.epochs, rule="at least 0", holds=self.epochs >= 0)
        require("optim.batch_size", self.batch_size, rule="at least 1", holds=self.batch_size >= 1)
        if self.patience is not None:
            require("optim.patience", self.patience, rule="at least 1", holds=self.patience >= 1)
        require("optim.weight_decay", self.weight_decay, rule="at least 0", holds=self.weight_decay >= 0)
        if self.grad_clip is not None:
            require("optim.grad_clip", self.grad_clip, rule="above 0", holds=self.grad_clip > 0)
        require_member("optim.precision", self.precision, Precision)
        require_member("optim.prefix_cache", self.prefix_cache, PrefixCache)
        folder = self.prefix_cache_folder
        require_uris("optim.", prefix_cache_folder=folder)
        if self.prefix_cache is PrefixCache.disk and (folder is None or not folder.strip() or "://" in folder):
            msg = f"optim.prefix_cache_folder must be a local folder where optim.prefix_cache is disk, got {folder!r}."
            raise ValueError(msg)


@dataclass(frozen=True, kw_only=True)
class FinetuneConfig:
    """Fine-tune the FE-CLIP adapters on labelled images and write a bundle."""

    output: str
    """Folder or s3:// prefix of the bundle; submitted again, the run goes on from its last epoch."""
    parent: str | None = None
    """Bundle to tune further, as on field images with image labels alone; null starts anew. The model, and how images
    become inputs, are the parent's: leave these fields out. The epoch is chosen on held-out images, the parent itself
    among the choices."""
    data: DataConfig = field(default_factory=DataConfig)
    """The labelled images; not read where optim.epochs is 0."""
    model: ModelConfig = field(default_factory=ModelConfig)
    """The model."""
    loss: LossConfig = field(default_factory=LossConfig)
    """The loss."""
    optim: OptimConfig = field(default_factory=OptimConfig)
    """The optimiser."""
    guard: GuardConfig = field(default_factory=GuardConfig)
    """Images of the old domain, on which a tuned bundle is compared with its parent."""
    cluster: ClusterConfig = field(default_factory=ClusterConfig)
    """The cluster."""
    seed: int = 0
    """Seed of the adapters, the order of the images and the splits."""

    def __post_init__(self) -> None:
        if not self.output.strip():
            msg = "output must not be empty: a folder or an s3:// prefix for the bundle."
            raise ValueError(msg)
        require_uris("", output=self.output)
        object.__setattr__(self, "model", self.model.settled())  # a run, its resumption and its bundle say the same
        require_seed("seed", self.seed)
        if self.optim.epochs and self.data.root is None and self.data.manifest is None:
            msg = "data.root or data.manifest is required: a folder of labelled images, or a table of them."
            raise ValueError(msg)
        if self.optim.epochs and self.optim.batch_size < self.cluster.num_workers:
            msg = (
                f"optim.batch_size must be at least cluster.num_workers ({self.cluster.num_workers}), "
                f"since it counts the images of all workers; got {self.optim.batch_size}."
            )
            raise ValueError(msg)
        self._check_tuning()

    def _check_tuning(self) -> None:
        """Refuse what has no meaning with a parent, or without one."""
        require_uris("", parent=self.parent)
        if self.parent is None:
            if self.optim.patience is not None or self.guard != GuardConfig():
                name = "guard" if self.optim.patience is None else "optim.patience"
                msg = f"{name} is for the tuning of a parent: give parent, or leave it out."
                raise ValueError(msg)
            return
        if not self.parent.strip() or self.parent.rstrip("/") == self.output.rstrip("/"):
            msg = f"parent must be a bundle in another place than output, got {self.parent!r}."
            raise ValueError(msg)
        require(
            "optim.epochs", self.optim.epochs, rule="at least 1 where a parent is given", holds=self.optim.epochs >= 1
        )
