#!/usr/bin/env python
r"""Make a static page of a score table: distributions, rates, drift, a gallery with heatmaps; no server, no GPU.

    python jobs/report.py --bundle /runs/calibrated --scores s3://scores/run-1 --output /pages/run-1
    python jobs/report.py --bundle /runs/calibrated --scores s3://scores/run-1 --find part_000017

The page is <output>/index.html, which opens from a file or a bucket. With --find, rows of the whole table are printed
as CSV instead. Without --scores the page is of the bundle's training.

Every field with its default and help:
    python jobs/report.py --print_config=comments
"""

import sys

from feclip.cli import run_job
from feclip.config import ReportConfig
from feclip.report import report

if __name__ == "__main__":
    sys.exit(run_job(ReportConfig, report, prog="report.py", about=__doc__ or ""))
