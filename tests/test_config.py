"""Config fields: what they accept, what they refuse and how it is said."""

import dataclasses
import inspect
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from jsonargparse import ArgumentParser, get_loader

from feclip.cli import parse_config
from feclip.config import (
    ClusterConfig,
    DataConfig,
    EvaluateConfig,
    FinetuneConfig,
    LossConfig,
    ModelConfig,
    OptimConfig,
    ScoreConfig,
    changed_fields,
    flat_fields,
    parse_fields,
    plain,
)

REPOSITORY = Path(__file__).parents[1]

# The public names of docs and search spaces; the defaults are the paper's or the guide's.
DEFAULTS = {
    "model.backbone": "ViT-L-14-336",
    "model.pretrained": "openai",
    "model.init_seed": 0,
    "model.image_size": 336,
    "model.num_taps": 4,
    "model.tap_blocks": None,
    "model.ffe_window_size": 3,
    "model.lfs_window_size": 3,
    "model.lfs_statistic": "signed",
    "model.lfs_kernel_size": 3,
    "model.fusion_weight": 0.1,
    "model.temperature": 0.07,
    "model.noun": "object",
    "model.nouns": None,
    "model.noun_column": "category",
    "model.prompts": "paper",
    "model.learned_vectors": 0,
    "model.padding": "masked",
    "model.use_ffe": True,
    "model.use_lfs": True,
    "data.root": "/data",
    "data.layout": "auto",
    "data.categories": None,
    "data.manifest": None,
    "data.resize": "letterbox",
    "data.padding_color": "white",
    "data.valid_region": "letterbox",
    "data.jpeg_decoding": "full",
    "data.protocol": "a",
    "data.fractions": [0.6, 0.2, 0.2],
    "data.group_column": None,
    "data.num_workers": 4,
    "loss.class_weight": 1.0,
    "loss.focal_weight": 1.0,
    "loss.dice_weight": 1.0,
    "loss.focal_gamma": 2.0,
    "loss.focal_alpha": 0.25,
    "optim.learning_rate": 5e-4,
    "optim.epochs": 9,
    "optim.patience": None,
    "optim.batch_size": 16,
    "optim.grad_clip": None,
    "optim.weight_decay": 0.0,
    "optim.precision": "auto",
    "optim.gradient_checkpointing": False,
    "optim.prefix_cache": "none",
    "optim.prefix_cache_folder": None,
    "guard.root": None,
    "guard.manifest": None,
    "guard.layout": "auto",
    "guard.categories": None,
    "guard.split": None,
    "guard.fail_if_worse": False,
    "cluster.num_workers": 1,
    "cluster.use_gpu": False,
    "cluster.max_failures": 3,
    "cluster.storage_endpoint": None,
    "cluster.storage_patience": 120.0,
    "seed": 0,
    "parent": None,
    "output": "/out",
}

