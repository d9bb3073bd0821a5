"""The plan is the paper's protocol, on what is at hand, and what is not fit for it is seen before any work."""

import json
from collections import Counter
from pathlib import Path

import pytest

from feclip.cli import parse_config
from feclip.config import Names, ReproduceConfig, plain
from feclip.errors import DataError
from feclip.evaluation import PAPER
from feclip.reproduction import TRAINED_ON, FoundSet, check_images, find_sets, judged_sets, plan

MVTEC = ("screw/test/good/0.png", "screw/test/bent/1.png", "screw/ground_truth/bent/1_mask.png")
VISA = (
    "object,split,label,image,mask\n"
    "candle,test,normal,candle/0.JPG,\n"
    "candle,test,anomaly,candle/1.JPG,candle/1.png\n"
)  # fmt: skip
RECIPE = {
    "backbone": "ViT-L-14-336", "pretrained": "openai", "image_size": 336, "epochs": 9, "batch_size": 16,
    "learning_rate": 5e-4,
}  # fmt: skip
"""Section 4.2 of the paper."""
BTAD = ("01/test/ok/0.bmp", "01/test/ko/1.bmp", "01/ground_truth/ko/1.png", "04/test/ok/0.bmp")


def tree(root: Path, *names: str) -> str:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"x")
    return str(root)


@pytest.fixture
def roots(tmp_path: Path) -> dict[str, str]:
    (tmp_path / "visa" / "split_csv").mkdir(parents=True)
    (tmp_path / "visa" / "split_csv" / "1cls.csv").write_text(VISA)
    found = {"mvtec": tree(tmp_path / "mvtec", *MVTEC), "btad": tree(tmp_path / "btad", *BTAD)}
    return found | {"visa": str(tmp_path / "visa")}


def config(*flags: str, output: str = "/runs/paper") -> ReproduceConfig:
    return parse_config(ReproduceConfig, [*flags, "--output", output], prog="reproduce", about="")


def flags(roots: dict[str, str]) -> list[str]:
    return [word for name, root in roots.items() for word in (f"--data.{name}", root)]


def test_which_set_trains_for_which_is_as_the_papers_table_says() -> None:
    for name, row in PAPER.items():
        assert row.trained_on == f"the test images of {PAPER[TRAINED_ON[name]].title}"


def test_ten_fine_tunings_and_thirty_evaluations_when_all_is_at_hand() -> None:
    sets = {name: FoundSet(root=f"s3://data/{name}", categories=Names(("x",))) for name in PAPER}
    whole = config(*flags({name: found.root for name, found in sets.items()}))
    steps = plan(whole, sets)
    assert Counter(step.dataset for step in steps) == {"mvtec": 5, "visa": 5}
    judged = [judging for step in steps for judging in step.judgings]
    assert Counter(judging.dataset for judging in judged) == dict.fromkeys(PAPER, 5)
    outputs = [*(step.config.output for step in steps), *(judging.config.output for judging in judged)]
    assert len(set(outputs)) == 10 + 30
    for step in steps:
        assert all(TRAINED_ON[judging.dataset] == step.dataset for judging in step.judgings)
        assert all(list(judging.config.bundle) == [step.config.output] for judging in step.judgings)
        assert step.config.data.protocol == "a"
        recipe = plain(step.config.model) | plain(step.config.optim)
        assert recipe.items() >= RECIPE.items()
    assert [step.seed for step in steps] == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]


def test_only_what_is_at_hand_is_planned_and_only_the_papers_categories(roots: dict[str, str]) -> None:
    steps = plan(config(*flags(roots), "--seeds", "7"), find_sets(roots))
    check_images(steps)
    assert [str(step) for step in steps] == ["fine-tune seed 7 on MVTec AD", "fine-tune seed 7 on VisA"]
    mvtec, visa = steps
    assert [str(judging) for judging in mvtec.judgings] == ["evaluate seed 7 on VisA", "evaluate seed 7 on BTAD"]
    assert [judging.dataset for judging in visa.judgings] == ["mvtec"]
    assert mvtec.judgings[1].config.data.categories == ("01",)  # 04 is none of BTAD's
    assert (mvtec.config.data.layout, visa.config.data.layout) == ("mvtec", "visa")
    assert judged_sets(["mvtec", "btad"]) == ["btad"]


def test_what_is_not_fit_is_one_line_before_any_work(roots: dict[str, str], tmp_path: Path) -> None:
    whole = config(*flags(roots))
    (tmp_path / "mvtec" / MVTEC[2]).unlink()
    with pytest.raises(DataError, match=r"1\.png is anomalous but has no mask; expected screw/ground_truth"):
        check_images(plan(whole, find_sets(roots)))
    (tmp_path / "mvtec" / MVTEC[2]).write_bytes(b"x")
    (tmp_path / "btad" / BTAD[1]).unlink()
    with pytest.raises(DataError, match="cannot judge: all 1 images are normal"):
        check_images(plan(whole, find_sets(roots)))
    with pytest.raises(DataError, match=r"data\.btad has no category of BTAD: .* has screw; it needs some of 01, 02"):
        find_sets({"btad": tree(tmp_path / "other", "screw/test/ok/0.bmp")})
    with pytest.raises(DataError, match=r"has no split_csv/1cls\.csv"):
        find_sets({"visa": roots["mvtec"]})


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (("--data.mvtec", "/data/mvtec"), "data.mvtec and at least one other data set are required"),
        (("--data.visa", "/data/visa", "--data.btad", "/b"), "data.mvtec and at least one other data set are required"),
        (("--dry_run", "--data.visa", "/data/visa"), "dry_run generates its data sets, so leave out data.visa"),
        (("--dry_run", "--seeds", "1,1"), "seeds names one seed twice: 1,1"),
        (("--dry_run", "--seeds", "-1"), "seeds must be at least 0"),
        (("--dry_run", "--optim.batch_size", "1", "--cluster.num_workers", "2"), "batch_size must be at least"),
        (("--dry_run", "--score.columns", "size"), "score.columns must be null"),
        (("--dry_run", "--data.resize", "crop"), "resize"),
        (("--data.mvtec", " ", "--data.visa", "/v"), "data.mvtec must not be empty"),
    ],
)
def test_a_wrong_config_is_one_line(given: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        config(*given)
    assert stop.value.code == 2
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1


def test_a_dry_run_is_small_unless_it_is_told_otherwise() -> None:
    small = config("--dry_run")
    assert (small.seeds, small.model.backbone, small.model.image_size, small.optim.epochs) == (
        (0, 1),
        "feclip-demo",
        112,
        1,
    )
    told = config("--dry_run", "--seeds", "3", "--model.backbone", "ViT-B-32", "--optim.epochs", "2")
    assert (told.seeds, told.model.backbone, told.optim.epochs) == ((3,), "ViT-B-32", 2)
    json.dumps(plain(told))
    with pytest.raises(SystemExit):
        config("--dry_run", output="s3://runs/dry")
