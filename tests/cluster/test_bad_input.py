"""What a user can get wrong: one clear line, a non-zero exit code, and nothing left behind."""

import shutil
import socket
from collections.abc import Callable
from pathlib import Path

import pytest
from job_runner import SMALL_RUN, Bucket, Finished, run_here
from PIL import Image

from feclip.cluster.session import JOB_VARIABLE

pytestmark = pytest.mark.cluster


@pytest.fixture
def own_mvtec(small_mvtec: Path, tmp_path: Path) -> Path:
    """A copy of the small data set that a test may damage."""
    return Path(shutil.copytree(small_mvtec, tmp_path / "mvtec"))


def is_clear(done: Finished, *named: str, output: Path | None = None, code: int = 1) -> None:
    """Check the promise of this module; ``named`` must all stand in the one line."""
    assert done.returncode == code, done.output
    assert all(text in done.error_line for text in named), done.error_line
    assert "Traceback" not in done.output
    if output is not None:
        assert not output.exists() or not [path for path in output.rglob("*") if path.is_file()]


def empty_folder(root: Path) -> tuple[str, ...]:
    shutil.rmtree(root)
    root.mkdir()
    return (str(root),)


def category_without_defects(root: Path) -> tuple[str, ...]:
    category = next(path for path in sorted(root.iterdir()) if path.is_dir())
    for folder in (category / "test").iterdir():
        if folder.name != "good":
            shutil.rmtree(folder)
    return (category.name,)


def unreadable_png(root: Path) -> tuple[str, ...]:
    image = next(root.glob("*/test/good/*.png"))
    image.write_bytes(image.read_bytes()[:200])
    return (str(image), "1 of ")


def mask_of_another_size(root: Path) -> tuple[str, ...]:
    mask = next(root.glob("*/ground_truth/*/*_mask.png"))
    Image.open(mask).resize((10, 20)).save(mask)
    return (str(mask), "10", "20")


def missing_mask(root: Path) -> tuple[str, ...]:
    mask = next(root.glob("*/ground_truth/*/*_mask.png"))
    mask.unlink()
    return (mask.name.removesuffix("_mask.png") + ".png", "mask")


@pytest.mark.parametrize("damage", [empty_folder, category_without_defects, missing_mask])
def test_bad_folders(damage: Callable[[Path], tuple[str, ...]], own_mvtec: Path, tmp_path: Path) -> None:
    named = damage(own_mvtec)
    done = run_here("--data.root", str(own_mvtec), *SMALL_RUN, "--output", str(tmp_path / "out"))
    is_clear(done, *named, output=tmp_path / "out")


def test_an_unknown_category_is_named_with_those_there_are(small_mvtec: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    done = run_here(
        "--data.root", str(small_mvtec), "--data.categories", "skrew", *SMALL_RUN, "--output", str(output)
    )  # fmt: skip
    is_clear(done, "skrew", "capsule", "tile", output=output)


def test_an_output_under_a_file(small_mvtec: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    done = run_here("--data.root", str(small_mvtec), *SMALL_RUN, "--output", str(tmp_path / "file" / "out"))
    is_clear(done, str(tmp_path / "file"))
    assert (tmp_path / "file").read_text() == "mine"


def test_an_output_that_is_forbidden(small_mvtec: Path, bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (bucket.env | {"AWS_SECRET_ACCESS_KEY": "not-the-key"}).items():
        monkeypatch.setenv(name, value)
    done = run_here("--data.root", str(small_mvtec), *SMALL_RUN, "--output", f"{bucket.uri}/out")
    is_clear(done, f"{bucket.uri}/out", "refused the credentials", output=bucket.path / "out")
    assert "not-the-key" not in done.output


def test_an_object_storage_that_does_not_answer(
    small_mvtec: Path, bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        endpoint = f"http://127.0.0.1:{unused.getsockname()[1]}"
        for name, value in (bucket.env | {"AWS_ENDPOINT_URL": endpoint}).items():
            monkeypatch.setenv(name, value)
        done = run_here("--data.root", str(small_mvtec), *SMALL_RUN, "--output", "s3://runs/out")
    is_clear(done, "s3://runs/out", endpoint)


@pytest.mark.parametrize("job", ["finetune.py", "score.py"])
def test_the_endpoint_of_one_job_is_asked_from_its_first_look_on(
    job: str, small_mvtec: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9/not-this-one")
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        endpoint = f"http://127.0.0.1:{unused.getsockname()[1]}"
        more = {
            "finetune.py": ("--data.root", str(small_mvtec), *SMALL_RUN, "--output", "s3://runs/out"),
            "score.py": ("--bundle", "s3://runs/bundle", "--archive", str(small_mvtec), "--output", str(tmp_path)),
        }
        done = run_here(*more[job], "--cluster.storage_endpoint", endpoint, job=job)
    is_clear(done, "s3://runs/", endpoint)


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        (("--model.backbone", "ViT-B-23"), "ViT-B-23"),
        (("--model.pretrained", "opanai"), "opanai"),
        (("--model.image_size", "65"), "65"),
        (("--model.tap_blocks", "3,12"), "12"),
    ],
)
def test_a_field_that_does_not_fit_the_backbone(
    flags: tuple[str, ...], named: str, small_mvtec: Path, tmp_path: Path
) -> None:
    done = run_here("--data.root", str(small_mvtec), *SMALL_RUN, "--output", str(tmp_path / "out"), *flags)
    is_clear(done, named, output=tmp_path / "out", code=2)


@pytest.mark.parametrize("damage", [unreadable_png, mask_of_another_size])
@pytest.mark.usefixtures("local_ray")
def test_bad_images(damage: Callable[[Path], tuple[str, ...]], own_mvtec: Path, tmp_path: Path) -> None:
    named = damage(own_mvtec)
    done = run_here("--data.root", str(own_mvtec), *SMALL_RUN, "--output", str(tmp_path / "out"))
    is_clear(done, *named, output=tmp_path / "out")


@pytest.mark.usefixtures("local_ray")
def test_more_gpus_than_there_are(small_mvtec: Path, tmp_path: Path) -> None:
    done = run_here(
        "--data.root", str(small_mvtec), *SMALL_RUN, "--output", str(tmp_path / "out"),
        "--cluster.use_gpu", "true", "--cluster.num_workers", "4", "--optim.batch_size", "64",
    )  # fmt: skip
    is_clear(done, "cluster.num_workers=4", output=tmp_path / "out", code=2)


def test_a_submitted_job_refuses_a_relative_path(
    small_mvtec: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It runs in an unpacked copy of the working directory that is deleted afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(JOB_VARIABLE, "{}")
    done = run_here("--data.root", str(small_mvtec), *SMALL_RUN, "--output", "runs/lost")
    is_clear(done, "output is the relative path 'runs/lost'", "give an absolute path", output=tmp_path / "runs", code=2)
