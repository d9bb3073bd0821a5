#!/usr/bin/env python
"""``feclip decide`` for ``ray job submit``; ``--help`` shows the examples of feclip/commands/decide.txt."""

import sys

from feclip.cli import run_script

if __name__ == "__main__":
    sys.exit(run_script("decide"))
