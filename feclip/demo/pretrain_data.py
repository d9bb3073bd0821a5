"""What the demonstration backbone learns from: pairs of a flawless picture and its damaged twin, with captions.

A pair shares surface, lighting and sensor noise, so damage is all that tells its halves apart. Pictures are drawn once,
a little larger than the model's input, and cropped, turned and brightened afresh for every batch.

Shapes: N pairs, B images of a batch, S side of the stored pictures, C side of the cropped ones, in pixels.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from feclip.demo.camera import draw_camera
from feclip.demo.defects import DEFECT_TYPES, Difficulty, add_defect
from feclip.demo.families import FAMILIES, GENERIC_NOUN, caption, noun_of
from feclip.demo.fields import BoolArray, ByteArray, chance, generator
from feclip.demo.sampling import GENERIC_SHARE, draw_defect_type
from feclip.demo.surfaces import paint_surface
from feclip.demo.tokenizer import OTHER_NOUNS
from feclip.errors import DataError
from feclip.progress import Progress

__all__ = ["Pool", "PoolConfig", "draw_batch", "load_pool"]


USUAL = Difficulty()
STRONG = Difficulty(weak_share=0.0, contrast=(0.25, 0.6), line_width=(2.5, 5.0), spot_radius=(4.0, 9.0))
STRONG_EVERY = 3  # one pair in three is strong: what the first steps learn from
FINE_SIZE = 256  # pixels; the size that data sets are written at
FINE_MASK_COVER = 0.3  # share of a stored pixel that must be damaged for its mask
OTHER_NOUN_SHARE = 0.25  # of the captions that would say "object": any noun without pictures of its own instead
BRIGHTNESS = (0.8, 1.2)  # factor on the bytes, drawn per pair


@dataclass(frozen=True, kw_only=True)
class PoolConfig:
    """What is drawn before training."""

    seed: int = 0
    """Seed of the pictures, in [0, 2**32)."""
    num_pairs: int = 20_000
    """Pairs of a flawless picture and its damaged twin."""
    image_size: int = 120
    """Side of the stored pictures, pixels; the model's input is cropped from it."""
    fine_share: float = 0.4
    """Share of the pairs rendered at 256 px and reduced, as letterboxed data sets are; 0 to 1."""


@dataclass(frozen=True, kw_only=True)
class Pool:
    """Stored pairs."""

    flawless: ByteArray
    """``(N, S, S, 3)``."""
    damaged: ByteArray
    """``(N, S, S, 3)``."""
    masks: BoolArray
    """``(N, S, S)``, true where the twins differ."""
    families: tuple[str, ...]
    """Family of each pair."""

    def __len__(self) -> int:
        return len(self.flawless)


def load_pool(config: PoolConfig, *, cache: Path | None = None) -> Pool:
    """Draw the pairs of ``config``, or read them where ``cache`` holds the same.

    Args:
        config: What to draw.
        cache: Folder to keep them in; none means memory only.

    Raises:
        ValueError: If ``cache`` holds other pairs.
    """
    described = json.dumps(asdict(config), sort_keys=True)
    if cache is not None and (cache / "config.json").is_file():
        found = (cache / "config.json").read_text()
        if found != described:
            msg = f"cache {cache} holds other pairs: {found}; wanted {described}."
            raise ValueError(msg)
        arrays = {name: np.load(cache / f"{name}.npy", allow_pickle=False) for name in ("flawless", "damaged", "masks")}
        return Pool(**arrays, families=_families(config))
    pool = _draw_pool(config)
    if cache is not None:
        cache.mkdir(parents=True, exist_ok=True)
        for name in ("flawless", "damaged", "masks"):
            np.save(cache / f"{name}.npy", getattr(pool, name), allow_pickle=False)
        (cache / "config.json").write_text(described)
    return pool


def _families(config: PoolConfig) -> tuple[str, ...]:
    names = FAMILIES["pretraining"]
    return tuple(names[index % len(names)] for index in range(config.num_pairs))


def _draw_pool(config: PoolConfig) -> Pool:
    side = config.image_size
    flawless = np.empty((config.num_pairs, side, side, 3), dtype=np.uint8)
    damaged, masks = np.empty_like(flawless), np.empty(flawless.shape[:3], dtype=np.bool_)
    families = _families(config)
    with Progress("Drawing", len(families), unit="pairs") as progress:
        for index, family in enumerate(families):
            flawless[index], damaged[index], masks[index] = _draw_pair(config, index=index, family=family)
            progress.advance()
    return Pool(flawless=flawless, damaged=damaged, masks=masks, families=families)


