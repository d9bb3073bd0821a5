#!/usr/bin/env python
"""``feclip score`` for ``ray job submit``; ``--help`` shows the examples of feclip/commands/score.txt."""

import sys

from feclip.cli import run_script

if __name__ == "__main__":
    sys.exit(run_script("score"))
