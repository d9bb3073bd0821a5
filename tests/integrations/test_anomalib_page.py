"""The example of docs/anomalib.md is run as it stands, and is as short as it says."""

import os
import re
import shutil
from pathlib import Path

import pytest

from feclip.bundle import read_bundle
from feclip.demo import write_mvtec

pytestmark = pytest.mark.slow

PAGE = Path(__file__).parents[2] / "docs" / "anomalib.md"
MAX_LINES = 20


def test_the_example_of_the_page_runs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (example,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    lines = [line for line in example.splitlines() if line.strip() and not line.startswith("#")]
    assert len(lines) <= MAX_LINES
    root = tmp_path / "data" / "mvtec"
    write_mvtec(root, seed=0, families=("tile",), image_size=96, num_train_good=0, num_test_good=10, num_per_defect=3)
    (root / "tile").rename(root / "screw")
    shutil.copy(next((root / "screw" / "test").rglob("*.png")), tmp_path / "data" / "image.jpg")
    monkeypatch.chdir(tmp_path)
    text = re.sub(r"(?<!\w)/(data|runs|results)(?=[/\"])", lambda found: f"{os.fspath(tmp_path)}/{found[1]}", example)
    exec(compile(text, str(PAGE), "exec"), {"__name__": "example"})  # noqa: S102 - our own page
    printed = capsys.readouterr().out
    assert "image_AUROC" in printed
    assert "torch.Size([1, 112, 112])" in printed
    bundle = read_bundle(str(tmp_path / "runs" / "anomalib"))
    assert bundle.model.backbone == "feclip-demo"
    assert {"trained", "selected"} == set(bundle.images["role"].to_pylist())
