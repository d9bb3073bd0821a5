#!/usr/bin/env python
"""``feclip report`` as a job; ``--help`` shows the examples of feclip/commands/report.txt."""

import sys

from feclip.cli import run_script

if __name__ == "__main__":
    sys.exit(run_script("report"))
