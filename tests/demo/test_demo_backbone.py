"""The demonstration backbone: fits open_clip, knows its words, and tells damage from none by its prompts alone."""

import hashlib
import itertools
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from safetensors.torch import load_file

from feclip.demo import ALL_FAMILIES, FAMILIES, noun_of
from feclip.demo.backbone import BACKBONE_NAME, IMAGE_SIZE, register, tokenizer, weights_path
from feclip.demo.pretrain import TrainingConfig, create_clip, main, train
from feclip.demo.pretrain_data import Pool, PoolConfig, draw_batch, load_pool
from feclip.demo.pretrain_init import initialize_trunk
from feclip.demo.pretrain_losses import contrastive_loss, token_loss, twin_loss
from feclip.demo.tokenizer import NOUNS, OTHER_NOUNS
from feclip.demo.zero_shot import zero_shot_auroc
from feclip.model.backbone import load_backbone
from feclip.model.prompting import build_prompts, text_embeddings

MODEL_CARD = Path(__file__).parents[2] / "docs" / "demo-backbone.md"
MAX_BYTES = 8_000_000
FLOORS = {"pretraining": 0.68, "finetuning": 0.66}  # measured 0.770 and 0.759 on these 60 pictures


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def clip() -> open_clip.CLIP:
    model = create_clip(0)
    model.load_state_dict(load_file(weights_path()))
    return model.eval()


@pytest.fixture(scope="module")
def pool() -> Pool:
    return load_pool(PoolConfig(seed=3, num_pairs=12, fine_share=0.2))


def first_steps(pool: Pool, *, seed: int) -> list[float]:
    config = TrainingConfig(seed=seed, steps=3, batch_size=8, warmup_steps=1)
    history = train(pool, config)[1]
    return [value for entry in history for value in (entry["contrastive"], entry["twin"], entry["token"])]


def test_the_config_registers_once_and_has_a_fine_enough_grid() -> None:
    register()
    register()
    assert open_clip.list_models().count(BACKBONE_NAME) == 1
    config = open_clip.get_model_config(BACKBONE_NAME)
    vision, text = config["vision_cfg"], config["text_cfg"]
    assert vision["layers"] >= 6
    assert vision["image_size"] == IMAGE_SIZE
    assert vision["image_size"] // vision["patch_size"] >= 14
    assert (text["vocab_size"], text["context_length"]) == (tokenizer().vocab_size, tokenizer().context_length)


def test_the_weights_are_small_fit_strictly_and_are_those_of_the_model_card() -> None:
    assert weights_path().stat().st_size <= MAX_BYTES
    register()
    loaded = load_backbone(BACKBONE_NAME, pretrained=str(weights_path()), init_seed=0, image_size=IMAGE_SIZE)
    card = MODEL_CARD.read_text(encoding="utf-8")
    assert hashlib.sha256(weights_path().read_bytes()).hexdigest() in card
    assert loaded.digest in card


def test_words_survive_the_tokenizer_and_the_end_has_the_highest_id() -> None:
    words = tokenizer()
    for noun in NOUNS:
        for prompt in itertools.chain.from_iterable(build_prompts(noun)):
            ids = words([prompt, "object"])
            assert ids.shape == (2, words.context_length)
            assert ids.dtype == torch.long
            assert words.decode(ids[0]) == prompt.lower()
            assert int(ids[0].max()) == words.vocab_size - 1
            assert int(ids[0].argmax()) == len(prompt.split()) + 1


def test_every_family_and_nothing_twice_can_be_named() -> None:
    assert {noun_of(family) for family in ALL_FAMILIES} <= set(NOUNS)
    assert len(set(NOUNS)) == len(NOUNS) >= 60
    assert not {noun_of(family) for family in FAMILIES["pretraining"]} & set(OTHER_NOUNS)


def test_unknown_nouns_are_refused_by_name(clip: open_clip.CLIP) -> None:
    with pytest.raises(ValueError, match=r"'unicorn'.*nouns are object, weave.*zipper"):
        text_embeddings(clip, tokenizer(), ["shiny unicorn"])


def test_long_texts_are_cut_before_the_end() -> None:
    ids = tokenizer()(["photo " * 40])
    assert int(ids[0, -1]) == tokenizer().vocab_size - 1
    assert int((ids == 0).sum()) == 0


@pytest.mark.parametrize("noun", ["object", "weave", "tile", "PCB"])
def test_the_two_prompts_lie_apart_whatever_the_noun(clip: open_clip.CLIP, noun: str) -> None:
    ((normal, damaged),) = text_embeddings(clip, tokenizer(), [noun])
    assert float(normal @ damaged) < 0.95


def test_equal_captions_are_positives_of_one_another() -> None:
    logits = torch.randn(6, 3, generator=torch.Generator().manual_seed(0))
    ids = torch.tensor([0, 1, 2, 1, 0, 1])
    full, equal = logits[:, ids], (ids[:, None] == ids[None]).float()
    to_texts = -(full.log_softmax(1) * equal).sum(1) / equal.sum(1)
    to_images = -(full.log_softmax(0) * equal).sum(0) / equal.sum(0)
    assert contrastive_loss(logits, ids).item() == pytest.approx((to_texts.mean() + to_images.mean()).item() / 2)


