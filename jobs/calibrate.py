#!/usr/bin/env python
r"""Fit thresholds on normal images, and write a bundle that decides.

From images, which are scored first:
    python jobs/calibrate.py --bundle /runs/first --normals /data/normals --output /runs/first-calibrated

From the output of a scoring job, by production line, for two percentiles (the first one decides):
    python jobs/calibrate.py --bundle s3://runs/first --normals s3://scores/normals --output s3://runs/calibrated \
        --calibrate.percentiles 99.5,99.9 --calibrate.threshold_by line

Every field with its default and help:
    python jobs/calibrate.py --print_config=comments
"""

import sys

from feclip.cli import run_job
from feclip.cluster.calibrate import calibrate
from feclip.config import CalibrateConfig

if __name__ == "__main__":
    sys.exit(run_job(CalibrateConfig, calibrate, prog="calibrate.py", about=__doc__ or ""))
