"""From a config to a model: what is left open is settled, and the demonstration backbone needs no download."""

import re

import pytest
import torch

from feclip.building import build_model, check_model
from feclip.cli import parse_config
from feclip.config import DEMO_BACKBONE, DEMO_DEFAULTS, FinetuneConfig, ModelConfig
from feclip.demo import backbone as demo
from feclip.errors import ConfigError
from feclip.model.backbone import load_backbone


def test_a_model_is_the_papers_where_nothing_is_said() -> None:
    config = ModelConfig().settled()
    assert (config.backbone, config.pretrained, config.image_size) == ("ViT-L-14-336", "openai", 336)


def test_the_demonstration_backbone_is_settled_by_its_name_alone() -> None:
    assert demo.BACKBONE_NAME == DEMO_BACKBONE
    assert DEMO_DEFAULTS["image_size"] == demo.IMAGE_SIZE
    config = parse_config(
        FinetuneConfig, ["--model.backbone", "feclip-demo", "--data.root", "x", "--output", "y"], prog="test", about=""
    ).model
    assert (config.pretrained, config.image_size) == ("shipped", 112)
    assert config == ModelConfig(backbone="feclip-demo").settled()
    check_model(config)
    model = build_model(config, seed=0)
    shipped = load_backbone("feclip-demo", pretrained=str(demo.weights_path()), init_seed=0, image_size=112)
    assert model.backbone_digest == shipped.digest
    assert model.tap_blocks == (1, 2, 4, 5)
    with torch.no_grad():
        output = model(model.normalize(torch.zeros(1, 3, 112, 112, dtype=torch.uint8)))
    assert output.anomaly_map.shape == (1, 112, 112)


def test_what_is_said_of_the_demonstration_backbone_is_kept() -> None:
    config = ModelConfig(backbone="feclip-demo", pretrained="none", image_size=224)
    model = build_model(config, seed=0)
    assert (config.pretrained, model.token_grid) == ("none", (28, 28))
    assert model.backbone_digest != build_model(ModelConfig(backbone="feclip-demo"), seed=0).backbone_digest


def test_no_other_backbone_gets_the_shipped_weights() -> None:
    with pytest.raises(ConfigError, match="pretrained must be 'none'"):
        check_model(ModelConfig(backbone="ViT-B-32", pretrained="shipped", image_size=224))
    assert ModelConfig(backbone="ViT-B-32").settled().pretrained == "openai"


def test_a_noun_outside_its_words_is_refused_before_anything_is_loaded() -> None:
    expected = "feclip-demo does not know 'unicorn' in 'A photo of a normal unicorn'; its nouns are object"
    for build in (check_model, lambda config: build_model(config, seed=0)):
        with pytest.raises(ConfigError, match=re.escape(expected)):
            build(ModelConfig(backbone="feclip-demo", noun="unicorn"))
