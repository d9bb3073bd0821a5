"""One scale for scores, padding filled from valid neighbours, upsampling."""

import itertools

import pytest
import torch
from torch.nn import functional

from feclip.model import fill_padding, mean_probability_logit, upsample


def test_the_logit_is_that_of_the_mean_probability() -> None:
    logits = torch.randn(50, 4, dtype=torch.float64) * 5
    expected = torch.logit(logits.sigmoid().mean(dim=1))
    torch.testing.assert_close(mean_probability_logit(logits, dim=1).double(), expected, rtol=1e-5, atol=1e-5)


def test_one_tap_keeps_its_logit() -> None:
    logits = torch.tensor([[-90.0], [-2.0], [0.0], [3.0], [90.0]])
    torch.testing.assert_close(mean_probability_logit(logits, dim=1), logits[:, 0])


def test_saturated_logits_keep_their_ranking() -> None:
    rising = torch.arange(20.0, 200.0)
    both_sides = torch.cat([-rising.flip(0), rising])[:, None] + torch.tensor([0.0, 0.5, 1.0, 1.5])
    assert (both_sides.sigmoid().mean(dim=1).diff() == 0).any()
    assert (mean_probability_logit(both_sides, dim=1).diff() > 0).all()


def test_the_mean_probability_ranks_otherwise_than_the_mean_logit() -> None:
    logits = torch.tensor([[4.0, -8.0], [-1.0, -1.5]])
    assert logits.mean(dim=1).argmax() == 1
    assert mean_probability_logit(logits, dim=1).argmax() == 0


def plain_fill(values: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
    filled = values.clone()
    sources = valid.nonzero().tolist()
    for row, column in itertools.product(*map(range, valid.shape)):
        if not valid[row, column] and sources:
            near = min(sources, key=lambda at: (at[0] - row) ** 2 + (at[1] - column) ** 2)
            filled[row, column] = values[near[0], near[1]]
    return filled


@pytest.mark.parametrize("grid", [(1, 1), (1, 6), (7, 1), (4, 5), (9, 9), (24, 24)], ids=str)
@pytest.mark.parametrize("share", [0.02, 0.3, 0.9])
def test_padding_takes_the_nearest_valid_value(grid: tuple[int, int], share: float) -> None:
    valid = torch.rand(4, *grid) < share
    maps = torch.rand(4, *grid)
    expected = torch.stack([plain_fill(values, mask) for values, mask in zip(maps, valid, strict=True)])
    assert torch.equal(fill_padding(maps, valid), expected)
    assert torch.equal(fill_padding(torch.stack([maps, maps + 1], dim=1), valid)[:, 1], expected + 1)


def test_filling_is_differentiable_and_hides_what_stood_on_padding() -> None:
    maps = torch.tensor([[[1.0, torch.nan, torch.nan, 5.0]]], requires_grad=True)
    valid = torch.tensor([[[True, False, False, True]]])
    filled = fill_padding(maps, valid)
    assert filled.tolist() == [[[1, 1, 5, 5]]]
    filled.sum().backward()
    assert maps.grad is not None
    assert maps.grad.tolist() == [[[2, 0, 0, 2]]]


def test_without_mask_or_with_an_all_true_one_maps_stay() -> None:
    maps = torch.rand(2, 3, 4, 4)
    assert torch.equal(fill_padding(maps, None), maps)
    assert torch.equal(fill_padding(maps, torch.ones(2, 4, 4, dtype=torch.bool)), maps)


def test_a_mask_of_another_grid_is_refused() -> None:
    with pytest.raises(ValueError, match=r"valid_tokens must be torch.bool of shape \(2, 4, 4\)"):
        fill_padding(torch.rand(2, 3, 4, 4), torch.ones(2, 4, 5, dtype=torch.bool))


def test_upsampling_is_bilinear_in_float32_for_any_precision() -> None:
    maps = torch.rand(2, 3, 4, 5)
    expected = functional.interpolate(maps, size=(16, 9), mode="bilinear", align_corners=False)
    assert torch.equal(upsample(maps, (16, 9)), expected)
    assert torch.equal(upsample(maps[:, 0], (16, 9)), expected[:, 0])
    half = upsample(maps.half(), (16, 9))
    assert half.dtype == torch.float32
    torch.testing.assert_close(half, expected, rtol=0, atol=1e-3)
