"""The command: what it writes, that nobody needs feclip to run it, and what it refuses."""

import importlib.util
import io
import json
import re
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from feclip.__main__ import main
from feclip.bundle import read_bundle
from feclip.config import Nouns
from feclip.export import INPUT_NAMES, OUTPUT_NAMES, job
from feclip.export import onnx_file as onnx_format
from feclip.export.recipe import recipe_of
from feclip.export.runner import Arrays
from feclip.export.torch_program import RECIPE_FILE, find_pickles, open_torch
from feclip.prediction import Prediction, Predictor

REPOSITORY = Path(__file__).parents[2]
ALONE = "import sys; sys.modules.update(dict.fromkeys(('feclip', 'torch', 'open_clip', 'ray'))); import runpy; "
TOLERANCE = 1e-4
"""Of logits: what the command itself allows."""


@pytest.fixture(scope="module")
def predictions(demo_bundle: str, images: Path) -> list[Prediction]:
    with Predictor.load(demo_bundle, device="cpu", precision="float32") as predictor:
        return [predictor.predict(path) for path in sorted(images.iterdir())]


def test_the_example_without_feclip_says_what_predict_says(onnx_file: Path, predictions: list[Prediction]) -> None:
    assert {found.label for found in predictions} == {"normal", "anomalous"}
    for found in predictions:
        told = run_example(onnx_file, found.uri)
        numbers = {name: float(value) for name, value in re.findall(r"(\w+) (-?\d+\.\d+)", told.splitlines()[0])}
        assert numbers["image_logit"] == pytest.approx(found.image_logit, abs=TOLERANCE)
        # A map that differs in its last bit may round to the next float16, from which its maximum is taken.
        assert numbers["map_max"] == pytest.approx(found.map_max, abs=float(np.spacing(np.float16(found.map_max))))
        assert told.splitlines()[1].startswith(f"{found.label}, thresholds ")


def run_example(model: Path, image: str) -> str:
    script = REPOSITORY / "examples" / "predict_onnx.py"
    code = f"{ALONE}sys.argv[1:] = {[str(model), image]!r}; runpy.run_path({str(script)!r})"
    done = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_feclip_cannot_be_imported_where_the_example_ran() -> None:
    done = subprocess.run([sys.executable, "-I", "-c", f"{ALONE}import feclip"], capture_output=True, check=False)
    assert b"ModuleNotFoundError" in done.stderr


def test_the_example_is_short() -> None:
    lines = (REPOSITORY / "examples" / "predict_onnx.py").read_text().partition("import sys")[2].splitlines()
    assert len([line for line in lines if line.strip()]) <= 30


def test_an_onnx_file_names_shapes_and_holds_the_recipe(onnx_file: Path, demo_bundle: str) -> None:
    import onnxruntime  # noqa: PLC0415 - beside what needs it

    session = onnxruntime.InferenceSession(onnx_file.read_bytes(), providers=["CPUExecutionProvider"])
    inputs = {part.name: (part.type, part.shape) for part in session.get_inputs()}
    assert tuple(inputs) == INPUT_NAMES
    assert inputs == {
        "pixels": ("tensor(uint8)", [1, 112, 112, 3]),
        "valid_pixels": ("tensor(bool)", [1, 112, 112]),
    }
    outputs = {part.name: part.shape for part in session.get_outputs()}
    assert tuple(outputs) == OUTPUT_NAMES
    assert outputs == {"image_logit": [1], "token_map": [1, 14, 14], "map_max": [1], "map_topk_mean": [1]}
    recipe = json.loads(session.get_modelmeta().custom_metadata_map["feclip"])
    bundle = read_bundle(demo_bundle)
    assert bundle.calibration is not None
    assert recipe == recipe_of(bundle)
    assert recipe["model_id"] == bundle.model_id
    assert recipe["calibration_id"] == bundle.calibration.calibration_id
    assert recipe["input"]["padding_color"] == [255, 255, 255]


def test_a_torch_program_is_loaded_without_a_pickle(
    torch_file: Path, demo_bundle: str, predictions: list[Prediction], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "load", lambda *_, **__: pytest.fail("something is unpickled"))
    content = torch_file.read_bytes()
    assert find_pickles(content) == []
    extra_files = {RECIPE_FILE: ""}
    module = torch.export.load(io.BytesIO(content), extra_files=extra_files).module()
    assert json.loads(extra_files[RECIPE_FILE]) == recipe_of(read_bundle(demo_bundle))
    found = predictions[0]
    pixels, placed = found.options.place(np.asarray(Image.open(found.uri)))
    with torch.no_grad():
        outputs = module(
            pixels=torch.from_numpy(pixels).repeat(2, 1, 1, 1),
            valid_pixels=torch.from_numpy(placed.valid_pixels()).repeat(2, 1, 1),
        )
    assert tuple(outputs) == OUTPUT_NAMES
    assert outputs["image_logit"].tolist() == pytest.approx([found.image_logit] * 2, abs=TOLERANCE)
    np.testing.assert_allclose(outputs["token_map"][1].half().numpy(), found.token_map, rtol=1e-3, atol=TOLERANCE)


