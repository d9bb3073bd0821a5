"""Learned prompts: what they compute, what of them learns, and that a bundle scores with what was learned."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import open_clip
import pyarrow as pa
import pytest
import torch

from feclip import building
from feclip.bundle import read_bundle, write_bundle
from feclip.config import FinetuneConfig, ModelConfig, OptimConfig
from feclip.errors import ConfigError
from feclip.export import ExportedModel
from feclip.model import FeClipModel
from feclip.model.backbone import load_backbone
from feclip.model.prompt_learner import PromptLearner
from feclip.scoring import Scorer

CONFIG = ModelConfig(backbone="feclip-demo", num_taps=2, learned_vectors=4).settled()
Build = Callable[..., FeClipModel]


def test_with_the_vectors_of_words_it_is_open_clips_text_tower() -> None:
    clip = load_backbone("Tiny", pretrained="none", init_seed=0, image_size=64).clip
    tokenizer = open_clip.get_tokenizer("Tiny")
    learner = PromptLearner(clip, tokenizer, "PCB", num_vectors=4)
    ids = tokenizer(["a photo of a PCB", "a photo of a damaged PCB"])
    with torch.no_grad():
        learner.vectors.copy_(clip.token_embedding(ids)[:, 1:5])
        torch.testing.assert_close(learner()[0], clip.encode_text(ids, normalize=True))


def trained(model: FeClipModel) -> dict[str, torch.Tensor]:
    """Take a step that moves everything that learns; return what was there before."""
    model.train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    adam = torch.optim.Adam([parameter for parameter in model.parameters() if parameter.requires_grad], lr=0.05)
    images = torch.rand(2, 3, 112, 112, generator=torch.Generator().manual_seed(0))
    output = model(images)
    (output.class_logits.sum() + output.token_logits.sum()).backward()
    adam.step()
    return before


def test_vectors_learn_and_the_text_tower_does_not() -> None:
    model = building.build_model(CONFIG, seed=3)
    assert model.text_embeddings.shape == (1, 2, 64)
    at_first = model.text_embeddings
    before = trained(model)
    changed = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}
    assert "prompt_learner.vectors" in changed
    assert changed <= set(model.trainable_state_dict())
    assert not any("transformer" in name for name in model.trainable_state_dict())
    model.eval()
    assert not torch.equal(model.text_embeddings, at_first)
    torch.testing.assert_close(model.text_embeddings, model.prompt_learner())  # type: ignore[misc]


def test_a_bundle_scores_and_exports_with_what_was_learned(tmp_path: Path) -> None:
    model = building.build_model(CONFIG, seed=3)
    trained(model)
    run = FinetuneConfig(output=str(tmp_path), model=CONFIG, optim=OptimConfig(epochs=0))
    images = pa.table({"uri": ["/a.png"], "role": ["trained"], "sha256": ["0" * 64]})
    write_bundle(str(tmp_path), model=model, config=run, images=images, metrics=[])
    bundle = read_bundle(str(tmp_path))
    pixels = np.random.default_rng(0).integers(0, 256, (3, 112, 112, 3), np.uint8)
    valid = np.ones(pixels.shape[:3], np.bool_)
    scores = Scorer(bundle, precision="float32").score(pixels, valid)
    inputs = torch.from_numpy(pixels), torch.from_numpy(valid)
    with torch.no_grad():
        expected = model.eval()(model.normalize(inputs[0].permute(0, 3, 1, 2)))
        exported = ExportedModel(bundle.build(), statistic_options=bundle.statistic_options)
        found = exported(*inputs)
    assert scores.image_logit == pytest.approx(expected.image_logit.numpy(), abs=1e-5)
    assert found["image_logit"].numpy() == pytest.approx(scores.image_logit, abs=1e-5)
    assert not any("prompt_learner" in name for name, _ in exported.named_parameters())
    words = dataclasses.replace(CONFIG, learned_vectors=0)
    assert not torch.equal(bundle.build().text_embeddings, building.build_model(words, seed=3).text_embeddings)


def test_more_vectors_than_the_text_tower_has_room_for_are_refused(build_model: Build) -> None:
    with pytest.raises(
        ConfigError, match="learned_vectors and noun must fit the text encoder's 16 tokens, got 13 and 6"
    ):
        building.build_model(dataclasses.replace(CONFIG, learned_vectors=13), seed=0)
    with pytest.raises(ValueError, match="take 0 for this backbone"):
        build_model("Tiny-no-ln-pre", learned_vectors=4)
