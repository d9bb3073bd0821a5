"""Loss terms against numbers worked out by hand and a plain second version."""

import math

import pytest
import torch
from torchmetrics.functional.segmentation import dice_score

from feclip.model import FeClipOutput, fe_clip_loss_terms


def make_output(
    class_logits: torch.Tensor, token_logits: torch.Tensor, valid_tokens: torch.Tensor | None = None
) -> FeClipOutput:
    embeddings = torch.zeros(*class_logits.shape, 8)
    return FeClipOutput(embeddings, class_logits, token_logits, valid_tokens, (4, 4))


def test_class_loss_is_the_mean_over_taps_of_the_cross_entropy() -> None:
    output = make_output(torch.tensor([[0.0, math.log(3)], [-2.0, 2.0]]), torch.zeros(2, 2, 2, 2))
    class_loss = fe_clip_loss_terms(output, torch.tensor([1, 0])).class_loss
    first = (math.log(2) + math.log(4 / 3)) / 2  # P(abnormal) = 1/2 and 3/4
    second = (math.log1p(math.exp(-2)) + math.log1p(math.exp(2))) / 2
    assert class_loss.tolist() == pytest.approx([first, second])


def test_every_tap_is_supervised_and_not_their_average() -> None:
    output = make_output(torch.tensor([[5.0, -5.0]]), torch.zeros(1, 2, 2, 2))
    assert fe_clip_loss_terms(output, torch.tensor([1])).class_loss.item() == pytest.approx(2.5067, abs=1e-4)


def test_mask_terms_equal_the_numbers_worked_out_by_hand() -> None:
    logits = torch.full((1, 1, 2, 2), math.log(3))  # P(abnormal) = 3/4 everywhere, whatever the upsampling
    mask = torch.zeros(1, 4, 4)
    mask[0, 0, :2] = 1
    terms = fe_clip_loss_terms(make_output(torch.zeros(1, 1), logits), torch.tensor([1]), mask)
    abnormal = 0.25 * (1 / 4) ** 2 * math.log(4 / 3)
    normal = 0.75 * (3 / 4) ** 2 * math.log(4)
    assert terms.focal.item() == pytest.approx((2 * abnormal + 14 * normal) / 16)
    assert terms.dice.item() == pytest.approx(1 - (2 * 1.5 + 1) / (12 + 2 + 1))


def test_gamma_zero_and_alpha_half_is_half_the_cross_entropy() -> None:
    logits, mask = torch.randn(2, 3, 4, 4), (torch.rand(2, 4, 4) > 0.5).float()
    terms = fe_clip_loss_terms(
        make_output(torch.zeros(2, 3), logits), torch.tensor([0, 1]), mask, focal_gamma=0, focal_alpha=0.5
    )
    targets = mask[:, None].expand_as(logits)
    expected = torch.nn.functional.binary_cross_entropy_with_logits(logits, targets, reduction="none") / 2
    torch.testing.assert_close(terms.focal, expected.mean(dim=(1, 2, 3)))


def test_dice_of_a_certain_prediction_is_torchmetrics_up_to_the_smoothing() -> None:
    predicted, mask = torch.rand(3, 64, 64) > 0.5, torch.rand(3, 64, 64) > 0.5
    logits = (predicted.float() * 2 - 1)[:, None] * 200
    dice = fe_clip_loss_terms(make_output(torch.zeros(3, 1), logits), torch.zeros(3), mask).dice
    expected = 1 - dice_score(predicted[:, None], mask[:, None], num_classes=1, average="none")[:, 0]
    torch.testing.assert_close(dice, expected, rtol=0, atol=1e-3)


def test_an_empty_mask_still_pulls_the_prediction_down() -> None:
    logits = torch.zeros(1, 1, 2, 2, requires_grad=True)
    terms = fe_clip_loss_terms(make_output(torch.zeros(1, 1), logits), torch.tensor([0]), torch.zeros(1, 4, 4))
    assert terms.dice.item() == pytest.approx(1 - 1 / 9)
    (gradient,) = torch.autograd.grad(terms.dice.sum(), logits)
    assert (gradient > 0.01).all()


def test_padding_is_left_out() -> None:
    valid_tokens = torch.ones(2, 4, 4, dtype=torch.bool)
    valid_tokens[:, 3] = False
    valid_pixels = valid_tokens.repeat_interleave(4, dim=1).repeat_interleave(4, dim=2)
    logits, masks = torch.randn(2, 3, 4, 4), (torch.rand(2, 16, 16) > 0.7).float()
    terms = []
    for filling in (0.0, 50.0, torch.nan):
        given = torch.where(valid_tokens[:, None], logits, filling)
        output = make_output(torch.zeros(2, 3), given, valid_tokens)
        painted = torch.where(valid_pixels, masks, float(filling > 0))
        terms.append(fe_clip_loss_terms(output, torch.tensor([0, 1]), painted, valid_pixels=valid_pixels))
    for other in terms[1:]:
        assert torch.equal(other.focal, terms[0].focal)
        assert torch.equal(other.dice, terms[0].dice)
    cropped = make_output(torch.zeros(2, 3), logits[:, :, :3])
    alone = fe_clip_loss_terms(cropped, torch.tensor([0, 1]), masks[:, :12])
    torch.testing.assert_close(terms[0].focal, alone.focal)
    torch.testing.assert_close(terms[0].dice, alone.dice)


