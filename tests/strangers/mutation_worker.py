"""Damage specimens, seed after seed, and say what came of each; a process of its own, since it may crash or hang.

    python tests/strangers/mutation_worker.py FOLDER FIRST COUNT KIND...

Before each reading it says the seed, so that a crash tells by whom; at the end of a kind the counts, as JSON.
"""

import json
import random
import resource
import signal
import sys
import traceback
from collections import Counter
from pathlib import Path

from specimens import SPECIMENS

from feclip.errors import FeclipError

BUSY_SECONDS = 30  # of computing, for one reading; then a signal ends the process
IDLE_SECONDS = 300  # of waiting; a busy machine may leave a process without a core for long
MEMORY_BYTES = 3 << 30  # beyond what the process has; more is refused, as by a node that has no more


def main() -> None:
    """Run the seeds of each kind."""
    folder, first, count, *kinds = sys.argv[1:]
    own = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    limited = False
    for kind in kinds:
        (Path(folder) / kind).mkdir(parents=True)
        specimen = SPECIMENS[kind](Path(folder) / kind)
        if not limited:
            resource.setrlimit(resource.RLIMIT_AS, (own + 2 * MEMORY_BYTES, resource.RLIM_INFINITY))
            limited = True
        whole = specimen.read()
        found: Counter[str] = Counter()
        for seed in range(int(first), int(first) + int(count)):
            text, strict = specimen.damage(random.Random(f"{kind} {seed}"))  # noqa: S311
            say(f"{kind} {seed}: {text}")
            signal.setitimer(signal.ITIMER_PROF, BUSY_SECONDS)
            signal.alarm(IDLE_SECONDS)
            try:
                same = specimen.read() == whole
                outcome = "equal" if same else ("WRONG RESULT" if strict else "another")
            except FeclipError as error:
                outcome = "refused" if "\n" not in str(error) and str(error) else f"UNCLEAR: {error!r}"
            except Exception:  # noqa: BLE001 - that is what is looked for
                outcome = f"TRACEBACK\n{traceback.format_exc()}"
            signal.setitimer(signal.ITIMER_PROF, 0)
            signal.alarm(0)
            if outcome not in {"equal", "refused", "another"}:
                say(f"FAILED {kind} {seed}: {text}: {outcome}")
                outcome = "failed"
            found[outcome] += 1
            specimen.mend()
        say(f"COUNTS {json.dumps({'kind': kind, **found})}")


def say(line: str) -> None:
    """Write a line at once, so that it is there when the process is not any more."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
