#!/usr/bin/env python
"""Decoders under test, each from a file's bytes to the letterboxed input, and a worker that times them.

`benchmarks/decoding.py` starts it, once with the interpreter of feclip and once with that of an environment in which
the rivals are installed, which knows no feclip. A request is a line of JSON on its standard input, the answer a line on
its standard output.

All but the candidates that bring a resizer of their own end in Pillow's bicubic filter, as feclip does, so that
they differ in decoding alone.
"""

import importlib
import json
import os
import sys
import time
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps

SIZE = 336
"""Side of the model's input, pixels."""
LEAST_REDUCTION = 2  # of scaled decoding, as in feclip
BICUBIC = Image.Resampling.BICUBIC

Pixels = npt.NDArray[np.uint8]


def feclip(data: bytes, *, jpeg_decoding: str = "full") -> Pixels:
    """What a scoring task runs."""
    prepare = importlib.import_module("feclip.data.prepare")
    options = prepare.InputOptions(image_size=SIZE, jpeg_decoding=jpeg_decoding)
    return prepare.prepare_image(data, uri="picture", options=options).pixels


def feclip_scaled(data: bytes) -> Pixels:
    """What a scoring task runs for a bundle with scaled decoding."""
    return feclip(data, jpeg_decoding="scaled")


def pillow_arrays(data: bytes) -> Pixels:
    """Pillow with a copy for EXIF, one for RGB, and an array between decoding and resizing: feclip's way until then."""
    with Image.open(BytesIO(data)) as image:
        pixels = np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
    return boxed(Image.fromarray(pixels))


def pillow(data: bytes) -> Pixels:
    """Pillow without further copies."""
    with Image.open(BytesIO(data)) as image:
        return boxed(image)


def pillow_draft(data: bytes) -> Pixels:
    """Pillow's reduced decoding."""
    with Image.open(BytesIO(data)) as image:
        width, height = content(*image.size)
        image.draft("RGB", (LEAST_REDUCTION * width, LEAST_REDUCTION * height))
        return boxed(image)


def pillow_reduce(data: bytes) -> Pixels:
    """Full decoding, then a box filter by whole numbers before the bicubic one."""
    with Image.open(BytesIO(data)) as image:
        return boxed(image, reducing_gap=float(LEAST_REDUCTION))


def torchvision_io(data: bytes) -> Pixels:
    """Decode with torchvision's JPEG or PNG reader, resize with Pillow."""
    return boxed(Image.fromarray(_torchvision(data).permute(1, 2, 0).contiguous().numpy()))


def torchvision_resize(data: bytes) -> Pixels:
    """Decode with torchvision, resize with its own antialiased bicubic filter on bytes."""
    resize = importlib.import_module("torchvision.transforms.v2.functional").resize
    pixels = _torchvision(data)
    width, height = content(pixels.shape[2], pixels.shape[1])
    small = resize(pixels, [height, width], interpolation=3, antialias=True)
    return padded(small.permute(1, 2, 0).numpy())


def simplejpeg(data: bytes) -> Pixels:
    """Full decoding by libjpeg-turbo."""
    return boxed(Image.fromarray(importlib.import_module("simplejpeg").decode_jpeg(data, "RGB")))


def simplejpeg_scaled(data: bytes) -> Pixels:
    """Decode at the smallest of libjpeg-turbo's sixteen scales that is large enough."""
    module = importlib.import_module("simplejpeg")
    full_height, full_width, *_ = module.decode_jpeg_header(data)
    width, height = content(full_width, full_height)
    least = {"min_height": LEAST_REDUCTION * height, "min_width": LEAST_REDUCTION * width}
    return boxed(Image.fromarray(module.decode_jpeg(data, "RGB", **least)))


def opencv(data: bytes) -> Pixels:
    """Decode with OpenCV, resize with Pillow."""
    return boxed(Image.fromarray(_opencv(data)))


def opencv_area(data: bytes) -> Pixels:
    """Decode with OpenCV, resize with its area filter."""
    cv2 = importlib.import_module("cv2")
    pixels = _opencv(data)
    size = content(pixels.shape[1], pixels.shape[0])
    return padded(cv2.resize(pixels, size, interpolation=cv2.INTER_AREA))


