"""Overlays: where the colour lies, what stays untouched, and that the colours are read without colour vision."""

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from feclip.data import Letterbox
from feclip.overlay import COLORS, draw_overlay

SIZE = 64
GREY = (120, 120, 120)


@pytest.fixture
def wide() -> tuple[Image.Image, Letterbox]:
    """A grey image of 200 x 100 pixels, which covers rows 16 to 47 of an input of 64 pixels."""
    return Image.new("RGB", (200, 100), GREY), Letterbox.fitted(100, 200, image_size=SIZE)


def changed(picture: Image.Image) -> npt.NDArray[np.bool_]:
    return (np.asarray(picture) != np.array(GREY)).any(axis=2)


def test_a_hot_spot_lies_on_the_image_where_it_lies_on_the_input(wide: tuple[Image.Image, Letterbox]) -> None:
    image, placed = wide
    values = np.zeros((SIZE, SIZE), np.float32)
    values[20:24, 48:52] = 5.0
    picture = draw_overlay(image, values, placed=placed, low=0.0, high=5.0)
    assert picture.size == (200, 100)
    rows, columns = np.nonzero(changed(picture))
    center = (rows.mean() + 0.5, columns.mean() + 0.5)
    np.testing.assert_allclose(center, ((22 - 16) * 100 / 32, 50 * 200 / 64), atol=0.5)


def test_padding_and_low_values_are_not_drawn(wide: tuple[Image.Image, Letterbox]) -> None:
    image, placed = wide
    values = np.full((SIZE, SIZE), -1.0, np.float32)
    values[: placed.top] = 100.0  # on the padding
    assert not changed(draw_overlay(image, values, placed=placed, low=0.0, high=1.0)).any()


def test_what_is_not_valid_within_the_image_is_not_drawn(wide: tuple[Image.Image, Letterbox]) -> None:
    image, placed = wide
    valid = placed.valid_pixels()
    valid[:, :32] = False
    values = np.where(valid, 1.0, np.nan).astype(np.float32)
    drawn = changed(draw_overlay(image, values, placed=placed, low=0.0, high=1.0, valid_pixels=valid))
    assert not drawn[:, :95].any()
    assert drawn[:, 105:].all()


def test_a_thumbnail_gets_the_same_picture_smaller(wide: tuple[Image.Image, Letterbox]) -> None:
    image, placed = wide
    values = np.linspace(0, 1, SIZE * SIZE, dtype=np.float32).reshape(SIZE, SIZE)
    large = draw_overlay(image, values, placed=placed, low=0.0, high=1.0)
    small = draw_overlay(image.resize((50, 25)), values, placed=placed, low=0.0, high=1.0)
    difference = np.abs(np.asarray(large.resize((50, 25)), float) - np.asarray(small, float))
    assert difference.max() <= 8


@pytest.mark.parametrize("background", [0, 255])
def test_an_outline_is_seen_on_black_and_on_white(background: int) -> None:
    placed = Letterbox.fitted(SIZE, SIZE, image_size=SIZE)
    values = np.zeros((SIZE, SIZE), np.float32)
    values[20:40, 20:40] = 1.0
    image = Image.new("L", (SIZE, SIZE), background)
    bare = draw_overlay(image, values, placed=placed, low=2.0, high=3.0)
    outlined = np.asarray(draw_overlay(image, values, placed=placed, low=2.0, high=3.0, threshold=0.5))
    assert (np.asarray(bare) == background).all()
    seen = (outlined != background).any(axis=2)
    assert seen.any()
    assert not seen[20:40, 20:40].any()
    assert not seen[:17].any()


def lightness(colors: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return CIE L* of sRGB colours, shape (N, 3), 0..1."""
    linear = np.where(colors <= 0.04045, colors / 12.92, ((colors + 0.055) / 1.055) ** 2.4)
    luminance = linear @ np.array([0.2126, 0.7152, 0.0722])
    return np.where(luminance > 216 / 24389, 116 * np.cbrt(luminance) - 16, luminance * 24389 / 27)


# Machado, Oliveira and Fernandes, 2009, severity 1.0: what is left of linear RGB without one kind of cone.
DICHROMACIES = {
    "none": np.eye(3),
    "protanopia": np.array(
        [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]]
    ),
    "deuteranopia": np.array(
        [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]]
    ),
    "tritanopia": np.array(
        [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]]
    ),
}


@pytest.mark.parametrize("kind", DICHROMACIES)
def test_colours_grow_lighter_step_by_step_whoever_looks(kind: str) -> None:
    stops = np.array([[int(color[start : start + 2], 16) for start in (1, 3, 5)] for color in COLORS]) / 255
    linear = np.where(stops <= 0.04045, stops / 12.92, ((stops + 0.055) / 1.055) ** 2.4)
    seen = np.clip(linear @ DICHROMACIES[kind].T, 0, 1)
    encoded = np.where(seen <= 0.0031308, 12.92 * seen, 1.055 * seen ** (1 / 2.4) - 0.055)
    assert (np.diff(lightness(encoded)) > 2).all()