def test_all_valid_equals_no_mask() -> None:
    logits, masks = torch.randn(2, 3, 4, 4), torch.rand(2, 16, 16) > 0.7
    plain = fe_clip_loss_terms(make_output(torch.zeros(2, 3), logits), torch.tensor([0, 1]), masks)
    masked_output = make_output(torch.zeros(2, 3), logits, torch.ones(2, 4, 4, dtype=torch.bool))
    everywhere = torch.ones(2, 16, 16, dtype=torch.bool)
    masked = fe_clip_loss_terms(masked_output, torch.tensor([0, 1]), masks, valid_pixels=everywhere)
    assert all(torch.equal(first, second) for first, second in zip(plain, masked, strict=True))


def test_an_image_without_valid_pixels_counts_nothing() -> None:
    output = make_output(torch.zeros(1, 1), torch.randn(1, 1, 2, 2), torch.zeros(1, 2, 2, dtype=torch.bool))
    nowhere = torch.zeros(1, 4, 4, dtype=torch.bool)
    terms = fe_clip_loss_terms(output, torch.tensor([0]), torch.ones(1, 4, 4), valid_pixels=nowhere)
    assert (terms.focal.item(), terms.dice.item()) == (0, 0)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
@pytest.mark.parametrize("level", [-300.0, 300.0])
def test_terms_and_gradients_stay_finite_at_saturation(gamma: float, level: float) -> None:
    class_logits = torch.full((1, 2), level, requires_grad=True)
    token_logits = torch.full((1, 2, 2, 2), level, requires_grad=True)
    mask = torch.zeros(1, 4, 4)
    mask[0, :2] = 1
    terms = fe_clip_loss_terms(make_output(class_logits, token_logits), torch.tensor([1]), mask, focal_gamma=gamma)
    gradients = torch.autograd.grad(sum(term.sum() for term in terms), [class_logits, token_logits])  # type: ignore[arg-type]
    assert all(torch.isfinite(value).all() for value in (*terms, *gradients))


def test_without_masks_the_mask_terms_are_zero_and_keep_the_graph() -> None:
    token_logits = torch.randn(2, 2, 2, 2, requires_grad=True)
    terms = fe_clip_loss_terms(make_output(torch.zeros(2, 2), token_logits), torch.tensor([0, 1]))
    assert terms.focal.tolist() == terms.dice.tolist() == [0, 0]
    (gradient,) = torch.autograd.grad(terms.focal.sum() + terms.dice.sum(), token_logits)
    assert not gradient.any()


def test_terms_of_an_image_do_not_depend_on_its_batch() -> None:
    output = make_output(torch.randn(3, 2), torch.randn(3, 2, 4, 4))
    labels, masks = torch.tensor([0, 1, 1]), torch.rand(3, 8, 8) > 0.5
    together = fe_clip_loss_terms(output, labels, masks)
    second = make_output(output.class_logits[1:2], output.token_logits[1:2])
    alone = fe_clip_loss_terms(second, labels[1:2], masks[1:2])
    for whole, part in zip(together, alone, strict=True):
        torch.testing.assert_close(whole[1:2], part)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"labels": torch.zeros(3)}, r"labels must have shape \(2,\), got \(3,\)"),
        ({"gt_masks": torch.zeros(4, 4)}, r"gt_masks must have shape \(2, H, W\), got \(4, 4\)"),
        ({"valid_pixels": torch.ones(2, 4, 4)}, "valid_pixels must be torch.bool of shape .* got torch.float32"),
        ({"focal_gamma": -1.0}, "focal_gamma must be at least 0"),
        ({"focal_alpha": 2.0}, r"focal_alpha lie in \[0, 1\]"),
    ],
)
def test_bad_input_is_refused(settings: dict[str, object], message: str) -> None:
    arguments: dict[str, object] = {"labels": torch.zeros(2), "gt_masks": torch.zeros(2, 4, 4)} | settings
    with pytest.raises(ValueError, match=message):
        fe_clip_loss_terms(make_output(torch.zeros(2, 1), torch.zeros(2, 1, 2, 2)), **arguments)  # type: ignore[arg-type]