def opencv_reduced(data: bytes) -> Pixels:
    """Decode with OpenCV at 1/2, 1/4 or 1/8; a PNG is decoded whole and then reduced."""
    with Image.open(BytesIO(data)) as image:
        (full_width, full_height), (width, height) = image.size, content(*image.size)
    most = min(full_width // (LEAST_REDUCTION * width), full_height // (LEAST_REDUCTION * height))
    return boxed(Image.fromarray(_opencv(data, factor=next(factor for factor in (8, 4, 2, 1) if factor <= most))))


def vips(data: bytes) -> Pixels:
    """Let libvips decode reduced and resize, by its own rule and Lanczos filter."""
    module = importlib.import_module("pyvips")
    return padded(module.Image.thumbnail_buffer(data, SIZE, height=SIZE).numpy()[..., :3])


def imagecodecs(data: bytes) -> Pixels:
    """Decode with libjpeg-turbo or libspng by imagecodecs, resize with Pillow."""
    module = importlib.import_module("imagecodecs")
    decode = module.spng_decode if data.startswith(b"\x89PNG") else module.jpeg8_decode
    return boxed(Image.fromarray(np.ascontiguousarray(decode(data))))


FULL: dict[str, Callable[[bytes], Pixels]] = {
    "feclip": feclip,
    "Pillow, array between": pillow_arrays,
    "Pillow": pillow,
    "Pillow, reducing_gap 2": pillow_reduce,
    "torchvision": torchvision_io,
    "torchvision, its resize": torchvision_resize,
    "opencv": opencv,
    "opencv, INTER_AREA": opencv_area,
    "imagecodecs": imagecodecs,
}
"""Candidates that decode every pixel, for JPEG and PNG."""
PNG_ALSO: dict[str, Callable[[bytes], Pixels]] = {"libvips thumbnail": vips}
JPEG_ALSO: dict[str, Callable[[bytes], Pixels]] = {
    "simplejpeg": simplejpeg,
    "feclip, scaled": feclip_scaled,
    "Pillow, draft": pillow_draft,
    "simplejpeg, scaled": simplejpeg_scaled,
    "opencv, IMREAD_REDUCED": opencv_reduced,
    "libvips thumbnail": vips,
}
NEEDED = {
    feclip: "feclip",
    feclip_scaled: "feclip",
    torchvision_io: "torchvision",
    torchvision_resize: "torchvision",
    simplejpeg: "simplejpeg",
    simplejpeg_scaled: "simplejpeg",
    opencv: "cv2",
    opencv_area: "cv2",
    opencv_reduced: "cv2",
    vips: "pyvips",
    imagecodecs: "imagecodecs",
}
"""What a candidate imports beyond Pillow."""
CANDIDATES = {"jpeg": FULL | JPEG_ALSO, "png": FULL | PNG_ALSO}


def content(width: int, height: int) -> tuple[int, int]:
    """Return width and height of a picture on the letterboxed input, as feclip places it."""
    scale = SIZE / max(width, height)
    return max(1, min(SIZE, round(width * scale))), max(1, min(SIZE, round(height * scale)))


def padded(small: Pixels) -> Pixels:
    """Return a resized picture on the white square."""
    canvas = np.full((SIZE, SIZE, 3), 255, np.uint8)
    height, width = small.shape[:2]
    top, left = (SIZE - height) // 2, (SIZE - width) // 2
    canvas[top : top + height, left : left + width] = small
    return canvas


def boxed(image: Image.Image, *, reducing_gap: float | None = None) -> Pixels:
    """Resize as feclip does, and letterbox."""
    return padded(np.asarray(image.resize(content(*image.size), BICUBIC, reducing_gap=reducing_gap)))


def _torchvision(data: bytes) -> Any:  # noqa: ANN401 - a tensor of a library that may be absent
    module = importlib.import_module("torchvision.io")
    raw = importlib.import_module("torch").frombuffer(bytearray(data), dtype=importlib.import_module("torch").uint8)
    decode = module.decode_png if data.startswith(b"\x89PNG") else module.decode_jpeg
    return decode(raw, mode=module.ImageReadMode.RGB)


def _opencv(data: bytes, *, factor: int = 1) -> Pixels:
    cv2 = importlib.import_module("cv2")
    raw = np.frombuffer(data, np.uint8)
    if factor == 1:
        return np.asarray(cv2.imdecode(raw, cv2.IMREAD_COLOR_RGB))
    reduced = cv2.imdecode(raw, getattr(cv2, f"IMREAD_REDUCED_COLOR_{factor}"))
    return np.asarray(cv2.cvtColor(reduced, cv2.COLOR_BGR2RGB))


def _one_thread() -> dict[str, str]:
    """Keep the libraries at hand to one thread each, and return their versions."""
    versions = {"Pillow": Image.__version__}
    for name in sorted({*NEEDED.values()}):
        try:
            module = importlib.import_module(name)
        except (ImportError, OSError):  # a library that libvips itself lacks is an OSError
            continue
        versions[name] = module.__version__
        if name == "cv2":
            module.setNumThreads(1)
        if name == "torchvision":
            importlib.import_module("torch").set_num_threads(1)
    return versions


def serve() -> None:
    """Answer requests: ``format``, ``candidate`` and ``paths``; seconds of wall and of this process's CPU time."""
    versions = _one_thread()
    names = {
        kind: [name for name, decode in known.items() if NEEDED.get(decode, "Pillow") in versions]
        for kind, known in CANDIDATES.items()
    }
    print(json.dumps({"versions": versions, "candidates": names}), flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        decode = CANDIDATES[request["format"]][request["candidate"]]
        files = [Path(path).read_bytes() for path in request["paths"]]
        wall, cpu = time.perf_counter(), time.process_time()
        found = [decode(data) for data in files]
        spent = {"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu}
        if request["save"] is not None:
            np.save(request["save"], np.stack(found), allow_pickle=False)
        print(json.dumps(spent), flush=True)


if __name__ == "__main__":
    os.environ["VIPS_CONCURRENCY"] = os.environ["OMP_NUM_THREADS"] = "1"
    serve()
