"""FE-CLIP: a frozen CLIP whose patch tokens get frequency information after some of its blocks.

Gong, Chu, Liu, Zhou, Yu, "FE-CLIP: Frequency Enhanced CLIP Model for Zero-Shot Anomaly Detection and
Segmentation", ICCV 2025.

Shapes: B images, S input side in pixels, L patch tokens on an H_t x W_t grid, D token width, E embedding width,
G nouns.
Blocks count from zero.

Gradients: nothing trainable precedes the first tap, so its class score never sees an adapter, and the blocks up to it
build no graph. With the last block tapped, its adapters learn from the maps alone.
"""

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Literal, get_args

import torch
from torch import nn
from torch.nn import functional

from feclip.model.adapters import FFEAdapter, FrequencyTap, LFSAdapter, LfsStatistic
from feclip.model.memory_bank import MemoryBank
from feclip.model.output import FeClipOutput
from feclip.model.prompt_learner import PromptLearner
from feclip.model.prompting import Prompts, Tokenizer, text_embeddings
from feclip.model.trunk import (
    check_trunk,
    embed_class,
    embed_images,
    resize_positions,
    resolve_tap_blocks,
    run_blocks,
)
from feclip.model.weights import check_tensors
from feclip.model.windows import check_valid_tokens

if TYPE_CHECKING:
    from feclip.model.backbone import Backbone

Padding = Literal["ignore", "masked", "attention"]

FUSION_WEIGHT = 0.1  # lambda in Eq. 2; paper, Section 3.2
TEMPERATURE = 0.07  # tau in Eq. 1; where CLIP training starts
MAX_KEPT_GRIDS = 64  # whose positions are kept; rectangles of one image size have fewer
WINDOW_SIZE = 3  # P and Q, in tokens; smallest of the 3 to 5 that the implementation guide searches


