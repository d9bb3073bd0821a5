"""The doctor's checks, each where all is well and where something is wrong."""

import dataclasses
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import pytest
import torch

from feclip.building import build_model
from feclip.config import DoctorConfig, ModelConfig
from feclip.data import InputOptions
from feclip.doctor import (
    Finding,
    Status,
    check_devices,
    check_installation,
    check_model,
    check_storage,
    guarded,
    ok,
    storage,
)
from feclip.doctor.model import _trained_parts
from feclip.doctor.passes import check_forward, check_training
from feclip.errors import DataError
from feclip.model import FeClipModel

SMALL = ModelConfig(backbone="ViT-S-16-alt", pretrained="none", image_size=64, num_taps=2)
INPUT = InputOptions(image_size=64)


@pytest.fixture
def model() -> FeClipModel:
    """A small random model, to be broken."""
    return build_model(SMALL, seed=0)


def by_check(findings: Iterator[Finding]) -> dict[str, list[Finding]]:
    """Return findings by what was looked at."""
    found: dict[str, list[Finding]] = {}
    for finding in findings:
        assert "\n" not in finding.text()
        found.setdefault(finding.check, []).append(finding)
    return found


def test_the_demonstration_backbone_is_well_and_its_grid_is_told() -> None:
    found = by_check(check_model(DoctorConfig(model=ModelConfig(backbone="feclip-demo"), device="cpu")))  # type: ignore[arg-type]
    assert {finding.status for findings in found.values() for finding in findings} == {Status.ok, Status.warning}
    assert [finding.check for findings in found.values() for finding in findings if finding.status != Status.ok] == [
        "windows"
    ]
    assert "14 x 14 tokens of 8 px on 112 px" in found["token grid"][0].message
    assert "FFE windows of 3 do not divide it, so that 1 rows" in found["windows"][0].message
    assert "model.image_size 96 would divide" in found["windows"][0].advice
    assert "GELU" in found["backbone"][0].message
    assert "gradients are finite, and in adapters and patch head alone" in found["training"][0].message
    assert "trained: FFE adapters " in found["parameters"][0].message


def test_numbers_of_parameters_are_those_of_the_model(model: FeClipModel) -> None:
    (finding,) = _trained_parts(model)
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    head = sum(p.numel() for p in model.patch_head.parameters())
    assert f"patch head {head / 1e6:.2f} M" in finding.message
    numbers = [float(part.split()[-2]) for part in finding.message.partition("; ")[0].split(",")]
    assert sum(numbers) == pytest.approx(trained / 1e6, abs=0.02)
    assert not model.training


def test_a_backbone_that_trains_is_found(model: FeClipModel) -> None:
    next(model.visual.parameters()).requires_grad_(True)
    (finding,) = _trained_parts(model)
    assert finding.status is Status.failed
    assert finding.message.startswith("the backbone trains")


def test_random_weights_and_a_bundle_without_thresholds_are_warnings(bundle: str) -> None:
    found = by_check(check_model(DoctorConfig(bundle=bundle, device="cpu")))  # type: ignore[arg-type]
    warned = {check for check, findings in found.items() if any(f.status is Status.warning for f in findings)}
    assert warned == {"thresholds", "weights", "windows"}
    assert "is whole, model " in found["bundle"][0].message
    assert "1 images trained" in found["bundle"][0].message


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ({"backbone": "ViT-L-14-366"}, "did you mean ViT-L-14-336"),
        ({"image_size": 70}, "image_size must be a multiple of the patch size 16"),
        ({"tap_blocks": (3, 40)}, "tap_blocks"),
        ({"pretrained": "/no/weights.pt"}, "an existing weight file"),
    ],
)
def test_a_model_that_cannot_be_built_is_one_finding(model: dict[str, object], message: str) -> None:
    config = DoctorConfig(model=dataclasses.replace(SMALL, **model), device="cpu")  # type: ignore[arg-type]
    (finding,) = guarded("model", lambda: check_model(config))
    assert finding.status is Status.failed
    assert message in finding.message


