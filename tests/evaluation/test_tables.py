"""What is written for people: every number marked where it must be, means with deviations, the paper beside."""

import dataclasses

import pytest

from feclip.errors import DataError
from feclip.evaluation import PAPER, CategoryResult, Evaluation, Judgement, find_dataset, markdown, screen

METRICS = {
    "image_auroc": 0.9, "image_ap": 0.8, "image_f1_max": 0.7, "image_tpr_at_fpr_0.01": 0.5,
    "image_tpr_at_fpr_0.001": 0.25, "image_fpr_at_tpr_0.95": 0.3,
    "pixel_auroc": 0.95, "pixel_ap": 0.4, "pixel_f1_max": 0.45, "aupro": 0.85, "aupro_community": 0.6,
}  # fmt: skip


def result(shift: float = 0.0, *, num_masked: int = 40, **more: float) -> CategoryResult:
    metrics = {name: value + shift for name, value in METRICS.items()} | more
    if not num_masked:
        metrics = {name: value for name, value in metrics.items() if name.startswith(("image", "decided"))}
    return CategoryResult(
        metrics=metrics,
        intervals={"image_auroc": (0.85, 0.95)},
        num_images=40,
        num_anomalous=25,
        num_masked=num_masked,
        num_masked_anomalous=max(0, num_masked - 15),
    )


def judged(
    *shifts: float, num_trained: int = 0, categories: tuple[str, ...] = ("01", "03"), **fields: float
) -> Evaluation:
    judgements = [
        Judgement(
            bundle=f"/runs/{number}",
            model_id="m" * 64,
            calibration_id="c" * 64 if "decided_tp" in fields else None,
            preset_text="feclip: letterbox to 112 px",
            data_digest="d" * 16,
            num_trained_images=num_trained,
            categories={name: result(shift, **fields) for name in categories},  # type: ignore[arg-type]
            mean=result(shift, **fields),  # type: ignore[arg-type]
            recipe={"backbone": "feclip-demo", "image_size": 112, "trained_on": "/data/mvtec"},
        )
        for number, shift in enumerate(shifts)
    ]
    return Evaluation(judgements=judgements, source="/data/btad", preset="feclip", split="report")


def test_one_bundle_has_intervals_and_says_what_it_depends_on() -> None:
    text = markdown(judged(0.0))
    assert "| 01 | 0.900 (0.850 to 0.950) | 0.800 |" in text
    assert "| mean | 0.950 | 0.400 | 0.450 | 0.850 | 0.600 |" in text
    for said in ("feclip: letterbox to 112 px", "split: report", "d" * 16, "mmmmmmmmmmmm", "15 normal, 25 anomalous"):
        assert said in text
    assert "TPR at 0.1 % FPR: a category has 15 normal images, so not one false alarm is allowed in it" in text
    assert "†" not in text


def test_the_screen_has_aligned_columns_without_intervals() -> None:
    lines = screen(judged(0.0), paper=PAPER["btad"]).splitlines()
    heading, first = next((line, lines[number + 1]) for number, line in enumerate(lines) if line.startswith("category"))
    assert first.index("0.900") == heading.index("AUROC")
    assert not [line for line in lines if "|" in line or " to 0." in line]
    assert "ours        90.0" in "\n".join(lines)


def test_several_bundles_have_mean_and_deviation() -> None:
    evaluation = judged(-0.02, 0.0, 0.02)
    text = markdown(evaluation)
    assert "| 03 | 0.900 ± 0.020 |" in text
    assert "by bundle" in text
    table = evaluation.table().to_pylist()
    (joint,) = [row for row in table if row["bundle"] is None and row["category"] is None and row["metric"] == "aupro"]
    assert joint["value"] == pytest.approx(0.85)
    assert joint["deviation"] == pytest.approx(0.02)
    assert len(table) == 4 * 3 * len(METRICS)


def test_every_number_and_every_table_is_marked_when_trained_images_judge() -> None:
    evaluation = judged(0.0, num_trained=3, decided_tp=20.0, decided_fn=5.0, decided_fp=1.0, decided_tn=14.0)
    text = markdown(evaluation, paper=PAPER["btad"])
    assert "3 of 40 images trained, selected or calibrated this bundle" in text
    numbers = [
        line for line in text.splitlines() if line.startswith(("| 01", "| 03", "| mean", "| all", "| ours", "| diff"))
    ]
    assert len(numbers) == 11
    for line in numbers:
        cells = [cell.strip() for cell in line.strip("|").split("|")[1:]]
        assert all(cell.endswith("†") or cell == "-" for cell in cells), line
    assert all("†" in line for line in text.splitlines() if line.startswith("## "))
    assert {(row["trained_images"], row["num_trained_images"]) for row in evaluation.table().to_pylist()} == {(True, 3)}


def test_names_that_others_gave_are_text_of_one_line_in_the_report_and_on_the_screen() -> None:
    hostile = "<script>alert(1)</script> [x](javascript:alert(2)) a|b `c`\n## d"
    evaluation = judged(0.0, 0.1, categories=("01", hostile))
    changed = [dataclasses.replace(judgement, bundle=f"/runs/`{hostile}") for judgement in evaluation.judgements]
    evaluation = dataclasses.replace(evaluation, judgements=changed, source=hostile)
    text = markdown(evaluation, paper=PAPER["btad"])
    outside_of_code = "".join(text.split("`")[::2])
    assert not [mark for mark in ("<", "[x]", "\n## d") if mark in outside_of_code]
    assert hostile.split("\n", maxsplit=1)[0] in screen(evaluation)


def test_masks_that_are_missing_are_counted() -> None:
    assert "pixels: judged on 30 images whose mask is known; 25 images are anomalous, and 10 of them have no mask" in (
        markdown(judged(0.0, num_masked=30))
    )
    labels_only = markdown(judged(0.0, num_masked=0))
    assert "no mask is known" in labels_only
    assert "## Pixels" not in labels_only


def test_the_paper_stands_beside_with_all_that_differs() -> None:
    text = markdown(judged(0.0), paper=PAPER["btad"])
    assert "| paper | 90.3 | 90.0 | 95.6 | 80.4 | - |" in text
    assert "| ours | 90.0 | 80.0 | 95.0 | 60.0 | 85.0 |" in text
    assert "| difference | -0.3 | -10.0 | -0.6 | -20.4 | - |" in text
    for said in ("1 of 3 categories are absent here: 02", "split report is a part", "1 bundle(s) instead of 5 runs"):
        assert said in text
    assert "feclip-demo at 112 px" in text
    assert "trained on /data/mvtec" in text


def test_a_data_set_is_told_by_its_categories_or_named() -> None:
    assert find_dataset(None, categories=["01", "02", "03"]).title == "BTAD"
    assert find_dataset("mvtec", categories=["grid", "screw"]).trained_on == "the test images of VisA"
    with pytest.raises(
        DataError, match=r"hazelnut_toy is no category of MVTec AD.*choose among them with data\.categories"
    ):
        find_dataset("mvtec", categories=["grid", "hazelnut_toy"])
    with pytest.raises(
        DataError, match=r"No data set of the paper has the categories grid, hazelnut_toy; name it with"
    ):
        find_dataset(None, categories=["grid", "hazelnut_toy"])


@pytest.mark.parametrize("row", PAPER.values(), ids=PAPER)
def test_the_papers_categories_are_as_many_as_published(row: object) -> None:
    numbers = {"MVTec AD": 15, "VisA": 12, "MPDD": 6, "BTAD": 3, "DAGM": 10, "DTD-Synthetic": 12}
    assert len(row.categories) == numbers[row.title]  # type: ignore[attr-defined]