def test_pickles_in_a_torch_program_are_found(torch_file: Path) -> None:
    source, sink = zipfile.ZipFile(torch_file), io.BytesIO()
    with zipfile.ZipFile(sink, "w") as changed:
        for entry in source.infolist():
            content = source.read(entry)
            content = b"\x80\x02N." if "sample_inputs" in entry.filename else content
            changed.writestr(entry.filename, content.replace(b'"use_pickle": false', b'"use_pickle": true', 1))
    found = find_pickles(sink.getvalue())
    assert len(found) == 3  # the inputs, the first weight and the first constant
    assert any("sample_inputs" in name for name in found)


def test_files_do_not_tell_where_they_were_made(onnx_file: Path, torch_file: Path) -> None:
    parts = [onnx_file.read_bytes()]
    with zipfile.ZipFile(torch_file) as archive:
        parts += [archive.read(entry) for entry in archive.infolist()]
    for told in (str(REPOSITORY), "site-packages", str(Path.home()), "torch_model.py"):
        assert not any(told.encode() in part for part in parts), told


def test_a_file_that_differs_is_not_written(
    demo_bundle: str,
    torch_file: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def opened(content: bytes) -> tuple[Callable[..., Arrays], str]:
        run, recipe = open_torch(content)

        def run_wrong(**inputs: object) -> Arrays:
            found = run(**inputs)  # type: ignore[arg-type]
            return found | {"image_logit": found["image_logit"] + np.float32(2e-4)}

        return run_wrong, recipe

    monkeypatch.setattr(job, "encode_torch", lambda *_, **__: torch_file.read_bytes())
    monkeypatch.setattr(job, "open_torch", opened)
    output = tmp_path / "new" / "model.pt2"
    argv = ["export", "--bundle", demo_bundle, "--output", str(output), "--format", "torch", "--batch_size", "2"]
    assert main([*argv, "--num_check_images", "3"]) == 1
    (error,) = [line for line in capsys.readouterr().err.splitlines() if "INFO" not in line]
    assert re.search(r"error: The exported file differs from PyTorch by 0.0002 in image_logit, more than tol", error)
    assert list(output.parent.iterdir()) == []


def test_photographs_may_be_compared_and_a_bad_one_is_named(
    demo_bundle: str,
    torch_file: Path,
    images: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(job, "encode_torch", lambda *_, **__: torch_file.read_bytes())
    output = tmp_path / "model.pt2"
    argv = ["export", "--bundle", demo_bundle, "--output", str(output), "--format", "torch", "--batch_size", "2"]
    assert main([*argv, "--check_images", str(images), "--num_check_images", "3"]) == 0
    assert "3 images agree with PyTorch" in caplog.text
    assert output.read_bytes() == torch_file.read_bytes()
    output.unlink()
    bad = tmp_path / "bad"
    bad.mkdir()
    assert main([*argv, "--check_images", str(bad)]) == 1
    assert f"check_images: {bad} holds no image" in capsys.readouterr().err
    (bad / "a.png").write_bytes(b"no image")
    assert main([*argv, "--check_images", str(bad)]) == 1
    assert f"Cannot decode {bad}/a.png" in capsys.readouterr().err
    assert not output.exists()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--output", "model.pt2"], "output must end in .onnx for format onnx, got model.pt2."),
        (["--output", "model.onnx", "--format", "torch"], "output must end in .pt2 for format torch, got model.onnx."),
        (["--output", "model.onnx", "--batch_size", "0"], "batch_size must be at least 1, got 0."),
        (["--output", "model.onnx", "--num_check_images", "0"], "num_check_images must be at least 1, got 0."),
        (["--output", "model.onnx", "--tolerance", "0"], "tolerance must be above 0, got 0.0."),
        (["--output", "model.onnx", "--format", "tflite"], "format"),
    ],
)
def test_wrong_flags_are_one_line(flags: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["export", "--bundle", "/no/bundle", *flags])
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_a_missing_package_is_told_with_the_way_to_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "onnxscript" else find_spec(name))
    assert main(["export", "--bundle", "/no/bundle", "--output", str(tmp_path / "new" / "model.onnx")]) == 2
    error = capsys.readouterr().err
    assert error.endswith("format onnx needs onnxscript, which is not installed: pip install 'feclip[export]'.\n")
    assert list(tmp_path.iterdir()) == []


def test_a_memory_bank_by_group_is_refused(
    banked_bundle: Callable[[str | None], str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["export", "--bundle", banked_bundle("line"), "--output", str(tmp_path / "model.pt2"), "--format", "torch"]
    assert main(argv) == 1
    assert "has a memory bank by line, of which an exported file is not told; export a" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_bundle_with_nouns_of_groups_is_exported_for_one(
    make_bundle: Callable[..., str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle, output = make_bundle(nouns=Nouns(("a=wood", "b=tile"))), tmp_path / "model.pt2"
    argv = ["export", "--bundle", bundle, "--output", str(output), "--format", "torch", "--num_check_images", "3"]
    assert main(argv) == 2
    assert "calls images by their category: give group, one of a, b; images of any other" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
    assert main([*argv, "--group", "b"]) == 0
    _, recipe = open_torch(output.read_bytes())
    assert json.loads(recipe)["prompts"] == ["A photo of a normal tile", "A photo of a damaged tile"]


def test_weights_that_one_file_cannot_hold_are_refused(
    demo_bundle: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(onnx_format, "MAX_BYTES", onnx_format.GRAPH_BYTES + 1000)
    assert main(["export", "--bundle", demo_bundle, "--output", str(tmp_path / "model.onnx")]) == 1
    assert "an ONNX file ends at 2 GiB; take format torch." in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