def test_a_model_that_computes_no_numbers_is_found(model: FeClipModel) -> None:
    with torch.no_grad():
        model.patch_head.weight.fill_(torch.nan)
    (finding,) = check_forward(model, options=INPUT, precision="float32")
    assert (finding.status, finding.message.partition(":")[0]) == (Status.failed, "scores are not finite")
    (finding,) = check_training(model, options=INPUT, precision="float32")
    assert finding.status is Status.failed
    assert finding.message.endswith("is not finite")


def test_images_that_mix_are_found(model: FeClipModel, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = FeClipModel.forward_from_prefix

    def mixed(self: FeClipModel, tokens: torch.Tensor, valid_tokens: torch.Tensor, **more: object) -> object:
        return whole(self, tokens.flip(0), valid_tokens, **more)

    monkeypatch.setattr(FeClipModel, "forward_from_prefix", mixed)
    (finding,) = check_forward(model, options=INPUT, precision="float32")
    assert finding.status is Status.failed
    assert "beside another" in finding.message


def test_a_part_that_no_gradient_reaches_is_told(model: FeClipModel, monkeypatch: pytest.MonkeyPatch) -> None:
    adapter = model.taps[0].lfs
    forward = type(adapter).forward

    def cut(self: torch.nn.Module, *arguments: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = forward(self, *arguments)
        return result.detach() if self is adapter else result

    monkeypatch.setattr(type(adapter), "forward", cut)
    (finding,) = check_training(model, options=INPUT, precision="float32")
    assert finding.status is Status.warning
    assert "no gradient reaches 2 of the trained tensors, taps.0.lfs.conv" in finding.message


def test_what_is_installed_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    found = by_check(check_installation())
    assert "Python 3." in found["versions"][0].message
    assert "absent" not in found["versions"][0].message
    assert [finding.status for finding in found["dependencies"]] == [Status.ok]
    monkeypatch.setattr(metadata, "requires", lambda _: ["numpy>=99", "no-such-thing", 'other>=9; extra == "dev"'])
    failed = [finding.message for finding in by_check(check_installation())["dependencies"]]
    assert failed == [f"numpy is {metadata.version('numpy')}, and feclip needs >=99", "no-such-thing is missing"]


def test_device_and_precision_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    found = by_check(check_devices("cpu", "float32"))
    assert found["precision"][0].message.startswith("float32 on CPU, ")
    monkeypatch.setattr(torch.cpu, "get_capabilities", dict)
    (precision,) = by_check(check_devices("cpu", "bfloat16"))["precision"]
    assert precision.status is Status.warning
    assert "has to emulate it" in precision.message
    if not torch.cuda.is_available():
        (finding,) = by_check(guarded("devices", lambda: check_devices("cuda", "auto")))["devices"]
        assert "this process sees no GPU" in finding.message


def test_a_file_goes_to_storage_and_back(tmp_path: Path) -> None:
    (finding, *_) = check_storage(str(tmp_path / "new"), where="from here")
    assert finding.status is Status.ok
    assert not list((tmp_path / "new").iterdir())


@pytest.mark.storage
def test_object_storage_is_tried_the_same_way(s3_bucket: str) -> None:
    (finding,) = check_storage(f"{s3_bucket}/scores", where="from here")
    assert finding.status is Status.ok
    (missing,) = guarded("storage", lambda: check_storage("s3://no-such-bucket/scores", where="from here"))
    assert missing.status is Status.failed
    assert "no bucket 'no-such-bucket'" in missing.message


def test_storage_that_gives_back_something_else_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage, "read_bytes", lambda _: b"stale")
    (finding,) = check_storage(str(tmp_path), where="from here")
    assert finding.status is Status.failed
    assert "did not come back as it was written" in finding.message
    assert not list(tmp_path.iterdir())


def test_an_error_of_any_kind_is_a_finding_and_what_came_before_it_stays() -> None:
    def look(error: Exception) -> Iterator[Finding]:
        yield ok("first", "fine")
        raise error

    for error, told in (
        (DataError("no table"), "no table"),
        (ImportError("No module named 'ray'"), "cannot be loaded: No module named 'ray'"),
        (KeyError("x\ny"), "KeyError: 'x\\ny'"),
    ):
        first, second = guarded("second", lambda error=error: look(error))  # type: ignore[misc]
        assert (first.status, second.status, second.message) == (Status.ok, Status.failed, told)
