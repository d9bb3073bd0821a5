#!/usr/bin/env python
r"""Search config fields by many fine-tunings that are judged on held-out images, on a Ray cluster or on this machine.

On this machine:
    python jobs/tune.py --space tune_spaces/adapters.yaml --data.root /data/mvtec --num_trials 8 --output /runs/sweep

On a cluster, four trials to a GPU, and the best config fine-tuned to a bundle by four workers at the end:
    ray job submit --address http://127.0.0.1:8265 --working-dir . -- \
        python jobs/tune.py --space tune_spaces/full.yaml --data.root s3://data/mvtec --output s3://runs/sweep \
        --num_trials 100 --tune.gpus_per_trial 0.25 --refit --cluster.num_workers 4 --cluster.use_gpu true

Go on with a sweep that was broken off, or with more trials; everything else stands in its own record:
    python jobs/tune.py --output /runs/sweep --resume
    python jobs/tune.py --output /runs/sweep --resume --num_trials 16

Every field with its default and help:
    python jobs/tune.py --print_config=comments

It leaves trials.parquet, sweep.html, best.yaml (for jobs/finetune.py --config) and, with --refit, a bundle.
"""

import sys

from feclip.cli import run_job
from feclip.cluster.tune import tune
from feclip.config import TuneConfig

if __name__ == "__main__":
    sys.exit(run_job(TuneConfig, tune, prog="tune.py", about=__doc__ or ""))
