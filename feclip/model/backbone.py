"""The frozen CLIP under FE-CLIP: any open_clip model whose image tower is a ``VisionTransformer``.

Differs from ``open_clip.create_model``, whose silences make a model quietly wrong:

* Weights trained with QuickGELU get QuickGELU, whatever the configuration's name says, and the activation
  is checked. A local file does not tell its activation: it gets QuickGELU where every published weight of its
  architecture was trained so (``ViT-L-14-336``), else what the configuration says (name ``ViT-B-32-quickgelu``).
* A weight file must fit tensor by tensor; only the positional embedding is resized, for another image size.
* ``pretrained="none"`` initialises from a seed and leaves the global random generator alone.
"""

import contextlib
import difflib
import logging
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import open_clip
import torch
from open_clip.model import convert_to_custom_text_state_dict, resize_pos_embed
from open_clip.transformer import QuickGELU, VisionTransformer
from torch import nn

from feclip.model.weights import check_tensors, read_weights, tensor_digest

logger = logging.getLogger(__name__)

NO_WEIGHTS = "none"
_RESIZED = "visual.positional_embedding"
_NO_TENSORS_OF_THE_MODEL = ("input_resolution", "context_length", "vocab_size")  # OpenAI's archives count them in

Channels = tuple[float, float, float]


@dataclass(frozen=True, kw_only=True)
class Backbone:
    """A CLIP in eval mode, without gradients, and what is known about it.

    Attributes:
        clip: The whole CLIP of open_clip, on the CPU, float32.
        pixel_mean: Of each channel, for pixels in 0..1.
        pixel_std: Of each channel, for pixels in 0..1.
        digest: SHA-256 of its tensors, from ``backbone_digest``.
    """

    clip: open_clip.CLIP
    pixel_mean: Channels = open_clip.OPENAI_DATASET_MEAN
    pixel_std: Channels = open_clip.OPENAI_DATASET_STD
    digest: str


def load_backbone(backbone: str, *, pretrained: str, init_seed: int, image_size: int) -> Backbone:
    """Load a frozen CLIP.

    Args:
        backbone: Name of an open_clip model.
        pretrained: A tag that open_clip publishes for it (downloaded, then cached), the path of a weight file, or
            ``none`` for random weights.
        init_seed: Seed of the random weights.
        image_size: Side of the square input, in pixels; a multiple of the patch size.

    Returns:
        The CLIP, its normalisation and its digest.

    Raises:
        ValueError: If the name, tag or file is unknown, weights can't be had or do not fit, the image tower is no
            ``VisionTransformer``, or ``image_size`` is not divisible.

    Example:
        >>> load_backbone("ViT-S-32-alt", pretrained="none", init_seed=0, image_size=64).clip.visual.grid_size
        (2, 2)
    """
    _check_config(backbone, image_size=image_size)
    quick_gelu = needs_quick_gelu(backbone, pretrained=pretrained)
    clip = _create_clip(backbone, init_seed=init_seed, image_size=image_size, quick_gelu=quick_gelu)
    check_activation(clip.visual, quick_gelu=quick_gelu)
    probe_block_layout(clip.visual)
    path = _locate_weights(backbone, pretrained)
    if path is not None:
        _load_weights(clip, path)
    activation = "QuickGELU" if quick_gelu else "GELU"
    logger.info("Backbone %s, weights %s, %s, %d px.", backbone, pretrained, activation, image_size)
    statistics = {
        (cast("Channels", tag["mean"]), cast("Channels", tag["std"])) for tag in _find_published(backbone, pretrained)
    }
    if len(statistics) == 1:
        pixel_mean, pixel_std = statistics.pop()
        return Backbone(clip=clip, pixel_mean=pixel_mean, pixel_std=pixel_std, digest=backbone_digest(clip))
    return Backbone(clip=clip, digest=backbone_digest(clip))


def check_backbone(backbone: str, *, pretrained: str, image_size: int) -> int:
    """Check without loading anything that ``load_backbone`` knows the name, the weights and the size.

    Args:
        backbone: Name of an open_clip model.
        pretrained: A tag, the path of a weight file, or ``none``.
        image_size: Side of the square input, in pixels.

    Returns:
        The number of blocks of the image tower.

    Raises:
        ValueError: If the name, tag or file is unknown, the image tower is no ``VisionTransformer``, or
            ``image_size`` is not divisible.

    Example:
        >>> check_backbone("ViT-L-14-336", pretrained="openai", image_size=336)
        24
    """
    _check_config(backbone, image_size=image_size)
    _find_published(backbone, pretrained)
    return int(open_clip.get_model_config(backbone)["vision_cfg"].get("layers", 12))  # open_clip's own default


