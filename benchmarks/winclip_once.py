"""Anomalib's WinCLIP, zero-shot, random weights, on a folder of images, as `Engine.predict` runs it.

It runs in an environment of its own (`requirements-winclip.txt`), without feclip. `benchmarks/winclip.py` starts it
with the folder and a number of threads. Its first line of output names its versions; then it answers each line, a batch
size, with the images/s of the whole prediction and of the model in it.
"""

import contextlib
import json
import os
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import open_clip
import torch
from lightning.pytorch.callbacks import Callback

_create = open_clip.create_model_and_transforms


def _without_weights(name: str, pretrained: str | None = None, **options: Any) -> Any:  # noqa: ANN401 - open_clip's
    """Build the model as WinCLIP asks, but with random weights, which take as long and need no download."""
    del pretrained
    return _create(name, pretrained=None, **options)


open_clip.create_model_and_transforms = _without_weights

from anomalib.data import PredictDataset  # noqa: E402 - after the change above
from anomalib.engine import Engine  # noqa: E402
from anomalib.models import WinClip  # noqa: E402
from torch.utils.data import DataLoader  # noqa: E402


class Clock(Callback):
    """Seconds of a prediction from its start to its end, reading included, and of the model's forward passes in it."""

    def __init__(self, model: torch.nn.Module) -> None:
        self.whole = self.model = 0.0
        self._started = self._forward_started = 0.0
        model.register_forward_pre_hook(self._before)
        model.register_forward_hook(self._after)

    def _before(self, *_: object) -> None:
        self._forward_started = time.perf_counter()

    def _after(self, *_: object) -> None:
        self.model += time.perf_counter() - self._forward_started

    def on_predict_epoch_start(self, *_: object) -> None:
        """Start."""
        self.whole, self.model = -time.perf_counter(), 0.0

    def on_predict_epoch_end(self, *_: object) -> None:
        """End."""
        self.whole += time.perf_counter()


def _checkpoint(model: WinClip, path: Path) -> Path:
    """Save the model as it is: without a checkpoint, `predict` would first look for labelled images to validate on."""
    model.setup("predict")
    kept = {"state_dict": model.state_dict(), "epoch": 0, "global_step": 0}
    torch.save(kept | {"pytorch-lightning_version": version("lightning")}, path)
    return path


def main() -> None:
    """Answer until the input ends."""
    folder, num_threads = sys.argv[1:]
    torch.set_num_threads(int(num_threads))
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what the libraries print is no answer
    versions = {name: version(name) for name in ("anomalib", "open_clip_torch", "torch")}
    with tempfile.TemporaryDirectory() as home, contextlib.chdir(home):
        model = WinClip(class_name="object", visualizer=False)
        clock = Clock(model.model)
        engine = Engine(
            callbacks=[clock], logger=False, enable_progress_bar=False, accelerator="cpu", default_root_dir=Path(home)
        )
        checkpoint = _checkpoint(model, Path(home, "winclip.ckpt"))
        print(json.dumps(versions), file=answers, flush=True)
        for line in sys.stdin:
            dataset = PredictDataset(folder)
            loader = DataLoader(dataset, batch_size=int(line), collate_fn=dataset.collate_fn)
            engine.predict(model=model, dataloaders=loader, return_predictions=False, ckpt_path=checkpoint)
            rates = {"images_per_second": len(dataset) / clock.whole}
            rates["model_images_per_second"] = len(dataset) / clock.model
            print(json.dumps(rates), file=answers, flush=True)


if __name__ == "__main__":
    main()
