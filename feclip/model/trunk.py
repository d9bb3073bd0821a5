"""Steps through a frozen ``VisionTransformer`` of open_clip, so that adapters can act between its blocks.

Shapes: B images, L patch tokens, D token width, E embedding width. Blocks count from zero.
Tokens are ``(B, 1 + L, D)``, the class token first.
"""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, cast

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

if TYPE_CHECKING:
    from open_clip.transformer import ResidualAttentionBlock, VisionTransformer


def resolve_tap_blocks(num_blocks: int, *, num_taps: int, tap_blocks: Sequence[int] | None = None) -> tuple[int, ...]:
    """Return the blocks after which adapters act.

    The paper's N "blocks" are groups of layers, so the taps are the ends of ``num_taps`` equal stages, rounded
    half up.

    Args:
        num_blocks: Blocks of the image tower.
        num_taps: How many, where ``tap_blocks`` does not say.
        tap_blocks: Zero-based block indices, strictly increasing; none means by ``num_taps``.

    Returns:
        Zero-based block indices, strictly increasing.

    Raises:
        ValueError: If a number is out of range, repeated or out of order.

    Example:
        >>> resolve_tap_blocks(24, num_taps=4)
        (5, 11, 17, 23)
    """
    if tap_blocks is None:
        if not 1 <= num_taps <= num_blocks:
            msg = f"num_taps must lie in [1, {num_blocks}], got {num_taps}."
            raise ValueError(msg)
        return tuple((2 * (k + 1) * num_blocks + num_taps) // (2 * num_taps) - 1 for k in range(num_taps))
    taps = tuple(tap_blocks)
    if not taps or not all(0 <= block < num_blocks for block in taps):
        msg = f"tap_blocks must be one or more in [0, {num_blocks - 1}] (zero-based), got {taps}."
        raise ValueError(msg)
    if list(taps) != sorted(set(taps)):
        msg = f"tap_blocks must be strictly increasing, got {taps}."
        raise ValueError(msg)
    return taps


def check_trunk(visual: "VisionTransformer", *, masks_attention: bool) -> None:
    """Refuse an image tower that FE-CLIP cannot tap.

    Args:
        visual: The image tower.
        masks_attention: Whether padding is to be masked in its attention.

    Raises:
        ValueError: If it has no single image embedding, or keys cannot be masked everywhere.
    """
    if visual.pool_type == "none":
        msg = "The image tower must pool its tokens to one embedding, got pool_type 'none'."
        raise ValueError(msg)
    standard = all(map(_is_standard, visual.transformer.resblocks))
    if masks_attention and (visual.attn_pool is not None or not standard):
        msg = "padding 'attention' needs standard attention blocks and no attentional pooling in the image tower."
        raise ValueError(msg)


def embed_images(
    visual: "VisionTransformer", images: torch.Tensor, positions: torch.Tensor | None = None
) -> torch.Tensor:
    """Return the tokens that enter block 0.

    Args:
        visual: The image tower.
        images: Normalised images ``(B, 3, H, W)``.
        positions: Positional embedding ``(1 + L, D)`` of another token grid than the tower's, from
            `resize_positions`; none means its own.

    Returns:
        Tokens ``(B, 1 + L, D)``.
    """
    if positions is None:
        own: torch.Tensor = visual._embeds(images)  # noqa: SLF001 - open_clip has no public step; tested against hooks
        return own
    patches = visual.conv1(images).flatten(2).mT
    first = visual.class_embedding.to(patches.dtype).expand(len(images), 1, -1)
    tokens = torch.cat([first, patches], dim=1) + positions.to(patches.dtype)
    return cast("torch.Tensor", visual.ln_pre(tokens))


@torch.no_grad()
def resize_positions(visual: "VisionTransformer", grid: tuple[int, int]) -> torch.Tensor:
    """Return the positional embedding of the tower stretched over another token grid.

    Bicubic and antialiased, as open_clip resizes it for another square; in float64, so that it is the same everywhere.

    Args:
        visual: The image tower.
        grid: ``(H_t, W_t)``.

    Returns:
        ``(1 + H_t * W_t, D)``, the class token's first.
    """
    first, patches = visual.positional_embedding[:1], visual.positional_embedding[1:]
    plane = patches.double().view(1, *visual.grid_size, -1).permute(0, 3, 1, 2)
    stretched = nn.functional.interpolate(plane, size=grid, mode="bicubic", antialias=True, align_corners=False)
    return torch.cat([first, stretched[0].flatten(1).T.to(first.dtype)])


def run_blocks(
    blocks: "Iterable[ResidualAttentionBlock]",
    tokens: torch.Tensor,
    padding_tokens: torch.Tensor | None = None,
    *,
    recompute: bool = False,
) -> torch.Tensor:
    """Run tokens through blocks.

    Args:
        blocks: Residual blocks, in order.
        tokens: Tokens ``(B, 1 + L, D)``.
        padding_tokens: Bool ``(B, 1 + L)``, true where no query may look; none means everywhere.
        recompute: Whether the graph keeps each block's input only and the backward pass runs the block again.

    Returns:
        Tokens ``(B, 1 + L, D)``.
    """
    for block in blocks:
        if recompute and torch.is_grad_enabled():  # blocks in eval mode draw nothing, so no generator is kept
            tokens = checkpoint(
                _run_block, block, tokens, padding_tokens, use_reentrant=False, preserve_rng_state=False
            )
        else:
            tokens = _run_block(block, tokens, padding_tokens)
    return tokens


def _run_block(
    block: "ResidualAttentionBlock", tokens: torch.Tensor, padding_tokens: torch.Tensor | None
) -> torch.Tensor:
    if not _is_standard(block):
        assert padding_tokens is None  # check_trunk refused it
        return cast("torch.Tensor", block(tokens))
    tokens = tokens + block.ls_1(_attend(block.attn, block.ln_1(tokens), padding_tokens))
    return cast("torch.Tensor", tokens + block.ls_2(block.mlp(block.ln_2(tokens))))


def _is_standard(block: nn.Module) -> bool:
    """Return whether a block is the one of CLIP, whose steps `_run_block` takes itself."""
    from open_clip.transformer import ResidualAttentionBlock  # noqa: PLC0415 - see docs/adr/0020

    return isinstance(block, ResidualAttentionBlock) and block.attn.in_proj_weight is not None


def _attend(
    attention: nn.MultiheadAttention, tokens: torch.Tensor, padding_tokens: torch.Tensor | None
) -> torch.Tensor:
    """Return what `attention` makes of tokens that look at themselves; its own forward pass is slow where it is frozen.

    That one projects the tokens transposed. With a weight that needs no gradient, torch then multiplies token by token,
    and in bfloat16 on a CPU copies the weight for each of them: 0.8 GB in every block of ViT-B-16 at 240 px
    (docs/adr/0033-attention.md).
    """
    projected = nn.functional.linear(tokens, attention.in_proj_weight, attention.in_proj_bias)
    query, key, value = projected.view(*tokens.shape[:2], 3, attention.num_heads, -1).permute(2, 0, 3, 1, 4)
    visible = None if padding_tokens is None else ~padding_tokens[:, None, None]
    attended = nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=visible)
    return cast("torch.Tensor", attention.out_proj(attended.transpose(1, 2).flatten(2)))


