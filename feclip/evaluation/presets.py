"""Protocol presets: the ways images and maps are brought together under which numbers compare, each with a name.

AUROC and AUPRO change with the size of the input, with how an image becomes a square, and with the smoothing of the
maps; the name of the preset stands beside every number for this reason.

Both presets place masks as they place images, antialiased bilinear, true above one half, and draw maps by
`feclip.model.map_statistics.pixel_maps`, whose corners of tokens are corners of pixels.
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from feclip.building import check_model
from feclip.bundle import Bundle, InputOverride
from feclip.config import ScoringConfig
from feclip.errors import ConfigError

__all__ = ["PRESETS", "Preset", "override_of", "preset_bundle", "preset_scoring"]

NO_SMOOTHING = 0.0


@dataclass(frozen=True, kw_only=True)
class Preset:
    """One way to judge; None leaves to the bundle, or to the job's own field, what the preset does not fix."""

    name: str
    image_size: int | None = None
    """Side of the model input, pixels."""
    resize: str | None = None
    """``letterbox`` or ``squash``."""
    smoothing_sigma: float | None = None
    """Standard deviation of the Gaussian on the maps, pixels of the model input."""
    valid_region: str | None = None
    """As in `InputOptions`."""

    def text(self, bundle: Bundle, scoring: ScoringConfig) -> str:
        """Return in one line what a number under this preset means for a bundle that was brought to it."""
        return (
            f"{self.name}: {bundle.input['resize']} to {bundle.model.image_size} px, bicubic; masks bilinear > 0.5; "
            f"maps smoothed by sigma {scoring.smoothing_sigma:g} px"
        )


PRESETS: Mapping[str, Preset] = MappingProxyType(
    {
        "feclip": Preset(name="feclip"),
        "community-518": Preset(
            name="community-518",
            image_size=518,  # AnomalyCLIP, AdaCLIP and AA-CLIP: 37 x 37 tokens of 14 px
            resize="squash",
            smoothing_sigma=4.0,  # the same three, scipy's gaussian_filter on the map at 518 px
            valid_region="letterbox",
        ),
    }
)
"""The presets by their names."""


def preset_bundle(bundle: Bundle, preset: Preset) -> Bundle:
    """Return the bundle as the model that a preset judges; the bundle itself where nothing changes.

    Raises:
        ConfigError: If the backbone's patch does not divide the preset's size.
    """
    if preset.image_size is None:
        return bundle
    changed = bundle.with_input(override_of(preset, bundle))
    try:
        check_model(changed.model)
    except ConfigError as error:
        msg = f"preset {preset.name} asks for {preset.image_size} px, which {bundle.uri} cannot take: {error}"
        raise ConfigError(msg) from error
    return changed


def override_of(preset: Preset, bundle: Bundle) -> InputOverride:
    """Return what a preset fixes of a bundle's input, and the bundle's own where it fixes nothing."""
    assert bundle.model.image_size is not None  # settled when the config was made
    return InputOverride(
        image_size=preset.image_size or bundle.model.image_size,
        resize=preset.resize or bundle.input["resize"],
        valid_region=preset.valid_region or bundle.input["valid_region"],
    )


def preset_scoring(scoring: ScoringConfig, preset: Preset) -> ScoringConfig:
    """Return the scoring options of an evaluation: those of the job and, where it fixes some, of the preset.

    Every image must have a score, so no share of errors is allowed.

    Raises:
        ConfigError: If the job asks for another smoothing than the preset's.
    """
    sigma = scoring.smoothing_sigma if preset.smoothing_sigma is None else preset.smoothing_sigma
    if scoring.smoothing_sigma not in {NO_SMOOTHING, sigma}:
        msg = (
            f"preset {preset.name} smooths by sigma {sigma:g} px, but score.smoothing_sigma is "
            f"{scoring.smoothing_sigma:g}; leave it out."
        )
        raise ConfigError(msg)
    return dataclasses.replace(scoring, smoothing_sigma=sigma, max_error_rate=0.0)
