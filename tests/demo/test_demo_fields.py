"""Fields, frames and cameras: what the pictures are made of."""

import numpy as np
import pytest

from feclip.demo.camera import draw_camera
from feclip.demo.defects import _photograph_change
from feclip.demo.fields import fractal_noise, gaussian_blur, generator, noise_at, smooth_noise
from feclip.demo.geometry import draw_blob, draw_path, path_distance, rounded_box
from feclip.demo.surfaces import Surface


def test_a_blur_keeps_constants_and_sums_and_has_its_width() -> None:
    point = np.zeros((41, 41))
    point[20, 20] = 1.0
    blurred = gaussian_blur(point, sigma=2.0)
    assert blurred.sum() == pytest.approx(1.0)
    assert np.sqrt((blurred.sum(axis=0) * (np.arange(41) - 20.0) ** 2).sum()) == pytest.approx(2.0, rel=0.03)
    assert np.allclose(gaussian_blur(np.full((9, 7, 3), 0.3), sigma=1.5), 0.3)


@pytest.mark.parametrize("cell", [3.0, 8.0])
def test_noise_has_unit_variance_and_the_width_of_its_cell(cell: float) -> None:
    rng = generator(1)
    u, v = np.meshgrid(np.arange(400.0), np.arange(400.0))
    for noise in (
        smooth_noise(rng, size=(400, 400), cell=cell),
        fractal_noise(rng, size=(400, 400), cell=cell, octaves=1),
        noise_at(rng, u, v, cell=(cell, cell)),
    ):
        assert noise.std() == pytest.approx(1.0, abs=0.12)
        near, far = (noise[:, :-lag] * noise[:, lag:] for lag in (1, int(4 * cell)))
        assert near.mean() > 0.6
        assert abs(far.mean()) < 0.1


def test_path_distance_is_the_distance_to_a_straight_line() -> None:
    path = np.array([[10.0, 5.0], [10.0, 15.0], [10.0, 25.0]])
    distance, side, progress = path_distance(path, size=(21, 31), reach=6.0)
    assert np.allclose(distance[10, 5:26], 0.0)
    assert distance[7, 15] == pytest.approx(3.0)
    assert progress[10, 25] == pytest.approx(1.0)
    assert side[8, 15] == -side[12, 15]
    assert np.isinf(distance[0, 0])


def test_a_drawn_path_passes_its_centre_and_has_its_length() -> None:
    path = draw_path(generator(2), center=(30.0, 40.0), length=60.0, wander=1.0, jag=0.3)
    assert np.hypot(*(path - (30.0, 40.0)).T).min() < 1e-9
    steps = np.hypot(*np.diff(path, axis=0).T)
    assert steps.sum() == pytest.approx(60.0, rel=0.15)


def test_signed_distances_have_the_right_area() -> None:
    blob = draw_blob(generator(3), size=(101, 101), center=(50.0, 50.0), radius=20.0, roughness=0.0)
    assert 0.6 * np.pi * 400 < (blob < 0).sum() < 1.05 * np.pi * 400
    v, u = np.mgrid[-50.0:51.0, -50.0:51.0]
    assert ((rounded_box(u, v, half=(30.0, 10.0), radius=0.5) <= 0).sum()) == pytest.approx(61 * 21, rel=0.02)


@pytest.mark.parametrize("index", range(12))
def test_photographing_only_the_change_equals_photographing_everything(index: int) -> None:
    """The window around the change must hold all that the lens blurs into it, at the image border too."""
    rng = generator(4, index)
    clean = rng.uniform(0.2, 0.6, (48, 64, 3))
    surface = Surface(image=clean, foreground=rng.random((48, 64)) < 0.9, beneath=clean)
    camera = draw_camera(rng, size=(48, 64))
    damaged, top, left = clean.copy(), int(rng.integers(0, 44)), int(rng.integers(0, 60))
    damaged[top : top + 6, left : left + 9] += rng.uniform(-0.2, 0.4)
    flawless, whole = camera.capture(clean), camera.capture(damaged)
    image, mask = _photograph_change(camera=camera, surface=surface, damaged=damaged, flawless=flawless)
    expected = (np.abs(whole.astype(int) - flawless).max(axis=2) >= 2) & surface.foreground
    assert np.array_equal(mask, expected)
    assert np.array_equal(image, np.where(expected[..., None], whole, flawless))


def test_a_grey_camera_sees_no_colour() -> None:
    cameras = [draw_camera(generator(5, index), size=(32, 32)) for index in range(40)]
    assert 3 < sum(camera.grey for camera in cameras) < 25
    for camera in cameras:
        picture = camera.capture(np.broadcast_to([0.6, 0.3, 0.2], (32, 32, 3)))
        assert camera.grey == bool((picture == picture[..., :1]).all())
