"""To the square and back within a pixel; padding is known; white products stay."""

import io

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from feclip.data import letterbox, parse_padding_color, squash, uniform_border, valid_tokens
from feclip.errors import DataError

SIDES = st.integers(1, 300)


def ramp(height: int, width: int) -> np.ndarray:
    """An image whose red channel is its row and whose green is its column, in shares of 255."""
    rows, columns = np.mgrid[0:height, 0:width]
    return np.stack([rows * 255 / height, columns * 255 / width, 0 * rows], axis=2).astype(np.uint8)


@settings(max_examples=60, deadline=None)
@given(height=SIDES, width=SIDES, image_size=st.integers(8, 120), squashed=st.booleans())
def test_geometry_holds_for_any_shape(height: int, width: int, image_size: int, *, squashed: bool) -> None:
    image = np.full((height, width, 3), 7, np.uint8)
    if squashed:
        pixels, record = squash(image, image_size=image_size)
    else:
        pixels, record = letterbox(image, image_size=image_size, padding_color="200,100,50")
    valid = record.valid_pixels()
    assert pixels.shape == (image_size, image_size, 3)
    assert (pixels[valid] == 7).all()
    assert (pixels[~valid] == (200, 100, 50)).all()
    assert valid.sum() == record.height * record.width > 0
    assert max(record.height, record.width) == image_size
    assert abs((image_size - record.height) - 2 * record.top) <= 1
    assert abs((image_size - record.width) - 2 * record.left) <= 1
    if squashed:
        assert valid.all()
    else:
        assert abs(record.height * max(height, width) / image_size - height) <= max(height, width) / image_size
    assert record.undo(np.ones((image_size, image_size), np.float32)).shape == (height, width)
    assert np.array_equal(record.place(np.ones((height, width), np.bool_)), valid)


@pytest.mark.parametrize("shape", [(200, 60), (61, 200), (97, 97), (20, 33)])
@pytest.mark.parametrize("squashed", [False, True])
def test_there_and_back_within_a_pixel(shape: tuple[int, int], squashed: bool) -> None:
    height, width = shape
    rows, columns = np.mgrid[0:height, 0:width].astype(np.float32)
    image = ramp(height, width)
    pixels, record = (
        squash(image, image_size=64) if squashed else letterbox(image, image_size=64, padding_color="black")
    )
    inner = slice(3, -3)
    for channel, truth, side in ((0, rows, height), (1, columns, width)):
        back = record.undo(pixels[..., channel].astype(np.float32)) * side / 255
        pixel = max(1.0, *(1 / scale for scale in record.scale))  # the coarser of source and input
        assert np.abs(back - truth)[inner, inner].max() <= pixel


def test_a_peak_comes_back_where_it_was() -> None:
    for row, column in ((10, 20), (150, 70), (199, 0)):
        image = np.zeros((200, 80, 3), np.uint8)
        image[max(0, row - 2) : row + 3, max(0, column - 2) : column + 3] = 255
        pixels, record = letterbox(image, image_size=100, padding_color="black")
        back = record.undo(pixels[..., 0].astype(np.float32))
        found = np.unravel_index(back.argmax(), back.shape)
        assert np.abs(np.array(found) - (row, column)).max() <= 2  # a pixel of the input is two of the source


def test_padding_does_not_bleed_into_a_map_that_comes_back() -> None:
    _, record = letterbox(np.zeros((30, 90, 3), np.uint8), image_size=45, padding_color="white")
    values = np.where(record.valid_pixels(), 1.0, np.nan).astype(np.float32)
    assert (record.undo(values) == 1).all()


def test_masks_and_images_land_on_the_same_pixels() -> None:
    mask = np.zeros((120, 50), np.bool_)
    mask[30:70, 10:35] = True
    image = np.repeat(mask[:, :, None], 3, axis=2).astype(np.uint8) * 255
    pixels, record = letterbox(image, image_size=48, padding_color="black")
    different = record.place(mask) != (pixels[..., 0] > 127)
    assert different.sum() == 0


@pytest.mark.parametrize(("line_width", "kept"), [(1, "none"), (4, "all")])
def test_thin_lines_follow_the_documented_rule(line_width: int, kept: str) -> None:
    """At 1024 -> 336 px a line of 1 px is lost wherever it lies, one of 4 px never is."""
    for start in range(100, 107):
        mask = np.zeros((1024, 1024), np.bool_)
        mask[:, start : start + line_width] = True
        _, record = squash(np.zeros((1024, 1024, 3), np.uint8), image_size=336)
        rows = record.place(mask).any(axis=1)
        assert rows.all() if kept == "all" else not rows.any()