def embed_class(
    visual: "VisionTransformer",
    class_token: torch.Tensor,
    patch_tokens: torch.Tensor,
    *,
    valid_tokens: torch.Tensor | None = None,
) -> torch.Tensor:
    """Return the image embedding that the frozen head makes of the tokens after any block, in float32.

    The class token is all that a standard tower looks at. Towers that average their patch tokens do so over
    the valid ones; towers that pool by attention see all tokens.

    Args:
        visual: The image tower.
        class_token: Class token ``(B, D)``.
        patch_tokens: Patch tokens ``(B, L, D)``.
        valid_tokens: Bool ``(B, L)``, false on padding; none means all valid.

    Returns:
        Embeddings ``(B, E)``, not normalised.
    """
    with torch.autocast(class_token.device.type, enabled=False):
        if visual.attn_pool is not None:
            tokens = torch.cat([class_token[:, None], patch_tokens], dim=1).float()
            pooled: torch.Tensor = visual._pool(tokens)[0]  # noqa: SLF001 - as above
        elif visual.pool_type == "tok":
            pooled = visual.ln_post(class_token.float())
        elif visual.final_ln_after_pool:
            pooled = visual.ln_post(_average(patch_tokens.float(), valid_tokens))
        else:
            pooled = _average(visual.ln_post(patch_tokens.float()), valid_tokens)
        return pooled if visual.proj is None else pooled @ visual.proj.float()


def _average(tokens: torch.Tensor, valid_tokens: torch.Tensor | None) -> torch.Tensor:
    if valid_tokens is None:
        return tokens.mean(dim=1)
    total = torch.where(valid_tokens[..., None], tokens, 0).sum(dim=1)
    return total / valid_tokens.sum(dim=1, keepdim=True).clamp(min=1)
