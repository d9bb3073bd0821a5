#!/usr/bin/env python
"""The model's rows: the LFS statistic, both adapters, the whole model, its frozen blocks, its share of a GPU's peak.

python benchmarks/model.py lfs_statistic
python benchmarks/model.py adapters
python benchmarks/model.py whole_model
python benchmarks/model.py frozen_blocks
python benchmarks/model.py gpu_peak

Rows that want a GPU measure the one they find. Where there is none they run on the CPU at a tiny size to show that
they work, and their record says that nothing was measured.
"""

import functools
from collections.abc import Callable

import torch
from adapters_once import adapter_passes, peak_in_child
from devices import TINY, Size, model_and_images, name_of, not_measured, score
from guide import GuideLFS
from harness import FEWEST_REPEATS, Record, in_turns, write_record
from jsonargparse import auto_cli
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from feclip.model import LFSAdapter, autocast
from feclip.model.trunk import embed_images, run_blocks

BACKBONE, IMAGE_SIZE = "ViT-L-14-336", 336  # the paper's

LFS_WANTED = 40  # times as fast
LFS_DIFFERENCE = 1e-6  # of the largest value
ADAPTERS_WANTED = 1.5  # times as fast
MEMORY_WANTED = 1 / 3  # of the guide's peak
CPU_WANTED, GPU_WANTED = 1.3, 1.2  # times the bare encoder's time
PEAK_WANTED = 0.55  # of the matrix-product peak


def lfs_statistic(
    *, batch: int = 4, grid: int = 24, width: int = 1024, window: int = 3, repeats: int = 15, num_threads: int = 2
) -> None:
    """Time the LFS statistic before its convolution, forward, on the CPU.

    Args:
        batch: Images.
        grid: Side of the token grid.
        width: Token width.
        window: Side of the window, in tokens.
        repeats: Counted calls of each.
        num_threads: Threads of torch.
    """
    torch.set_num_threads(num_threads)
    torch.manual_seed(0)
    lfs = LFSAdapter(width, window)
    guide = GuideLFS(lfs)
    tokens = torch.randn(batch, grid, grid, width)
    with torch.inference_mode():
        expected = guide.local_statistics(tokens)
        difference = float((lfs.local_statistics(tokens) - expected).abs().max() / expected.abs().max())
        ours, theirs = in_turns(
            lambda: lfs.local_statistics(tokens), lambda: guide.local_statistics(tokens), repeats=repeats
        )
    ratio = theirs.median / ours.median
    write_record(
        Record(
            row="lfs_statistic",
            what=f"LFS statistic, B = {batch}, {grid} x {grid} x {width}, Q = {window}, float32, CPU",
            rival="the guide's unfold + einsum (benchmarks/guide.py)",
            wanted=f">= {LFS_WANTED} x, relative difference <= {LFS_DIFFERENCE:g}",
            command="python benchmarks/model.py lfs_statistic",
            ratio=ratio,
            ratio_of="rival / ours, time",
            met=ratio >= LFS_WANTED and difference <= LFS_DIFFERENCE,
            ours=ours,
            theirs=theirs,
            facts={"relative_difference": difference},
        )
    )


def adapters(
    *, batch: int = 4, grid: int = 24, width: int = 1024, window: int = 3, repeats: int = 7, num_threads: int = 2
) -> None:
    """Time both adapters of one tap, forward and backward, and take their peak of memory in a process each.

    Args:
        batch: Images.
        grid: Side of the token grid.
        width: Token width.
        window: Sides P and Q of the windows, in tokens.
        repeats: Counted calls of each.
        num_threads: Threads of torch.
    """
    torch.set_num_threads(num_threads)
    sizes = {"batch": batch, "grid": grid, "width": width, "window": window}
    shape = f"B = {batch}, {grid} x {grid} x {width}, P = Q = {window}, float32"
    write_record(_adapters("adapters", torch.device("cpu"), sizes=sizes, shape=f"{shape}, CPU", repeats=repeats))
    measured = torch.cuda.is_available()
    device = torch.device("cuda" if measured else "cpu")
    if not measured:
        sizes = {"batch": 1, "grid": 2 * window, "width": 32, "window": window}
    record = _adapters("adapters_gpu", device, sizes=sizes, shape=f"{shape}, GPU", repeats=repeats)
    ran = ", ".join(f"{name} {number}" for name, number in sizes.items())
    write_record(record if measured else not_measured(record, ran=ran))


