"""Rectangles of whole patches: to the input and back within a pixel, few shapes, and images of one shape together."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from feclip.data import InputOptions, Letterbox, TokenBox, by_rectangle
from feclip.data.letterbox import LARGEST_RATIO, rectangle
from feclip.errors import DataError

SIDES = st.integers(1, 700)
GRIDS = st.tuples(st.integers(1, 16), st.integers(3, 30))  # pixels of a patch, patches of the longer side


@settings(max_examples=80, deadline=None)
@given(height=SIDES, width=SIDES, grid=GRIDS)
def test_an_image_of_any_shape_fills_whole_patches_and_comes_back(
    height: int, width: int, grid: tuple[int, int]
) -> None:
    patch_size, num_patches = grid
    options = InputOptions(image_size=patch_size * num_patches, resize="rectangle", patch_size=patch_size)
    pixels, record = options.place(np.full((height, width, 3), 7, np.uint8))
    assert record == options.geometry(height, width)
    assert pixels.shape == (options.image_size, options.image_size, 3)
    valid = record.valid_pixels()
    assert (pixels[valid] == 7).all()
    assert (pixels[~valid] == 255).all()
    ((box, chosen),) = by_rectangle(valid[None], patch_size=patch_size).items()
    assert chosen.tolist() == [0]
    assert box == (0, 0, record.height / patch_size, record.width / patch_size)  # no token shows padding
    assert valid[box.pixels(patch_size=patch_size)].all()
    longer, shorter = max(box.height, box.width), min(box.height, box.width)
    assert longer == num_patches
    wanted = num_patches * min(height, width) / max(height, width)
    assert abs(shorter - wanted) <= 0.5 or shorter == -(-num_patches // LARGEST_RATIO)
    assert (box.height >= box.width) == (height >= width) or shorter == longer
    assert record.undo(np.ones(valid.shape, np.float32)).shape == (height, width)
    assert np.array_equal(record.place(np.ones((height, width), np.bool_)), valid)


@pytest.mark.parametrize("shape", [(200, 60), (61, 200), (97, 97), (20, 33), (400, 30)])
def test_a_map_comes_back_to_its_place_within_a_pixel(shape: tuple[int, int]) -> None:
    height, width = shape
    rows, columns = np.mgrid[0:height, 0:width].astype(np.float32)
    image = np.stack([rows * 255 / height, columns * 255 / width, 0 * rows], axis=2).astype(np.uint8)
    pixels, record = rectangle(image, image_size=64, patch_size=8, padding_color="black")
    inner = slice(3, -3)
    for channel, truth, side, scale in ((0, rows, height, record.scale[0]), (1, columns, width, record.scale[1])):
        back = record.undo(pixels[..., channel].astype(np.float32)) * side / 255
        coarser = max(1.0, 1 / scale, side / 255)
        assert np.abs(back - truth)[inner, inner].max() <= 1.5 * coarser


def test_there_are_few_shapes() -> None:
    sizes = [(height, width) for height in range(8, 900, 7) for width in (8, 50, 100, 333, 900)]
    found = [Letterbox.rectangle(*size, image_size=336, patch_size=14) for size in sizes]
    assert len({(each.height, each.width) for each in found}) <= 2 * (24 - 3) + 1


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10_000), number=st.integers(1, 8))
def test_each_image_is_in_one_rectangle_that_holds_its_valid_tokens(seed: int, number: int) -> None:
    random = np.random.default_rng(seed)
    valid = np.zeros((number, 24, 24), np.bool_)
    for image in valid:
        top, left = random.integers(0, 24, 2)
        image[top : top + random.integers(1, 24), left : left + random.integers(1, 24)] = True
    tokens = valid.reshape(number, 6, 4, 6, 4).any(axis=(2, 4))
    seen = []
    for box, chosen in by_rectangle(valid, patch_size=4).items():
        seen += chosen.tolist()
        for index in chosen:
            outside = tokens[index].copy()
            inside = outside[box.tokens()].copy()
            outside[box.tokens()] = False
            assert not outside.any()
            assert all(edge.any() for edge in (inside[0], inside[-1], inside[:, 0], inside[:, -1]))
    assert sorted(seen) == list(range(number))


def test_a_window_of_tokens_is_a_window_of_pixels() -> None:
    box = TokenBox(top=1, left=2, height=3, width=1)
    assert box.pixels(patch_size=4) == (slice(4, 16), slice(8, 12))


@pytest.mark.parametrize("patch_size", [None, 0, 7])
def test_a_rectangle_needs_a_patch_that_divides_the_input(patch_size: int | None) -> None:
    with pytest.raises(DataError, match="needs a patch_size that divides the 64 pixels"):
        InputOptions(image_size=64, resize="rectangle", patch_size=patch_size)


def test_the_image_own_border_is_left_out_of_the_rectangle() -> None:
    image = np.full((40, 80, 3), 255, np.uint8)
    image[:, 20:60] = 9
    options = InputOptions(image_size=64, resize="rectangle", patch_size=8, valid_region="uniform_border")
    _, record = options.place(image)
    valid = np.zeros((40, 80), np.bool_)
    valid[:, 20:60] = True
    assert list(by_rectangle(record.place(valid)[None], patch_size=8)) == [TokenBox(0, 2, 4, 4)]
