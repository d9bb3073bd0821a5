"""The demonstration, as a newcomer starts it."""

from pathlib import Path

import pytest
from job_runner import JobRunner

pytestmark = [pytest.mark.cluster, pytest.mark.slow]

FLOOR = 0.55  # of the image AUROC: a trunk that knows nothing stays at 0.5, three epochs reach 0.66


@pytest.mark.timeout(1200)
def test_the_demonstration_ends_with_its_screen_and_a_second_one_does_nothing(
    run_job: JobRunner, tmp_path: Path
) -> None:
    done = run_job("--output", "tour", job="demo.py", timeout=1000)
    assert done.returncode == 0, done.output
    screen = done.output[done.output.index("Demonstration done in") :]
    assert f"{tmp_path}/tour/calibrated" in screen
    assert float(screen.split("image AUROC ")[1].split(",")[0]) > FLOOR
    assert " of 15 defective images called anomalous" in screen
    assert (tmp_path / "tour" / "report" / "index.html").is_file()
    again = run_job("--output", "tour", job="demo.py", timeout=300)
    assert again.returncode == 0, again.output
    assert again.output[again.output.index("families that nothing has seen") :] in done.output
