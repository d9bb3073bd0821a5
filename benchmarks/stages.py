"""Stages of scoring, each alone: decoding on all cores, and the model on batches that lie on its device."""

import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import torch

from feclip.bundle import read_bundle
from feclip.data import InputOptions, prepare_image
from feclip.model import autocast

MODEL_BATCHES = 20
MODEL_SECONDS = 20.0
"""After so long no further batch is begun."""


def decoding_rate(paths: list[Path], options: InputOptions, *, num_processes: int) -> float:
    """Return images/s of processes that read local files and bring them to the model's input; their start apart.

    Args:
        paths: The files.
        options: How an image becomes an input.
        num_processes: Processes, each with one thread.
    """
    shares = [(paths[start::num_processes], options) for start in range(num_processes)]
    with ProcessPoolExecutor(num_processes, mp_context=get_context("spawn")) as pool:
        list(pool.map(_decode, [(share[:1], options) for share, _ in shares]))
        started = time.perf_counter()
        list(pool.map(_decode, shares))
        return len(paths) / (time.perf_counter() - started)


def _decode(share: tuple[list[Path], InputOptions]) -> None:
    paths, options = share
    for path in paths:
        prepare_image(path.read_bytes(), uri=str(path), options=options)


def model_rate(bundle_uri: str, *, device: torch.device, batch_size: int) -> float:
    """Return images/s of a bundle's model on one batch of noise that lies on the device, again and again.

    Args:
        bundle_uri: The bundle.
        device: Where it runs; bfloat16 on a GPU, as the job's ``auto`` takes it.
        batch_size: Images of the batch.
    """
    model = read_bundle(bundle_uri).build().to(device).eval()
    images = torch.randn(batch_size, 3, model.image_size, model.image_size, device=device)

    def run() -> None:
        model(images)
        if device.type == "cuda":
            torch.cuda.synchronize()

    with torch.inference_mode(), autocast("auto", device=device):
        for _ in range(3):
            run()
        started, done = time.perf_counter(), 0
        while done < MODEL_BATCHES and time.perf_counter() - started < MODEL_SECONDS:
            run()
            done += 1
        return done * batch_size / (time.perf_counter() - started)
