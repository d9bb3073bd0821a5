"""Search spaces: what is read, what is refused and how it is said."""

from pathlib import Path

import pytest
import yaml

from feclip.config import DataConfig, FinetuneConfig, ModelConfig, Protocol, flat_fields, plain
from feclip.errors import ConfigError
from feclip.tuning import SEARCHABLE_FIELDS, fitted_space, parse_space, read_space, with_values

SPACES = sorted((Path(__file__).parents[2] / "tune_spaces").glob("*.yaml"))


def run_config(**model: object) -> FinetuneConfig:
    data = DataConfig(root="/data", protocol=Protocol.b)
    return FinetuneConfig(output="/out", data=data, model=ModelConfig(**{"backbone": "feclip-demo", **model}))  # type: ignore[arg-type]


def test_the_documented_spaces_are_shipped() -> None:
    assert [path.stem for path in SPACES] == ["adapters", "full", "losses", "padding_and_statistic", "smoke"]


@pytest.mark.parametrize("path", SPACES, ids=lambda path: path.stem)
@pytest.mark.parametrize("backbone", ["feclip-demo", "ViT-L-14-336"])
def test_every_shipped_space_loads_and_fits_its_backbone(path: Path, backbone: str) -> None:
    """A misspelt key fails here, not after an hour on a cluster."""
    space = read_space(str(path))
    known = dict(flat_fields(plain(run_config())))
    assert set(space.fields) <= known.keys()
    assert set(space.fields) <= set(SEARCHABLE_FIELDS)
    fitted = fitted_space(space, run_config(backbone=backbone, pretrained=None), where=str(path))
    assert parse_space(fitted.plain(), name=space.name, where="-") == fitted


def test_what_the_issue_names_is_searched() -> None:
    fields = {path.stem: set(read_space(str(path)).fields) for path in SPACES}
    adapters = {"model.ffe_window_size", "model.lfs_window_size", "model.num_taps", "model.fusion_weight"}
    losses = {"loss.focal_weight", "loss.dice_weight", "loss.focal_gamma", "loss.focal_alpha"}
    assert fields["adapters"] == adapters
    assert fields["losses"] == losses
    assert fields["full"] == adapters | losses | {"loss.class_weight"}
    assert fields["padding_and_statistic"] == {"model.padding", "model.lfs_statistic"}


def test_taps_are_bounded_by_the_backbone_and_it_is_said(caplog: pytest.LogCaptureFixture) -> None:
    space = parse_space({"model.num_taps": {"int": [1, 8], "bounded_by": "blocks"}}, name="s", where="s.yaml")
    caplog.set_level("INFO")
    assert fitted_space(space, run_config(), where="s.yaml").dimensions[0].values == (1, 6)
    assert "model.num_taps goes to 6" in caplog.text
    large = fitted_space(space, run_config(backbone="ViT-L-14-336", pretrained=None), where="s.yaml")
    assert large.dimensions[0].values == (1, 8)
    high = parse_space({"model.num_taps": {"int": [7, 9], "bounded_by": "blocks"}}, name="s", where="s.yaml")
    with pytest.raises(ConfigError, match="starts at 7, but the backbone has 6 blocks"):
        fitted_space(high, run_config(), where="s.yaml")


REFUSED: list[tuple[object, str]] = [
    ({}, "must hold fields and distributions"),
    (["model.fusion_weight"], "must hold fields and distributions"),
    ({"model.fusion_wieght": {"uniform": [0, 1]}}, "no config field; did you mean model.fusion_weight"),
    ({"optim.lr": {"uniform": [0, 1]}}, "optim.lr is no config field"),
    ({"seed": {"int": [0, 4]}}, "seed cannot be searched"),
    ({"output": {"choice": ["a", "b"]}}, "output cannot be searched"),
    ({"data.resize": {"choice": ["letterbox", "squash"]}}, "data.resize cannot be searched"),
    ({"cluster.num_workers": {"int": [1, 2]}}, "cluster.num_workers cannot be searched"),
    ({"optim.epochs": {"int": [1, 2]}}, "optim.epochs cannot be searched: trials are compared after the same number"),
    ({"optim.patience": {"int": [1, 2]}}, "optim.patience cannot be searched: it ends the tuning of a parent"),
    ({"guard.fail_if_worse": {"choice": [True, False]}}, "guard.fail_if_worse cannot be searched"),
    ({"model.backbone": {"choice": ["ViT-B-16"]}}, "model.backbone cannot be searched"),
    ({"model.fusion_weight": 0.1}, "must name one distribution of uniform, loguniform, int, choice"),
    ({"model.fusion_weight": {"normal": [0, 1]}}, "must name one distribution"),
    ({"model.fusion_weight": {"uniform": [0, 1], "choice": [0.1]}}, "must name one distribution"),
    ({"model.fusion_weight": {"uniform": [0, 1], "step": 0.1}}, "must name one distribution"),
    ({"model.fusion_weight": {"uniform": 0.5}}, "uniform takes a list"),
    ({"model.fusion_weight": {"uniform": [1, 0]}}, "two ends, the lower first"),
    ({"model.fusion_weight": {"uniform": [0.1, 0.1]}}, "two ends, the lower first"),
    ({"model.fusion_weight": {"uniform": [0, 1, 2]}}, "two ends, the lower first"),
    ({"model.fusion_weight": {"uniform": [0, "much"]}}, "finite numbers, got 'much'"),
    ({"model.fusion_weight": {"uniform": [0, float("nan")]}}, "finite numbers"),
    ({"model.fusion_weight": {"uniform": [False, True]}}, "finite numbers, got False"),
    ({"model.fusion_weight": {"loguniform": [0, 1]}}, "loguniform needs a lower end above 0"),
    ({"model.num_taps": {"int": [1.0, 2]}}, "int takes whole numbers, got 1.0"),
    ({"model.num_taps": {"int": [1, 2], "bounded_by": "layers"}}, "bounded_by is known as 'blocks'"),
    ({"model.ffe_window_size": {"int": [1, 2], "bounded_by": "blocks"}}, "bounded_by is known as 'blocks'"),
    ({"model.padding": {"choice": []}}, "choice takes"),
    ({"model.tap_blocks": {"choice": [[1, 2]]}}, "lists as text"),
    ({"model.padding": {"choice": ["masked", "masked"]}}, "names a value twice"),
]


