#!/usr/bin/env python
"""``feclip reproduce`` for ``ray job submit``; ``--help`` shows the examples of feclip/commands/reproduce.txt."""

import sys

from feclip.cli import run_script

if __name__ == "__main__":
    sys.exit(run_script("reproduce"))