def whole_model(
    *,
    backbone: str = BACKBONE,
    image_size: int = IMAGE_SIZE,
    batch: int = 1,
    gpu_batch: int = 64,
    repeats: int = 5,
    num_threads: int = 2,
) -> None:
    """Time inference with the whole model against its own image encoder alone, random weights.

    Args:
        backbone: Name of the open_clip model.
        image_size: Side of the input, in pixels.
        batch: Images on the CPU.
        gpu_batch: Images on a GPU.
        repeats: Counted calls of each.
        num_threads: Threads of torch.
    """
    torch.set_num_threads(num_threads)
    size = Size(backbone=backbone, image_size=image_size, batch=batch)
    write_record(_whole_model("whole_model", torch.device("cpu"), size=size, named=size, repeats=repeats))
    named = Size(backbone=backbone, image_size=image_size, batch=gpu_batch)
    if torch.cuda.is_available():
        write_record(_whole_model("whole_model_gpu", torch.device("cuda"), size=named, named=named, repeats=repeats))
    else:
        record = _whole_model("whole_model_gpu", torch.device("cpu"), size=TINY, named=named, repeats=repeats)
        write_record(not_measured(record, ran=str(TINY)))


def frozen_blocks(
    *,
    backbone: str = "ViT-B-16",
    image_size: int = 240,
    batch: int = 16,
    repeats: int = FEWEST_REPEATS,
    num_threads: int = 2,
) -> None:
    """Time the frozen blocks as the trunk runs them against the same blocks as open_clip calls them, on the CPU.

    Scoring and training, where gradients pass the blocks, in both precisions. The patch embedding is part of both.

    Args:
        backbone: Name of the open_clip model.
        image_size: Side of the input, in pixels.
        batch: Images; torch is slow with more than one, in bfloat16.
        repeats: Counted calls of each.
        num_threads: Threads of torch.
    """
    torch.set_num_threads(num_threads)
    size = Size(backbone=backbone, image_size=image_size, batch=batch)
    model, images = model_and_images(size, torch.device("cpu"))
    blocks = model.visual.transformer.resblocks

    def as_they_are(tokens: torch.Tensor) -> torch.Tensor:
        for block in blocks:
            tokens = block(tokens)
        return tokens

    def scored(run: Callable[[torch.Tensor], torch.Tensor], precision: str) -> torch.Tensor:
        with torch.inference_mode(), autocast(precision, device=images.device):
            return run(embed_images(model.visual, images))

    def trained(run: Callable[[torch.Tensor], torch.Tensor], precision: str) -> torch.Tensor:
        with autocast(precision, device=images.device):
            with torch.no_grad():
                tokens = embed_images(model.visual, images)
            result = run(tokens.requires_grad_())
        torch.autograd.grad(result.float().sum(), tokens)
        return result.detach()

    for name, passes, precision in (
        ("frozen_blocks", scored, "float32"),
        ("frozen_blocks_bfloat16", scored, "bfloat16"),
        ("frozen_blocks_training", trained, "float32"),
        ("frozen_blocks_training_bfloat16", trained, "bfloat16"),
    ):
        expected = passes(as_they_are, precision).float()
        found = passes(lambda tokens: run_blocks(blocks, tokens), precision).float()
        ours, theirs = in_turns(
            functools.partial(passes, lambda tokens: run_blocks(blocks, tokens), precision),
            functools.partial(passes, as_they_are, precision),
            repeats=repeats,
        )
        ratio = theirs.median / ours.median
        way = "forward" if passes is scored else "forward and backward to the tokens"
        write_record(
            Record(
                row=name,
                what=f"all blocks of {size}, frozen, {way}, {precision}, CPU (docs/adr/0033-attention.md)",
                rival="the same blocks as open_clip calls them",
                wanted="not slower",
                command="python benchmarks/model.py frozen_blocks",
                ratio=ratio,
                ratio_of="rival / ours, time",
                met=ratio >= 1,
                ours=ours,
                theirs=theirs,
                facts={
                    "relative_difference": float((found - expected).abs().max() / expected.abs().max()),
                    "images_per_second": batch / ours.median,
                },
            )
        )


