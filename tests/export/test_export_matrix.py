"""Every kind of model in both formats, and a hundred images through each."""

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from feclip.__main__ import main
from feclip.calibration import StatisticOptions

formats = pytest.mark.parametrize("kind", ["onnx", "torch"])
SUFFIXES = {"onnx": "onnx", "torch": "pt2"}
pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]


def run_export(bundle: str, folder: Path, kind: str, *flags: str) -> Path:
    path = folder / f"model.{SUFFIXES[kind]}"
    assert main(["export", "--bundle", bundle, "--output", str(path), "--format", kind, *flags]) == 0
    return path


@formats
def test_a_hundred_pictures_agree(
    demo_bundle: str, tmp_path: Path, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    run_export(demo_bundle, tmp_path, kind)
    assert "100 images agree with PyTorch" in caplog.text


@formats
def test_a_hundred_photographs_agree(
    demo_bundle: str, shared_data: Path, tmp_path: Path, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    folder = shared_data / "field" / "magnetic_tile" / "images"
    run_export(demo_bundle, tmp_path, kind, "--check_images", str(folder))
    assert "100 images agree with PyTorch" in caplog.text


@formats
@pytest.mark.parametrize(
    ("fields", "options"),
    [
        ({"padding": "ignore", "lfs_statistic": "magnitude", "ffe_window_size": 2, "lfs_window_size": 4}, (0.01, 0)),
        ({"padding": "attention", "lfs_statistic": "power"}, (0.333333333333333, 4.0)),
        ({"padding": "masked", "use_ffe": False, "tap_blocks": (0, 5)}, (1.0, 0.3)),
        ({"padding": "masked", "use_lfs": False, "ffe_window_size": 5}, (0.00001, 1.5)),
        ({"backbone": "ViT-S-32-alt", "pretrained": "none", "image_size": 64}, (0.01, 0)),
    ],
)
def test_every_kind_of_model_agrees_in_batches(
    make_bundle: Callable[..., str], fields: dict[str, object], options: tuple[float, float], kind: str, tmp_path: Path
) -> None:
    fraction, sigma = options
    bundle = make_bundle(options=StatisticOptions(topk_fraction=fraction, smoothing_sigma=sigma), **fields)
    run_export(bundle, tmp_path, kind, "--batch_size", "3", "--num_check_images", "14")


@formats
def test_logits_beyond_88_are_no_infinity(make_bundle: Callable[..., str], kind: str, tmp_path: Path) -> None:
    bundle = make_bundle(temperature=0.0005)
    run_export(bundle, tmp_path, kind, "--num_check_images", "14", "--tolerance", "0.05")


@formats
def test_a_memory_bank_goes_with_the_model(
    banked_bundle: Callable[[str | None], str], kind: str, tmp_path: Path
) -> None:
    run_export(banked_bundle(None), tmp_path, kind, "--num_check_images", "14")


def test_a_torch_program_runs_without_feclip(demo_bundle: str, tmp_path: Path) -> None:
    program = run_export(demo_bundle, tmp_path, "torch", "--num_check_images", "1")
    code = (
        "import sys; sys.modules.update(dict.fromkeys(('feclip', 'open_clip', 'ray'))); import torch\n"
        f"module = torch.export.load({str(program)!r}).module()\n"
        "pixels = torch.full((1, 112, 112, 3), 128, dtype=torch.uint8)\n"
        "outputs = module(pixels=pixels, valid_pixels=torch.ones(1, 112, 112, dtype=torch.bool))\n"
        "print(outputs['image_logit'].item())"
    )
    done = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True, check=False)
    assert re.fullmatch(r"-?\d+\.\d+\n", done.stdout), done.stderr