def test_token_loss_weighs_both_classes_alike_and_skips_doubtful_tokens() -> None:
    margins, pixels = torch.tensor([[2.0, -2.0, -2.0, 9.0]]), torch.tensor([[40.0, 0.0, 0.0, 1.0]])
    assert token_loss(margins, pixels).item() == pytest.approx(np.log1p(np.exp(-2.0)))


def test_the_twin_loss_sees_only_the_difference_of_the_two_captions() -> None:
    logits, ids = torch.tensor([[1.0, 3.0, 50.0], [1.0, 3.0, -50.0]]), torch.tensor([0, 1])
    expected = (np.log1p(np.exp(2.0)) + np.log1p(np.exp(-2.0))) / 2
    assert twin_loss(logits, ids).item() == pytest.approx(expected)


def test_the_schedules_begin_and_end_where_they_say() -> None:
    config = TrainingConfig(steps=1000, warmup_steps=10, learning_rate=1.0, token_weight=10.0)
    rates = [config.learning_rate_at(step) for step in range(1000)]
    assert rates[9] == rates[10] == 1.0
    assert rates[:10] == sorted(rates[:10])
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert rates[-1] < 1e-4
    assert [config.token_weight_at(step) for step in (0, 300, 700, 999)] == pytest.approx([10, 10, 2, 2])
    assert [config.strong_share_at(step) for step in (0, 500, 999)] == [1.0, 0.0, 0.0]


@pytest.mark.parametrize("wrong", [{"batch_size": 3}, {"batch_size": 0}, {"steps": 0}, {"warmup_steps": 0}])
def test_settings_out_of_range_are_refused_by_name(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        TrainingConfig(**wrong)


def test_training_starts_from_white_patches_and_tokens_that_look_around(pool: Pool) -> None:
    model = create_clip(0)
    initialize_trunk(model, pool.flawless)
    again = create_clip(0)
    initialize_trunk(again, pool.flawless)
    assert all(torch.equal(first, second) for first, second in zip(model.parameters(), again.parameters(), strict=True))
    attention = model.visual.transformer.resblocks[0].attn
    tokens = torch.nn.functional.layer_norm(model.visual.positional_embedding[None], (96,))
    query, key = (tokens @ matrix[:32].T for matrix in attention.in_proj_weight.split(96)[:2])
    weights = (query @ key.transpose(1, 2) / 32**0.5)[0, 1:, 1:].softmax(dim=1)
    middle = weights.reshape(14, 14, 14, 14)[7, 7]
    assert middle.argmax() == 7 * 14 + 7
    assert middle[6:9, 6:9].sum().item() > 0.8


def test_a_batch_holds_twins_that_differ_only_under_the_mask(pool: Pool) -> None:
    images, masks, captions = (
        getattr(draw_batch(pool, rng=np.random.default_rng(1), num_pairs=6, image_size=112, strong_share=0.5), name)
        for name in ("images", "masks", "captions")
    )
    assert images.shape == (12, 3, 112, 112)
    assert all(" normal " in text for text in captions[:6])
    assert [text.replace(" damaged ", " normal ") for text in captions[6:]] == captions[:6]
    differs = (images[:6] != images[6:]).any(dim=1)
    assert not masks[:6].any()
    assert bool((differs & masks[6:]).flatten(1).any(dim=1).all())


def test_only_pretraining_families_are_drawn(pool: Pool) -> None:
    assert set(pool.families) == set(FAMILIES["pretraining"])


def test_a_cache_gives_the_same_pairs_and_refuses_others(tmp_path: Path) -> None:
    config = PoolConfig(num_pairs=6, fine_share=0.5)
    drawn, read = load_pool(config, cache=tmp_path / "pool"), load_pool(config, cache=tmp_path / "pool")
    assert np.array_equal(drawn.damaged, read.damaged)
    assert np.array_equal(drawn.masks, read.masks)
    with pytest.raises(ValueError, match=re.escape(str(tmp_path))):
        load_pool(PoolConfig(num_pairs=7), cache=tmp_path / "pool")


def test_one_seed_gives_the_same_first_steps_and_another_seed_others(pool: Pool) -> None:
    losses = first_steps(pool, seed=5)
    assert losses == first_steps(pool, seed=5)
    assert losses != first_steps(pool, seed=6)
    assert all(np.isfinite(losses))


def test_the_program_writes_weights_that_load_and_a_loss_curve(tmp_path: Path) -> None:
    output = tmp_path / "tiny.safetensors"
    arguments = ["--output", str(output), "--training.steps", "1", "--pool.num_pairs", "6"]
    assert main(arguments) == 0
    create_clip(1).load_state_dict(load_file(output))
    assert '"contrastive": [' in output.with_suffix(".training.json").read_text(encoding="utf-8")
    assert main(["--output", str(tmp_path / "tiny.pt")]) == 2


@pytest.mark.parametrize("role", ["pretraining", "finetuning"])
def test_damage_is_told_from_none_on_fresh_pictures(clip: open_clip.CLIP, role: str) -> None:
    families = FAMILIES[role]  # type: ignore[index]
    auroc = zero_shot_auroc(clip, families=families, seed=123, num_images=60, image_size=IMAGE_SIZE)
    assert auroc > FLOORS[role]
