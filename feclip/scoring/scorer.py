"""A bundle's model on a device: how it is made ready, and how images are scored with it.

Shapes: N images, S side of the model input in pixels, H_t x W_t token grid.
"""

import math
import subprocess
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import torch

from feclip.bundle import Bundle
from feclip.config import ScoringConfig
from feclip.data import Stopwatch, TokenBox, by_rectangle
from feclip.errors import BundleError, ConfigError, RunError
from feclip.model import autocast, num_top_pixels
from feclip.scoring.batch_size import (
    CPU_BATCH_SIZE,
    MAX_BATCH_SIZE,
    PROBED,
    even_batches,
    fitting_batch_size,
    memory_budget,
)
from feclip.scoring.batches import DeviceBatches
from feclip.scoring.scores import Scores
from feclip.scoring.step import BatchScores, Forward, ForwardPass, compiled, score_batch

__all__ = ["Scorer", "StartUp"]

SHOWN_GROUPS = 5
"""Groups that an error names."""
_MAX_FLOAT16 = 65504.0
_MAX_MARGIN = 2.0  # between two cosine similarities
_WARM_UP_PASSES = 3  # a CUDA graph is prepared, recorded, replayed
_T = TypeVar("_T")


@dataclass(frozen=True, kw_only=True)
class StartUp:
    """How a model was made ready."""

    device: str
    """``cpu``, or the name of the GPU."""
    batch_size: int
    """Images in one forward pass."""
    compiled: bool
    """Whether the forward pass is compiled."""
    warm_up_seconds: float
    """Compiling, finding the batch size, and first passes; 0 where there is none of them."""


