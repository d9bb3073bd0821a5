"""Labelled samples by seed and index, in any order and from any process."""

from dataclasses import dataclass

import numpy as np

from feclip.demo.camera import draw_camera
from feclip.demo.defects import DEFECT_TYPES, LINE_DEFECTS, Difficulty, add_defect
from feclip.demo.families import ALL_FAMILIES, GENERIC_NOUN, caption, check_families, noun_of
from feclip.demo.fields import BoolArray, ByteArray, chance, generator
from feclip.demo.surfaces import paint_surface

GENERIC_SHARE = 0.5  # of the captions, which say "object" instead of the family's noun


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One generated photograph with its truth."""

    image: ByteArray
    """RGB, ``(H, W, 3)``."""
    mask: BoolArray
    """True exactly where the defect changed the picture, ``(H, W)``; empty for a normal image."""
    foreground: BoolArray
    """Where the part is, ``(H, W)``; the mask lies within."""
    family: str
    """One of ``ALL_FAMILIES``."""
    defect_type: str | None
    """One of ``DEFECT_TYPES``, or none."""
    caption: str
    """What a caption says of it."""

    @property
    def label(self) -> int:
        """0 normal, 1 anomalous."""
        return int(self.defect_type is not None)


def render(
    *,
    seed: int,
    stream: tuple[int | str, ...],
    family: str,
    size: tuple[int, int],
    defect_type: str | None = None,
    difficulty: Difficulty | None = None,
    noun: str | None = None,
) -> Sample:
    """Render the one picture that ``seed`` and ``stream`` name.

    Surface and camera do not depend on the defect: with ``defect_type=None`` the same names give the flawless twin.

    Args:
        seed: Seed of the whole data set, in [0, 2**32).
        stream: What tells this picture from the others of the seed: words and integers.
        family: One of ``ALL_FAMILIES``.
        size: Image height and width, pixels, each at least 32.
        defect_type: One of ``DEFECT_TYPES``, or none for a normal image.
        difficulty: Ranges of size and contrast; the defaults where absent.
        noun: What the caption calls it; the family's own noun where absent.

    Raises:
        ValueError: If a name is unknown or the size too small.
        DataError: If the defect leaves no visible trace whatever is tried.
    """
    surface = paint_surface(generator(seed, *stream, "surface"), family=family, size=size)
    camera = draw_camera(generator(seed, *stream, "camera"), size=size)
    if defect_type is None:
        image, mask = camera.capture(surface.image), np.zeros(size, dtype=np.bool_)
    else:
        image, mask = add_defect(
            generator(seed, *stream, "defect", defect_type),
            surface=surface,
            camera=camera,
            defect_type=defect_type,
            difficulty=difficulty or Difficulty(),
        )
    return Sample(
        image=image,
        mask=mask,
        foreground=surface.foreground,
        family=family,
        defect_type=defect_type,
        caption=caption(noun=noun or noun_of(family), label=int(defect_type is not None)),
    )


def draw_sample(
    *,
    seed: int,
    index: int,
    families: tuple[str, ...] = ALL_FAMILIES,
    size: tuple[int, int] = (256, 256),
    defect_fraction: float = 0.5,
    defect_types: tuple[str, ...] = DEFECT_TYPES,
    difficulty: Difficulty | None = None,
) -> Sample:
    """Draw sample ``index`` of an endless, order-free series.

    The same call with ``defect_fraction=0.0`` gives the flawless twin of a defective sample.

    Args:
        seed: Seed of the series, in [0, 2**32).
        index: Which sample, in [0, 2**32).
        families: Families drawn from, with equal shares.
        size: Image height and width, pixels, each at least 32.
        defect_fraction: Share of defective samples, 0..1.
        defect_types: Defects drawn from; lines take ``difficulty.line_share`` of the draws.
        difficulty: Ranges of size and contrast; the defaults where absent.

    Raises:
        ValueError: If a name is unknown, a share out of range or the size too small.
        DataError: If the defect leaves no visible trace whatever is tried.

    Example:
        >>> sample = draw_sample(seed=0, index=3, families=("casting",), size=(64, 64), defect_fraction=1.0)
        >>> sample.label, sample.image.shape, bool(sample.mask.any())
        (1, (64, 64, 3), True)
    """
    check_families(families)
    check_defect_types(defect_types)
    check_shares(defect_fraction=defect_fraction)
    difficulty = difficulty or Difficulty()
    rng = generator(seed, "sample", index, "choice")
    family = families[rng.integers(len(families))]
    noun = GENERIC_NOUN if chance(rng, GENERIC_SHARE) else noun_of(family)
    damaged = chance(rng, defect_fraction)
    return render(
        seed=seed,
        stream=("sample", index, family),
        family=family,
        size=size,
        defect_type=draw_defect_type(rng, defect_types=defect_types, difficulty=difficulty) if damaged else None,
        difficulty=difficulty,
        noun=noun,
    )


def draw_defect_type(rng: np.random.Generator, *, defect_types: tuple[str, ...], difficulty: Difficulty) -> str:
    """Draw one of ``defect_types``: lines with probability ``difficulty.line_share`` where both kinds are offered."""
    lines = [name for name in defect_types if name in LINE_DEFECTS]
    others = [name for name in defect_types if name not in LINE_DEFECTS]
    offered = (lines if chance(rng, difficulty.line_share) else others) or list(defect_types)
    return offered[rng.integers(len(offered))]


def check_defect_types(defect_types: tuple[str, ...]) -> None:
    """Raise ``ValueError`` unless ``defect_types`` is a non-empty choice of known types without repetition."""
    known = all(name in DEFECT_TYPES for name in defect_types)
    if not known or not defect_types or len(set(defect_types)) < len(defect_types):
        got = ", ".join(defect_types) or "none"
        msg = f"defect_types must be some of {', '.join(DEFECT_TYPES)}, each once; got {got}."
        raise ValueError(msg)


def check_shares(**shares: float) -> None:
    """Raise ``ValueError`` for a share outside 0..1, by its name."""
    for name, share in shares.items():
        if not 0 <= share <= 1:
            msg = f"{name} must lie in [0, 1], got {share}."
            raise ValueError(msg)


def check_counts(*, at_least: int, **counts: int) -> None:
    """Raise ``ValueError`` for a count below ``at_least``, by its name."""
    for name, count in counts.items():
        if count < at_least:
            msg = f"{name} must be at least {at_least}, got {count}."
            raise ValueError(msg)