@pytest.mark.parametrize(("content", "said"), REFUSED, ids=lambda value: str(value)[:50])
def test_what_is_wrong_with_a_space_is_said_with_its_file_and_key(content: object, said: str, tmp_path: Path) -> None:
    file = tmp_path / "space.yaml"
    file.write_text(yaml.safe_dump(content))
    with pytest.raises(ConfigError) as error:
        read_space(str(file))
    assert str(error.value).startswith(str(file))
    assert said in str(error.value)
    if isinstance(content, dict) and content:
        assert next(iter(content)) in str(error.value)


def test_what_is_no_yaml_or_names_a_key_twice_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "space.yaml"
    for text, said in (
        ("loss.focal_gamma: {uniform: [0, 4]", "no search space"),
        ("loss.focal_gamma: {uniform: [0, 4]}\nloss.focal_gamma: {uniform: [0, 2]}\n", "loss.focal_gamma stands"),
        ("loss.focal_gamma: !!python/object:os.system {}\n", "no search space"),
    ):
        file.write_text(text)
        with pytest.raises(ConfigError, match=said):
            read_space(str(file))


UNFIT: list[tuple[dict[str, object], dict[str, object], str]] = [
    ({"model.fusion_weight": {"uniform": [0, 1.5]}}, {}, "model.fusion_weight cannot be 1.5"),
    ({"model.ffe_window_size": {"uniform": [2, 5]}}, {}, "model.ffe_window_size cannot be 2.0"),
    ({"model.ffe_window_size": {"int": [0, 5]}}, {}, "model.ffe_window_size must be at least 1"),
    ({"model.lfs_kernel_size": {"choice": [3, 4]}}, {}, "must be odd"),
    ({"model.padding": {"choice": ["masked", "mirror"]}}, {}, "model.padding cannot be 'mirror'"),
    ({"model.use_ffe": {"choice": [True, "perhaps"]}}, {}, "model.use_ffe cannot be 'perhaps'"),
    ({"model.num_taps": {"int": [1, 8]}}, {}, "model.num_taps cannot be 8"),
    ({"model.tap_blocks": {"choice": ["2,5", "5,2"]}}, {}, "model.tap_blocks cannot be '5,2'"),
    ({"model.num_taps": {"int": [1, 4]}}, {"tap_blocks": (2, 5)}, "no effect beside model.tap_blocks"),
    (
        {"model.num_taps": {"int": [1, 4]}, "model.tap_blocks": {"choice": ["2,5"]}},
        {},
        "no effect beside model.tap_blocks",
    ),
]


@pytest.mark.parametrize(("content", "model", "said"), UNFIT, ids=lambda value: str(value)[:50])
def test_a_distribution_that_reaches_an_invalid_value_is_refused(
    content: dict[str, object], model: dict[str, object], said: str
) -> None:
    space = parse_space(content, name="s", where="s.yaml")
    with pytest.raises(ConfigError) as error:
        fitted_space(space, run_config(**model), where="s.yaml")
    assert str(error.value).startswith("s.yaml: ")
    assert said in str(error.value)


def test_yaml_takes_1e_3_for_text_and_the_reader_for_a_number() -> None:
    space = parse_space(yaml.safe_load("optim.learning_rate: {loguniform: [1e-4, 1e-2]}"), name="s", where="s.yaml")
    assert space.dimensions[0].values == (1e-4, 1e-2)


def test_values_are_read_as_flags_are() -> None:
    config = with_values(run_config(), {"model.tap_blocks": "3,4,5", "model.use_lfs": False, "loss.focal_gamma": 1})
    assert config.model.tap_blocks == (3, 4, 5)
    assert config.model.use_lfs is False
    assert config.loss.focal_gamma == 1.0
    assert with_values(run_config(), {}) == run_config()
    with pytest.raises(ConfigError, match=r"model\.taps is no config field"):
        with_values(run_config(), {"model.taps": 1})
