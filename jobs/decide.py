#!/usr/bin/env python
r"""Apply the thresholds of a bundle to an existing score table; no image is read and no model is loaded.

    python jobs/decide.py --bundle /runs/first-calibrated --scores /scores/run-1
    python jobs/decide.py --bundle /runs/first-calibrated --scores /scores/run-1 --rule either --percentile 99.9

Decisions are written to <scores>/decisions/<calibration_id>, one table for each set of thresholds.

Every field with its default and help:
    python jobs/decide.py --print_config=comments
"""

import sys

from feclip.cli import run_job
from feclip.cluster.decide import decide
from feclip.config import DecideConfig

if __name__ == "__main__":
    sys.exit(run_job(DecideConfig, decide, prog="decide.py", about=__doc__ or ""))
