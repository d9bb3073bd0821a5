"""The layouts of labelled data sets, on small trees as their authors publish them."""

from pathlib import Path

import pytest

from feclip.building import read_labelled
from feclip.config import DataConfig, Layout
from feclip.data import find_layout, join_uri, read_layout
from feclip.errors import DataError

VISA = (
    "object,split,label,image,mask\n"
    "candle,train,normal,candle/Data/Images/Normal/0000.JPG,\n"
    "candle,test,normal,candle/Data/Images/Normal/0001.JPG,\n"
    "candle,test,anomaly,candle/Data/Images/Anomaly/000.JPG,candle/Data/Masks/Anomaly/000.png\n"
    "pcb1,test,anomaly,pcb1/Data/Images/Anomaly/000.JPG,pcb1/Data/Masks/Anomaly/000.png\n"
)
BTAD = ("01/train/ok/0.bmp", "01/test/ok/0.bmp", "01/test/ko/1.bmp", "01/ground_truth/ko/1.png", "03/test/ok/7.bmp",
        "03/test/ko/0.bmp", "03/ground_truth/ko/0.bmp")  # fmt: skip
DTD = ("Woven_001/train/good/000.png", "Woven_001/test/good/000.png", "Woven_001/test/bad/000.png",
       "Woven_001/ground_truth/bad/000_mask.png")  # fmt: skip
MPDD = ("tubes/train/good/0.png", "tubes/test/good/1.png", "tubes/test/anomalous/0.png",
        "tubes/ground_truth/anomalous/0_mask.png")  # fmt: skip
DAGM = ("Class1/Train/0001.PNG", "Class1/Train/0002.PNG", "Class1/Train/Label/0002_label.PNG",
        "Class1/Test/0001.PNG", "Class1/Test/0003.PNG", "Class1/Test/Label/0003_label.PNG",
        "Class1/Test/Label/Labels.txt", "Class2/Test/0001.PNG")  # fmt: skip


def tree(root: Path, *names: str, table: str | None = None) -> str:
    """Make files of one byte, and VisA's table where one is given."""
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"x")
    if table is not None:
        (root / "split_csv").mkdir(parents=True)
        (root / "split_csv" / "1cls.csv").write_text(table)
    return str(root)


def test_visa_is_read_from_its_table(tmp_path: Path) -> None:
    root = tree(tmp_path, table=VISA)
    assert find_layout(root) == "visa"
    rows = read_layout(root).to_pylist()
    assert [(row["category"], row["subset"], row["label"], row["has_mask"]) for row in rows] == [
        ("candle", "train", 0, True),
        ("candle", "test", 0, True),
        ("candle", "test", 1, True),
        ("pcb1", "test", 1, True),
    ]
    assert rows[2]["uri"] == join_uri(root, "candle/Data/Images/Anomaly/000.JPG")
    assert rows[2]["mask_uri"] == join_uri(root, "candle/Data/Masks/Anomaly/000.png")
    assert rows[1]["mask_uri"] is None
    assert read_layout(root, categories=["pcb1"]).num_rows == 1
    with pytest.raises(DataError, match=r"no images of category pcb9; available: candle, pcb1"):
        read_layout(root, layout="visa", categories=["pcb9"])


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("object,split,label,image\n", "lacks the column mask"),
        (VISA.replace("test,anomaly", "test,broken"), r"row 3: label must be normal or anomaly, got 'broken'"),
        (VISA.replace("pcb1,test", "pcb1,valid"), r"row 4: split must be train or test, got 'valid'"),
        (VISA.replace("candle/Data/Images/Normal/0001.JPG", ""), r"row 2: object and image must not be empty"),
        ("object,split,label,image,mask\n", "holds no images"),
        ("candle,test,normal\n", "lacks the column object"),
    ],
)
def test_a_bad_table_of_visa_is_one_line(tmp_path: Path, table: str, message: str) -> None:
    with pytest.raises(DataError, match=message) as raised:
        read_layout(tree(tmp_path, table=table))
    assert "\n" not in str(raised.value)


def test_btad_has_ok_and_ko_and_masks_of_either_ending(tmp_path: Path) -> None:
    root = tree(tmp_path, *BTAD)
    assert find_layout(root) == "btad"
    rows = {row["path"]: row for row in read_layout(root).to_pylist()}
    assert {path: row["label"] for path, row in rows.items()} == {
        name: int("/ko/" in name) for name in BTAD if "ground_truth" not in name
    }
    assert rows["01/test/ko/1.bmp"]["mask_uri"] == join_uri(root, "01/ground_truth/ko/1.png")
    assert rows["03/test/ko/0.bmp"]["mask_uri"] == join_uri(root, "03/ground_truth/ko/0.bmp")
    assert rows["01/train/ok/0.bmp"]["subset"] == "train"


@pytest.mark.parametrize(("names", "layout", "defect"), [(DTD, "dtd", "bad"), (MPDD, "mpdd", "anomalous")])
def test_dtd_and_mpdd_share_the_layout_of_mvtec(
    tmp_path: Path, names: tuple[str, ...], layout: str, defect: str
) -> None:
    root = tree(tmp_path, *names)
    assert find_layout(root) == "mvtec"
    table = read_layout(root, layout=layout)
    assert table.equals(read_layout(root))
    (bad,) = [row for row in table.to_pylist() if row["label"]]
    assert (bad["defect_type"], bad["mask_uri"]) == (defect, join_uri(root, names[-1]))


