"""The model: a frozen CLIP and the adapters on it."""

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Self

from feclip.config.checks import require, require_member, require_seed, require_uris
from feclip.config.choices import LfsStatistic, PaddingMode, Prompts
from feclip.config.lists import Indices
from feclip.config.nouns import Nouns, check_nouns, groups_to_tell, tell_nouns

__all__ = ["DEMO_BACKBONE", "DEMO_DEFAULTS", "ModelConfig"]

DEMO_BACKBONE = "feclip-demo"


DEMO_DEFAULTS: Mapping[str, Any] = MappingProxyType({"pretrained": "shipped", "image_size": 112})


MAX_IMAGE_SIZE = 4096  # pixels; beyond it attention over all tokens fits no GPU
MAX_TOKENS = 63  # of a window's or a kernel's side
MAX_TAPS = 256
MAX_TEXT = 4096  # characters of a name or a path


PAPER_DEFAULTS: Mapping[str, Any] = MappingProxyType({"pretrained": "openai", "image_size": 336})


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The model: a frozen CLIP and the adapters on it."""

    backbone: str = "ViT-L-14-336"
    """open_clip model name; resolved to its QuickGELU form where its weights were trained so (paper, Section 4.2)."""
    pretrained: str | None = None
    """open_clip weight tag, a local .safetensors or .pt file, or ``none`` for a trunk initialised from init_seed;
    null takes ``openai``, and for ``feclip-demo`` what ships with it (``shipped``)."""
    init_seed: int = 0
    """Seed of the trunk when pretrained is ``none``; without effect otherwise."""
    image_size: int | None = None
    """Side of the square input, pixels; a multiple of the backbone's patch size. Null takes 336 (paper, Section 4.2),
    and for ``feclip-demo`` the 112 it was trained at."""
    num_taps: int = 4
    """Blocks that are tapped, at the ends of as many equal stages (N of the paper, Section 3.2)."""
    tap_blocks: Indices | None = None
    """Zero-based blocks to tap instead, ascending, written 5,11,17,23; null takes them from num_taps."""
    ffe_window_size: int = 3
    """Window side of the FFE adapter, tokens (P of the paper, Section 3.3)."""
    lfs_window_size: int = 3
    """Window side of the LFS adapter, tokens (Q of the paper, Section 3.4)."""
    lfs_statistic: LfsStatistic = LfsStatistic.signed
    """Statistic of the window's coefficients; signed is the paper's (docs/adr/0004-lfs-statistic.md)."""
    lfs_kernel_size: int = 3
    """Kernel side of the LFS convolution, tokens, odd (guide, 4.3)."""
    fusion_weight: float = 0.1
    """Share of the adapters in the fused tokens, 0 to 1 (lambda of Eq. 2)."""
    temperature: float = 0.07
    """Divisor of the cosine similarities, above 0 (tau of Eq. 1)."""
    noun: str = "object"
    """What the prompts name: 'A photo of a normal <noun>'; of every group that nouns leaves out."""
    nouns: Nouns | None = None
    """Nouns of groups, written pcb1=PCB,tile=magnetic tile, in a file also as a mapping; null calls all noun."""
    noun_column: str = "category"
    """Column whose values nouns names: of a manifest or a data set, or a key=value folder of an image's path."""
    prompts: Prompts = Prompts.paper
    """paper: a sentence for each state; winclip: the means of WinCLIP's 154 normal and 88 abnormal sentences."""
    learned_vectors: int = 0
    """Vectors that are learned in the place of words, for each state and all images alike, as AnomalyCLIP learns them;
    0 keeps the words. An experiment."""
    padding: PaddingMode = PaddingMode.masked
    """Tokens on padding: ignored as such, masked in the adapters, or masked in the trunk's attention too; only then
    does no score depend on the padding's colour."""
    use_ffe: bool = True
    """Whether the FFE adapter acts."""
    use_lfs: bool = True
    """Whether the LFS adapter acts."""

    def __post_init__(self) -> None:
        for name, least, most in (
            ("image_size", 1, MAX_IMAGE_SIZE),
            ("num_taps", 1, MAX_TAPS),
            ("ffe_window_size", 1, MAX_TOKENS),
            ("lfs_window_size", 1, MAX_TOKENS),
            ("learned_vectors", 0, MAX_TOKENS),
        ):
            value = getattr(self, name)
            if value is not None:
                rule = f"at least {least} and at most {most}"
                require(f"model.{name}", value, rule=rule, holds=least <= value <= most)
        require(
            "model.lfs_kernel_size",
            self.lfs_kernel_size,
            rule=f"odd, at least 1 and at most {MAX_TOKENS}",
            holds=1 <= self.lfs_kernel_size <= MAX_TOKENS and self.lfs_kernel_size % 2 == 1,
        )
        require("model.fusion_weight", self.fusion_weight, rule="in [0, 1]", holds=0 <= self.fusion_weight <= 1)
        require("model.temperature", self.temperature, rule="above 0", holds=self.temperature > 0)
        require_seed("model.init_seed", self.init_seed)
        require_uris("model.", pretrained=self.pretrained)
        require_member("model.lfs_statistic", self.lfs_statistic, LfsStatistic)
        require_member("model.padding", self.padding, PaddingMode)
        require_member("model.prompts", self.prompts, Prompts)
        for name in ("backbone", "pretrained", "noun", "noun_column"):
            if getattr(self, name) is not None and not getattr(self, name).strip():
                msg = f"model.{name} must not be empty."
                raise ValueError(msg)
            if getattr(self, name) is not None and len(getattr(self, name)) > MAX_TEXT:
                msg = f"model.{name} must have at most {MAX_TEXT} characters."
                raise ValueError(msg)
        if self.tap_blocks is not None and list(self.tap_blocks) != sorted({b for b in self.tap_blocks if b >= 0}):
            msg = f"model.tap_blocks must be ascending zero-based blocks without repeats, got {list(self.tap_blocks)}."
            raise ValueError(msg)
        if self.backbone == DEMO_BACKBONE and self.prompts is not Prompts.paper:
            msg = f"model.prompts must be paper for {DEMO_BACKBONE}, which learned no other words of the two states."
            raise ValueError(msg)
        if self.learned_vectors and (self.nouns is not None or self.prompts is not Prompts.paper):
            msg = "model.learned_vectors stand for the words of all images: leave model.nouns and model.prompts out."
            raise ValueError(msg)
        if self.nouns is not None:
            object.__setattr__(self, "nouns", check_nouns(self.nouns))

    @property
    def noun_by_group(self) -> dict[str, str]:
        """Nouns of the groups that have one of their own."""
        return {} if self.nouns is None else self.nouns.by_group()

    def groups_to_tell(self, groups: Iterable[str | None]) -> set[str | None]:
        """Return of values of ``noun_column`` those that `tell_nouns` needs, however many there are."""
        return groups_to_tell(groups, self.noun_by_group)

    def tell_nouns(self, groups: Iterable[str | None]) -> str:
        """Return in a line what images of these values of ``noun_column`` are called."""
        return tell_nouns(self.noun_by_group, other=self.noun, column=self.noun_column, groups=groups)

    def settled(self) -> Self:
        """Return the config with what depends on the backbone filled in where it was left null.

        Example:
            >>> ModelConfig(backbone="feclip-demo").settled().image_size
            112
        """
        usual = DEMO_DEFAULTS if self.backbone == DEMO_BACKBONE else PAPER_DEFAULTS
        return dataclasses.replace(self, **{name: usual[name] for name in usual if getattr(self, name) is None})
