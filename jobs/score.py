#!/usr/bin/env python
r"""Score every image of an archive with a bundle, on a Ray cluster or on this machine.

On this machine:
    python jobs/score.py --bundle /runs/first --archive /data/images --output /scores/run-1

On a cluster, from object storage, two models on GPUs:
    ray job submit --address http://127.0.0.1:8265 --working-dir . -- \
        python jobs/score.py --bundle s3://runs/first --archive s3://archive/images --output s3://scores/run-1 \
        --score.num_actors 2 --score.gpus_per_actor 1

What it would take, measured on a sample of the archive; nothing is written:
    python jobs/score.py --bundle /runs/first --archive /data/images --output /scores/run-1 --plan \
        --planning.price_per_hour 2.5

Every field with its default and help:
    python jobs/score.py --print_config=comments

Submitted again with the same output, a broken run does what is missing, and a finished one does nothing.
"""

import sys

from feclip.cli import run_job
from feclip.cluster.score import score
from feclip.config import ScoreConfig

if __name__ == "__main__":
    sys.exit(run_job(ScoreConfig, score, prog="score.py", about=__doc__ or ""))
