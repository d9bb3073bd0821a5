"""The config of a sweep: flags without a value, the protocol that it needs, and what it resumes with."""

import dataclasses
import inspect
from pathlib import Path

import pyarrow as pa
import pytest

from feclip.cli import parse_config
from feclip.config import Protocol, SweepConfig, TuneConfig
from feclip.errors import RunError
from feclip.tuning import SearchSpace, SweepClaim, parse_space, resumed_config

SPACE = parse_space({"loss.focal_gamma": {"uniform": [0, 4]}}, name="example", where="-")
IMAGES = pa.table(
    {"uri": ["/data/a.png"], "split": ["train"], "sha256": ["0" * 64], "mask_digest": pa.array(["0" * 64])}
)


def parse(*flags: str) -> TuneConfig:
    return parse_config(TuneConfig, list(flags), prog="tune.py", about="About the job.")


def test_a_flag_of_a_truth_needs_no_value() -> None:
    assert parse("--output", "/out", "--resume").resume
    assert parse("--resume", "--output", "/out").resume
    assert parse("--resume", "true", "--output", "/out").resume
    given = parse("--refit", "--output", "/out", "--space", "s.yaml", "--data.root", "/data", "--cluster.use_gpu")
    assert (given.refit, given.resume, given.cluster.use_gpu) == (True, False, True)
    assert not parse("--refit", "false", "--output", "/out", "--resume").refit
    with pytest.raises(SystemExit):
        parse("--resume", "perhaps", "--output", "/out")


def test_a_sweep_holds_images_out_without_being_told(tmp_path: Path) -> None:
    flags = ("--output", "/out", "--space", "s.yaml")
    assert parse(*flags, "--data.root", "/data").data.protocol == Protocol.b
    file = tmp_path / "sweep.yaml"
    file.write_text("data:\n  root: /data\n  categories: screw\nspace: s.yaml\noutput: /out\n")
    assert parse("--config", str(file)).data.protocol == Protocol.b
    assert parse(*flags, "--data.root", "/data").num_trials == 20
    assert parse(*flags, "--data.root", "/data").finetune().output == "/out/bundle"


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ((), "space is required"),
        (("--space", "s.yaml"), "data.root or data.manifest is required"),
        (("--space", "s.yaml", "--data.root", "/data", "--data.protocol", "a"), "data.protocol must be b for a sweep"),
        (("--space", "s.yaml", "--data.root", "/data", "--optim.epochs", "0"), "optim.epochs must be at least 1"),
        (("--space", "s.yaml", "--data.root", "/data", "--num_trials", "0"), "num_trials must be at least 1"),
        (("--tune.gpus_per_trial", "1.5"), "tune.gpus_per_trial must be a whole number of at least 0, or a share"),
        (("--tune.reduction_factor", "1"), "tune.reduction_factor must be above 1"),
        (("--tune.image_auroc_weight", "0", "--tune.aupro_weight", "0"), "must not both be 0"),
        (("--tune.search", "grid"), "tune.search"),
    ],
)
def test_what_no_sweep_can_be_is_one_line(
    flags: tuple[str, ...], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        parse("--output", "/out", *flags)
    assert stop.value.code == 2
    message = capsys.readouterr().err
    assert said in message
    assert message.count("\n") == 1


@pytest.fixture
def claimed(tmp_path: Path) -> tuple[str, SearchSpace]:
    """Output of a sweep of eight trials that has begun."""
    output = str(tmp_path / "sweep")
    config = parse(
        "--output", output, "--space", "s.yaml", "--data.root", "/data", "--num_trials", "8", "--optim.epochs", "2"
    )  # fmt: skip
    SweepClaim.of(config, space=SPACE).take(IMAGES)
    return output, SPACE


def test_a_resumed_sweep_is_the_recorded_one_with_what_may_change(claimed: tuple[str, SearchSpace]) -> None:
    output, space = claimed
    config, read = resumed_config(parse("--output", output, "--resume"))
    assert read == space
    assert (config.num_trials, config.optim.epochs, config.data.root, config.resume) == (8, 2, "/data", False)
    more = ("--num_trials", "12", "--refit", "--cluster.num_workers", "2", "--tune.max_concurrent", "3")
    config, read = resumed_config(parse("--output", output, "--resume", *more))
    assert (config.num_trials, config.refit, config.cluster.num_workers, config.tune.max_concurrent) == (12, True, 2, 3)
    claim = SweepClaim.of(config, space=read)
    claim.take(IMAGES)
    assert resumed_config(parse("--output", output, "--resume"))[0].num_trials == 12
    with pytest.raises(RunError, match="sweep of 12 trials"):
        SweepClaim.of(resumed_config(parse("--output", output, "--resume", "--num_trials", "9"))[0], space=read)


def test_a_resumed_sweep_refuses_what_may_not_change(claimed: tuple[str, SearchSpace]) -> None:
    output, _ = claimed
    with pytest.raises(RunError, match=r"loss\.dice_weight was 1\.0, now 2\.0"):
        resumed_config(parse("--output", output, "--resume", "--loss.dice_weight", "2"))
    same = parse("--output", output, "--resume", "--optim.epochs", "2")
    assert resumed_config(same)[0].optim.epochs == 2


@pytest.mark.parametrize("column", ["sha256", "mask_digest"])
def test_other_images_and_masks_are_refused(column: str, claimed: tuple[str, SearchSpace]) -> None:
    output, space = claimed
    config, _ = resumed_config(parse("--output", output, "--resume"))
    other = IMAGES.set_column(IMAGES.schema.get_field_index(column), column, pa.array(["1" * 64]))
    with pytest.raises(RunError, match=r"1 images differ from those the run began with, first /data/a\.png"):
        SweepClaim.of(config, space=space).take(other)


@pytest.mark.parametrize("content", ["", "{}", '{"schema": 2, "config": {}, "space": {"name": "a", "fields": {}}}'])
def test_a_record_of_another_make_is_named(content: str, claimed: tuple[str, SearchSpace]) -> None:
    output, _ = claimed
    (Path(output) / "_sweep" / "sweep.json").write_text(content)
    with pytest.raises(RunError, match=r"sweep\.json"):
        resumed_config(parse("--output", output, "--resume"))


def test_every_field_says_what_it_is() -> None:
    for config in (SweepConfig, TuneConfig):
        body = inspect.getsource(config).split("def __post_init__")[0]
        for field in dataclasses.fields(config):
            assert '"""' in body.split(f"    {field.name}: ")[1].split("\n")[1], field.name