def _draw_pair(config: PoolConfig, *, index: int, family: str) -> tuple[ByteArray, ByteArray, BoolArray]:
    """Return the flawless picture, the damaged one and the mask of pair ``index``."""
    rng = generator(config.seed, "pretraining", index, "choice")
    side = FINE_SIZE if chance(rng, config.fine_share) else config.image_size
    difficulty = STRONG if index % STRONG_EVERY == 0 else USUAL
    surface = paint_surface(generator(config.seed, "pretraining", index, "surface"), family=family, size=(side, side))
    camera = draw_camera(generator(config.seed, "pretraining", index, "camera"), size=(side, side))
    while True:
        defect_type = draw_defect_type(rng, defect_types=DEFECT_TYPES, difficulty=difficulty)
        try:
            damaged, mask = add_defect(
                rng, surface=surface, camera=camera, defect_type=defect_type, difficulty=difficulty
            )
        except DataError:  # no trace of this kind on this surface; the next draw is another kind or place
            continue
        break
    flawless = camera.capture(surface.image)
    if side == config.image_size:
        return flawless, damaged, mask
    cover = _reduce(mask[..., None].astype(np.float32), side=config.image_size)[..., 0]
    small, small_damaged = (
        np.rint(_reduce(image.astype(np.float32), side=config.image_size)).astype(np.uint8)
        for image in (flawless, damaged)
    )
    return small, small_damaged, cover > FINE_MASK_COVER


def _reduce(image: NDArray[np.float32], *, side: int) -> NDArray[np.float32]:
    channels_first = torch.from_numpy(image).permute(2, 0, 1)[None]
    reduced = functional.interpolate(channels_first, size=(side, side), mode="bilinear", antialias=True)
    return reduced[0].permute(1, 2, 0).numpy()


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Both halves of some pairs, flawless ones first."""

    images: torch.Tensor
    """``(B, 3, C, C)``, uint8."""
    masks: torch.Tensor
    """``(B, C, C)``, bool."""
    captions: list[str]
    """Caption of each image."""


def draw_batch(pool: Pool, *, rng: np.random.Generator, num_pairs: int, image_size: int, strong_share: float) -> Batch:
    """Draw pairs, with equal views of both halves.

    Args:
        pool: Where from.
        rng: Source of every choice.
        num_pairs: Half the batch.
        image_size: Side of the crops C, pixels.
        strong_share: Share of pairs drawn from the strong ones, 0..1.
    """
    strong = rng.random(num_pairs) < strong_share
    indices = np.where(
        strong,
        rng.integers(0, -(-len(pool) // STRONG_EVERY), num_pairs) * STRONG_EVERY,
        rng.integers(0, len(pool), num_pairs),
    )
    images = np.empty((2, num_pairs, image_size, image_size, 3), dtype=np.uint8)
    masks = np.zeros((2, num_pairs, image_size, image_size), dtype=np.bool_)
    captions: list[list[str]] = [[], []]
    room = pool.flawless.shape[1] - image_size
    for position, index in enumerate(indices):
        top, left, turns = (int(value) for value in (*rng.integers(0, room + 1, 2), rng.integers(4)))
        mirrored, factor = chance(rng, 0.5), rng.uniform(*BRIGHTNESS)
        levels = np.clip(np.rint(np.arange(256) * factor), 0, 255).astype(np.uint8)
        window = (slice(top, top + image_size), slice(left, left + image_size))
        if not pool.masks[index][window].any():  # the damage lies outside: show the middle instead
            window = (slice(room // 2, room // 2 + image_size),) * 2
        noun = _draw_noun(rng, family=pool.families[index])
        for label, pictures in enumerate((pool.flawless, pool.damaged)):
            view = np.rot90(pictures[index][window], turns)
            images[label, position] = levels[view[:, ::-1] if mirrored else view]
            captions[label].append(caption(noun=noun, label=label))
        turned = np.rot90(pool.masks[index][window], turns)
        masks[1, position] = turned[:, ::-1] if mirrored else turned
    return Batch(
        images=torch.from_numpy(images).flatten(0, 1).permute(0, 3, 1, 2),
        masks=torch.from_numpy(masks).flatten(0, 1),
        captions=captions[0] + captions[1],
    )


def _draw_noun(rng: np.random.Generator, *, family: str) -> str:
    if not chance(rng, GENERIC_SHARE):
        return noun_of(family)
    if chance(rng, OTHER_NOUN_SHARE):
        return OTHER_NOUNS[rng.integers(len(OTHER_NOUNS))]
    return GENERIC_NOUN