class Scorer:
    """A bundle's model on a device, which turns prepared images into scores.

    Threads may share one: their calls take turns.

    Args:
        bundle: The bundle; its backbone is loaded here, once.
        device: Where the model runs.
        precision: Number format of the trunk: ``auto``, ``float32`` or ``bfloat16``.
        pretrained: Weight file or tag of the backbone instead of the recorded one; the same weights.
        batch_size: Images in one forward pass, at least 1; None finds it from the free memory of a GPU and is 16 on a
            CPU. Another one changes scores by rounding alone.
        max_batch_size: Images that come in one call at most, at least 1; no batch is larger.
        gpu_share: Share of the GPU's memory that a batch size is found for, above 0 and at most 1.
        compiles: Whether the model is compiled, here and once, in a minute or more.
        topk_fraction: Share of the valid pixels that ``map_topk_mean`` is taken over, above 0 and at most 1.
        smoothing_sigma: Standard deviation of the Gaussian that smooths a map before its statistics, pixels; 0 = none.

    Attributes:
        start_up: How the model was made ready.
        group_column: Column of a listing by which the memory bank is divided; None where all images share one, or none.
        noun_column: Column of a listing by which images have nouns of their own; None where all share one.
        stopwatch: Seconds of what was scored: ``model``, start-up and waiting for a turn left out.

    Raises:
        BundleError: If the backbone or a tensor does not fit, or the maps would not fit in float16.
        ConfigError: If an option is out of range, the backbone's weights cannot be had, or it cannot be compiled here.
        RunError: If the memory of the GPU is too small.
    """

    def __init__(
        self,
        bundle: Bundle,
        *,
        device: torch.device | str = "cpu",
        precision: str = "auto",
        pretrained: str | None = None,
        batch_size: int | None = None,
        max_batch_size: int = MAX_BATCH_SIZE,
        gpu_share: float = 1.0,
        compiles: bool = False,
        topk_fraction: float = 0.01,
        smoothing_sigma: float = 0.0,
    ) -> None:
        self.device = torch.device(device)
        self.model_id = bundle.model_id
        self.stopwatch = Stopwatch()
        self._precision = precision
        self._gpu_share = gpu_share
        self._topk_fraction = topk_fraction
        self._smoothing_sigma = smoothing_sigma
        self._check_options(batch_size)
        if compiles and bundle.is_rectangular:
            msg = (
                "score.compile: a compiled model reads inputs of one shape, and those of a bundle with "
                "data.resize=rectangle have many; leave score.compile off."
            )
            raise ConfigError(msg)
        if _MAX_MARGIN / bundle.model.temperature > _MAX_FLOAT16:
            msg = (
                f"{bundle.uri}: with model.temperature {bundle.model.temperature} logits can pass {_MAX_FLOAT16:g}, "
                "the largest that a score table holds; train with a higher temperature."
            )
            raise BundleError(msg)
        bank = bundle.memory_bank
        self.group_column = None if bank is None else bank.group_column
        self._groups = None if self.group_column is None or bank is None else {n: i for i, n in enumerate(bank.groups)}
        model = bundle.build(pretrained=pretrained).to(self.device).eval()
        model.prompt_learner = None  # what it learned stands in the text embeddings
        self.noun_column = model.noun_column if model.noun_groups else None
        self._noun_index = model.noun_index
        self.token_grid = model.token_grid
        self.image_size = model.image_size
        self._lock = threading.Lock()
        # Of CUDA graphs every thread has its own; this one makes them once, whoever calls.
        self._gpu_thread = ThreadPoolExecutor(1, "gpu") if self.device.type == "cuda" else None
        self._batches = DeviceBatches(self.device)
        self._is_rectangular = bundle.is_rectangular
        self._patch_size = model.patch_size
        self._forward: Forward = ForwardPass(model)
        self.start_up = self._in_turn(
            lambda: self._made_ready(batch_size, max_batch_size=max_batch_size, compiles=compiles)
        )

    @classmethod
    def configured(cls, bundle: Bundle, config: ScoringConfig, *, on_gpu: bool, max_batch_size: int) -> "Scorer":
        """Make a scorer as a scoring job wants it.

        Args:
            bundle: The bundle.
            config: How images are scored.
            on_gpu: Whether the model runs on a GPU.
            max_batch_size: Images that come in one call at most.
        """
        return cls(
            bundle,
            device="cuda" if on_gpu else "cpu",
            precision=str(config.precision),
            batch_size=config.batch_size,
            max_batch_size=max_batch_size,
            gpu_share=min(config.gpus_per_actor, 1) or 1,
            compiles=config.compile,
            topk_fraction=config.topk_fraction,
            smoothing_sigma=config.smoothing_sigma,
        )

    @property
    def batch_size(self) -> int:
        """Images in one forward pass."""
        return self.start_up.batch_size

    def score(
        self,
        pixels: npt.NDArray[np.uint8],
        valid_pixels: npt.NDArray[np.bool_],
        groups: Sequence[str | None] | None = None,
        *,
        nouns: Sequence[str | None] | None = None,
    ) -> Scores:
        """Score prepared images.

        Args:
            pixels: RGB, shape ``(N, S, S, 3)``; N may be 0, or more than a batch.
            valid_pixels: Shape ``(N, S, S)``, false on padding, somewhere true in each image.
            groups: The N images' values of `group_column`, where the bundle's memory bank has groups.
            nouns: The N images' values of `noun_column`; None where the images have no such column, and all are called
                what others are called.

        Returns:
            Scores, in the order of the images.

        Raises:
            RunError: If a score is not finite, which is the model's fault and not the image's, memory runs out, or an
                image is of a group that has no normal images in the memory bank.
        """
        size = self.image_size
        assert pixels.shape == (len(pixels), size, size, 3)
        assert valid_pixels.shape == pixels.shape[:3]
        if not len(pixels):
            nothing = np.zeros(0, np.float32)
            maps = np.zeros((0, *self.token_grid), np.float16)
            return Scores(image_logit=nothing, map_max=nothing, map_topk_mean=nothing, token_map=maps)
        indices = {
            "groups": self._group_indices(groups, num_images=len(pixels)),
            "nouns": self._noun_index([None] * len(pixels) if nouns is None else nouns).numpy(),
        }

        def work() -> tuple[Scores, bool]:
            with self.stopwatch.time("model"):
                return self._scored(pixels, valid_pixels, **indices, size=self.batch_size, fills=self.start_up.compiled)

        try:
            scores, are_maps_finite = self._in_turn(work)
        except torch.OutOfMemoryError as error:
            raise _out_of_memory(self.batch_size) from error
        finite = {
            name: np.isfinite(getattr(scores, name)).all() for name in ("image_logit", "map_max", "map_topk_mean")
        }
        for name, is_finite in {"token_map": are_maps_finite, **finite}.items():
            if not is_finite:
                msg = f"The model gives a {name} that is not finite; score with precision float32, or train again."
                raise RunError(msg)
        return scores

    def group_error(self, group: str | None) -> str | None:
        """Return why an image of a group cannot be scored, in one line; None where it can."""
        if self._groups is None or group in self._groups:
            return None
        known = ", ".join(list(self._groups)[:SHOWN_GROUPS]) + (", ..." if len(self._groups) > SHOWN_GROUPS else "")
        return (
            f"the bundle's memory bank has no normal images of {self.group_column}={group}, only of {known}; calibrate "
            "with normal images of each."
        )

    def _group_indices(self, groups: Sequence[str | None] | None, *, num_images: int) -> npt.NDArray[np.int64]:
        """Return the zero-based group of each image in the memory bank."""
        if self._groups is None:
            return np.zeros(num_images, np.int64)
        assert groups is not None
        assert len(groups) == num_images
        for group in groups:
            error = self.group_error(group)
            if error is not None:
                msg = f"An image cannot be scored: {error}"
                raise RunError(msg)
        return np.array([self._groups[str(group)] for group in groups], np.int64)

    def _scored(
        self,
        pixels: npt.NDArray[np.uint8],
        valid_pixels: npt.NDArray[np.bool_],
        *,
        groups: npt.NDArray[np.int64],
        nouns: npt.NDArray[np.int64],
        size: int,
        fills: bool = False,
    ) -> tuple[Scores, bool]:
        """Queue all batches, wait for the device once, and bring the scores back; and whether the maps are finite."""
        num_valid = valid_pixels.reshape(len(pixels), -1).sum(axis=1).tolist()
        counts = np.array([num_top_pixels(number, topk_fraction=self._topk_fraction) for number in num_valid])
        arrays = [pixels, valid_pixels, groups, nouns, counts]
        found: list[BatchScores] = []
        order = np.arange(len(pixels))
        if self._is_rectangular:
            boxes = by_rectangle(valid_pixels, patch_size=self._patch_size)
            order = np.concatenate([*boxes.values()])
            for box, chosen in boxes.items():
                batches = self._batches.of([array[chosen] for array in arrays], size)
                found += [self._score_batch(batch, box=box) for batch in batches]
        else:
            found += [self._score_batch(batch) for batch in self._batches.of(arrays, size, fills=fills)]

        def together(parts: Iterable[torch.Tensor]) -> npt.NDArray[Any]:
            return torch.cat([*parts])[: len(pixels)].cpu().numpy()[np.argsort(order)]

        scores = Scores(
            image_logit=together(part.image_logit for part in found),
            map_max=together(part.statistics.map_max for part in found),
            map_topk_mean=together(part.statistics.map_topk_mean for part in found),
            token_map=together(part.token_map for part in found),
        )
        return scores, all(part.is_finite for part in found)

    def _score_batch(self, batch: tuple[torch.Tensor, ...], *, box: TokenBox | None = None) -> BatchScores:
        with autocast(self._precision, device=self.device):
            return score_batch(
                self._forward,
                batch,
                topk_fraction=self._topk_fraction,
                smoothing_sigma=self._smoothing_sigma,
                box=box,
            )

    def _made_ready(self, batch_size: int | None, *, max_batch_size: int, compiles: bool) -> StartUp:
        started = time.perf_counter()
        on_gpu = self.device.type == "cuda"
        size = min(batch_size or CPU_BATCH_SIZE, max_batch_size)
        if on_gpu and batch_size is None:
            size = self._find_batch_size(max_batch_size)
        if compiles:
            self._forward = compiled(self._forward, device=self.device)
        if on_gpu or compiles:
            self._warm_up(size, compiles=compiles)
        return StartUp(
            device=torch.cuda.get_device_name(self.device) if on_gpu else self.device.type,
            batch_size=size,
            compiled=compiles,
            warm_up_seconds=round(time.perf_counter() - started, 3) if on_gpu or compiles else 0.0,
        )

    def _find_batch_size(self, max_batch_size: int) -> int:
        """Measure what images take on a GPU, and halve what should fit until it does."""
        try:
            peaks = {size: self._measure_peak(size) for size in PROBED}
        except torch.OutOfMemoryError as error:
            raise _out_of_memory(PROBED[-1]) from error
        free, total = torch.cuda.mem_get_info(self.device)
        own = torch.cuda.memory_reserved(self.device)
        budget = memory_budget(free=free, own=own, total=total, share=self._gpu_share)
        size = even_batches(max_batch_size, most=fitting_batch_size(peaks, budget=budget))
        while size > 1 and not self._fits(size):
            size //= 2
        torch.cuda.empty_cache()  # which nothing does while a CUDA graph, with memory of its own, is recorded
        return size

    def _fits(self, size: int) -> bool:
        try:
            self._try(size)
        except torch.OutOfMemoryError:
            torch.cuda.empty_cache()
            return False
        return True

    def _measure_peak(self, size: int) -> int:
        torch.cuda.reset_peak_memory_stats(self.device)
        self._try(size)
        return torch.cuda.max_memory_allocated(self.device)

    def _warm_up(self, size: int, *, compiles: bool) -> None:
        try:
            for _ in range(_WARM_UP_PASSES if self.device.type == "cuda" else 1):
                self._try(size)
        except torch.OutOfMemoryError as error:
            raise _out_of_memory(size) from error
        except (RuntimeError, OSError, subprocess.SubprocessError) as error:
            if not compiles:
                raise
            raise _uncompiled(error) from error

    def _try(self, size: int) -> None:
        """Score black images, and wait for the device."""
        shape, index = (size, self.image_size, self.image_size), np.zeros(size, np.int64)
        self._scored(np.zeros((*shape, 3), np.uint8), np.ones(shape, np.bool_), groups=index, nouns=index, size=size)

    def _in_turn(self, work: Callable[[], _T]) -> _T:
        """Do work that uses the device: one call at a time, without graph, on a GPU in its thread."""

        def inferred() -> _T:
            with torch.inference_mode():
                return work()

        with self._lock:
            return inferred() if self._gpu_thread is None else self._gpu_thread.submit(inferred).result()

    def _check_options(self, batch_size: int | None) -> None:
        if batch_size is not None and batch_size < 1:
            msg = f"score.batch_size must be at least 1, got {batch_size}."
            raise ConfigError(msg)
        if not (self._smoothing_sigma >= 0 and math.isfinite(self._smoothing_sigma)):
            msg = f"score.smoothing_sigma must be at least 0 pixels, got {self._smoothing_sigma}."
            raise ConfigError(msg)
        try:
            num_top_pixels(1, topk_fraction=self._topk_fraction)
            autocast(self._precision, device=self.device)
        except ValueError as error:
            msg = f"score.{error}"
            raise ConfigError(msg) from error


def _out_of_memory(batch_size: int) -> RunError:
    return RunError(
        f"The memory of the GPU is too small for the model and a batch of {batch_size} images; set score.batch_size "
        "lower, or score.gpus_per_actor higher."
    )


def _uncompiled(error: BaseException) -> ConfigError:
    reason = next(iter(str(error).splitlines()), type(error).__name__)
    return ConfigError(
        "score.compile: the model cannot be compiled where it runs; install a C++ compiler (g++) there, or leave "
        f"score.compile off: {reason}"
    )
