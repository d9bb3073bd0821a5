"""What the demonstration backbone is trained by.

CLIP's contrastive loss alone needs more steps than a laptop has: two prompts that differ in one word start almost
equal, and what passes through their difference is lost in the noise. Two terms beside it find the damage sooner: one
asks each image for its own caption against its twin's, the other asks patch tokens, through linear heads that are
thrown away afterwards, whether their patch is damaged.

Shapes: B images, their second half the damaged twins of the first; U different captions; L patch tokens.
"""

from typing import Literal, TypeAlias

import open_clip
import torch
from torch import nn
from torch.nn import functional

from feclip.demo.pretrain_data import Batch
from feclip.demo.tokenizer import WordTokenizer
from feclip.demo.zero_shot import normalize_pixels

__all__ = ["Precision", "compute_losses", "contrastive_loss", "create_heads", "token_loss", "twin_loss"]

Precision: TypeAlias = Literal["float32", "bfloat16"]

TOKEN_BLOCKS = (3, 5)  # zero-based; whose patch tokens the token loss looks at
MIN_DAMAGED_PIXELS = 3  # of a patch, for its token to count as damaged; with fewer but some it counts as neither


def contrastive_loss(image_logits: torch.Tensor, caption_ids: torch.Tensor) -> torch.Tensor:
    """Return CLIP's symmetric loss where equal captions are one another's positives.

    Args:
        image_logits: Scaled similarities ``(B, U)`` of images and different captions.
        caption_ids: Which caption is each image's, ``(B,)``.

    Example:
        >>> round(float(contrastive_loss(torch.zeros(4, 2), torch.tensor([0, 0, 1, 1]))), 3)
        1.386
    """
    num_captions = image_logits.shape[1]
    counts = torch.bincount(caption_ids, minlength=num_captions)
    # B texts of which `counts` are equal: log-sum-exp over all, and each image's own one among its equals.
    to_texts = functional.cross_entropy(image_logits + counts.log(), caption_ids, reduction="none")
    to_texts = to_texts + counts[caption_ids].log()
    to_images = -functional.log_softmax(image_logits, dim=0).gather(1, caption_ids[:, None])[:, 0]
    return (to_texts.mean() + to_images.mean()) / 2


def twin_loss(image_logits: torch.Tensor, caption_ids: torch.Tensor) -> torch.Tensor:
    """Return the cross-entropy of each image between its own caption and that of its twin.

    Args:
        image_logits: Scaled similarities ``(B, U)`` of images and different captions.
        caption_ids: Which caption is each image's, ``(B,)``.

    Example:
        >>> round(float(twin_loss(torch.tensor([[2.0, 0.0], [0.0, 2.0]]), torch.tensor([0, 1]))), 3)
        0.127
    """
    own = image_logits.gather(1, caption_ids[:, None])
    twins = image_logits.gather(1, caption_ids.roll(len(caption_ids) // 2)[:, None])
    return functional.softplus(twins - own).mean()


def token_loss(logits: torch.Tensor, damaged_pixels: torch.Tensor) -> torch.Tensor:
    """Return the cross-entropy of damaged against normal patch tokens, both classes weighing alike.

    Args:
        logits: Of P(damaged) ``(B, L)``.
        damaged_pixels: Damaged pixels of each patch ``(B, L)``.
    """
    damaged, normal = logits[damaged_pixels >= MIN_DAMAGED_PIXELS], logits[damaged_pixels == 0]
    return (functional.softplus(-damaged).mean() + functional.softplus(normal).mean()) / 2


def create_heads(seed: int, *, width: int) -> nn.ModuleList:
    """Return the linear heads of the token loss; they serve training alone and are not saved."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.ModuleList(
            nn.Sequential(nn.LayerNorm(width, elementwise_affine=False), nn.Linear(width, 1)) for _ in TOKEN_BLOCKS
        )


def compute_losses(
    clip: open_clip.CLIP, batch: Batch, *, heads: nn.ModuleList, words: WordTokenizer, precision: Precision
) -> dict[str, torch.Tensor]:
    """Return the losses of a batch by name: contrastive, twin, token."""
    different = list(dict.fromkeys(batch.captions))
    caption_ids = torch.tensor([different.index(text) for text in batch.captions])
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bfloat16"):
        seen = clip.visual.forward_intermediates(
            normalize_pixels(batch.images), indices=list(TOKEN_BLOCKS), output_fmt="NLC"
        )
        texts = clip.encode_text(words(different), normalize=True)
    images = functional.normalize(seen["image_features"].float(), dim=-1)
    logits = clip.logit_scale.exp() * images @ texts.float().T
    side = clip.visual.patch_size[0]
    damaged_pixels = batch.masks.float().unfold(1, side, side).unfold(2, side, side).sum((-1, -2)).flatten(1)
    of_blocks = [
        token_loss(head(tokens.float())[..., 0], damaged_pixels)
        for head, tokens in zip(heads, seen["image_intermediates"], strict=True)
    ]
    return {
        "contrastive": contrastive_loss(logits, caption_ids),
        "twin": twin_loss(logits, caption_ids),
        "token": torch.stack(of_blocks).mean(),
    }