def _check_config(backbone: str, *, image_size: int) -> None:
    """Refuse, before anything is built, what is no VisionTransformer that fits ``image_size``."""
    names = open_clip.list_models()
    if backbone not in names:
        close = difflib.get_close_matches(backbone, names, n=3, cutoff=0.5)
        hint = f"did you mean {', '.join(close)}?" if close else "see open_clip.list_models()."
        msg = f"backbone {backbone!r} is no open_clip model; {hint}"
        raise ValueError(msg)
    vision: dict[str, object] = open_clip.get_model_config(backbone)["vision_cfg"]
    if "timm_model_name" in vision or isinstance(vision.get("layers"), list):
        tower = f"timm's {vision['timm_model_name']}" if "timm_model_name" in vision else "a ResNet"
        msg = f"backbone {backbone!r} must have an open_clip VisionTransformer as image tower, got {tower}."
        raise ValueError(msg)
    patch_size = cast("int", vision.get("patch_size", 16))
    if image_size < patch_size or image_size % patch_size:
        msg = f"image_size must be a multiple of the patch size {patch_size} of {backbone}, got {image_size}."
        raise ValueError(msg)


def _find_published(backbone: str, pretrained: str) -> list[dict[str, object]]:
    """Return what open_clip records of the tag, or for a file, of every tag of the architecture it may be."""
    if pretrained == NO_WEIGHTS:
        return []
    tag: dict[str, object] = open_clip.get_pretrained_cfg(backbone, pretrained)
    if tag:
        return [tag]
    tags: list[str] = open_clip.list_pretrained_tags_by_model(backbone)
    if not Path(pretrained).is_file():
        known = f"a tag of {backbone} ({', '.join(tags)})" if tags else f"(no tag is published for {backbone})"
        msg = f"pretrained must be 'none', an existing weight file or {known}, got {pretrained!r}."
        raise ValueError(msg)
    return [open_clip.get_pretrained_cfg(backbone, name) for name in tags]


def needs_quick_gelu(backbone: str, *, pretrained: str) -> bool:
    """Return whether the weights need QuickGELU.

    Args:
        backbone: Name of an open_clip model.
        pretrained: As for ``load_backbone``.

    Returns:
        True if the configuration or the tag says so, and for a file, if every published weight of the architecture
        was trained with it. Where published weights differ, the configuration decides and a warning is logged.

    Raises:
        ValueError: If the tag or file is unknown.

    Example:
        >>> needs_quick_gelu("ViT-L-14-336", pretrained="openai"), needs_quick_gelu("ViT-B-32", pretrained="none")
        (True, False)
    """
    flags = {bool(tag.get("quick_gelu")) for tag in _find_published(backbone, pretrained)}
    if open_clip.get_model_config(backbone).get("quick_gelu"):
        return True
    if flags == {True, False}:
        logger.warning(
            "Weights for %s exist with GELU and with QuickGELU, and a file does not tell: GELU is used. "
            "If the file needs QuickGELU (as OpenAI's do), name the backbone %s-quickgelu.",
            backbone,
            backbone,
        )
    return flags == {True}


def _create_clip(backbone: str, *, init_seed: int, image_size: int, quick_gelu: bool) -> open_clip.CLIP:
    generator = torch.default_generator
    try:
        with torch.random.fork_rng(devices=[]), _without_open_clip_log():
            generator.manual_seed(init_seed)
            clip = open_clip.create_model(
                backbone, force_image_size=image_size, force_quick_gelu=quick_gelu, pretrained_text=False
            )
    except (OSError, RuntimeError, ImportError) as error:  # a text tower of Hugging Face needs its files
        msg = f"backbone {backbone!r} cannot be built: {str(error).strip().splitlines()[0]}"
        raise ValueError(msg) from error
    if not isinstance(clip.visual, VisionTransformer):
        msg = f"backbone {backbone!r} must have a VisionTransformer as image tower, got {type(clip.visual).__name__}."
        raise ValueError(msg)  # noqa: TRY004 - a name the user gave
    return clip.eval().requires_grad_(False)


