"""Prompts and their embeddings."""

import itertools

import open_clip
import pytest
import torch
from torch.nn import functional

from feclip.model import build_prompts, text_embeddings
from feclip.model.backbone import load_backbone


@pytest.fixture(scope="module")
def clip() -> open_clip.CLIP:
    return load_backbone("Tiny", pretrained="none", init_seed=0, image_size=64).clip


def test_prompts_are_the_papers_for_the_default_noun() -> None:
    assert build_prompts("object") == (("A photo of a normal object",), ("A photo of a damaged object",))


def test_embeddings_equal_open_clips_normalised_text_features(clip: open_clip.CLIP) -> None:
    tokenizer = open_clip.get_tokenizer("Tiny")
    embeddings = text_embeddings(clip, tokenizer, ["PCB"])
    expected = clip.encode_text(tokenizer(["A photo of a normal PCB", "A photo of a damaged PCB"]), normalize=True)
    assert torch.equal(embeddings[0], expected)
    assert embeddings.shape == (1, 2, 32)
    assert not embeddings.requires_grad
    assert not torch.allclose(embeddings, text_embeddings(clip, tokenizer, ["screw"]))


def test_each_noun_has_the_embeddings_that_it_has_alone(clip: open_clip.CLIP) -> None:
    tokenizer = open_clip.get_tokenizer("Tiny")
    together = text_embeddings(clip, tokenizer, ["object", "PCB", "object"])
    alone = [text_embeddings(clip, tokenizer, [noun])[0] for noun in ("object", "PCB", "object")]
    assert torch.equal(together, torch.stack(alone))


def test_winclips_ensemble_is_that_of_its_paper() -> None:
    """Counts and sentences of the appendix: 22 templates, 7 phrases of the normal and 4 of the abnormal state."""
    normal, abnormal = build_prompts("PCB", "winclip")
    assert (len(set(normal)), len(set(abnormal))) == (7 * 22, 4 * 22)
    assert {
        "a photo of a PCB.",
        "a cropped photo of the flawless PCB.",
        "a jpeg corrupted photo of a perfect PCB.",
        "a photo of the small unblemished PCB.",
        "a photo of a PCB without defect for visual inspection.",
    } <= set(normal)
    assert {"a close-up photo of a damaged PCB.", "a photo of the large PCB with flaw."} <= set(abnormal)
    assert not {*normal} & {*abnormal}


def test_a_state_of_the_ensemble_is_the_mean_of_its_sentences(clip: open_clip.CLIP) -> None:
    tokenizer = open_clip.get_tokenizer("Tiny")
    embeddings = text_embeddings(clip, tokenizer, ["PCB"], prompts="winclip")
    for found, sentences in zip(embeddings[0], build_prompts("PCB", "winclip"), strict=True):
        with torch.no_grad():
            mean = torch.stack([clip.encode_text(tokenizer([text]), normalize=True)[0] for text in sentences]).mean(0)
        torch.testing.assert_close(found, functional.normalize(mean, dim=0))


def test_unknown_prompts_are_refused() -> None:
    with pytest.raises(ValueError, match="prompts must be one of paper, winclip, got 'coop'"):
        build_prompts("object", "coop")


@pytest.mark.parametrize("noun", ["", "  "])
def test_a_blank_noun_is_refused(noun: str) -> None:
    with pytest.raises(ValueError, match="noun must not be blank"):
        build_prompts(noun)


@pytest.mark.parametrize(("prompts", "num_words"), list(itertools.product(["paper", "winclip"], [69, 90])))
def test_a_noun_that_the_text_encoder_would_cut_off_is_refused(
    clip: open_clip.CLIP, prompts: str, num_words: int
) -> None:
    """Of the ensemble it is enough that the longest sentence is cut."""
    noun, tokenizer = " ".join(["pcb"] * num_words), open_clip.get_tokenizer("Tiny")
    if (prompts, num_words) == ("paper", 69):
        assert text_embeddings(clip, tokenizer, [noun], prompts=prompts).isfinite().all()
        return
    with pytest.raises(ValueError, match=f"noun must fit the text encoder's 77 tokens, got {4 * num_words - 1} char"):
        text_embeddings(clip, tokenizer, [noun], prompts=prompts)