WRONG_FLAGS = [
    (["--optim.lr", "1"], "--optim.lr"),
    (["--optim.epochs", "many"], "optim.epochs"),
    (["--optim.epochs", "-1"], "optim.epochs must be at least 0, got -1"),
    (["--optim.learning_rate", "nan"], "optim.learning_rate"),
    (["--optim.grad_clip", "0"], "optim.grad_clip"),
    (["--optim.batch_size", "2", "--cluster.num_workers", "3"], "optim.batch_size"),
    (["--optim.prefix_cache", "ram"], "optim.prefix_cache"),
    (["--optim.prefix_cache", "disk"], "optim.prefix_cache_folder must be a local folder"),
    (["--optim.prefix_cache", "disk", "--optim.prefix_cache_folder", "s3://a/b"], "got 's3://a/b'"),
    (["--optim.patience", "0", "--parent", "/first"], "optim.patience must be at least 1, got 0"),
    (["--optim.patience", "1"], "optim.patience is for the tuning of a parent"),
    (["--guard.root", "/old"], "guard is for the tuning of a parent"),
    (["--parent", "/out"], "parent must be a bundle in another place than output, got '/out'"),
    (["--parent", "/first", "--optim.epochs", "0"], "optim.epochs must be at least 1 where a parent is given, got 0"),
    (["--parent", "/first", "--guard.fail_if_worse"], "guard.root or guard.manifest is required"),
    (["--parent", "/first", "--guard.manifest", "a.csv", "--guard.layout", "visa"], "guard.layout is visa, but"),
    (["--parent", "s3://key:secret@a/b"], "must not hold credentials"),
    (["--model.padding", "none"], "model.padding"),
    (["--model.fusion_weight", "1.1"], "model.fusion_weight must be in [0, 1], got 1.1"),
    (["--model.lfs_kernel_size", "2"], "model.lfs_kernel_size"),
    (["--model.tap_blocks", "5,3"], "model.tap_blocks"),
    (["--model.tap_blocks", "5,x"], "model.tap_blocks"),
    (["--model.noun", " "], "model.noun"),
    (["--model.noun_column", " "], "model.noun_column must not be empty"),
    (["--model.nouns", "pcb1"], "model.nouns must be written group=noun, like pcb1=PCB"),
    (["--model.nouns", "pcb1=PCB,tile= "], "got 'tile='"),
    (["--model.nouns", "pcb1=PCB,pcb1=board"], "model.nouns names 'pcb1' twice"),
    (["--model.nouns", ",".join(f"{number}=PCB" for number in range(257))], "must name 1 to 256 groups, got 257"),
    (["--model.nouns", "a=" + "b" * 4096], "with 4096 characters at most; got 'a=bbb"),
    (["--model.prompts", "coop"], "model.prompts"),
    (["--model.learned_vectors", "-1"], "model.learned_vectors must be at least 0 and at most 63, got -1"),
    (["--model.learned_vectors", "8", "--model.nouns", "a=PCB"], "model.learned_vectors stand for the words of all"),
    (["--model.backbone", "feclip-demo", "--model.prompts", "winclip"], "model.prompts must be paper for feclip-demo"),
    (["--data.fractions", "0.5,0.6,0.1"], "data.fractions"),
    (["--data.fractions", "0,0.5,0.5"], "data.fractions"),
    (["--data.categories", "screw,,grid"], "data.categories"),
    (["--data.num_workers", "0"], "data.num_workers"),
    (["--loss.focal_alpha", "2"], "loss.focal_alpha"),
    (["--cluster.use_gpu", "maybe"], "cluster.use_gpu"),
    (["--seed", "-3"], "seed must be at least 0"),
    (["--config", "absent.yaml"], "absent.yaml"),
]


def parse(*flags: str) -> FinetuneConfig:
    return parse_config(
        FinetuneConfig, ["--data.root", "/data", "--output", "/out", *flags], prog="job", about="About the job."
    )


def test_fields_and_defaults_are_the_documented_ones() -> None:
    assert dict(flat_fields(plain(parse()))) == DEFAULTS


def test_every_field_says_what_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        parse("--print_config=comments")
    assert stop.value.code == 0
    lines = capsys.readouterr().out.splitlines()
    keys = [index for index, line in enumerate(lines) if line.strip() and not line.strip().startswith("#")]
    assert len(keys) >= len(DEFAULTS)
    undocumented = [lines[index] for index in keys if not lines[index - 1].strip().startswith("#")]
    assert [key.strip() for key in undocumented if not key.strip().endswith(":") or ":" not in key] == []
    for config in (ModelConfig, DataConfig, LossConfig, OptimConfig, ClusterConfig, FinetuneConfig):
        body = inspect.getsource(config).split("def __post_init__")[0]
        for field in dataclasses.fields(config):
            assert f"    {field.name}: " in body
            assert '"""' in body.split(f"    {field.name}: ")[1].split("\n")[1]