@contextlib.contextmanager
def _without_open_clip_log() -> Iterator[None]:
    """Keep open_clip from configuring the root logger and from reporting random weights that are yet to be loaded."""
    root, handler = logging.getLogger(), logging.NullHandler()

    def is_foreign(record: logging.LogRecord) -> bool:
        return "open_clip" not in record.pathname

    root.addHandler(handler)
    root.addFilter(is_foreign)
    try:
        yield
    finally:
        root.removeFilter(is_foreign)
        root.removeHandler(handler)


def _locate_weights(backbone: str, pretrained: str) -> Path | None:
    if pretrained == NO_WEIGHTS:
        return None
    tag = open_clip.get_pretrained_cfg(backbone, pretrained)
    if not tag:
        return Path(pretrained)
    try:
        return Path(open_clip.download_pretrained(tag))
    except (OSError, RuntimeError) as error:
        reason = str(error).strip().splitlines()[0]
        msg = (
            f"Weights {pretrained!r} of {backbone} are not cached and cannot be downloaded; without internet, "
            f"give pretrained the path of a local weight file. Reason: {reason}"
        )
        raise ValueError(msg) from error


def _load_weights(clip: open_clip.CLIP, path: Path) -> None:
    state = {name: tensor for name, tensor in read_weights(path).items() if name not in _NO_TENSORS_OF_THE_MODEL}
    if hasattr(clip, "text"):
        state = convert_to_custom_text_state_dict(state)
    if _RESIZED in state and _is_square_grid(state[_RESIZED]):
        # In float64 the interpolation rounds to the same float32 on every processor, and so keeps the digest.
        state[_RESIZED] = state[_RESIZED].to(torch.float64)
        resize_pos_embed(state, clip)
    expected = clip.state_dict()
    for name in ("logit_scale", "logit_bias"):  # a scalar here, a vector of one there
        if name in state and name in expected and state[name].numel() == 1:
            state[name] = state[name].reshape(expected[name].shape)
    check_tensors(expected, state, source=f"Weight file {path}")
    clip.load_state_dict(state)


def _is_square_grid(positions: torch.Tensor) -> bool:
    num_patches = len(positions) - 1 if positions.ndim == 2 else 0  # noqa: PLR2004 - (1 + L, D)
    return num_patches > 0 and math.isqrt(num_patches) ** 2 == num_patches


def check_activation(visual: VisionTransformer, *, quick_gelu: bool) -> None:
    """Refuse an image tower whose activation is not what its weights were trained with.

    Args:
        visual: The image tower.
        quick_gelu: Whether the weights need QuickGELU.

    Raises:
        ValueError: If a block has the other activation.
    """
    expected = QuickGELU if quick_gelu else nn.GELU
    found = {type(module) for module in visual.modules() if isinstance(module, (QuickGELU, nn.GELU))}
    if found != {expected}:
        names = ", ".join(sorted(kind.__name__ for kind in found)) or "none"
        msg = f"The image tower's activation must be {expected.__name__}, got {names}."
        raise ValueError(msg)


@torch.no_grad()
def probe_block_layout(visual: VisionTransformer) -> None:
    """Refuse blocks that take tokens as ``(L, B, D)``: fed ``(B, L, D)`` they would mix the images of a batch.

    Args:
        visual: The image tower.

    Raises:
        ValueError: If a second image in the batch changes the tokens of the first.
    """
    block = visual.transformer.resblocks[0]
    values = torch.arange(2 * 3 * visual.transformer.width, dtype=torch.float32)
    tokens = torch.sin(values * values).reshape(2, 3, -1)
    if not torch.allclose(block(tokens)[:1], block(tokens[:1]), rtol=1e-4, atol=1e-4):
        msg = f"Blocks of open_clip must take tokens as (B, L, D), as since 3.3; installed is {open_clip.__version__}."
        raise ValueError(msg)


def backbone_digest(clip: nn.Module) -> str:
    """Return the SHA-256 over name, type, shape and bytes of all tensors, in the order of their names.

    Args:
        clip: The whole CLIP, before its text tower is dropped.

    Returns:
        64 hexadecimal digits.

    Example:
        >>> layer = nn.Linear(1, 1)
        >>> before = backbone_digest(layer)
        >>> _ = layer.weight.data.add_(1)
        >>> backbone_digest(layer) == before
        False
    """
    return tensor_digest(clip.state_dict())
