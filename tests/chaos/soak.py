"""Score an archive again and again while seeded faults strike, and print what went in, what came out and what broke.

    PYTHONPATH=.:tests:tests/cluster python tests/chaos/soak.py --minutes 30 --seed 0

Machines die, are drained or lose a worker; storage is flaky all the time and down now and then. A job that ends badly
is submitted again. Every output is read back and held against that of an undisturbed run.
"""

import argparse
import os
import random
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from unittest import mock

import numpy as np
import pyarrow as pa
from fault_proxy import DOWN, FLAKY, FaultProxy
from job_runner import run_here
from machines import ACTOR, DECODER, SETTINGS, Machines
from odd_files import BAD
from s3_server import serving
from small_archive import table_of
from small_bundle import write_small_bundle

from feclip.data import join_uri, write_bytes
from feclip.demo import FAMILIES, write_archive

PAUSE_S = (4.0, 15.0)
"""Between two faults."""
DOWN_S = (2.0, 8.0)
FLAKY_SHARE = 0.5
"""Of the faults of `FLAKY`, at any time."""
CLOSE = 1e-5
MAX_SUBMISSIONS = 20
"""Of one job, before the soak gives up."""


class Plague(threading.Thread):
    """Lets faults strike until it is ended.

    Args:
        machines: What they strike.
        proxy: And the storage.
        seed: Of what strikes when.
    """

    def __init__(self, machines: Machines, proxy: FaultProxy, *, seed: int) -> None:
        super().__init__(daemon=True)
        self._machines, self._proxy, self._seed = machines, proxy, seed
        self._chance = random.Random(seed)  # noqa: S311
        self._over = threading.Event()
        self.faults = Counter[str]()
        self.requests = Counter[str]()

    def run(self) -> None:
        """Strike, pause, and strike again."""
        deeds = {
            "node died": self._node,
            "spot node drained": self._spot,
            "scoring actor killed": lambda: self._machines.kill_worker(ACTOR),
            "decoding worker killed": lambda: self._machines.kill_worker(DECODER),
            "storage down": self._storage,
        }
        while not self._flaky(self._chance.uniform(*PAUSE_S)):
            name = self._chance.choice(list(deeds))
            if deeds[name]() is not False:
                self.faults[name] += 1

    def end(self) -> None:
        """Let no more faults strike."""
        self._over.set()
        self.join()

    def _flaky(self, seconds: float) -> bool:
        shares = {fault: share * FLAKY_SHARE for fault, share in FLAKY.items()}
        with self._proxy.faults(shares, seed=self._chance.randrange(2**31)):
            over = self._over.wait(seconds)
        self.requests += self._proxy.counts
        return over

    def _node(self) -> bool:
        node = self._machines.running(ACTOR)
        if node is None:
            return False
        self._machines.kill(node)
        self._machines.add()
        return True

    def _spot(self) -> bool:
        node = self._machines.running(ACTOR)
        if node is None:
            return False
        self._machines.drain(node, seconds=2)
        self._machines.add()
        return True

    def _storage(self) -> None:
        with self._proxy.faults(DOWN, seed=self._seed):
            self._over.wait(self._chance.uniform(*DOWN_S))
        self.requests += self._proxy.counts


class Account:
    """Adds up what rounds of scoring did.

    Args:
        expected: The table of an undisturbed run.
    """

    def __init__(self, expected: pa.Table) -> None:
        self._rows = {_name(row["uri"]): row for row in expected.to_pylist()}
        self.sums = Counter[str]()
        self.errors = Counter[str]()

    def add(self, table: pa.Table, *, submissions: int) -> None:
        """Count a round: its table, and how often it had to be submitted."""
        found = Counter(_name(uri) for uri in table["uri"].to_pylist())
        self.sums["jobs"] += 1
        self.sums["jobs submitted again after they ended non-zero"] += submissions - 1
        self.sums["images in"] += len(self._rows)
        self.sums["rows out"] += len(table)
        self.sums["rows lost"] += len(self._rows.keys() - found.keys())
        self.sums["rows twice"] += sum(number - 1 for number in found.values())
        rows = table.to_pylist()
        self.sums["rows that differ"] += sum(not self._same(row) for row in rows)
        self.errors += Counter(str(row["error_kind"]) for row in rows if row["error_kind"] is not None)

    def _same(self, row: Mapping[str, object]) -> bool:
        wanted = self._rows.get(_name(str(row["uri"])))
        if wanted is None or row["error_kind"] != wanted["error_kind"]:
            return False
        columns = ("image_logit", "map_max", "map_topk_mean")
        found, expected = (np.array([part[name] for name in columns], float) for part in (row, wanted))
        return bool(np.allclose(found, expected, rtol=0, atol=CLOSE, equal_nan=True))

    @property
    def is_sound(self) -> bool:
        """Whether rounds were counted, and none lost, doubled or changed a row."""
        wrong = ("rows lost", "rows twice", "rows that differ")
        return self.sums["jobs"] > 0 and not any(self.sums[name] for name in wrong)


