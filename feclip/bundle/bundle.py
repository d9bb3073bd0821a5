"""A bundle that was read and checked, and the model that it builds."""

import dataclasses
import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from feclip.bundle.layout import ADAPTERS_FILE
from feclip.bundle.lineage import Lineage
from feclip.bundle.memory_bank import BANK_FILE, StoredBank
from feclip.bundle.record import encode_json
from feclip.calibration import Calibration, StatisticOptions
from feclip.config import ModelConfig, Resize
from feclip.data import InputOptions, join_uri
from feclip.errors import BundleError, ConfigError

if TYPE_CHECKING:  # a process that needs no model does without torch: docs/adr/0020
    import torch

    from feclip.model import FeClipModel

__all__ = ["USUAL_STATISTICS", "Bundle", "InputOverride"]

POSITIONAL_EMBEDDING = "positional_embedding"  # interpolated while loading, where the input has another size
USUAL_STATISTICS = StatisticOptions(topk_fraction=0.01, smoothing_sigma=0.0)
"""Where a bundle has no thresholds that were fitted on others."""


@dataclass(frozen=True, kw_only=True)
class InputOverride:
    """Another way to bring images to the model than the one it was trained with, as a protocol may ask."""

    image_size: int
    """Side of the model input, pixels; a multiple of the patch."""
    resize: str
    """``letterbox`` or ``squash``."""
    valid_region: str = "letterbox"
    """As in `InputOptions`."""


