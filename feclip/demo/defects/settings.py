"""How hard the defects are: the one place where their size and contrast are set."""

from dataclasses import dataclass, fields


@dataclass(frozen=True, kw_only=True)
class Difficulty:
    """Distribution of size and contrast of the drawn defects.

    Lengths are ref px (pixels of a 256 x 256 image). A contrast is a change of reflected light, where 1 is the way from
    black to white; sensor noise has a standard deviation of 0.005 to 0.03 on that scale.
    """

    line_share: float = 0.5
    """Share of the defective draws that is a line (scratch, crack, fibre, streak), where both kinds are offered."""
    weak_share: float = 0.5
    """Share of the defects that takes the weak ranges below."""
    weak_contrast: tuple[float, float] = (0.07, 0.16)
    """Contrast of a weak defect, drawn log-uniformly; the lower end is near the noise."""
    contrast: tuple[float, float] = (0.16, 0.5)
    """Contrast of any other defect, drawn log-uniformly."""
    grain_gain: float = 0.5
    """Added contrast per unit of the surface's own standard deviation at the spot, so that coarse grain hides less."""
    weak_line_width: tuple[float, float] = (1.0, 2.2)
    """Width of a weak scratch, crack or fibre, ref px; never drawn below 0.8 image pixels."""
    line_width: tuple[float, float] = (1.5, 4.5)
    """Width of any other one, ref px."""
    line_length: tuple[float, float] = (24.0, 150.0)
    """Length of a line, drawn log-uniformly, ref px."""
    spot_radius: tuple[float, float] = (2.6, 9.0)
    """Mean radius of a spot, drawn log-uniformly, ref px; harmless dust stays below 1.1."""
    patch_radius: tuple[float, float] = (7.0, 34.0)
    """Mean radius of a stain, dent, foreign body, missing piece, bend or shift, drawn log-uniformly, ref px."""
    displacement: tuple[float, float] = (2.5, 8.0)
    """How far a bend or shift moves the surface, ref px."""
    min_area: float = 12.0
    """Smallest accepted mask, in square ref px, and never below 6 image pixels; a smaller draw is drawn again."""

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, tuple):
                if not 0 < value[0] <= value[1]:
                    msg = f"Difficulty.{field.name} must be a rising pair of positive numbers, got {value}."
                    raise ValueError(msg)
            elif value < 0 or (field.name.endswith("_share") and value > 1):
                msg = f"Difficulty.{field.name} is out of range: got {value}."
                raise ValueError(msg)
