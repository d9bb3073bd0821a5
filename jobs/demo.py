#!/usr/bin/env python
r"""Fine-tune, calibrate, score an archive and evaluate, all on generated pictures; five minutes on two cores.

    python jobs/demo.py
    python jobs/demo.py --output /runs/demo --epochs 1

Given again with the same output, what is there is not made again.

Every field with its default and help:
    python jobs/demo.py --print_config=comments
"""

import sys

from feclip.cli import run_job
from feclip.cluster.demo import demo
from feclip.config import DemoConfig

if __name__ == "__main__":
    sys.exit(run_job(DemoConfig, demo, prog="demo.py", about=__doc__ or ""))
