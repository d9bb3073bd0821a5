#!/usr/bin/env python
"""``feclip tune`` for ``ray job submit``; ``--help`` shows the examples of feclip/commands/tune.txt."""

import sys

from feclip.cli import run_script

if __name__ == "__main__":
    sys.exit(run_script("tune"))
