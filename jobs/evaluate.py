#!/usr/bin/env python
r"""Judge a bundle on labelled images that it has never seen: AUROC, AP, AUPRO, and decisions where it has thresholds.

On the part of a folder that a bundle trained under protocol b has never seen:
    python jobs/evaluate.py --bundle /runs/first --data.root /data/mvtec --split report

On image labels alone:
    python jobs/evaluate.py --bundle /runs/first --data.manifest /data/labels.csv --data.root /data/images

As the peers do, over five seeds, beside the paper:
    python jobs/evaluate.py --bundle s3://runs/0,s3://runs/1,s3://runs/2,s3://runs/3,s3://runs/4 \
        --data.root s3://data/visa --preset community-518 --compare paper --output s3://results/visa

It writes metrics.parquet and metrics.md; without --output into <bundle>/evaluations/<digest of data, split and preset>.
Images that trained, selected or calibrated the bundle stop it, unless --allow_trained_images marks every number.

Every field with its default and help:
    python jobs/evaluate.py --print_config=comments
"""

import sys

from feclip.cli import run_job
from feclip.cluster.evaluate import evaluate
from feclip.config import EvaluateConfig

if __name__ == "__main__":
    sys.exit(run_job(EvaluateConfig, evaluate, prog="evaluate.py", about=__doc__ or ""))
