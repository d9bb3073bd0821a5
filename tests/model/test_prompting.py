"""Prompts and their embeddings."""

import open_clip
import pytest
import torch

from feclip.model import build_prompts, text_embeddings
from feclip.model.backbone import load_backbone


def test_prompts_are_the_papers_for_the_default_noun() -> None:
    assert build_prompts("object") == ("A photo of a normal object", "A photo of a damaged object")


def test_embeddings_equal_open_clips_normalised_text_features() -> None:
    clip = load_backbone("Tiny", pretrained="none", init_seed=0, image_size=64).clip
    tokenizer = open_clip.get_tokenizer("Tiny")
    embeddings = text_embeddings(clip, tokenizer, "PCB")
    expected = clip.encode_text(tokenizer(["A photo of a normal PCB", "A photo of a damaged PCB"]), normalize=True)
    torch.testing.assert_close(embeddings, expected)
    assert embeddings.shape == (2, 32)
    assert not embeddings.requires_grad
    assert not torch.allclose(embeddings, text_embeddings(clip, tokenizer, "screw"))


@pytest.mark.parametrize("noun", ["", "  "])
def test_a_blank_noun_is_refused(noun: str) -> None:
    with pytest.raises(ValueError, match="noun must not be blank"):
        build_prompts(noun)


def test_a_noun_that_the_text_encoder_would_cut_off_is_refused() -> None:
    clip = load_backbone("Tiny", pretrained="none", init_seed=0, image_size=64).clip
    with pytest.raises(ValueError, match="noun must fit the text encoder's 77 tokens, got 359 characters"):
        text_embeddings(clip, open_clip.get_tokenizer("Tiny"), " ".join(["pcb"] * 90))
