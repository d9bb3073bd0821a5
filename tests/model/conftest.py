"""Tiny backbones: real open_clip models, built in milliseconds."""

import json
from collections.abc import Callable, Iterator

import open_clip
import pytest
import torch

from feclip.model import FeClipModel

TEXT = {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1}
VISION = {"image_size": 64, "layers": 4, "width": 64, "head_width": 16, "patch_size": 16}
BACKBONES = {
    "Tiny": {"vision_cfg": VISION},
    "Tiny-quickgelu": {"vision_cfg": VISION, "quick_gelu": True},
    "Tiny-average": {"vision_cfg": VISION | {"pool_type": "avg", "final_ln_after_pool": True}},
    "Tiny-average-late": {"vision_cfg": VISION | {"pool_type": "avg"}},
    "Tiny-attentional": {"vision_cfg": VISION | {"attentional_pool": True, "attn_pooler_heads": 4}},
    "Tiny-unpooled": {"vision_cfg": VISION | {"pool_type": "none"}},
    "Tiny-custom": {"vision_cfg": VISION | {"qk_norm": True}},
    "Tiny-no-ln-pre": {"vision_cfg": VISION | {"no_ln_pre": True, "patch_dropout": 0.5}, "custom_text": True},
}


@pytest.fixture(scope="session", autouse=True)
def _tiny_backbones(tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("model_configs")
    for name, config in BACKBONES.items():
        (folder / f"{name}.json").write_text(json.dumps({"embed_dim": 32, "text_cfg": TEXT} | config))
    open_clip.add_model_config(folder)


@pytest.fixture(autouse=True)
def _one_thread_and_seed() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def build_model() -> Callable[..., FeClipModel]:
    """Build a model on a tiny random backbone; keyword arguments as for ``from_pretrained``."""

    def build(backbone: str = "Tiny", **settings: object) -> FeClipModel:
        defaults: dict[str, object] = {"pretrained": "none", "image_size": 64, "num_taps": 2}
        return FeClipModel.from_pretrained(backbone, **(defaults | settings))  # type: ignore[arg-type]

    return build


@pytest.fixture
def images() -> torch.Tensor:
    """Three normalised images ``(3, 3, 64, 64)``."""
    return torch.randn(3, 3, 64, 64, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def valid_tokens() -> torch.Tensor:
    """Masks ``(3, 4, 4)`` of a wide, a tall and a square image."""
    valid = torch.ones(3, 4, 4, dtype=torch.bool)
    valid[0, 3:] = False
    valid[1, :, :1] = False
    return valid
