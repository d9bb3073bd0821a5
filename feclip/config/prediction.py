"""Scoring a few images in this process, without a cluster."""

from dataclasses import dataclass, field

from feclip.config.checks import require, require_member, require_texts
from feclip.config.choices import Device, OutputFormat, Precision
from feclip.config.scoring import ListingConfig

__all__ = ["PredictConfig"]


@dataclass(frozen=True, kw_only=True)
class PredictConfig:
    """Score images in this process, and draw where they are anomalous."""

    images: tuple[str, ...] = field(default=(), metadata={"positional": "image files or folders, local or s3://"})
    """Image files or folders, local or s3://; given without a flag."""
    bundle: str
    """Folder or s3:// prefix of the bundle; with thresholds, images get a label too."""
    save: str | None = None
    """Overlay to write, .png, .jpg or .webp, for one image; for several, or a folder, the folder of their overlays."""
    format: OutputFormat = OutputFormat.text
    """text for people, or json or csv: one line for each image, errors among them."""
    device: Device = Device.auto
    """Where the model runs; auto takes a GPU if this process sees one."""
    precision: Precision = Precision.auto
    """Arithmetic of the trunk: auto takes bfloat16 where the device computes it natively, float32 elsewhere."""
    batch_size: int = 16
    """Images in one forward pass; another number changes scores by rounding alone."""
    pretrained: str | None = None
    """Weight file or tag of the backbone instead of the one that the bundle records; the same weights elsewhere."""
    listing: ListingConfig = field(default_factory=ListingConfig)
    """Which files of a folder are images."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "images", tuple(self.images))
        if not self.images:
            msg = "images is required: name image files or folders, like feclip predict image.jpg --bundle /runs/first"
            raise ValueError(msg)
        require_texts(bundle=self.bundle, **{f"images[{index}]": uri for index, uri in enumerate(self.images)})
        if self.save is not None:
            require_texts(save=self.save)
        require_member("format", self.format, OutputFormat)
        require_member("device", self.device, Device)
        require_member("precision", self.precision, Precision)
        require("batch_size", self.batch_size, rule="at least 1", holds=self.batch_size >= 1)
