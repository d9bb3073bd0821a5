"""The rival of our adapters: what the implementation guide describes, step for step, with nothing saved.

Written from the description in words: windows are unfolded (im2col), the DCT is an einsum over them. Nothing here is
used by feclip. It computes the same function from parameters of its own, copied once and laid out as torch does by
default, and takes no valid mask.

Shapes: B images, H_t x W_t token grid, D token width, P and Q window sides in tokens, L = H_t * W_t.
"""

import copy
from collections.abc import Callable
from contextlib import ExitStack

import torch
from torch import nn
from torch.nn import functional

from feclip.model import FeClipModel, FeClipOutput, FFEAdapter, FrequencyTap, LFSAdapter, dct_basis


class GuideFFE(nn.Module):
    """Explicit P x P windows, DCT as an einsum, linear layer and GELU on each coefficient, inverse DCT.

    Args:
        ours: The adapter whose parameters are copied.
    """

    basis: torch.Tensor

    def __init__(self, ours: FFEAdapter) -> None:
        super().__init__()
        self.window_size = ours.window_size
        self.linear = copy.deepcopy(ours.linear)
        self.register_buffer("basis", dct_basis(self.window_size), persistent=False)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Return the frequency-aware tokens ``(B, H_t, W_t, D)`` of tokens ``(B, H_t, W_t, D)``."""
        side, (batch, height, width, depth) = self.window_size, tokens.shape
        planes = tokens.permute(0, 3, 1, 2)  # (B, D, H_t, W_t)
        planes = functional.pad(planes, (0, -width % side, 0, -height % side), mode="replicate")
        rows, columns = planes.shape[2] // side, planes.shape[3] // side
        windows = planes.reshape(batch, depth, rows, side, columns, side).permute(0, 2, 4, 1, 3, 5).contiguous()
        coefficients = torch.einsum("ui,brcdij,vj->brcduv", self.basis, windows, self.basis)
        changed = functional.gelu(self.linear(coefficients.permute(0, 1, 2, 4, 5, 3).contiguous()))
        changed = changed.permute(0, 1, 2, 5, 3, 4).contiguous()
        restored = torch.einsum("ui,brcduv,vj->brcdij", self.basis, changed, self.basis)
        planes = restored.permute(0, 3, 1, 4, 2, 5).reshape(batch, depth, rows * side, columns * side)
        return planes[:, :, :height, :width].permute(0, 2, 3, 1).contiguous()


class GuideLFS(nn.Module):
    """Every Q x Q window unfolded, DCT as an einsum, mean of the signed coefficients, then the convolution.

    Args:
        ours: The adapter whose parameters are copied; its statistic must be ``signed``.

    Raises:
        ValueError: If it is another.
    """

    basis: torch.Tensor

    def __init__(self, ours: LFSAdapter) -> None:
        super().__init__()
        if ours.statistic != "signed":
            msg = f"the guide's statistic is 'signed', got {ours.statistic!r}."
            raise ValueError(msg)
        self.window_size = ours.window_size
        self.conv = copy.deepcopy(ours.conv).to(memory_format=torch.contiguous_format)
        self.register_buffer("basis", dct_basis(self.window_size), persistent=False)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Return the convolved statistics ``(B, H_t, W_t, D)`` of tokens ``(B, H_t, W_t, D)``."""
        return functional.gelu(self.conv(self._planes(tokens))).permute(0, 2, 3, 1).contiguous()

    def local_statistics(self, tokens: torch.Tensor) -> torch.Tensor:
        """Return the mean DCT coefficient around every token, ``(B, H_t, W_t, D)``."""
        return self._planes(tokens).permute(0, 2, 3, 1).contiguous()

    def _planes(self, tokens: torch.Tensor) -> torch.Tensor:
        side, (batch, height, width, depth) = self.window_size, tokens.shape
        before, after = (side - 1) // 2, side // 2
        planes = functional.pad(tokens.permute(0, 3, 1, 2), (before, after, before, after), mode="replicate")
        unfolded = functional.unfold(planes, side)  # (B, D * Q * Q, L)
        windows = unfolded.reshape(batch, depth, side, side, height * width)
        coefficients = torch.einsum("ui,bdijl,vj->bduvl", self.basis, windows, self.basis)
        return coefficients.mean(dim=(2, 3)).reshape(batch, depth, height, width)


class GuideTap(nn.Module):
    """Both adapters and their fusion (Eq. 2).

    Args:
        ours: The tap whose parameters are copied; it has both adapters.
    """

    def __init__(self, ours: FrequencyTap) -> None:
        super().__init__()
        assert isinstance(ours.ffe, FFEAdapter)
        assert isinstance(ours.lfs, LFSAdapter)
        self.ffe = GuideFFE(ours.ffe)
        self.lfs = GuideLFS(ours.lfs)
        self.fusion_weight = ours.fusion_weight

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Return the fused tokens ``(B, H_t, W_t, D)``."""
        enhanced = self.ffe(tokens) + self.lfs(tokens)
        return self.fusion_weight * enhanced + (1 - self.fusion_weight) * tokens


class GuideModel(nn.Module):
    """The guide's adapters, hooked into open_clip's own image encoder; heads and prompts as ours.

    Args:
        ours: The model whose frozen trunk is shared.
    """

    def __init__(self, ours: FeClipModel) -> None:
        super().__init__()
        self.ours = ours
        self.patch_head = copy.deepcopy(ours.patch_head)
        self.taps = nn.ModuleList(GuideTap(tap) for tap in ours.taps if isinstance(tap, FrequencyTap))

    def forward(self, images: torch.Tensor) -> FeClipOutput:
        """Score normalised images ``(B, 3, S, S)``; the encoder's own embedding is not used.

        The hooks stand in the encoder during the call alone, since it is shared.
        """
        ours, tapped = self.ours, list[torch.Tensor]()
        with ExitStack() as stack:
            for tap, block in zip(self.taps, ours.tap_blocks, strict=True):
                hook = ours.visual.transformer.resblocks[block].register_forward_hook(self._replacing(tap, tapped))
                stack.callback(hook.remove)
            ours.visual(images)
        embeddings = torch.stack([ours.visual.ln_post(tokens[:, 0]) @ ours.visual.proj for tokens in tapped], dim=1)
        logits = [self._compare(self.patch_head(tokens[:, 1:])).unflatten(1, ours.token_grid) for tokens in tapped]
        return FeClipOutput(
            class_embeddings=embeddings,
            class_logits=self._compare(embeddings),
            token_logits=torch.stack(logits, dim=1),
            valid_tokens=None,
            image_size=(ours.image_size, ours.image_size),
        )

    def trained(self) -> list[nn.Parameter]:
        """Return the parameters that training changes."""
        return [*self.taps.parameters(), *self.patch_head.parameters()]

    def _compare(self, embeddings: torch.Tensor) -> torch.Tensor:
        similarities = functional.normalize(embeddings, dim=-1) @ self.ours.text_embeddings[0].T
        return (similarities[..., 1] - similarities[..., 0]) / self.ours.temperature

    def _replacing(self, tap: nn.Module, tapped: list[torch.Tensor]) -> Callable[..., torch.Tensor]:
        """Return a hook that enhances the patch tokens of a block's output and keeps the result in ``tapped``."""

        def replace(_block: nn.Module, _inputs: object, tokens: torch.Tensor) -> torch.Tensor:
            grid = tokens[:, 1:].unflatten(1, self.ours.token_grid)
            tapped.append(torch.cat([tokens[:, :1], tap(grid).flatten(1, 2)], dim=1))
            return tapped[-1]

        return replace
