"""Adapters against a plain reading of the paper, valid masks, and the fusion."""

import copy
import itertools
import math

import pytest
import torch
from torch.nn import functional

from feclip.model import FFEAdapter, FrequencyTap, LFSAdapter

WIDTH = 3
SIZES = range(1, 7)
GRIDS = [(1, 1), (1, 4), (5, 1), (2, 3), (3, 2), (6, 6), (7, 4), (4, 9), (12, 10), (37, 37)]
STATISTICS = ["signed", "magnitude", "power"]


def reference_basis(size: int) -> torch.Tensor:
    rows = [
        [math.sqrt((1 if k == 0 else 2) / size) * math.cos(math.pi * (2 * n + 1) * k / (2 * size)) for n in range(size)]
        for k in range(size)
    ]
    return torch.tensor(rows, dtype=torch.float64)


def reference_pad(grid: torch.Tensor, *, before: int, after: tuple[int, int]) -> torch.Tensor:
    planes = grid.permute(0, 3, 1, 2)
    padded = functional.pad(planes, (before, after[1], before, after[0]), mode="replicate")
    return padded.permute(0, 2, 3, 1)


def reference_windows(
    tokens: torch.Tensor, valid: torch.Tensor, *, size: int, stride: int, before: int, after: tuple[int, int]
) -> torch.Tensor:
    """Unfolded windows ``(B, rows, columns, D, size, size)`` whose invalid tokens are the mean of the valid ones."""
    padded = reference_pad(tokens, before=before, after=after)
    padded_valid = reference_pad(valid[..., None].double(), before=before, after=after)[..., 0] > 0
    windows = padded.unfold(1, size, stride).unfold(2, size, stride).clone()
    valid_windows = padded_valid.unfold(1, size, stride).unfold(2, size, stride)
    for batch, row, column in itertools.product(*(range(side) for side in windows.shape[:3])):
        inside = valid_windows[batch, row, column]
        if inside.all():
            continue
        window = windows[batch, row, column]
        mean = window[:, inside].mean(dim=1, keepdim=True) if inside.any() else torch.zeros(len(window), 1).double()
        window[:, ~inside] = mean.expand(-1, int((~inside).sum()))
    return windows


