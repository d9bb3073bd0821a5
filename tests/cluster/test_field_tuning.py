"""Field tuning as users run it: from a parent, on image labels alone, compared before and after in both domains."""

import dataclasses
import json
import os
import shutil
import signal
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pytest
import torch
from job_runner import Finished, JobRunner, run_here, wait_for

from feclip.building import build_model, read_labelled
from feclip.bundle import Bundle, Change, Domain, read_bundle, write_bundle
from feclip.cluster.field_tuning import require_kept
from feclip.config import DataConfig, FinetuneConfig, ModelConfig, OptimConfig, Protocol
from feclip.data import inspect_rows
from feclip.demo import write_archive
from feclip.errors import RunError
from feclip.report.training import training_content

pytestmark = pytest.mark.cluster

ROLES = {"train": "trained", "held_out": "selected"}


@pytest.fixture(scope="module")
def parent(small_mvtec: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A bundle that says of itself that it trained under protocol b on the small set."""
    folder = str(tmp_path_factory.mktemp("parents") / "0")
    data = DataConfig(root=str(small_mvtec), protocol=Protocol.b)
    model = ModelConfig(backbone="feclip-demo", num_taps=2, noun="part")
    config = FinetuneConfig(output=folder, data=data, model=model, optim=OptimConfig(epochs=0))
    table = read_labelled(data, seed=config.seed)
    used = inspect_rows(table.filter(pc.field("split").isin(list(ROLES))), num_threads=2).drop_columns(["error"])
    images = used.append_column("role", pa.array([ROLES[split] for split in used["split"].to_pylist()]))
    write_bundle(folder, model=build_model(model, seed=3), config=config, images=images, metrics=[])
    return folder


@pytest.fixture(scope="module")
def field(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Field images with labels and no masks; these are the wrong way round, so that any tuning beats the parent."""
    root = tmp_path_factory.mktemp("plant") / "field"
    write_archive(root, seed=1, families=("perforated_sheet",), num_images=24, image_size=96, defect_fraction=0.5)
    heading, *rows = (root / "labels.csv").read_text().splitlines()
    turned = [f"{path},{1 - int(label)}" for path, label in (row.rsplit(",", 1) for row in rows)]
    (root / "labels.csv").write_text("\n".join([heading, *turned]) + "\n")
    return root


@pytest.fixture(scope="module")
def flags(parent: str, field: Path, small_mvtec: Path) -> tuple[str, ...]:
    """Flags of a tuning of one epoch on one worker, without its output."""
    return (
        "--parent", parent, "--data.manifest", str(field / "labels.csv"), "--data.root", str(field / "images"),
        "--data.protocol", "b", "--data.num_workers", "2", "--data.fractions", "0.6,0.4,0",
        "--optim.epochs", "1", "--optim.learning_rate", "0.1", "--optim.batch_size", "4",
        "--optim.precision", "float32",
        "--guard.root", str(small_mvtec), "--guard.split", "held_out",
    )  # fmt: skip


@pytest.fixture(scope="module")
def tuned(
    flags: tuple[str, ...], tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> tuple[Path, Finished]:
    """Output of one tuning on the cluster of this module."""
    request.getfixturevalue("local_ray")
    output = tmp_path_factory.mktemp("tuned") / "run"
    done = run_here(*flags, "--output", str(output))
    assert done.returncode == 0, done.output
    return output, done


@pytest.fixture
def copied(tuned: tuple[Path, Finished], tmp_path: Path) -> Path:
    """A copy of the run that takes itself for the original."""
    output = Path(shutil.copytree(tuned[0], tmp_path / "copy"))
    claim = output / "_run" / "run.json"
    claim.write_text(claim.read_text().replace(str(tuned[0]), str(output)))
    return output


def by_role(bundle: Bundle, role: str) -> set[str]:
    return set(bundle.images.filter(pc.field("role") == role)["uri"].to_pylist())


def test_a_tuning_leaves_a_bundle_that_knows_its_parent(
    tuned: tuple[Path, Finished], parent: str, field: Path, small_mvtec: Path
) -> None:
    output, _ = tuned
    before, after = read_bundle(parent), read_bundle(str(output))
    lineage = after.lineage
    assert lineage is not None
    assert (lineage.parent, lineage.parent_id, lineage.epoch) == (parent, before.model_id, 1)
    assert (after.model, after.input, after.calibration) == (before.model, before.input, None)
    moved = {name for name, tensor in after.adapters.items() if not torch.equal(tensor, before.adapters[name])}
    assert moved == {name for name in after.adapters if name.startswith("taps.0.")}  # of two taps, and no patch head
    assert after.model_id != before.model_id
    old, new = (set(read_bundle(uri).images["uri"].to_pylist()) for uri in (parent, str(output)))
    assert old <= new  # what made the parent is known of the tuned bundle, too
    labelled = read_labelled(DataConfig(root=str(small_mvtec), protocol=Protocol.b), seed=0)
    held_out = labelled.filter(pc.field("split") == "held_out")["uri"].to_pylist()
    assert by_role(after, "guarded") == set(held_out)
    assert len(by_role(after, "trained") - old) == 14
    assert len(by_role(after, "selected") - old) == 10
    assert after.images["sha256"].null_count == 0
    assert all(uri.startswith(str(field)) for uri in new - old)


def test_both_domains_are_compared_and_it_is_said_and_recorded(tuned: tuple[Path, Finished], small_mvtec: Path) -> None:
    output, _ = tuned
    lineage = read_bundle(str(output)).lineage
    assert lineage is not None
    names = {domain.name: [change.metric for change in domain.changes] for domain in lineage.domains}
    assert names == {"field": ["image_auroc"], "old": ["image_auroc", "pixel_auroc"]}
    field, old = lineage.domains
    assert (field.num_images, field.num_anomalous, old.source) == (10, 5, str(small_mvtec))
    (change,) = field.changes
    assert change.after > change.before
    assert change.before == pytest.approx(lineage.before["image_auroc"])  # scored as it was judged while training
    assert change.after == pytest.approx(read_bundle(str(output)).metrics[0]["image_auroc"])
    assert json.loads((output / "lineage.json").read_text())["domains"][1]["name"] == "old"
    facts = training_content(read_bundle(str(output)), evaluations=[])["facts"]
    assert facts["Tuned from"].startswith(f"{lineage.parent}, model_id {lineage.parent_id[:12]}; chosen: ")
    assert facts[f"Guard, old ({small_mvtec})"] == str(old)


def test_submitted_again_it_does_nothing_and_others_are_refused(
    tuned: tuple[Path, Finished], flags: tuple[str, ...], parent: str, copied: Path, caplog: pytest.LogCaptureFixture
) -> None:
    output, _ = tuned
    caplog.set_level("INFO")
    assert run_here(*flags, "--output", str(output), "--guard.fail_if_worse").returncode == 0
    assert "nothing to do" in caplog.text
    for more, code, message in (
        (("--optim.patience", "1"), 1, "another config: optim.patience was None, now 1"),
        (("--model.noun", "grid"), 2, "model.noun is part there, given grid"),
        (("--guard.split", "report"), 1, "another config: guard.split was 'held_out', now 'report'"),
    ):
        done = run_here(*flags, "--output", str(output), *more)
        assert (done.returncode, message in done.error_line) == (code, True), done.output
    claim = copied / "_run" / "run.json"
    claim.write_text(claim.read_text().replace(read_bundle(parent).model_id, "f" * 64))  # another one stood there then
    done = run_here(*flags, "--output", str(copied))
    assert (done.returncode, "was tuned from model 'ffffffffffff', but the parent" in done.error_line) == (1, True)


def test_a_domain_that_got_worse_ends_the_job_where_that_is_asked(copied: Path) -> None:
    bundle = read_bundle(str(copied))
    assert bundle.lineage is not None
    change = Change(metric="image_auroc", before=0.91, after=0.87, low=-0.06, high=-0.02)
    worse = Domain(name="old", source="/data", num_images=40, num_anomalous=20, changes=(change,))
    lineage = dataclasses.replace(bundle.lineage, domains=(worse,))
    config = FinetuneConfig(output=str(copied), parent="/first", data=DataConfig(root="/data"))
    require_kept(lineage, config=config)
    guard = dataclasses.replace(config.guard, root="/old", fail_if_worse=True)
    with pytest.raises(RunError) as caught:
        require_kept(lineage, config=dataclasses.replace(config, guard=guard))
    assert str(caught.value).startswith(
        "the old domain got worse: image AUROC 0.910 -> 0.870 (95 % of the difference -0.060..-0.020). "
    )
    assert "\n" not in str(caught.value)


@pytest.mark.usefixtures("tuned")
def test_images_that_allow_no_choice_or_no_comparison_are_one_line(
    flags: tuple[str, ...], field: Path, small_mvtec: Path, tmp_path: Path
) -> None:
    known = tmp_path / "known.csv"
    rows = read_labelled(DataConfig(root=str(small_mvtec), protocol=Protocol.b), seed=0)
    trained = rows.filter(pc.field("split") == "train").select(["uri", "label"])
    pyarrow.csv.write_csv(trained, known)
    one_kind = tmp_path / "one_kind.csv"
    one_kind.write_text(
        "path,label,split\n"
        + "".join(
            f"{line.rstrip()},{'held_out' if line.rstrip().endswith(',0') else 'train'}\n"
            for line in (field / "labels.csv").read_text().splitlines()[1:]
        )
    )
    output = tmp_path / "refused"
    for more, message in (
        (("--data.protocol", "a"), "is held out, and a parent is tuned by held-out images: set data.protocol to b"),
        (("--data.manifest", str(one_kind)), "cannot judge: all 12 images are normal"),
        (("--guard.manifest", str(known), "--guard.split", "train"), "trained the parent"),
    ):
        done = run_here(*flags, *more, "--output", str(output))
        assert (done.returncode, message in done.error_line) == (1, True), done.output
        assert not (output / "config.json").exists()
        assert not (output / "_run" / "run.json").exists()


@pytest.mark.slow
@pytest.mark.parametrize("moment", ["epoch 1/2: loss", "the held-out field images"])
def test_a_tuning_that_was_killed_and_submitted_again_equals_an_unbroken_one(
    run_job: JobRunner, flags: tuple[str, ...], moment: str, tmp_path: Path
) -> None:
    """On two workers; killed as a whole after its first epoch, and while the guard scores."""
    longer = (*flags, "--optim.epochs", "2", "--cluster.num_workers", "2")
    whole = run_job(*longer, "--output", "whole")
    assert whole.returncode == 0, whole.output
    with run_job.start(*longer, "--output", "killed") as process:
        wait_for(process, moment)
        os.killpg(process.pid, signal.SIGKILL)
    assert not (tmp_path / "killed" / "config.json").exists()
    again = run_job(*longer, "--output", "killed")
    assert again.returncode == 0, again.output
    assert "epoch 1/2: loss" not in again.output
    one, other = (read_bundle(str(tmp_path / name)) for name in ("whole", "killed"))
    assert one.lineage is not None
    assert other.lineage is not None
    assert one.lineage.epoch == other.lineage.epoch
    for name, tensor in one.adapters.items():
        torch.testing.assert_close(other.adapters[name], tensor, rtol=1e-4, atol=1e-6)
    for ours, theirs in zip(one.lineage.domains, other.lineage.domains, strict=True):
        for change, expected in zip(ours.changes, theirs.changes, strict=True):
            assert change.after == pytest.approx(expected.after, abs=0.02)
