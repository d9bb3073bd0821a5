"""The two prompts of FE-CLIP and their text embeddings (Gong et al., ICCV 2025, Section 3.2).

Index 0 is normal, index 1 abnormal, here and wherever two text embeddings stand side by side.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, TypeAlias

import torch
from torch.nn import functional

if TYPE_CHECKING:
    from open_clip import CLIP

Tokenizer: TypeAlias = Callable[[list[str]], torch.Tensor]
"""From n texts to ids ``(n, context length)``, int64."""

PROMPTS = ("A photo of a normal {noun}", "A photo of a damaged {noun}")  # paper, Section 3.2, with noun "object"


def build_prompts(noun: str) -> tuple[str, str]:
    """Return the normal and the abnormal prompt.

    Args:
        noun: What the images show, such as "object" or "PCB".

    Raises:
        ValueError: If ``noun`` is blank.

    Example:
        >>> build_prompts("PCB")
        ('A photo of a normal PCB', 'A photo of a damaged PCB')
    """
    if not noun.strip():
        msg = f"noun must not be blank, got {noun!r}."
        raise ValueError(msg)
    normal, abnormal = (prompt.format(noun=noun.strip()) for prompt in PROMPTS)
    return normal, abnormal


@torch.no_grad()
def text_embeddings(clip: "CLIP", tokenizer: Tokenizer, noun: str) -> torch.Tensor:
    """Embed the two prompts once.

    Args:
        clip: A CLIP of open_clip, in eval mode.
        tokenizer: The backbone's own.
        noun: What the images show.

    Returns:
        Normalised embeddings ``(2, E)``, float32: normal, abnormal.

    Raises:
        ValueError: If ``noun`` is blank or the text encoder would cut it off.

    Example:
        >>> import open_clip
        >>> clip = open_clip.create_model("ViT-S-32-alt").eval()
        >>> text_embeddings(clip, open_clip.get_tokenizer("ViT-S-32-alt"), "PCB").norm(dim=1).round().tolist()
        [1.0, 1.0]
    """
    prompts = list(build_prompts(noun))
    tokens = tokenizer(prompts)
    if torch.equal(tokens, tokenizer([prompt + " image" for prompt in prompts])):
        msg = f"noun must fit the text encoder's {tokens.shape[1]} tokens, got {len(noun)} characters."
        raise ValueError(msg)
    device = next(clip.parameters()).device
    return functional.normalize(clip.encode_text(tokens.to(device)).float(), dim=-1)
