"""Learned prompts in the manner of AnomalyCLIP (Zhou et al., ICLR 2024, Section 3.2): vectors in the place of words.

The normal state is ``[V]..[V] noun``, the abnormal one ``[W]..[W] damaged noun``; V and W are learned, and the same for
all images. The text tower stays frozen. AnomalyCLIP learns tokens inside it as well, which is not done here.

Shapes: C learned vectors of each state, D width of the text tower, E embedding width.
"""

from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.nn import functional

from feclip.model.prompting import Tokenizer

if TYPE_CHECKING:
    from open_clip import CLIP

INITIAL_STD = 0.02  # of CoOp (Zhou et al., IJCV 2022, Section 4), which AnomalyCLIP follows
STATES = ("{noun}", "damaged {noun}")


class PromptLearner(nn.Module):
    """The embeddings of the two states as functions of learned vectors, which start by chance.

    Args:
        clip: A CLIP of open_clip with a text tower of its own, in eval mode; the tower is shared, not copied.
        tokenizer: The backbone's own.
        noun: What the images show.
        num_vectors: C.

    Raises:
        ValueError: If the text tower is of another kind, or vectors and noun do not fit in it.
    """

    ends: torch.Tensor
    embedded: torch.Tensor
    positions: torch.Tensor
    projection: torch.Tensor
    attn_mask: torch.Tensor

    def __init__(self, clip: "CLIP", tokenizer: Tokenizer, noun: str, *, num_vectors: int) -> None:
        super().__init__()
        if getattr(clip, "text_pool_type", None) != "argmax" or not isinstance(clip.text_projection, torch.Tensor):
            msg = "learned_vectors needs a CLIP whose text tower is read where the text ends; take 0 for this backbone."
            raise ValueError(msg)
        ids = tokenizer([state.replace("{noun}", noun.strip()) for state in STATES])
        ends = ids.argmax(dim=1)
        if int(ends.max()) + num_vectors >= ids.shape[1]:
            msg = f"learned_vectors and noun must fit the text encoder's {ids.shape[1]} tokens, got {num_vectors} and "
            raise ValueError(msg + f"{len(noun)} characters.")
        with torch.no_grad():
            embedded = clip.token_embedding(ids)
        self.transformer = clip.transformer.requires_grad_(False)
        self.ln_final = clip.ln_final.requires_grad_(False)
        self.vectors = nn.Parameter(torch.randn(len(STATES), num_vectors, embedded.shape[-1]) * INITIAL_STD)
        fixed = {
            "embedded": embedded[:, : ids.shape[1] - num_vectors],
            "ends": ends + num_vectors,
            "positions": clip.positional_embedding,
            "projection": clip.text_projection,
            "attn_mask": clip.attn_mask,
        }
        for name, tensor in fixed.items():
            self.register_buffer(name, tensor.detach(), persistent=False)

    def forward(self) -> torch.Tensor:
        """Return the normalised embeddings ``(1, 2, E)``, float32: normal, abnormal."""
        with torch.autocast(self.vectors.device.type, enabled=False):
            tokens = torch.cat([self.embedded[:, :1], self.vectors, self.embedded[:, 1:]], dim=1) + self.positions
            read = self.ln_final(self.transformer(tokens, attn_mask=self.attn_mask))
            pooled = read[torch.arange(len(read), device=read.device), self.ends]
            return functional.normalize((pooled @ self.projection).float(), dim=-1)[None]
