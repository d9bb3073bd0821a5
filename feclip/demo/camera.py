"""The photograph: lighting, glare, dust, lens blur, sensor noise, colour or grey, eight bits.

A camera is drawn once and can take several pictures; all of them share the very same noise, so the only difference
between the picture of a damaged part and that of its flawless twin is the damage.
"""

import dataclasses
from dataclasses import dataclass

import numpy as np

from feclip.demo.fields import ByteArray, FloatArray, chance, draw_sign, gaussian_blur, log_uniform
from feclip.demo.geometry import unit_of

LUMINANCE = np.array([0.299, 0.587, 0.114])  # ITU-R BT.601
GREY_SHARE = 0.3  # of all cameras; line-scan and machine-vision cameras often are


@dataclass(frozen=True, kw_only=True)
class Camera:
    """Everything between the surface and the file."""

    light: FloatArray
    """Factor on the reflected light, with dust in it, ``(H, W)``."""
    glare: FloatArray
    """Light added by reflections, ``(H, W)``."""
    gain: FloatArray
    """White balance, ``(3,)``."""
    noise: FloatArray
    """Sensor noise at full signal, ``(H, W, 3)``."""
    blur: float
    """Standard deviation of the lens blur, pixels."""
    grey: bool
    """Whether the sensor sees brightness only."""

    def crop(self, window: tuple[slice, slice]) -> "Camera":
        """Return the camera that sees ``window`` (rows, columns) alone, and sees it just the same."""
        return dataclasses.replace(self, light=self.light[window], glare=self.glare[window], noise=self.noise[window])

    def capture(self, image: FloatArray) -> ByteArray:
        """Photograph reflected light ``(H, W, 3)``, 0..1, into bytes ``(H, W, 3)``."""
        lit = image * self.light[..., None] * self.gain + self.glare[..., None]
        if self.grey:
            lit = (lit @ LUMINANCE)[..., None]
        sharp = np.clip(gaussian_blur(lit, sigma=self.blur), 0.0, 1.0)
        noisy = sharp + self.noise * (0.5 + 0.5 * sharp)
        levels = np.rint(np.clip(noisy, 0.0, 1.0) * 255.0).astype(np.uint8)
        return np.ascontiguousarray(np.broadcast_to(levels, image.shape))


def draw_camera(rng: np.random.Generator, *, size: tuple[int, int]) -> Camera:
    """Draw the lighting and the camera of one photograph of ``size`` (H, W)."""
    height, width = size
    y, x = np.linspace(-1, 1, height)[:, None], np.linspace(-1, 1, width)[None, :]
    angle, grey = rng.uniform(0, 2 * np.pi), chance(rng, GREY_SHARE)
    slope = rng.uniform(0.0, 0.28) * (x * np.cos(angle) + y * np.sin(angle))
    vignette = rng.uniform(0.0, 0.2) * (x**2 + y**2)
    light = rng.uniform(0.72, 1.18) * (1.0 + slope - vignette)
    glare = np.zeros(size)
    for _ in range(int(rng.integers(0, 3))):
        turn, offset, reach = rng.uniform(0, np.pi), rng.uniform(-1, 1), rng.uniform(0.15, 0.6)
        across = x * np.cos(turn) + y * np.sin(turn) - offset
        glare += rng.uniform(0.02, 0.12) * np.exp(-((across / reach) ** 2))
    fine = log_uniform(rng, (0.005, 0.03)) * rng.standard_normal((height, width, 1))
    noise = fine if grey else fine + 0.006 * rng.standard_normal((height, width, 3))
    return Camera(
        light=_settle_dust(rng, light=light, unit=unit_of(size)),
        glare=glare,
        gain=1.0 + rng.uniform(-0.07, 0.07, 3),
        noise=noise,
        blur=rng.uniform(0.0, 0.9) * min(1.0, max(0.5, unit_of(size))),
        grey=grey,
    )


def _settle_dust(rng: np.random.Generator, *, light: FloatArray, unit: float) -> FloatArray:
    """Strew harmless specks, each smaller than the smallest spot that counts as a defect, over the lighting."""
    light = light.copy()
    height, width = light.shape
    for _ in range(int(rng.integers(0, 36))):
        radius = max(0.5, rng.uniform(0.4, 1.1) * unit)
        depth = draw_sign(rng) * log_uniform(rng, (0.03, 0.22))
        y, x, reach = rng.uniform(0, height), rng.uniform(0, width), int(2 * radius) + 2
        rows, columns = (
            np.arange(max(0, int(y) - reach), min(height, int(y) + reach + 1)),
            np.arange(max(0, int(x) - reach), min(width, int(x) + reach + 1)),
        )
        squared = (rows[:, None] - y) ** 2 + (columns[None, :] - x) ** 2
        light[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1] *= 1.0 + depth * np.exp(-squared / radius**2)
    return light
