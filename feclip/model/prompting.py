"""The prompts of FE-CLIP and their text embeddings (Gong et al., ICCV 2025, Section 3.2).

Index 0 is normal, index 1 abnormal, here and wherever two text embeddings stand side by side.

Shapes: G nouns, E embedding width.

Beside the paper's sentence for each state there is the ensemble of WinCLIP (Jeong et al., CVPR 2023, Section 4.1, and
the lists of its appendix): each phrase of a state in each template; a state's embedding is the mean of its sentences'.
"""

import functools
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Literal, TypeAlias, cast, get_args

import torch
from torch import nn
from torch.nn import functional

if TYPE_CHECKING:
    from open_clip import CLIP

Tokenizer: TypeAlias = Callable[[list[str]], torch.Tensor]
"""From n texts to ids ``(n, context length)``, int64."""

Prompts: TypeAlias = Literal["paper", "winclip"]
"""``paper``: one sentence for each state; ``winclip``: 154 normal and 88 abnormal ones."""

PAPER_TEMPLATES = ("A photo of a {state}",)
PAPER_STATES = (("normal {noun}",), ("damaged {noun}",))  # paper, Section 3.2, with noun "object"

_WINCLIP_PHOTOS = (
    "photo of {article} {state}",
    *(f"{kind} photo of {{article}} {{state}}" for kind in ("cropped", "close-up", "bright", "dark")),
    *(f"{kind} photo of {{article}} {{state}}" for kind in ("jpeg corrupted", "blurry")),
    *(f"photo of {{article}} {size} {{state}}" for size in ("small", "large")),
    *(f"photo of {{article}} {{state}} for {purpose}" for purpose in ("visual inspection", "anomaly detection")),
)
WINCLIP_TEMPLATES = tuple(
    f"a {photo}.".replace("{article}", article) for photo in _WINCLIP_PHOTOS for article in ("a", "the")
)
_FLAWS = ("flaw", "defect", "damage")
WINCLIP_STATES = (
    (
        "{noun}",
        *(f"{quality} {{noun}}" for quality in ("flawless", "perfect", "unblemished")),
        *(f"{{noun}} without {flaw}" for flaw in _FLAWS),
    ),
    ("damaged {noun}", *(f"{{noun}} with {flaw}" for flaw in _FLAWS)),
)

_ENSEMBLES: Mapping[str, tuple[tuple[str, ...], tuple[tuple[str, ...], ...]]] = MappingProxyType(
    {"paper": (PAPER_TEMPLATES, PAPER_STATES), "winclip": (WINCLIP_TEMPLATES, WINCLIP_STATES)}
)
BATCH_SIZE = 64  # sentences that the text tower reads at once


def build_prompts(noun: str, prompts: str = "paper") -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the sentences of the normal and of the abnormal state.

    Args:
        noun: What the images show, such as "object" or "PCB".
        prompts: ``paper`` or ``winclip``.

    Raises:
        ValueError: If ``noun`` is blank, or there are no such prompts.

    Example:
        >>> build_prompts("PCB")
        (('A photo of a normal PCB',), ('A photo of a damaged PCB',))
        >>> normal, abnormal = build_prompts("PCB", "winclip")
        >>> len(normal), len(abnormal), abnormal[-1]
        (154, 88, 'a photo of the PCB with damage for anomaly detection.')
    """
    if not noun.strip():
        msg = f"noun must not be blank, got {noun!r}."
        raise ValueError(msg)
    if prompts not in _ENSEMBLES:
        msg = f"prompts must be one of {', '.join(get_args(Prompts))}, got {prompts!r}."
        raise ValueError(msg)
    templates, states = _ENSEMBLES[prompts]

    def sentences(phrases: Sequence[str]) -> Iterator[str]:
        for phrase, template in itertools.product(phrases, templates):
            yield template.replace("{state}", phrase).replace("{noun}", noun.strip())

    normal, abnormal = (tuple(sentences(phrases)) for phrases in states)
    return normal, abnormal


@torch.no_grad()
def text_embeddings(
    clip: "CLIP", tokenizer: Tokenizer, nouns: Sequence[str], *, prompts: Prompts = "paper"
) -> torch.Tensor:
    """Embed the two states of each noun once.

    The embedding of a state is the mean of its sentences' embeddings, each of unit length, brought to unit length.

    Args:
        clip: A CLIP of open_clip, in eval mode.
        tokenizer: The backbone's own.
        nouns: What the images show; a noun that stands twice is embedded once.
        prompts: ``paper`` or ``winclip``.

    Returns:
        Normalised embeddings ``(G, 2, E)``, float32: normal, abnormal.

    Raises:
        ValueError: If a noun is blank or the text encoder would cut it off.

    Example:
        >>> import open_clip
        >>> clip = open_clip.create_model("ViT-S-32-alt").eval()
        >>> text_embeddings(clip, open_clip.get_tokenizer("ViT-S-32-alt"), ["PCB"]).norm(dim=2).round().tolist()
        [[1.0, 1.0]]
    """
    found = {noun: _embedded(clip, tokenizer, noun, prompts=prompts) for noun in dict.fromkeys(nouns)}
    return torch.stack([found[noun] for noun in nouns])


def _embedded(clip: "CLIP", tokenizer: Tokenizer, noun: str, *, prompts: Prompts) -> torch.Tensor:
    """Return the embeddings of a noun's two states, ``(2, E)``."""
    states = build_prompts(noun, prompts)
    sentences = list(itertools.chain.from_iterable(states))
    tokens = tokenizer(sentences)
    if bool((tokens == tokenizer([f"{sentence} image" for sentence in sentences])).all(dim=1).any()):
        msg = f"noun must fit the text encoder's {tokens.shape[1]} tokens, got {len(noun)} characters."
        raise ValueError(msg)
    device = next(clip.parameters()).device
    encode = clip.encode_text if len(sentences) == len(states) else functools.partial(_encode_shortened, clip)
    encoded = torch.cat([encode(part.to(device)).float() for part in torch.split(tokens, BATCH_SIZE)])
    units = torch.split(functional.normalize(encoded, dim=-1), [len(state) for state in states])
    return torch.cat([unit if len(unit) == 1 else functional.normalize(unit.mean(0, keepdim=True)) for unit in units])


def _encode_shortened(clip: "CLIP", tokens: torch.Tensor) -> torch.Tensor:
    """Return the text features of many sentences, ``(n, E)``, without running the tower on what follows their ends.

    A causal tower that is read where a sentence ends never sees it, and it is most of the 77 positions.
    """
    if not hasattr(clip, "text_pool_type") or clip.text_pool_type != "argmax" or clip.attn_mask is None:
        return cast("torch.Tensor", clip.encode_text(tokens))
    ends = tokens.argmax(dim=1)
    length = int(ends.max()) + 1
    embedded = clip.token_embedding(tokens[:, :length]) + clip.positional_embedding[:length]
    read = clip.ln_final(clip.transformer(embedded, attn_mask=clip.attn_mask[:length, :length]))
    pooled, projection = read[torch.arange(len(read)), ends], clip.text_projection
    return cast("torch.Tensor", projection(pooled) if isinstance(projection, nn.Module) else pooled @ projection)
