"""Edge padding, mask filling and depthwise responses."""

import torch

from feclip.model.windows import SlidingWindows, fill_windows, pad_edge


def test_the_edge_is_repeated_and_not_the_zero() -> None:
    grid = torch.tensor([[[1, 2], [3, 4]]])
    expected = [[1, 1, 2, 2, 2], [1, 1, 2, 2, 2], [3, 3, 4, 4, 4]]
    assert pad_edge(grid, before=1, after=(0, 2))[0].tolist() == expected


def test_a_window_without_valid_tokens_is_zero() -> None:
    assert fill_windows(torch.full((3,), torch.nan), torch.zeros(3, dtype=torch.bool), dims=(0,)).tolist() == [0, 0, 0]


def test_an_even_window_reaches_one_token_further_down_right() -> None:
    tokens = torch.zeros(1, 5, 5, 1)
    tokens[0, 2, 2] = 1
    seen = SlidingWindows(tokens, None, size=2).respond(torch.ones(2, 2))[0, ..., 0].nonzero().tolist()
    assert seen == [[1, 1], [1, 2], [2, 1], [2, 2]]


def test_a_filter_is_correlated_and_not_flipped() -> None:
    tokens = torch.arange(9.0).reshape(1, 3, 3, 1)
    pick_up_left = torch.tensor([[1.0, 0, 0], [0, 0, 0], [0, 0, 0]])
    assert SlidingWindows(tokens, None, size=3).respond(pick_up_left)[0, 1, 1].item() == 0
    assert SlidingWindows(tokens, None, size=3).respond(pick_up_left)[0, 2, 2].item() == 4
