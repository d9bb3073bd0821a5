"""What a GPU would decode is what Pillow decodes, but for rounding; here torchcodec does it on the CPU."""

import importlib.util
import io
import tracemalloc

import numpy as np
import pytest
from odd_files import encoded
from PIL import Image

from feclip.data import GpuDecoder, InputOptions, SourceSize, prepare_image, require_gpu_decoding, undecoded_jpeg
from feclip.data import gpu_decode as gpu_module
from feclip.errors import ConfigError

SIZE = 56
OPTIONS = InputOptions(image_size=SIZE, padding_color="12,200,90")


def picture(height: int, width: int) -> Image.Image:
    """Smooth shapes, lines and some noise: what a resampling filter could get wrong."""
    y, x = np.mgrid[:height, :width]
    pixels = np.stack([127 + 120 * np.sin(x / 9), 127 + 120 * np.cos(y / 7), (x // 5 + y // 3) % 2 * 200.0], axis=2)
    pixels += np.random.default_rng(height + width).normal(0, 6, pixels.shape)
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def jpeg(height: int = 60, width: int = 90, *, orientation: int = 1, mode: str = "RGB", **options: object) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encoded(picture(height, width).convert(mode), "JPEG", exif=exif, quality=92, **options)


def decoded(*files: bytes, options: InputOptions = OPTIONS) -> list[np.ndarray | None]:
    headers = [undecoded_jpeg(file, options=options) for file in files]
    assert None not in headers
    sizes = [SourceSize(header.height, header.width) for header in headers if header is not None]
    return list(GpuDecoder(options, device="cpu").decode(files, sizes))


@pytest.mark.parametrize("resize", ["letterbox", "squash"])
@pytest.mark.parametrize(
    "file",
    [
        *(jpeg(orientation=orientation) for orientation in range(1, 9)),
        jpeg(30, 20),
        jpeg(400, 90),
        jpeg(1, 300),
        jpeg(mode="L"),
        jpeg(progressive=True, subsampling=2),
    ],
    ids=[*(f"orientation{number}" for number in range(1, 9)), "enlarged", "tall", "one row", "grey", "progressive"],
)
def test_the_input_is_pillows_but_for_rounding(file: bytes, resize: str) -> None:
    options = InputOptions(image_size=SIZE, resize=resize, padding_color="12,200,90")
    wanted = prepare_image(file, uri="a.jpg", options=options)
    header = undecoded_jpeg(file, options=options)
    assert header is not None
    assert (header.width, header.height) == (wanted.width, wanted.height)
    assert (header.valid_box, header.valid_mask) == (wanted.valid_box, wanted.valid_mask)
    [pixels] = decoded(file, options=options)
    assert pixels is not None
    assert (pixels.dtype, pixels.shape) == (np.uint8, (SIZE, SIZE, 3))
    apart = np.abs(pixels.astype(int) - wanted.pixels)
    assert apart.max() <= 2
    assert apart.mean() < 0.4


def bomb() -> bytes:
    """A JPEG whose header claims 65,000 x 65,000 pixels."""
    data = bytearray(jpeg())
    start = data.index(b"\xff\xc0") + 5
    data[start : start + 4] = (65000).to_bytes(2, "big") * 2
    return bytes(data)


def two_pictures() -> bytes:
    buffer = io.BytesIO()
    picture(20, 30).save(buffer, "MPO", save_all=True, append_images=[picture(20, 30)])
    return buffer.getvalue()


@pytest.mark.parametrize(
    "file",
    [b"", b"\xff\xd8", b"no image", jpeg()[:40], encoded(picture(20, 30)), jpeg(mode="CMYK"), two_pictures(), bomb()],
    ids=["empty", "marker", "text", "cut header", "png", "cmyk", "mpo", "bomb"],
)
def test_anything_else_is_left_to_the_guarded_decoder(file: bytes) -> None:
    assert undecoded_jpeg(file, options=OPTIONS) is None


def test_a_damaged_file_costs_itself_alone() -> None:
    whole, cut = jpeg(), jpeg(70, 80)
    first, lost, last = decoded(whole, cut[: len(cut) // 2], whole)
    assert first is not None
    assert lost is None
    assert np.array_equal(first, last)


def test_a_file_of_another_size_than_its_header_is_not_trusted() -> None:
    [pixels] = GpuDecoder(OPTIONS, device="cpu").decode([jpeg(60, 90)], [SourceSize(90, 60)])
    assert pixels is None


def test_many_large_files_are_not_decoded_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_module, "BATCH_PIXELS", 12_000)
    calls: list[int] = []
    plain = GpuDecoder._decode  # noqa: SLF001 - what decodes one batch

    def counted(self: GpuDecoder, files: list[bytes]) -> list:
        calls.append(len(files))
        return plain(self, files)

    monkeypatch.setattr(GpuDecoder, "_decode", counted)
    files = [jpeg(), jpeg(), jpeg(200, 100), jpeg(), jpeg(20, 30)]  # of 5,400, 5,400, 20,000, 5,400 and 600 pixels
    assert all(pixels is not None for pixels in decoded(*files))
    assert calls == [2, 1, 2]
    assert decoded() == []


def test_a_header_is_read_without_decoding() -> None:
    file = jpeg(3000, 2000)
    tracemalloc.start()
    try:
        assert undecoded_jpeg(file, options=OPTIONS) is not None
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 3000 * 2000


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"valid_region": "uniform_border"}, "this one has uniform_border and full"),
        ({"valid_region": "mask_uri"}, "this one has mask_uri and full"),
        ({"jpeg_decoding": "scaled"}, "this one has letterbox and scaled"),
    ],
)
def test_inputs_that_need_more_than_pixels_are_refused(changes: dict[str, str], named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        require_gpu_decoding(InputOptions(image_size=SIZE, **changes))


def test_a_missing_torchcodec_is_told_with_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(ConfigError, match=r"pip install 'feclip\[nvjpeg\]'"):
        require_gpu_decoding(OPTIONS)
