#!/usr/bin/env python
r"""Fine-tune the FE-CLIP adapters on labelled images, on a Ray cluster or on this machine.

On this machine:
    python jobs/finetune.py --data.root /data/mvtec --output /runs/first

On a cluster (paths are absolute, or s3:// URIs):
    ray job submit --address http://127.0.0.1:8265 --working-dir . -- \
        python jobs/finetune.py --data.root s3://data/mvtec --output s3://runs/first --cluster.num_workers 4

From a file, with one field changed; every field with its default and help:
    python jobs/finetune.py --config configs/first.yaml --optim.epochs 4
    python jobs/finetune.py --print_config=comments

Submitted again with the same output, a broken run goes on from its last epoch, and a finished one does nothing.
"""

import sys

from feclip.cli import run_job
from feclip.cluster.finetune import finetune
from feclip.config import FinetuneConfig

if __name__ == "__main__":
    sys.exit(run_job(FinetuneConfig, finetune, prog="finetune.py", about=__doc__ or ""))