class FeClipModel(nn.Module):
    """FE-CLIP on a loaded backbone; ``from_pretrained`` loads one.

    Args:
        backbone: A frozen CLIP, of which the image tower is kept.
        text_embeddings: Normalised embeddings ``(G, 2, E)`` of the normal and the abnormal state, with the noun of
            most images first, then with that of each group in ``noun_groups``.
        taps: Adapters by the zero-based block after which they act.
        temperature: tau of Eq. 1, > 0.
        padding: Who looks at tokens on padding: ``ignore`` everybody (masks are used for the maps only), ``masked``
            the trunk's attention but no adapter, ``attention`` nobody.
        noun_groups: Groups of images with a noun of their own, G - 1 texts.
        noun_column: Of a table of images, the column whose values the groups are.

    Attributes:
        visual: Frozen image tower, always in eval mode.
        taps: Adapters, in the order of ``tap_blocks``.
        patch_head: Learned projection of patch tokens, shared by all taps.
        text_embeddings: ``(G, 2, E)``: normal, abnormal.
        noun_groups: As given.
        noun_column: As given.
        tap_blocks: Zero-based blocks after which the adapters act.
        image_size: Side of the square input, in pixels.
        patch_size: Side of a patch, in pixels.
        token_grid: ``(H_t, W_t)`` of the square input.
        backbone_digest: SHA-256 of the CLIP's tensors.
        gradient_checkpointing: Whether the backward pass runs the blocks between taps again instead of keeping their
            activations: less memory, more time, the same gradients.
        memory_bank: Tokens of normal images whose distances join the scores; None for none.
        prompt_learner: What makes the text embeddings where prompts are learned, None for none; ``text_embeddings`` are
            what it made when the mode was set, and serve in eval mode.

    Raises:
        ValueError: If an argument is out of range or the image tower cannot be tapped.
    """

    text_embeddings: torch.Tensor
    pixel_mean: torch.Tensor
    pixel_std: torch.Tensor

    def __init__(
        self,
        backbone: "Backbone",
        text_embeddings: torch.Tensor,
        taps: Mapping[int, FrequencyTap],
        *,
        temperature: float = TEMPERATURE,
        padding: Padding = "masked",
        noun_groups: Sequence[str] = (),
        noun_column: str = "category",
    ) -> None:
        super().__init__()
        _check_scoring(temperature=temperature, padding=padding)
        assert text_embeddings.shape[:2] == (1 + len(noun_groups), 2)
        self.visual = backbone.clip.visual.eval().requires_grad_(False)
        check_trunk(self.visual, masks_attention=padding == "attention")
        num_blocks = len(self.visual.transformer.resblocks)
        self.tap_blocks = resolve_tap_blocks(num_blocks, num_taps=len(taps), tap_blocks=tuple(taps))
        self.taps = nn.ModuleList(taps.values())
        self.patch_head = nn.Linear(self.visual.transformer.width, text_embeddings.shape[-1])
        self.temperature = temperature
        self.padding = padding
        self.noun_groups, self.noun_column = tuple(noun_groups), noun_column
        self.image_size: int = self.visual.image_size[0]
        self.patch_size: int = self.visual.patch_size[0]
        self.token_grid: tuple[int, int] = self.visual.grid_size
        self.backbone_digest = backbone.digest
        self.gradient_checkpointing = False
        self.memory_bank: MemoryBank | None = None
        self.prompt_learner: PromptLearner | None = None
        self._positions: dict[tuple[int, int], torch.Tensor] = {}
        self.register_buffer("text_embeddings", text_embeddings.float(), persistent=False)
        for name, channels in (("pixel_mean", backbone.pixel_mean), ("pixel_std", backbone.pixel_std)):
            self.register_buffer(name, torch.tensor(channels).view(3, 1, 1), persistent=False)

    @classmethod
    def from_pretrained(  # noqa: PLR0913 - the fields of ModelConfig
        cls,
        backbone: str = "ViT-L-14-336",
        *,
        pretrained: str = "openai",
        tokenizer: Tokenizer | None = None,
        init_seed: int = 0,
        image_size: int = 336,
        num_taps: int = 4,
        tap_blocks: Sequence[int] | None = None,
        ffe_window_size: int = WINDOW_SIZE,
        lfs_window_size: int = WINDOW_SIZE,
        lfs_statistic: LfsStatistic = "signed",
        lfs_kernel_size: int = 3,
        fusion_weight: float = FUSION_WEIGHT,
        temperature: float = TEMPERATURE,
        noun: str = "object",
        nouns: Mapping[str, str] | None = None,
        noun_column: str = "category",
        prompts: Prompts = "paper",
        learned_vectors: int = 0,
        padding: Padding = "masked",
        use_ffe: bool = True,
        use_lfs: bool = True,
    ) -> "FeClipModel":
        """Load a backbone and put fresh adapters on it, initialised from the global generator of torch.

        Args:
            backbone: Name of an open_clip model with a ``VisionTransformer``.
            pretrained: A tag that open_clip publishes for it, a weight file, or ``none``.
            tokenizer: From texts to ids, of a backbone whose vocabulary open_clip does not know; open_clip's own for
                the backbone where absent.
            init_seed: Seed of the backbone where ``pretrained`` is ``none``.
            image_size: Side of the input, in pixels; a multiple of the patch size.
            num_taps: Number of tap blocks, the ends of equal stages.
            tap_blocks: Zero-based tap blocks, strictly increasing; none means by ``num_taps``.
            ffe_window_size: P, in tokens.
            lfs_window_size: Q, in tokens.
            lfs_statistic: Mean of the local DCT coefficients: ``signed``, ``magnitude`` or ``power``.
            lfs_kernel_size: Side of the LFS convolution, in tokens; odd.
            fusion_weight: lambda of Eq. 2, within 0..1.
            temperature: tau of Eq. 1, > 0.
            noun: What the images show, for the prompts.
            nouns: What the images of a group show instead, by group.
            noun_column: As for the class.
            prompts: ``paper`` or ``winclip``.
            learned_vectors: Vectors that are learned in the place of words, for each state; 0 for words.
            padding: ``ignore``, ``masked`` or ``attention``.
            use_ffe: Whether the FFE adapter exists.
            use_lfs: Whether the LFS adapter exists.

        Returns:
            The model, on the CPU, float32.

        Raises:
            ValueError: If an argument is out of range, or the backbone unknown, unfit or not to be had.

        Example:
            >>> model = FeClipModel.from_pretrained("ViT-S-32-alt", pretrained="none", image_size=64, num_taps=2)
            >>> output = model(torch.zeros(1, 3, 64, 64))
            >>> model.tap_blocks, output.image_score.shape, output.anomaly_map.shape
            ((5, 11), torch.Size([1]), torch.Size([1, 64, 64]))
        """
        _check_scoring(temperature=temperature, padding=padding)
        import open_clip  # noqa: PLC0415 - see docs/adr/0020

        from feclip.model.backbone import load_backbone  # noqa: PLC0415 - see docs/adr/0020

        loaded = load_backbone(backbone, pretrained=pretrained, init_seed=init_seed, image_size=image_size)
        trunk = loaded.clip.visual.transformer
        blocks = resolve_tap_blocks(len(trunk.resblocks), num_taps=num_taps, tap_blocks=tap_blocks)
        taps = {
            block: FrequencyTap(
                FFEAdapter(trunk.width, ffe_window_size) if use_ffe else None,
                LFSAdapter(trunk.width, lfs_window_size, lfs_kernel_size, lfs_statistic) if use_lfs else None,
                fusion_weight=fusion_weight,
            )
            for block in blocks
        }
        own = dict(nouns or {})
        tokenizer = tokenizer or open_clip.get_tokenizer(backbone)
        model = cls(
            loaded,
            text_embeddings(loaded.clip, tokenizer, [noun, *own.values()], prompts=prompts),
            taps,
            temperature=temperature,
            padding=padding,
            noun_groups=tuple(own),
            noun_column=noun_column,
        )
        if learned_vectors:
            model.prompt_learner = PromptLearner(loaded.clip, tokenizer, noun, num_vectors=learned_vectors)
        return model.train(model.training)

    def train(self, mode: bool = True) -> "FeClipModel":  # noqa: FBT001, FBT002 - torch's signature
        """Set the mode of the adapters; the towers stay in eval mode, and learned prompts are embedded for scoring."""
        super().train(mode)
        self.visual.eval()
        if self.prompt_learner is not None:
            self.prompt_learner.eval()
            with torch.no_grad():
                self.text_embeddings = self.prompt_learner()
        return self

    def normalize(self, images: torch.Tensor, valid_pixels: torch.Tensor | None = None) -> torch.Tensor:
        """Bring images to the model's device and to its pixel statistics.

        Under padding ``attention`` what stands on padding is replaced by the mean colour, which is 0 here: a token
        that shows both image and padding must be seen, and would show the padding's colour.

        Args:
            images: RGB images ``(B, 3, S, S)``, uint8.
            valid_pixels: Bool ``(B, S, S)``, false on padding; none means all valid.

        Returns:
            Normalised images ``(B, 3, S, S)``, float32.

        Raises:
            ValueError: If ``images`` is not uint8.
        """
        if images.dtype != torch.uint8:
            msg = f"images to normalize must be torch.uint8, got {images.dtype}."
            raise ValueError(msg)
        pixels = images.to(self.pixel_mean.device).float() / 255
        normalized = (pixels - self.pixel_mean) / self.pixel_std
        if valid_pixels is None or self.padding != "attention":
            return normalized
        return torch.where(valid_pixels.to(normalized.device)[:, None], normalized, 0)

    def forward(
        self,
        images: torch.Tensor,
        valid_tokens: torch.Tensor | None = None,
        *,
        groups: torch.Tensor | None = None,
        nouns: torch.Tensor | None = None,
    ) -> FeClipOutput:
        """Score images.

        Other inputs than the square get their positions by stretching its own over their token grid.

        Args:
            images: Normalised images ``(B, 3, S, S)``, or ``(B, 3, H, W)`` of whole patches.
            valid_tokens: Bool ``(B, H_t, W_t)``, true where any pixel of the token is image; none means all.
            groups: Zero-based group of each image in the memory bank, int64 ``(B,)``, where the bank has groups.
            nouns: Zero-based noun of each image, as `noun_index` finds it, int64 ``(B,)``; none means 0 for all.

        Returns:
            Logits per tap and the scores derived from them.

        Raises:
            ValueError: If a shape or type differs from the above.
        """
        tokens, token_grid = self.prefix(images, valid_tokens), self._grid_of(images)
        return self.forward_from_prefix(tokens, valid_tokens, groups=groups, nouns=nouns, token_grid=token_grid)

    def noun_index(self, groups: Iterable[str | None]) -> torch.Tensor:
        """Return which noun the prompts of images name.

        Args:
            groups: What ``noun_column`` says of each of B images; None where it says nothing.

        Returns:
            Zero-based nouns, int64 ``(B,)``, on the CPU; 0 for groups without a noun of their own.
        """
        index = {group: number for number, group in enumerate(self.noun_groups, start=1)}
        return torch.tensor([0 if group is None else index.get(group, 0) for group in groups], dtype=torch.int64)

    @torch.no_grad()
    def prefix(self, images: torch.Tensor, valid_tokens: torch.Tensor | None = None) -> torch.Tensor:
        """Run the frozen blocks up to the first tap; nothing trained changes the result, so it can be kept.

        Args:
            images: As for ``forward``.
            valid_tokens: Bool ``(B, H_t, W_t)``, false on padding; none means all valid.

        Returns:
            Tokens ``(B, 1 + L, D)`` after the first tap block, before its adapters; without a graph.

        Raises:
            ValueError: If a shape or type differs from the above.
        """
        grid = self._grid_of(images)
        check_valid_tokens(valid_tokens, (len(images), *grid))
        tokens = embed_images(self.visual, images, self._positions_of(grid, device=images.device))
        blocks = self.visual.transformer.resblocks[: self.tap_blocks[0] + 1]
        return run_blocks(blocks, tokens, self._find_masked_keys(valid_tokens))

    @property
    def prefix_digest(self) -> str:
        """SHA-256 over all that ``prefix`` depends on beside its arguments: weights, arithmetic and pixel statistics.

        The image tower's own description names its activations and sizes; the number of heads does not stand in it.
        """
        heads = [getattr(block.attn, "num_heads", None) for block in self.visual.transformer.resblocks]
        statistics = [self.pixel_mean.flatten().tolist(), self.pixel_std.flatten().tolist()]
        parts = [self.backbone_digest, self.tap_blocks[0], self.padding == "attention", statistics, heads]
        return hashlib.sha256(f"{parts} {self.visual}".encode()).hexdigest()

    def forward_from_prefix(
        self,
        tokens: torch.Tensor,
        valid_tokens: torch.Tensor | None = None,
        *,
        groups: torch.Tensor | None = None,
        nouns: torch.Tensor | None = None,
        token_grid: tuple[int, int] | None = None,
    ) -> FeClipOutput:
        """Score images whose ``prefix`` is at hand.

        Args:
            tokens: Tokens ``(B, 1 + L, D)`` from ``prefix``.
            valid_tokens: The same as given to ``prefix``.
            groups: As for ``forward``.
            nouns: As for ``forward``.
            token_grid: ``(H_t, W_t)`` of the images; none means that of ``valid_tokens``, or of the square input.

        Returns:
            Logits per tap and the scores derived from them.

        Raises:
            ValueError: If ``valid_tokens`` is not bool or does not fit, or the tokens are not those of the grid.
        """
        if token_grid is None:
            token_grid = self.token_grid if valid_tokens is None else (valid_tokens.shape[-2], valid_tokens.shape[-1])
        directions = self._directions(nouns)
        class_embeddings, token_logits, distances = [], [], []
        for index, (class_token, grid, flat_seen) in enumerate(self._tapped(tokens, valid_tokens, token_grid)):
            patches = grid.flatten(1, 2)
            class_embeddings.append(embed_class(self.visual, class_token, patches, valid_tokens=flat_seen))
            token_logits.append(self._compare_with_text(grid, directions, head=self.patch_head))
            if self.memory_bank is not None:
                distances.append(self.memory_bank.distances(index, patches, groups).view(grid.shape[:3]))
        embeddings = torch.stack(class_embeddings, dim=1)
        return FeClipOutput(
            class_embeddings=embeddings,
            class_logits=self._compare_with_text(embeddings, directions),
            token_logits=torch.stack(token_logits, dim=1),
            valid_tokens=valid_tokens,
            image_size=(token_grid[0] * self.patch_size, token_grid[1] * self.patch_size),
            token_distances=torch.stack(distances, dim=1) if distances else None,
        )

    @torch.no_grad()
    def fused_tokens(self, images: torch.Tensor, valid_tokens: torch.Tensor | None = None) -> torch.Tensor:
        """Return what a memory bank is made of: the patch tokens after the adapters of each tap (f_hat of Eq. 2).

        Args:
            images: Normalised images ``(B, 3, S, S)``.
            valid_tokens: As for ``forward``.

        Returns:
            Tokens ``(B, T, H_t, W_t, D)``, as the trunk computes them; those on padding mean nothing.

        Raises:
            ValueError: As ``forward``.
        """
        tokens = self.prefix(images, valid_tokens)
        return torch.stack([grid for _, grid, _ in self._tapped(tokens, valid_tokens, self._grid_of(images))], dim=1)

    def _grid_of(self, images: torch.Tensor) -> tuple[int, int]:
        """Return the token grid of images, which must be of whole patches."""
        height, width = images.shape[-2:]
        patch = self.patch_size
        if images.ndim != 4 or images.shape[1] != 3 or not height or not width or height % patch or width % patch:  # noqa: PLR2004 - (B, 3, H, W)
            msg = (
                f"images must have shape (B, 3, H, W) with sides that are multiples of the patch size {patch}, "
                f"got {tuple(images.shape)}."
            )
            raise ValueError(msg)
        return height // patch, width // patch

    def _positions_of(self, grid: tuple[int, int], *, device: torch.device) -> torch.Tensor | None:
        """Return the positional embedding of a grid, made once for each; None for the square's own."""
        if grid == self.token_grid:
            return None
        if grid not in self._positions or self._positions[grid].device != device:
            if len(self._positions) >= MAX_KEPT_GRIDS:
                self._positions.pop(next(iter(self._positions)))
            self._positions[grid] = resize_positions(self.visual, grid).to(device)
        return self._positions[grid]

    def _tapped(
        self, tokens: torch.Tensor, valid_tokens: torch.Tensor | None, token_grid: tuple[int, int]
    ) -> Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]]:
        """Run the blocks from the first tap on; yield at each tap its class token, its fused grid and what is seen."""
        check_valid_tokens(valid_tokens, (len(tokens), *token_grid))
        if tokens.shape[1] != 1 + token_grid[0] * token_grid[1]:
            msg = (
                f"tokens of a {token_grid[0]} x {token_grid[1]} grid must be (B, 1 + L, D), got {tuple(tokens.shape)}."
            )
            raise ValueError(msg)
        seen = None if self.padding == "ignore" else valid_tokens
        flat_seen = None if seen is None else seen.flatten(1)
        masked_keys = self._find_masked_keys(valid_tokens)
        for index, block in enumerate(self.tap_blocks):
            if index > 0:
                between = self.visual.transformer.resblocks[self.tap_blocks[index - 1] + 1 : block + 1]
                tokens = run_blocks(between, tokens, masked_keys, recompute=self.gradient_checkpointing)
            grid = self.taps[index](tokens[:, 1:].reshape(len(tokens), *token_grid, -1), seen)
            yield tokens[:, 0], grid, flat_seen
            if block != self.tap_blocks[-1]:
                tokens = torch.cat([tokens[:, :1], grid.flatten(1, 2)], dim=1)

    def _directions(self, nouns: torch.Tensor | None) -> torch.Tensor:
        """Return what the abnormal state has beyond the normal one, ``(E,)``, or where nouns differ ``(B, E)``."""
        learned = self.prompt_learner if self.training else None
        normal, abnormal = (self.text_embeddings if learned is None else learned()).unbind(1)
        directions = abnormal - normal
        return directions[0] if nouns is None or len(directions) == 1 else directions[nouns]

    def _compare_with_text(
        self, features: torch.Tensor, directions: torch.Tensor, *, head: nn.Linear | None = None
    ) -> torch.Tensor:
        """Return the logit of P(abnormal), ``(cos_abnormal - cos_normal) / temperature`` (Eq. 1), in float32."""
        with torch.autocast(features.device.type, enabled=False):
            units = functional.normalize(features.float() if head is None else head(features.float()), dim=-1)
            each = directions.ndim > 1
            margins = torch.einsum("b...e,be->b...", units, directions) if each else units @ directions
            return margins / self.temperature

    def _find_masked_keys(self, valid_tokens: torch.Tensor | None) -> torch.Tensor | None:
        """Return which keys attention must not see, ``(B, 1 + L)``; the class token is always seen."""
        if self.padding != "attention" or valid_tokens is None:
            return None
        return functional.pad(~valid_tokens.flatten(1), (1, 0), value=False)

    def trainable_state_dict(self) -> dict[str, torch.Tensor]:
        """Return what training changes by name: adapters, patch head, learned prompts; tensors are the model's own."""
        return {name: value.detach() for name, value in self.named_parameters() if value.requires_grad}

    def load_trainable_state_dict(self, state: Mapping[str, torch.Tensor]) -> None:
        """Load adapters, patch head and learned prompts.

        Args:
            state: As from ``trainable_state_dict``.

        Raises:
            ValueError: If tensors are missing, unknown, of another shape or not finite; nothing is loaded then.
        """
        own = self.trainable_state_dict()
        check_tensors(own, state, source="Adapter state")
        for name, value in own.items():
            value.copy_(state[name])
        self.train(self.training)  # which embeds learned prompts


def _check_scoring(*, temperature: float, padding: str) -> None:
    if not temperature > 0:
        msg = f"temperature must be positive, got {temperature}."
        raise ValueError(msg)
    if padding not in get_args(Padding):
        msg = f"padding must be one of {', '.join(get_args(Padding))}, got {padding!r}."
        raise ValueError(msg)
