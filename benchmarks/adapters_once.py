#!/usr/bin/env python
"""One forward and backward pass of both adapters, and its peak of memory in a process of its own.

python benchmarks/adapters_once.py guide --device cpu --batch 4 --grid 24 --width 1024 --window 3

On the CPU the peak is the resident memory of the process, whose high-water mark the kernel resets on request; torch's
scratch memory is in it. On a GPU it is what torch allocated. Both count beyond what stood there before the pass.
"""

import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Literal

import torch
from guide import GuideTap
from jsonargparse import auto_cli
from torch import nn

from feclip.model import FFEAdapter, FrequencyTap, LFSAdapter

Candidate = Literal["ours", "guide"]


def adapter_passes(
    device: torch.device, *, batch: int, grid: int, width: int, window: int
) -> dict[Candidate, Callable[[], None]]:
    """Return one forward and backward pass of each candidate; gradients reach the tokens, and none is left."""
    torch.manual_seed(0)
    tap = FrequencyTap(FFEAdapter(width, window), LFSAdapter(width, window), fusion_weight=0.1).to(device)
    tokens = torch.randn(batch, grid, grid, width, device=device, requires_grad=True)
    arriving = torch.randn_like(tokens)  # the gradient from what follows the adapters

    def passing(module: nn.Module) -> Callable[[], None]:
        leaves = [tokens, *module.parameters()]

        def run() -> None:
            torch.autograd.backward(module(tokens), arriving)
            for leaf in leaves:
                leaf.grad = None

        return run

    return {"ours": passing(tap), "guide": passing(GuideTap(tap).to(device))}


def peak_in_child(candidate: Candidate, device: torch.device, sizes: Mapping[str, int]) -> int:
    """Return the peak in bytes, from a process of its own.

    Args:
        candidate: Whose adapters.
        device: Where they compute.
        sizes: ``batch``, ``grid``, ``width`` and ``window``.
    """
    command = [sys.executable, __file__, candidate, "--device", device.type]
    command += [f"--{name}={size}" for name, size in sizes.items()]
    command += [f"--num_threads={torch.get_num_threads()}"]
    # A fixed threshold makes glibc return every larger block when it is freed, so that resident is what is in use.
    environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": str(1 << 16)}
    return int(subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=True, text=True).stdout)  # noqa: S603 - this file


def main(
    candidate: Candidate, *, device: str, batch: int, grid: int, width: int, window: int, num_threads: int = 2
) -> None:
    """Print the peak in bytes.

    Args:
        candidate: Whose adapters.
        device: ``cpu`` or ``cuda``.
        batch: Images.
        grid: Side of the token grid.
        width: Token width.
        window: Sides P and Q of the windows, in tokens.
        num_threads: Threads of torch.
    """
    torch.set_num_threads(num_threads)
    place = torch.device(device)
    adapter_passes(place, batch=1, grid=window, width=16, window=window)[candidate]()  # loads what a first call loads
    run = adapter_passes(place, batch=batch, grid=grid, width=width, window=window)[candidate]
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run()
        print(torch.cuda.max_memory_allocated() - before)
    else:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # sets VmHWM to VmRSS, see proc(5)
        before = status_bytes("VmRSS")
        run()
        print(status_bytes("VmHWM") - before)


def status_bytes(name: str) -> int:
    """Return a field of this process's status, in bytes.

    Args:
        name: As in proc(5), ``VmRSS`` or ``VmHWM``.
    """
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) << 10
    msg = f"/proc/self/status has no {name}."
    raise RuntimeError(msg)


if __name__ == "__main__":
    auto_cli(main)
