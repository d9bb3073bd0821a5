"""Learned prompts in the manner of AnomalyCLIP (Zhou et al., ICLR 2024, Section 3.2): context vectors before the noun.

An experiment. The two states are ``[V]..[V] [noun]`` and ``[W]..[W] damaged [noun]``, V and W being learned and the same
for all images; or, started from words, the paper's own sentences whose words before the noun are learned on from there.
The text tower stays frozen.

Shapes: C learned vectors of each state, L positions, D width of the text tower, E embedding width.
"""

from typing import TYPE_CHECKING, Literal

import torch
from torch import nn
from torch.nn import functional

from feclip.model.prompting import Tokenizer

if TYPE_CHECKING:
    from open_clip import CLIP

INITIAL_STD = 0.02  # of CoOp (Zhou et al., IJCV 2022), which AnomalyCLIP follows


class PromptLearner(nn.Module):
    """Text embeddings of the two states, as functions of learned vectors.

    Args:
        clip: A CLIP of open_clip, in eval mode.
        tokenizer: The backbone's own.
        noun: What the images show.
        num_vectors: C, where they start by chance; from words there are as many as words before the noun.
        starts: ``random`` or ``words``.
    """

    token_ids: torch.Tensor
    embedded: torch.Tensor

    def __init__(
        self, clip: "CLIP", tokenizer: Tokenizer, noun: str, *, num_vectors: int, starts: Literal["random", "words"]
    ) -> None:
        super().__init__()
        self.text = nn.ModuleDict({"transformer": clip.transformer, "ln_final": clip.ln_final}).requires_grad_(False)
        self.register_buffer("position", clip.positional_embedding.detach().clone(), persistent=False)
        self.register_buffer("projection", clip.text_projection.detach().clone(), persistent=False)
        self.register_buffer("attn_mask", clip.attn_mask.detach().clone(), persistent=False)
        if starts == "words":
            ids = tokenizer([f"A photo of a normal {noun}", f"A photo of a damaged {noun}"])
            num_vectors = len("A photo of a normal".split())
        else:
            plain = tokenizer([noun, f"damaged {noun}"])
            filler = plain[:, 1:2].expand(-1, num_vectors)
            ids = torch.cat([plain[:, :1], filler, plain[:, 1:]], dim=1)[:, : plain.shape[1]]
        with torch.no_grad():
            embedded = clip.token_embedding(ids).detach().clone()
        self.register_buffer("token_ids", ids, persistent=False)
        self.register_buffer("embedded", embedded, persistent=False)
        start = embedded[:, 1 : 1 + num_vectors].clone() if starts == "words" else None
        shape = (2, num_vectors, embedded.shape[-1])
        self.vectors = nn.Parameter(torch.randn(shape) * INITIAL_STD if start is None else start)

    def forward(self) -> torch.Tensor:
        """Return the embeddings ``(1, 2, E)`` of unit length: normal, abnormal."""
        rest = self.embedded[:, 1 + self.vectors.shape[1] :]
        tokens = torch.cat([self.embedded[:, :1], self.vectors, rest], dim=1) + self.position
        read = self.text["ln_final"](self.text["transformer"](tokens, attn_mask=self.attn_mask))
        ends = read[torch.arange(2, device=read.device), self.token_ids.argmax(dim=-1)]
        return functional.normalize(ends @ self.projection, dim=-1)[None]