def test_an_enlarged_line_keeps_its_width() -> None:
    mask = np.zeros((20, 20), np.bool_)
    mask[:, 7] = True
    _, record = squash(np.zeros((20, 20, 3), np.uint8), image_size=100)
    assert set(record.place(mask).sum(axis=1)) <= {4, 5, 6}


@pytest.mark.parametrize(
    ("text", "color"),
    [("white", (255, 255, 255)), (" Black", (0, 0, 0)), ("mean", (123, 117, 104)), ("1,2,3", (1, 2, 3))],
)
def test_padding_colours(text: str, color: tuple[int, int, int]) -> None:
    assert parse_padding_color(text) == color


@pytest.mark.parametrize("text", ["", "grey", "1,2", "1,2,256", "1,2,-3", "1.5,2,3", "²,1,1", "1,2,3,4"])
def test_other_colours_are_refused(text: str) -> None:
    with pytest.raises(DataError, match="padding_color must be"):
        parse_padding_color(text)


@settings(max_examples=30, deadline=None)
@given(st.data())
def test_a_token_is_valid_if_any_of_its_pixels_is(data: st.DataObject) -> None:
    patch, rows, columns = data.draw(st.integers(1, 5)), data.draw(st.integers(1, 4)), data.draw(st.integers(1, 4))
    extra = data.draw(st.integers(0, patch - 1))
    pixels = torch.zeros(1, rows * patch + extra, columns * patch + extra, dtype=torch.bool)
    row, column = data.draw(st.integers(0, rows * patch - 1)), data.draw(st.integers(0, columns * patch - 1))
    pixels[0, row, column] = True
    tokens = valid_tokens(pixels, patch_size=patch)
    assert tokens.shape == (1, rows, columns)
    assert tokens.nonzero().tolist() == [[0, row // patch, column // patch]]


def scene(height: int, width: int) -> np.ndarray:
    """A dark photograph with noise."""
    return np.random.default_rng(1).integers(20, 90, (height, width, 3), dtype=np.uint8)


def padded(content: np.ndarray, *, top: int = 0, bottom: int = 0, left: int = 0, right: int = 0) -> np.ndarray:
    return np.pad(content, ((top, bottom), (left, right), (0, 0)), constant_values=255)


def as_jpeg(image: np.ndarray, quality: int) -> np.ndarray:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=quality)
    return np.asarray(Image.open(buffer))


@pytest.mark.parametrize("border", [(20, 20, 0, 0), (20, 21, 0, 0), (0, 0, 13, 12), (8, 8, 5, 5), (0, 0, 0, 0)])
def test_uniform_border_is_found_exactly(border: tuple[int, int, int, int]) -> None:
    top, bottom, left, right = border
    image = padded(scene(60, 80), top=top, bottom=bottom, left=left, right=right)
    valid = uniform_border(image)
    assert valid.sum() == 60 * 80
    assert valid[top : top + 60, left : left + 80].all()


@pytest.mark.parametrize("quality", [60, 75, 95])
def test_jpeg_noise_costs_at_most_a_block_and_no_content(quality: int) -> None:
    image = as_jpeg(padded(scene(61, 83), top=37, bottom=37), quality)
    valid = uniform_border(image)
    assert valid[37:98].all()
    assert 0 <= (valid.sum() - 61 * 83) / 83 <= 2 * 16


def test_white_product_that_touches_the_border_survives() -> None:
    content = scene(60, 80)
    content[:25, 20:60] = 255  # a saturated white part, from the upper padding downwards
    image = padded(content, top=15, bottom=15)
    valid = uniform_border(image)
    assert valid[15:75].all()
    assert valid.sum() == 60 * 80


def test_white_product_that_fills_rows_at_one_side_survives() -> None:
    content = scene(60, 80)
    content[:25] = 255
    assert uniform_border(content).all()
    valid = uniform_border(padded(content, top=15, bottom=15))
    assert valid[16:75].all()
    assert not valid[:15].any()


def test_photographed_white_is_no_border() -> None:
    bright = np.random.default_rng(2).integers(235, 256, (50, 50, 3), dtype=np.uint8)
    assert uniform_border(bright).all()


def test_an_image_of_one_colour_has_no_border() -> None:
    assert uniform_border(np.full((9, 9, 3), 255, np.uint8)).all()


def test_other_colours_of_border() -> None:
    image = np.pad(scene(20, 40), ((10, 10), (0, 0), (0, 0)), constant_values=0)
    assert uniform_border(image).all()
    assert uniform_border(image, padding_color="black").sum() == 20 * 40
