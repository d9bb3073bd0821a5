"""A bundle as one file for programs that do without this package."""

from dataclasses import dataclass
from pathlib import PurePath

from feclip.config.checks import require, require_member, require_texts
from feclip.config.choices import ExportFormat

__all__ = ["ExportConfig"]

SUFFIXES = {ExportFormat.onnx: ".onnx", ExportFormat.torch: ".pt2"}
"""What the names of the formats' files end in, by which other programs know them."""


@dataclass(frozen=True, kw_only=True)
class ExportConfig:
    """Write a bundle's model as one file that needs no feclip, and compare it with PyTorch before."""

    bundle: str
    """Folder or s3:// prefix of the bundle; its thresholds, if it has some, go into the file."""
    output: str
    """File to write, local or s3://; ends in .onnx, or for torch in .pt2."""
    format: ExportFormat = ExportFormat.onnx
    """onnx for ONNX Runtime and others; torch for a torch.export program."""
    batch_size: int = 1
    """Images in one run; fixed in the file, as all shapes are."""
    num_check_images: int = 100
    """Images on which the file is compared with PyTorch, at least 1."""
    check_images: str | None = None
    """Folder or s3:// prefix of images to compare on, the first ones by name; null draws pictures."""
    tolerance: float = 1e-4
    """Largest difference from PyTorch, logits; a file that differs more is not written."""
    group: str | None = None
    """Whose images the file is for, where the bundle has nouns of groups: a value of its model.noun_column."""
    pretrained: str | None = None
    """Weight file or tag of the backbone instead of the one that the bundle records; the same weights elsewhere."""

    def __post_init__(self) -> None:
        require_texts(bundle=self.bundle, output=self.output)
        if self.check_images is not None:
            require_texts(check_images=self.check_images)
        require_member("format", self.format, ExportFormat)
        suffix = SUFFIXES[self.format]
        if PurePath(self.output).suffix != suffix:
            msg = f"output must end in {suffix} for format {self.format}, got {self.output}."
            raise ValueError(msg)
        for name in ("batch_size", "num_check_images"):
            require(name, getattr(self, name), rule="at least 1", holds=getattr(self, name) >= 1)
        require("tolerance", self.tolerance, rule="above 0", holds=self.tolerance > 0)