@pytest.mark.parametrize(
    ("flags", "named"), WRONG_FLAGS, ids=lambda value: " ".join(value) if isinstance(value, list) else ""
)
def test_a_wrong_flag_is_one_line_that_names_it_and_exit_code_2(
    flags: list[str], named: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        parse(*flags)
    assert stop.value.code == 2
    message = capsys.readouterr().err
    assert named in message
    assert message.count("\n") == 1


def test_a_missing_data_root_is_said_and_zero_epochs_need_none(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        parse_config(FinetuneConfig, ["--output", "/out"], prog="job", about="")
    assert stop.value.code == 2
    assert "data.root or data.manifest" in capsys.readouterr().err
    assert parse_config(FinetuneConfig, ["--output", "/out", "--optim.epochs", "0"], prog="job", about="").seed == 0


def test_flags_after_a_file_override_it(tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text("optim:\n  epochs: 4\ndata:\n  categories: [screw, grid]\nmodel:\n  tap_blocks: 1,3\n")
    config = parse("--config", str(file), "--optim.epochs", "5")
    assert config.optim.epochs == 5
    assert config.data.categories == ("screw", "grid")
    assert config.model.tap_blocks == (1, 3)


def test_nouns_are_a_mapping_in_a_file_and_their_order_says_nothing(tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text("model:\n  noun_column: line\n  nouns:\n    pcb1: PCB\n    3: magnetic tile\n")
    config = parse("--config", str(file)).model
    assert config.noun_by_group == {"3": "magnetic tile", "pcb1": "PCB"}
    given = parse("--model.noun_column", "line", "--model.nouns", "pcb1 = PCB, 3=magnetic tile").model
    assert given == config
    assert plain(config)["nouns"] == ["3=magnetic tile", "pcb1=PCB"]
    assert parse_fields(ModelConfig, plain(config)) == config


@pytest.mark.parametrize("nouns", ["a: [PCB]", "a: null", "a=b: PCB", "a: ''", "a: 'b, c'", "class_path: os.system"])
def test_nouns_that_are_none_are_one_line(nouns: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "run.yaml"
    file.write_text(f"model:\n  nouns:\n    {nouns}\n")
    if nouns.startswith("class_path"):  # a group like any other: nothing is imported
        assert parse("--config", str(file)).model.nouns == ("class_path=os.system",)
        return
    with pytest.raises(SystemExit) as stop:
        parse("--config", str(file))
    assert stop.value.code == 2
    message = capsys.readouterr().err
    assert "nouns" in message
    assert message.count("\n") == 1


def test_an_unknown_key_of_a_file_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "run.yaml"
    file.write_text("optim:\n  epoch: 4\n")
    with pytest.raises(SystemExit) as stop:
        parse("--config", str(file))
    assert stop.value.code == 2
    assert "epoch" in capsys.readouterr().err


def test_a_printed_config_can_be_read_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--model.tap_blocks", "2,7", "--data.categories", "a,b", "--data.fractions", "0.5,0.25,0.25"]
    flags += ["--model.nouns", "pcb1=PCB,tile=magnetic tile"]
    with pytest.raises(SystemExit):
        parse(*flags, "--print_config")
    file = tmp_path / "printed.yaml"
    file.write_text(capsys.readouterr().out)
    assert parse_config(FinetuneConfig, ["--config", str(file)], prog="job", about="") == parse(*flags)


@pytest.mark.parametrize("file", sorted((REPOSITORY / "configs").glob("*.yaml")), ids=lambda path: path.name)
def test_every_shipped_config_fits_its_job(file: Path) -> None:
    assert yaml.safe_load(file.read_text())
    assert parse_config(FinetuneConfig, ["--config", str(file)], prog="job", about="").output


def test_changed_fields_names_each_difference() -> None:
    before, after = plain(parse()), plain(parse("--seed", "1", "--model.tap_blocks", "1,2"))
    assert changed_fields(before, after) == {"seed": (0, 1), "model.tap_blocks": (None, [1, 2])}


def test_configs_are_frozen_and_keyword_only() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        LossConfig().dice_weight = 2.0  # type: ignore[misc]
    with pytest.raises(TypeError):
        LossConfig(1.0)  # type: ignore[misc]


def test_no_module_outside_the_cluster_room_loads_ray() -> None:
    files = sorted(path.relative_to(REPOSITORY) for path in (REPOSITORY / "feclip").rglob("*.py"))
    names = [".".join(path.with_suffix("").parts).removesuffix(".__init__") for path in files]
    others = ("feclip.cluster", "feclip.integrations.anomalib.")  # the latter need what CI does not install
    names = [name for name in names if not name.startswith(others) and not name.endswith("__main__")]
    assert len(names) > 30
    program = (
        f"import importlib, sys\nfor name in {names}: importlib.import_module(name)\n"
        "print([name for name in sys.modules if name == 'ray' or name.startswith('ray.')])\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_jobs_that_build_no_model_and_their_workers_start_light() -> None:
    """Each import is paid by every worker of every job (docs/adr/0020)."""
    names = [f"feclip.cluster.{job}" for job in ("calibrate", "decide", "listing", "score")]
    program = (
        f"import importlib, sys\nfor name in {names}: importlib.import_module(name)\n"
        "print([name for name in ('torch', 'open_clip', 'torchvision', 'ray.tune', 'optuna') if name in sys.modules])\n"
        "import feclip.cluster.evaluate\n"
        "print([name for name in ('open_clip', 'torchvision', 'ray.tune', 'optuna') if name in sys.modules])\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["[]", "[]"]


@pytest.mark.parametrize(("flags", "allowed"), [((), False), (("",), True), (("true",), True), (("false",), False)])
def test_a_lone_flag_of_a_yes_or_no_is_yes(flags: tuple[str, ...], allowed: bool) -> None:
    told = ["--allow_trained_images", *filter(None, flags)] if flags else []
    argv = [*told, "--bundle", "/a,/b", "--data.root", "/data"]
    assert parse_config(EvaluateConfig, argv, prog="evaluate.py", about="").allow_trained_images is allowed


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--bundle", "/a"), "data.root or data.manifest is required"),
        (("--bundle", "/a,/a", "--data.root", "/d"), "bundle names one bundle twice"),
        (("--bundle", "/a", "--data.root", "/d", "--preset", "peers"), "preset must be one of feclip, community-518"),
        (("--bundle", "/a", "--data.root", "/d", "--score.columns", "size"), "score.columns must be null"),
        (("--bundle", "/a", "--data.manifest", "/m", "--data.layout", "visa"), "leave one of them out"),
        (
            ("--bundle", "/a", "--data.root", "/d", "--data.fractions", "0.5,0.2,0.2"),
            "shares (train, held_out, report)",
        ),
    ],
)
def test_evaluations_that_cannot_be_are_told_at_the_door(
    flags: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        parse_config(EvaluateConfig, flags, prog="evaluate.py", about="")
    told = capsys.readouterr().err
    assert stopped.value.code == 2
    assert message in told
    assert told.count("\n") == 1


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("nvjpeg",), "score.jpeg_decoder=nvjpeg decodes on the actors' GPUs: set score.gpus_per_actor above 0."),
        (("nvjpeg", "--score.gpus_per_actor", "0.5", "--plan"), "plan with score.jpeg_decoder=pillow"),
        (("pillow", "--score.threads_per_actor", "0"), "score.threads_per_actor must be at least 1, got 0"),
        (("pillow", "--score.threads_per_actor", "2", "--plan"), "score.threads_per_actor must be 1, got 2"),
    ],
)
def test_what_actors_and_plans_cannot_do_is_told_at_the_door(
    flags: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ("--bundle", "/a", "--output", "/o", "--archive", "/i", "--score.jpeg_decoder", *flags)
    with pytest.raises(SystemExit) as stopped:
        parse_config(ScoreConfig, given, prog="score.py", about="")
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err


class Painter:
    """A class that a program of someone else names in its own configs."""


def test_reading_a_config_leaves_the_parsers_of_a_program_that_calls_us_alone() -> None:
    named = {"painter": {"class_path": f"{__name__}.Painter"}}
    theirs = ArgumentParser(exit_on_error=False)
    theirs.add_argument("--painter", type=Painter)
    loader = get_loader("yaml")
    with pytest.raises(ValueError, match="class_path"):
        parse_fields(ModelConfig, {"backbone": named["painter"]})
    assert get_loader("yaml") is loader
    assert isinstance(theirs.instantiate(theirs.parse_object(named)).painter, Painter)
