"""The DCT basis and the filters derived from it."""

import math

import pytest
import scipy.fft
import torch

from feclip.model.dct import dct_basis, frequency_filters, signed_filter

SIZES = range(1, 7)


@pytest.mark.parametrize("size", SIZES)
def test_basis_equals_scipys_orthonormal_dct(size: int) -> None:
    expected = torch.from_numpy(scipy.fft.dct(torch.eye(size, dtype=torch.float64).numpy(), norm="ortho", axis=0))
    torch.testing.assert_close(dct_basis(size, dtype=torch.float64), expected, rtol=0, atol=1e-14)


@pytest.mark.parametrize("size", SIZES)
def test_transform_and_back_is_the_identity(size: int) -> None:
    basis = dct_basis(size, dtype=torch.float64)
    torch.testing.assert_close(basis.T @ basis, torch.eye(size, dtype=torch.float64), rtol=0, atol=1e-14)


@pytest.mark.parametrize("size", SIZES)
def test_signed_filter_is_the_mean_of_all_coefficients(size: int) -> None:
    window = torch.rand(size, size, dtype=torch.float64)
    basis = dct_basis(size, dtype=torch.float64)
    assert math.isclose((signed_filter(size)[0] * window).sum(), (basis @ window @ basis.T).mean(), abs_tol=1e-14)


def test_signed_filter_of_three_is_one_sided_as_the_design_records() -> None:
    weights = signed_filter(3)[0]
    assert weights[0, 0].item() == pytest.approx(0.318, abs=1e-3)
    assert weights.flatten()[1:].abs().max().item() <= 0.0525
    rows = torch.arange(3, dtype=torch.float64) - 1
    by_row = weights.abs().sum(dim=1)
    assert ((by_row * rows).sum() / by_row.sum()).item() == pytest.approx(-0.64, abs=0.01)


@pytest.mark.parametrize("size", SIZES)
def test_frequency_filters_are_every_coefficient_but_dc(size: int) -> None:
    window = torch.rand(size, size, dtype=torch.float64)
    basis = dct_basis(size, dtype=torch.float64)
    coefficients = (basis @ window @ basis.T).flatten()[1:]
    responses = (frequency_filters(size) * window).sum(dim=(1, 2))
    torch.testing.assert_close(responses, coefficients, rtol=0, atol=1e-14)


def test_a_basis_of_no_size_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 1, got 0"):
        dct_basis(0)
