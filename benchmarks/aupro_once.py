#!/usr/bin/env python
"""One measurement of benchmarks/aupro.py, in a process of its own: time, value and peak memory as a line of JSON.

    python benchmarks/aupro_once.py feclip FOLDER

FOLDER holds ``scores.npy`` (N, S, S) float32 and ``masks.npy`` (N, S, S) bool. Needs feclip or anomalib, not both.
"""

import json
import resource
import sys
import time
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

import numpy as np
import numpy.typing as npt

Maps = npt.NDArray[np.generic]


def feclip_aupro() -> Callable[[Maps, Maps], float]:
    """Return our exact AUPRO, counting the pixels included."""
    from feclip.metrics import PixelCounts  # noqa: PLC0415 - the other library's environment lacks it
    from feclip.metrics.pixel_curve import PixelCurve, aupro_of  # noqa: PLC0415

    def compute(scores: Maps, masks: Maps) -> float:
        curve = PixelCurve.of(PixelCounts.of(scores, masks))
        assert curve is not None
        return aupro_of(curve)

    return compute


def anomalib_aupro() -> Callable[[Maps, Maps], float]:
    """Return anomalib's AUPRO up to a false-positive rate of 0.3, which takes every distinct score as a threshold."""
    import torch  # noqa: PLC0415
    from anomalib.metrics.aupro import _AUPRO  # noqa: PLC0415 - the metric itself, without the batch's field names

    def compute(scores: Maps, masks: Maps) -> float:
        metric = _AUPRO(fpr_limit=0.3)
        metric.update(torch.from_numpy(scores), torch.from_numpy(masks).int())
        return float(metric.compute())

    return compute


def main() -> None:
    """Measure the library that the first argument names."""
    library, folder = sys.argv[1], Path(sys.argv[2])
    compute = {"feclip": feclip_aupro, "anomalib": anomalib_aupro}[library]()
    scores, masks = (np.load(folder / f"{name}.npy", allow_pickle=False) for name in ("scores", "masks"))
    compute(scores[-2:], masks[-2:])  # what is loaded at the first call is not counted
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start, cpu_start = time.perf_counter(), time.process_time()
    value = compute(scores, masks)
    seconds, cpu_seconds = time.perf_counter() - start, time.process_time() - cpu_start
    extra = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
    found = {"library": library, "version": metadata.version(library), "value": value, "bytes_beyond_input": extra}
    print(json.dumps(found | {"seconds": seconds, "cpu_seconds": cpu_seconds}))


if __name__ == "__main__":
    main()
