"""The memory bank: a search that is plain arithmetic, a sum in the paper's order, a coreset that keeps its word."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from feclip.model import FeClipModel, FeClipOutput, MemoryBank, greedy_coreset
from feclip.model import memory_bank as module
from feclip.model.maps import add_distances


def units(*shape: int, seed: int) -> torch.Tensor:
    """Return random vectors of unit length."""
    return functional.normalize(torch.randn(shape, generator=torch.Generator().manual_seed(seed)), dim=-1)


def plain_distances(tokens: torch.Tensor, rows: torch.Tensor) -> list[float]:
    """Return 1 - cosine to the nearest row, one pair at a time, in double precision."""
    return [
        min(1 - float(functional.cosine_similarity(token.double(), row.double(), dim=0)) for row in rows)
        for token in tokens
    ]


@pytest.mark.parametrize("block_rows", [1, 5, 1024])
def test_every_row_is_compared_whatever_the_blocks(block_rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BLOCK_ROWS", block_rows)
    rows, tokens = units(23, 8, seed=0).half(), 3 * units(2, 6, 8, seed=1)
    found = MemoryBank([[rows]]).distances(0, tokens)
    for image in range(2):
        assert found[image].tolist() == pytest.approx(plain_distances(tokens[image], rows), abs=1e-3)  # float16 rows


def test_groups_of_different_sizes_are_searched_apart() -> None:
    groups = [units(size, 8, seed=size).half() for size in (1, 9, 4)]
    bank = MemoryBank([groups], groups=["a", "b", "c"])
    tokens, of = units(4, 5, 8, seed=1), [2, 0, 1, 2]
    found = bank.distances(0, tokens, torch.tensor(of))
    for image, group in enumerate(of):
        alone = MemoryBank([[groups[group]]]).distances(0, tokens[image : image + 1])
        assert torch.allclose(found[image], alone[0], atol=1e-6)


def test_what_is_in_the_bank_is_at_no_distance_and_its_opposite_at_two() -> None:
    rows = units(3, 8, seed=0)
    bank = MemoryBank([[rows[:1].half()]])
    found = bank.distances(0, torch.stack([rows[0], -rows[0]])[None])
    assert found[0].tolist() == pytest.approx([0, 2], abs=1e-3)
    assert 0 <= float(found.min()) <= float(found.max()) <= 2


@pytest.mark.parametrize(
    "rows",
    [
        pytest.param([[torch.ones(2, 3)]], id="float32"),
        pytest.param([[torch.ones(0, 3).half()]], id="empty"),
        pytest.param([[torch.ones(3).half()]], id="one dimension"),
        pytest.param([[torch.ones(2, 3).half()] * 2], id="two groups without names"),
    ],
)
def test_other_rows_are_refused(rows: list[list[torch.Tensor]]) -> None:
    with pytest.raises(ValueError, match="tap 0 of a memory bank must have float16 rows"):
        MemoryBank(rows)


@settings(max_examples=200, deadline=None)
@given(st.floats(-28, 28), st.floats(-28, 28), st.floats(0, 2), st.floats(0, 2))
def test_the_logit_of_a_third_of_the_sum_has_the_order_of_the_sum(
    first: float, second: float, near: float, far: float
) -> None:
    logits, distances = torch.tensor([first, second]), torch.tensor([near, far])
    sums = [
        1 / (1 + math.exp(-logit)) + distance
        for logit, distance in zip(logits.tolist(), distances.tolist(), strict=True)
    ]
    found = add_distances(logits, distances)
    assert found.isfinite().all()
    assert found.double().sigmoid().tolist() == pytest.approx([total / 3 for total in sums], abs=1e-6)
    if abs(sums[0] - sums[1]) > 1e-5:
        assert (found[0] < found[1]) == (sums[0] < sums[1])


def test_padding_has_no_part_in_the_largest_distance() -> None:
    valid = torch.tensor([[[True, True, False]]])
    distances = torch.tensor([[[[0.25, 0.5, 1.75]]]])
    output = FeClipOutput(torch.zeros(1, 1, 8), torch.zeros(1, 1), torch.zeros(1, 1, 1, 3), valid, (4, 12), distances)
    assert output.image_score.item() == pytest.approx((0.5 + 0.5) / 3)
    assert output.token_map.sigmoid()[0, 0, :2].tolist() == pytest.approx([0.75 / 3, 1 / 3])
    assert output.token_map[0, 0, 2].isnan()


def test_a_model_compares_its_fused_tokens_and_an_image_of_the_bank_adds_nothing() -> None:
    model = FeClipModel.from_pretrained("ViT-S-16-alt", pretrained="none", image_size=64, num_taps=2).eval()
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    tokens = model.fused_tokens(images)
    assert tokens.shape == (2, 2, 4, 4, 384)
    with torch.no_grad():
        plain = model(images)
        rows = functional.normalize(tokens[0], dim=-1).half()
        model.memory_bank = MemoryBank([[rows[tap].flatten(0, 1)] for tap in range(2)])
        found = model(images)
    assert plain.token_distances is None
    assert found.token_distances is not None
    assert float(found.token_distances[0].max()) < 1e-3
    expected = plain_distances(tokens[1, 1].flatten(0, 1), rows[1].flatten(0, 1))
    assert found.token_distances[1, 1].flatten().tolist() == pytest.approx(expected, abs=1e-3)
    assert torch.equal(found.token_logits, plain.token_logits)
    assert torch.equal(found.class_logits, plain.class_logits)
    assert "memory_bank" not in " ".join(model.trainable_state_dict())


@pytest.mark.parametrize("size", [1, 2, 7, 40])
def test_no_row_is_farther_from_a_coreset_than_it_says(size: int) -> None:
    rows = units(40, 6, seed=3)
    coreset = greedy_coreset(rows, size=size)
    assert len(set(coreset.indices.tolist())) == size
    distances = plain_distances(rows, rows[coreset.indices])
    assert max(distances) == pytest.approx(coreset.max_distance, abs=1e-6)
    assert sum(distances) / len(distances) == pytest.approx(coreset.mean_distance, abs=1e-6)


def test_a_coreset_is_within_twice_the_best_angle() -> None:
    """Every choice of two of nine rows is tried."""
    rows = units(9, 3, seed=5)

    def angle(distance: float) -> float:
        return math.acos(max(-1.0, 1 - distance))

    best = min(max(plain_distances(rows, rows[[i, j]])) for i in range(9) for j in range(i))
    assert angle(greedy_coreset(rows, size=2).max_distance) <= 2 * angle(best) + 1e-6


@pytest.mark.parametrize("size", [0, 4])
def test_a_coreset_of_another_size_is_refused(size: int) -> None:
    with pytest.raises(ValueError, match="must have 1 to 3 rows"):
        greedy_coreset(units(3, 4, seed=0), size=size)