def reference_ffe(adapter: FFEAdapter, tokens: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
    size, (height, width) = adapter.window_size, tokens.shape[1:3]
    basis = reference_basis(size)
    after = (math.ceil(height / size) * size - height, math.ceil(width / size) * size - width)
    windows = reference_windows(tokens, valid, size=size, stride=size, before=0, after=after)
    coefficients = (basis @ windows @ basis.T).permute(0, 1, 2, 4, 5, 3)
    changed = functional.gelu(coefficients @ adapter.linear.weight.T + adapter.linear.bias)
    restored = basis.T @ changed.permute(0, 1, 2, 5, 3, 4) @ basis
    grid = restored.permute(0, 1, 4, 2, 5, 3).reshape(len(tokens), height + after[0], width + after[1], -1)
    return grid[:, :height, :width]


def reference_lfs(adapter: LFSAdapter, tokens: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
    size = adapter.window_size
    basis = reference_basis(size)
    after = (size // 2, size // 2)
    windows = reference_windows(tokens, valid, size=size, stride=1, before=(size - 1) // 2, after=after)
    coefficients = (basis @ windows @ basis.T).flatten(-2)
    if adapter.statistic == "signed":
        statistics = coefficients.mean(dim=-1)
    elif size == 1:
        statistics = torch.zeros_like(tokens)
    else:
        rest = coefficients[..., 1:]
        statistics = (rest.abs() if adapter.statistic == "magnitude" else rest**2).mean(dim=-1)
    return functional.gelu(adapter.conv(statistics.permute(0, 3, 1, 2))).permute(0, 2, 3, 1)


def make_masks(batch_size: int, grid: tuple[int, int]) -> list[torch.Tensor | None]:
    """No mask, letterbox bands (the first image wholly padding), and scattered holes."""
    bands = torch.ones(batch_size, *grid, dtype=torch.bool)
    bands[0] = False
    bands[-1, grid[0] - grid[0] // 3 :] = False
    bands[-1, :, : grid[1] // 4] = False
    holes = torch.rand(batch_size, *grid) > 0.4
    return [None, bands, holes]


def assert_equals_reference(adapter: FFEAdapter | LFSAdapter, tokens: torch.Tensor, valid: torch.Tensor | None) -> None:
    reference = reference_ffe if isinstance(adapter, FFEAdapter) else reference_lfs
    everywhere = torch.ones(tokens.shape[:3], dtype=torch.bool)
    given = tokens if valid is None else torch.where(valid[..., None], tokens, torch.nan)
    with torch.no_grad():
        got = adapter(given, valid)
        expected = reference(adapter, tokens, everywhere if valid is None else valid)  # type: ignore[arg-type]
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("grid", GRIDS, ids=str)
@pytest.mark.parametrize("size", SIZES)
def test_ffe_equals_the_plain_reference(size: int, grid: tuple[int, int]) -> None:
    adapter = FFEAdapter(WIDTH, size).double()
    tokens = torch.randn(2, *grid, WIDTH, dtype=torch.float64)
    for valid in make_masks(2, grid):
        assert_equals_reference(adapter, tokens, valid)


@pytest.mark.parametrize("grid", GRIDS, ids=str)
@pytest.mark.parametrize("size", SIZES)
def test_lfs_equals_the_plain_reference(size: int, grid: tuple[int, int]) -> None:
    tokens = torch.randn(2, *grid, WIDTH, dtype=torch.float64)
    masks = make_masks(2, grid)
    for statistic in STATISTICS:
        adapter = LFSAdapter(WIDTH, size, statistic=statistic).double()  # type: ignore[arg-type]
        for valid in masks if grid != (37, 37) or statistic == "magnitude" else masks[:1]:
            assert_equals_reference(adapter, tokens, valid)


@pytest.mark.slow
@pytest.mark.parametrize("height", range(1, 38))
def test_every_grid_equals_the_plain_reference(height: int) -> None:
    for width, size in itertools.product((1, 2, height, 24, 37), SIZES):
        tokens = torch.randn(2, height, width, WIDTH, dtype=torch.float64)
        adapters = [FFEAdapter(WIDTH, size)] + [LFSAdapter(WIDTH, size, statistic=name) for name in STATISTICS]  # type: ignore[arg-type, list-item]
        for adapter, valid in itertools.product(adapters, make_masks(2, (height, width))):
            assert_equals_reference(adapter.double(), tokens, valid)


@pytest.mark.parametrize("kernel_size", [1, 5])
def test_lfs_kernel_of_another_size_equals_the_plain_reference(kernel_size: int) -> None:
    adapter = LFSAdapter(WIDTH, 3, kernel_size).double()
    assert adapter.conv.kernel_size == (kernel_size, kernel_size)
    tokens = torch.randn(2, 4, 3, WIDTH, dtype=torch.float64)
    for valid in make_masks(2, (4, 3)):
        assert_equals_reference(adapter, tokens, valid)


def make_adapters(size: int) -> list[FFEAdapter | LFSAdapter]:
    return [FFEAdapter(WIDTH, size), *(LFSAdapter(WIDTH, size, statistic=name) for name in STATISTICS)]  # type: ignore[arg-type]


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("size", SIZES)
def test_an_all_true_mask_equals_none_bit_for_bit(size: int, precision: torch.dtype) -> None:
    tokens = torch.randn(2, 7, 9, WIDTH)
    for adapter, given in itertools.product(make_adapters(size), (tokens, tokens[:, ::2], tokens.mT.contiguous().mT)):
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision == torch.bfloat16):
            plain = adapter(given)
            masked = adapter(given, torch.ones(given.shape[:3], dtype=torch.bool))
        assert torch.equal(plain, masked)


@pytest.mark.parametrize("size", SIZES)
def test_what_stands_on_padding_reaches_neither_valid_tokens_nor_gradients(size: int) -> None:
    valid = torch.rand(2, 7, 5) > 0.4
    tokens = torch.randn(2, 7, 5, WIDTH)
    for adapter in make_adapters(size):
        results = []
        for filling in (0.0, 1e30, torch.inf, torch.nan):
            given = torch.where(valid[..., None], tokens, filling).requires_grad_()
            output = adapter(given, valid)
            gradients = torch.autograd.grad(
                output[valid].square().sum(), [given, *adapter.parameters()], materialize_grads=True
            )
            assert torch.equal(gradients[0][~valid], torch.zeros_like(gradients[0][~valid]))
            results.append([output[valid], *gradients])
        for other in results[1:]:
            assert all(torch.equal(first, second) for first, second in zip(results[0], other, strict=True))


def test_without_padding_masked_the_filling_would_reach_valid_tokens() -> None:
    tokens = torch.randn(1, 6, 6, WIDTH)
    changed = tokens.clone()
    changed[:, 4:] += 1
    for adapter in make_adapters(3):
        assert not torch.allclose(adapter(tokens)[:, :4], adapter(changed)[:, :4])


def test_casting_rebuilds_the_fixed_parts_exactly() -> None:
    ffe, lfs = FFEAdapter(WIDTH, 3).half().double(), LFSAdapter(WIDTH, 3, statistic="power").bfloat16().double()
    torch.testing.assert_close(ffe.basis, reference_basis(3), rtol=0, atol=1e-15)
    assert lfs.filters.dtype == torch.float64
    torch.testing.assert_close(lfs.filters, LFSAdapter(WIDTH, 3, statistic="power").double().filters, rtol=0, atol=0)


def test_weights_of_the_convolution_lie_channels_last_like_the_tokens() -> None:
    adapter, other = LFSAdapter(WIDTH, 3), LFSAdapter(WIDTH, 3)
    adapter.load_state_dict({name: value.contiguous() for name, value in other.state_dict().items()})
    for module in (adapter, copy.deepcopy(adapter), adapter.double()):
        assert module.conv.weight.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(adapter.conv.weight, other.conv.weight.double())


def test_fixed_parts_are_not_saved() -> None:
    assert list(FFEAdapter(WIDTH, 3).state_dict()) == ["linear.weight", "linear.bias"]
    assert list(LFSAdapter(WIDTH, 3).state_dict()) == ["conv.weight", "conv.bias"]


def test_a_window_of_one_has_no_frequency_for_magnitude_and_power() -> None:
    tokens = torch.randn(1, 3, 3, WIDTH)
    for statistic in ("magnitude", "power"):
        assert not LFSAdapter(WIDTH, 1, statistic=statistic).local_statistics(tokens).any()  # type: ignore[arg-type]


def test_power_of_a_constant_grid_is_zero() -> None:
    statistics = LFSAdapter(WIDTH, 4, statistic="power").local_statistics(torch.full((1, 5, 5, WIDTH), 3.0))
    assert statistics.abs().max() < 1e-10


@pytest.mark.parametrize(
    ("use_ffe", "use_lfs"), [(True, True), (True, False), (False, True)], ids=["both", "ffe", "lfs"]
)
def test_fusion_is_equation_two(use_ffe: bool, use_lfs: bool) -> None:
    ffe, lfs = FFEAdapter(WIDTH, 3), LFSAdapter(WIDTH, 2)
    tap = FrequencyTap(ffe if use_ffe else None, lfs if use_lfs else None, fusion_weight=0.3)
    tokens = torch.randn(2, 4, 5, WIDTH)
    added = (ffe(tokens) if use_ffe else 0) + (lfs(tokens) if use_lfs else 0)
    torch.testing.assert_close(tap(tokens), 0.3 * added + 0.7 * tokens)


def test_without_adapters_tokens_stay() -> None:
    tokens = torch.randn(2, 4, 5, WIDTH)
    assert torch.equal(FrequencyTap(None, None, fusion_weight=0.3)(tokens), tokens)


def test_tokens_on_padding_stay_as_they_are() -> None:
    tokens, valid = torch.randn(2, 4, 5, WIDTH), torch.rand(2, 4, 5) > 0.5
    enhanced = FrequencyTap(FFEAdapter(WIDTH, 3), LFSAdapter(WIDTH, 3), fusion_weight=0.5)(tokens, valid)
    assert torch.equal(enhanced[~valid], tokens[~valid])
    assert not torch.isclose(enhanced[valid], tokens[valid]).any(dim=-1).all()


@pytest.mark.parametrize("build", [lambda: FFEAdapter(0, 3), lambda: FFEAdapter(4, 0), lambda: LFSAdapter(4, -1)])
def test_sizes_below_one_are_refused(build) -> None:  # noqa: ANN001
    with pytest.raises(ValueError, match=r"must be at least 1, got (0|-1)"):
        build()


def test_an_even_kernel_and_an_unknown_statistic_are_refused() -> None:
    with pytest.raises(ValueError, match="kernel_size must be odd, got 2"):
        LFSAdapter(4, 3, kernel_size=2)
    with pytest.raises(ValueError, match="statistic must be one of signed, magnitude, power, got 'mean'"):
        LFSAdapter(4, 3, statistic="mean")  # type: ignore[arg-type]


def test_a_fusion_weight_out_of_range_is_refused() -> None:
    with pytest.raises(ValueError, match=r"fusion_weight must lie in \[0, 1\], got 1.5"):
        FrequencyTap(None, None, fusion_weight=1.5)


@pytest.mark.parametrize("adapter", [FFEAdapter(4, 3), LFSAdapter(4, 3)], ids=["ffe", "lfs"])
def test_tokens_and_masks_of_another_shape_are_refused(adapter: FFEAdapter | LFSAdapter) -> None:
    with pytest.raises(ValueError, match=r"tokens must have shape \(B, H_t, W_t, 4\).*got \(1, 4, 4\)"):
        adapter(torch.zeros(1, 4, 4))
    with pytest.raises(ValueError, match=r"tokens must have shape .*got \(1, 3, 3, 5\)"):
        adapter(torch.zeros(1, 3, 3, 5))
    with pytest.raises(ValueError, match=r"valid_tokens must be torch.bool of shape \(1, 3, 3\), got torch.float32"):
        adapter(torch.zeros(1, 3, 3, 4), torch.ones(1, 3, 3))
    with pytest.raises(ValueError, match=r"got torch.bool of shape \(1, 3, 4\)"):
        adapter(torch.zeros(1, 3, 3, 4), torch.ones(1, 3, 4, dtype=torch.bool))