def test_dagm_tells_anomalous_images_by_their_labels(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    root = tree(tmp_path, *DAGM)
    assert find_layout(root) == "dagm"
    with caplog.at_level("INFO"):
        rows = read_layout(root).to_pylist()
    assert "1 anomalous images of Train are left out" in caplog.text
    assert [(row["path"], row["subset"], row["label"], row["has_mask"]) for row in rows] == [
        ("Class1/Test/0001.PNG", "test", 0, True),
        ("Class1/Test/0003.PNG", "test", 1, True),
        ("Class1/Train/0001.PNG", "train", 0, True),
        ("Class2/Test/0001.PNG", "test", 0, False),
    ]
    assert rows[1]["mask_uri"] == join_uri(root, DAGM[5])
    assert read_layout(root, layout="dagm", categories=["Class2"]).num_rows == 1


@pytest.mark.parametrize(
    ("more", "categories", "message"),
    [
        ("Class1/Test/Label/0009_label.PNG", None, r"0009_label\.PNG is the label of no image"),
        ("Class1/Test/0001.bmp", None, r"several images are called Class1/Test/0001, so their label is ambiguous"),
        ("Class1/notes.txt", ["Class9"], r"no images of category Class9; available: Class1, Class2"),
    ],
)
def test_what_is_not_as_dagm_has_it_is_one_line(
    tmp_path: Path, more: str, categories: list[str] | None, message: str
) -> None:
    root = tree(tmp_path, *DAGM, more)
    with pytest.raises(DataError, match=message) as raised:
        read_layout(root, categories=categories)
    assert "\n" not in str(raised.value)
    with pytest.raises(DataError, match="holds no images in DAGM's layout"):
        read_layout(str(tmp_path / "Class1"), layout="dagm")


def test_what_trains_needs_anomalous_images_in_every_layout(tmp_path: Path) -> None:
    dagm = tree(tmp_path / "dagm", *DAGM)
    assert read_layout(dagm, categories=["Class1"], trains=True).num_rows == 3
    with pytest.raises(DataError, match="category Class2 has no anomalous images; training needs some"):
        read_layout(dagm, trains=True)
    visa = tree(tmp_path / "visa", table=VISA.replace("test,anomaly", "test,normal", 1))
    with pytest.raises(DataError, match="category candle has no anomalous images; training needs some"):
        read_layout(visa, trains=True)
    btad = tree(tmp_path / "btad", *(name for name in BTAD if "ground_truth/ko/1" not in name))
    with pytest.raises(DataError, match=r"01/test/ko/1\.bmp is anomalous but has no mask; expected 01/ground_truth/ko"):
        read_layout(btad, trains=True)


def test_fine_tuning_reads_every_layout_and_divides_it(tmp_path: Path) -> None:
    table = read_labelled(DataConfig(root=tree(tmp_path, table=VISA)), seed=0)
    assert dict(zip(table["path"].to_pylist(), table["split"].to_pylist(), strict=True)) == {
        "candle/Data/Images/Normal/0000.JPG": "calibration",
        "candle/Data/Images/Normal/0001.JPG": "train",
        "candle/Data/Images/Anomaly/000.JPG": "train",
        "pcb1/Data/Images/Anomaly/000.JPG": "train",
    }
    with pytest.raises(ValueError, match=r"data\.layout is visa, but data\.manifest names the images"):
        DataConfig(manifest="/data/labels.csv", layout=Layout.visa)


def test_masks_may_be_absent_where_nothing_is_trained(tmp_path: Path) -> None:
    root = tree(tmp_path, *(name for name in DTD if "ground_truth" not in name))
    assert read_layout(root)["has_mask"].to_pylist() == [False] * 3


def test_an_ambiguous_and_an_unknown_layout_are_one_line(tmp_path: Path) -> None:
    both = tree(tmp_path / "both", *BTAD, *DTD)
    with pytest.raises(DataError, match=r"could have several layouts.*\(mvtec\).*; name one with data\.layout"):
        read_layout(both)
    assert read_layout(both, layout="btad", categories=["01"]).num_rows == 3
    with pytest.raises(DataError, match="must be auto or one of mvtec, visa, btad, mpdd, dtd, dagm, got 'coco'"):
        read_layout(both, layout="coco")
    with pytest.raises(DataError, match="holds no images in MVTec layout"):
        read_layout(tree(tmp_path / "none", "a.png"))
    with pytest.raises(DataError, match=r"has no split_csv/1cls\.csv"):
        read_layout(both, layout="visa")


def test_real_photographs_are_found_to_be_mvtec(shared_data: Path) -> None:
    root = str(shared_data / "mvtec")
    assert find_layout(root) == "mvtec"
    assert set(read_layout(root)["category"].to_pylist()) == {"grid", "hazelnut_toy", "screw", "toothbrush"}