def gpu_peak(
    *,
    backbone: str = BACKBONE,
    image_size: int = IMAGE_SIZE,
    batch: int = 128,
    side: int = 8192,
    compiled: bool = True,
    repeats: int = 15,
    num_threads: int = 2,
) -> None:
    """Measure how much of a GPU's matrix-product rate the whole model reaches, both in bfloat16.

    Args:
        backbone: Name of the open_clip model.
        image_size: Side of the input, in pixels.
        batch: Images.
        side: Of the two square matrices whose product is the peak.
        compiled: Whether torch.compile makes the model's kernels; its warm-up is not counted.
        repeats: Counted calls of each.
        num_threads: Threads of torch.
    """
    torch.set_num_threads(num_threads)
    measured = torch.cuda.is_available()
    named = Size(backbone=backbone, image_size=image_size, batch=batch)
    size, run_side = (named, side) if measured else (TINY, 64)
    device = torch.device("cuda" if measured else "cpu")
    model, images = model_and_images(size, device)
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        score(model, images[:1])
    flops_per_image = counter.get_total_flops()
    runs: nn.Module = torch.compile(model, dynamic=False) if compiled and measured else model
    left, right = torch.randn(2, run_side, run_side, device=device, dtype=torch.bfloat16)

    def run() -> None:
        with autocast("bfloat16", device=device):
            score(runs, images)

    with torch.inference_mode():
        ours, theirs = in_turns(run, lambda: left @ right, repeats=repeats, warmup=3)
    achieved, peak = flops_per_image * size.batch / ours.median, 2 * run_side**3 / min(theirs.values)
    record = Record(
        row="gpu_peak",
        what=f"whole model, {named}, bfloat16, GPU",
        rival=f"measured peak: the fastest bfloat16 product of two {side} x {side} matrices",
        wanted=f">= {PEAK_WANTED} of peak",
        command="python benchmarks/model.py gpu_peak",
        ratio=achieved / peak,
        ratio_of="ours / rival, floating-point operations per second",
        met=achieved / peak >= PEAK_WANTED,
        ours=ours,
        theirs=theirs,
        device=name_of(device),
        facts={
            "gflop_per_image": flops_per_image / 1e9,
            "images_per_second": size.batch / ours.median,
            "peak_tflops": peak / 1e12,
            "compiled": compiled,
        },
    )
    write_record(record if measured else not_measured(record, ran=f"{size}, matrices of {run_side} x {run_side}"))


def _adapters(row: str, device: torch.device, *, sizes: dict[str, int], shape: str, repeats: int) -> Record:
    passes = adapter_passes(device, **sizes)
    ours, theirs = in_turns(passes["ours"], passes["guide"], repeats=repeats)
    peak, rival_peak = (peak_in_child(candidate, device, sizes) for candidate in ("ours", "guide"))
    ratio = theirs.median / ours.median
    return Record(
        row=row,
        what=f"both adapters of one tap and their fusion, forward + backward, {shape}",
        rival="the guide's code, literally (benchmarks/guide.py)",
        wanted=f">= {ADAPTERS_WANTED} x, <= 1/3 peak memory",
        command="python benchmarks/model.py adapters",
        ratio=ratio,
        ratio_of="rival / ours, time",
        met=ratio >= ADAPTERS_WANTED and peak / rival_peak <= MEMORY_WANTED,
        ours=ours,
        theirs=theirs,
        device=name_of(device),
        facts={
            "peak_mib": peak / 2**20,
            "rival_peak_mib": rival_peak / 2**20,
            "memory_ours_by_rival": peak / rival_peak,
        },
    )


def _whole_model(row: str, device: torch.device, *, size: Size, named: Size, repeats: int) -> Record:
    on_cpu = row == "whole_model"
    precision, wanted = ("float32", CPU_WANTED) if on_cpu else ("bfloat16", GPU_WANTED)
    model, images = model_and_images(size, device)

    def within(call: Callable[[], object]) -> Callable[[], None]:
        def run() -> None:
            with torch.inference_mode(), autocast(precision, device=device):
                call()

        return run

    ours, theirs = in_turns(within(lambda: score(model, images)), within(lambda: model.visual(images)), repeats=repeats)
    ratio = ours.median / theirs.median
    return Record(
        row=row,
        what=f"whole model to image logit and token map, {named}, {precision}, {'CPU' if on_cpu else 'GPU'}",
        rival="open_clip's image encoder alone, same weights, precision and batch",
        wanted=f"<= {wanted} x its time",
        command="python benchmarks/model.py whole_model",
        ratio=ratio,
        ratio_of="ours / rival, time",
        met=ratio <= wanted,
        ours=ours,
        theirs=theirs,
        device=name_of(device),
        facts={"images_per_second": size.batch / ours.median},
    )


if __name__ == "__main__":
    auto_cli([lfs_statistic, adapters, whole_model, frozen_blocks, gpu_peak])