@dataclass(frozen=True, kw_only=True)
class Bundle:
    """A bundle that was read and checked; the backbone is loaded by :meth:`build`."""

    uri: str
    """Where it lies."""
    model: ModelConfig
    """Every model field."""
    input: dict[str, str]
    """How images become inputs: resize, padding_color, valid_region, jpeg_decoding."""
    model_id: str
    """Digest of everything that changes a score."""
    backbone_digest: str
    """Digest of the backbone's weights."""
    adapters: dict[str, "torch.Tensor"]
    """Trained tensors by parameter name."""
    images: pa.Table
    """Images that trained, selected or calibrated it; `IMAGE_COLUMNS` and further ones."""
    metrics: list[dict[str, float]]
    """What training measured, one record per epoch."""
    training: dict[str, Any]
    """The config of the run that wrote it."""
    calibration: Calibration | None = None
    """Thresholds and normalisation; None until calibrated."""
    memory_bank: StoredBank | None = None
    """Tokens of normal images whose distances join the scores; None where there are none."""
    lineage: Lineage | None = None
    """The parent that it was tuned from, and how it compares with it; None without a parent."""
    patch_size: int | None = None
    """Side of the model's patches, pixels, where images become rectangles of them; else None."""
    trained_image_size: int | None = None
    """Side that the backbone's digest was taken at, where ``model`` has another by `with_input`; else None."""

    @property
    def input_options(self) -> InputOptions:
        """How its images become inputs, for a `GuardedDecoder`."""
        assert self.model.image_size is not None  # settled when the config was made
        return InputOptions(image_size=self.model.image_size, patch_size=self.patch_size, **self.input)

    @property
    def is_rectangular(self) -> bool:
        """Whether its images become rectangles of their own aspect ratio."""
        return self.input["resize"] == Resize.rectangle

    @property
    def statistic_options(self) -> StatisticOptions:
        """What the statistics of its maps are computed with: those of its thresholds, where it has some."""
        return USUAL_STATISTICS if self.calibration is None else self.calibration.statistic_options

    def with_input(self, override: InputOverride) -> "Bundle":
        """Return the bundle as another model: the same tensors, on images that are brought to it in another way.

        Scores differ, so the result has a ``model_id`` of its own, and no thresholds. What changes nothing returns
        the bundle as it is.

        Raises:
            BundleError: If the bundle has a memory bank, which is of images as they came to the model before.
        """
        given = {"resize": override.resize, "valid_region": override.valid_region}
        if override.image_size == self.model.image_size and self.input == self.input | given:
            return self
        if self.memory_bank is not None:
            msg = (
                f"{self.uri} has a memory bank of images that were brought to the model in another way; evaluate it as "
                "it was trained, or the bundle that it was made of."
            )
            raise BundleError(msg)
        identity = {"bundle": self.model_id, "image_size": override.image_size, "input": self.input | given}
        return dataclasses.replace(
            self,
            model=dataclasses.replace(self.model, image_size=override.image_size),
            input=self.input | given,
            model_id=hashlib.sha256(encode_json(identity)).hexdigest(),
            calibration=None,
            trained_image_size=self.trained_image_size or self.model.image_size,
        )

    def of_group(self, group: str | None, *, field: str) -> "Bundle":
        """Return the bundle for images of one group alone, which have one noun; the same scores, so the same model.

        Args:
            group: Value of ``model.noun_column``; without effect where no group has a noun of its own.
            field: What the group is called where it is given, for messages.

        Raises:
            ConfigError: If groups have nouns of their own and none was given.
        """
        nouns = self.model.noun_by_group
        if not nouns:
            return self
        if group is None:
            msg = (
                f"{self.uri} calls images by their {self.model.noun_column}: give {field}, one of {', '.join(nouns)}; "
                f"images of any other are called {self.model.noun!r}."
            )
            raise ConfigError(msg)
        noun = nouns.get(group, self.model.noun)
        return dataclasses.replace(self, model=dataclasses.replace(self.model, noun=noun, nouns=None))

    def build(self, *, pretrained: str | None = None) -> "FeClipModel":
        """Load the backbone and put the trained tensors on it.

        The backbone's digest covers its positional embedding as it is at the size of training. At another size the
        backbone is loaded twice, and all else in it must agree.

        Args:
            pretrained: Weight file or tag to load instead of the recorded one; its digest must be the recorded one.

        Raises:
            BundleError: If the backbone's digest or a tensor does not fit.
            ConfigError: If the backbone's weights cannot be had.
        """
        from feclip.building import build_model  # noqa: PLC0415 - see docs/adr/0020

        config = self.model if pretrained is None else dataclasses.replace(self.model, pretrained=pretrained)
        trained_at = self.trained_image_size or config.image_size
        model = build_model(dataclasses.replace(config, image_size=trained_at), seed=0)
        if model.backbone_digest != self.backbone_digest:
            msg = (
                f"{self.uri} was trained on a backbone with digest {self.backbone_digest}, but {config.backbone} with "
                f"{config.pretrained!r} has {model.backbone_digest}; give the weights it was trained on."
            )
            raise BundleError(msg)
        if self.is_rectangular and model.patch_size != self.patch_size:
            msg = (
                f"{self.uri} has inputs of {self.patch_size} px patches, its backbone has {model.patch_size} px: train "
                "it again."
            )
            raise BundleError(msg)
        if trained_at != config.image_size:
            trunk, model = _trunk_digest(model), build_model(config, seed=0)
            if _trunk_digest(model) != trunk:
                msg = (
                    f"{self.uri}: {config.backbone} with {config.pretrained!r} has other weights at "
                    f"{config.image_size} px than at {trained_at} px; evaluate it at the size of its training."
                )
                raise BundleError(msg)
        try:
            model.load_trainable_state_dict(self.adapters)
        except ValueError as error:
            msg = f"{join_uri(self.uri, ADAPTERS_FILE)}: {error}"
            raise BundleError(msg) from error
        if self.memory_bank is not None:
            model.memory_bank = self.memory_bank.build()
            width = model.visual.transformer.width
            if any(rows.shape[1] != width for rows in self.memory_bank.rows.values()):
                msg = f"{join_uri(self.uri, BANK_FILE)} holds no tokens of width {width}; calibrate again."
                raise BundleError(msg)
        return model.eval()


def _trunk_digest(model: "FeClipModel") -> str:
    """Return the digest of a backbone without what depends on the size of its input."""
    from feclip.model import tensor_digest  # noqa: PLC0415 - see docs/adr/0020

    state = {name: tensor for name, tensor in model.visual.state_dict().items() if name != POSITIONAL_EMBEDDING}
    return tensor_digest(state | {"text_embeddings": model.text_embeddings})
