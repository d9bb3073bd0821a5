"""Look for known holes in the pinned dependencies, and never take an unanswered question for a good answer.

    python .ci/audit.py requirements.txt

Exit codes: 0 no known hole, 1 there are some, 2 not audited, since the vulnerability database cannot be reached.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

NOT_AUDITED = 2


def main() -> int:
    """Run pip-audit on a file of pinned requirements and say what came of it."""
    (requirements,) = sys.argv[1:]
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        command = [sys.executable, "-m", "pip_audit", "--requirement", requirements, "--disable-pip", "--strict"]
        command += ["--progress-spinner", "off", "--format", "json", "--output", str(report)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - our own arguments
        if not report.is_file() or not report.stat().st_size:
            lines = done.stderr.strip().splitlines() or ["it ended without a word"]
            sys.stderr.write(f"NOT AUDITED: pip-audit had no answer from the vulnerability database ({lines[-1]}).\n")
            return NOT_AUDITED
        dependencies = json.loads(report.read_text(encoding="utf-8"))["dependencies"]
    holes = [(found["name"], found["version"], hole) for found in dependencies for hole in found["vulns"]]
    for name, version, hole in holes:
        fixed = ", ".join(hole["fix_versions"]) or "no version yet"
        sys.stdout.write(f"{name} {version}: {hole['id']}, mended by {fixed}\n")
    sys.stdout.write(f"{len(dependencies)} packages audited, {len(holes)} known holes.\n")
    return 1 if holes else 0


if __name__ == "__main__":
    sys.exit(main())