def _name(uri: str) -> str:
    return uri.partition("/line=")[2]


def _table(counts: Mapping[str, object]) -> str:
    return "\n".join(
        ["| what | how many |", "|---|---|", *(f"| {name} | {number} |" for name, number in counts.items())]
    )


def _fill(images: str, *, folder: Path, num_images: int) -> None:
    """Write field images and files that are none into object storage."""
    families = FAMILIES["unseen"][:2]
    write_archive(folder, seed=6, families=families, num_images=num_images, defect_fraction=0.2, image_size=640)
    root = folder / "images"
    for path in sorted(path for path in root.rglob("*") if path.is_file()):
        write_bytes(join_uri(images, str(path.relative_to(root))), path.read_bytes())
    for name, (content, _) in BAD.items():
        write_bytes(join_uri(images, f"line=1/date=2024-02/{name}.png"), content)


def _soak(machines: Machines, proxy: FaultProxy, *, folder: Path, arguments: argparse.Namespace) -> int:
    images, scores = "s3://soak/images", "s3://soak/scores"
    _fill(images, folder=folder / "field", num_images=arguments.images)
    bundle = write_small_bundle(folder / "bundle")
    given = ("--bundle", bundle, "--archive", images, "--score.num_actors", "2", "--score.precision", "float32")
    given += ("--score.slice_size", "16", "--score.max_error_rate", "1")
    machines.bring()
    done = run_here(*given, "--output", f"{scores}/undisturbed", job="score.py")
    if done.returncode:
        sys.stdout.write(done.output)
        return 1
    account = Account(table_of(f"{scores}/undisturbed"))
    plague = Plague(machines, proxy, seed=arguments.seed)
    started = time.monotonic()
    plague.start()
    while time.monotonic() < started + 60 * arguments.minutes:
        output, submissions = f"{scores}/{account.sums['jobs']}", 1
        while (done := run_here(*given, "--output", output, job="score.py")).returncode:
            sys.stdout.write(f"submitted again: {done.output}\n")
            submissions += 1
            if submissions > MAX_SUBMISSIONS:
                plague.end()
                return 1
        account.add(table_of(output), submissions=submissions)
        sys.stdout.write(f"{time.monotonic() - started:.0f} s: {dict(account.sums)} {dict(plague.faults)}\n")
        sys.stdout.flush()
    plague.end()
    minutes = (time.monotonic() - started) / 60
    counts: dict[str, object] = {"minutes": f"{minutes:.1f}", "seed": arguments.seed, **account.sums}
    counts |= {f"errors: {kind}": number for kind, number in sorted(account.errors.items())}
    counts |= {f"faults: {name}": number for name, number in sorted(plague.faults.items())}
    counts |= {f"requests: {name}": number for name, number in sorted(plague.requests.items())}
    sys.stdout.write(_table(counts) + "\n")
    return 0 if account.is_sound else 1


def main() -> int:
    """Run the soak and return an exit code: 0 if no row was lost, doubled or changed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=30, help="how long; the last job is brought to its end")
    parser.add_argument("--seed", type=int, default=0, help="of the faults")
    parser.add_argument("--images", type=int, default=600, help="field images of the archive")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="feclip-soak-") as name:
        folder = Path(name)
        (folder / "s3" / "buckets" / "soak").mkdir(parents=True)
        (folder / "bundle").mkdir()
        with serving(folder / "s3") as server, FaultProxy(server.endpoint).serving() as proxy:
            environment = SETTINGS | server.env | {"AWS_ENDPOINT_URL": proxy.endpoint}
            with mock.patch.dict(os.environ, environment):
                machines = Machines(environment)
                try:
                    return _soak(machines, proxy, folder=folder, arguments=arguments)
                finally:
                    machines.shutdown()


if __name__ == "__main__":
    sys.exit(main())
