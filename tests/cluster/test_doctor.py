"""The doctor on a real cluster."""

from pathlib import Path

import pytest

from feclip.__main__ import main


@pytest.mark.cluster
@pytest.mark.usefixtures("local_ray")
def test_the_doctor_asks_the_cluster_and_a_worker(
    bundle: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--bundle", bundle, "--output", str(tmp_path / "out"), "--device", "cpu"]
    assert main(["doctor", *flags]) == 0
    lines = capsys.readouterr().out.splitlines()
    (cluster,) = [line for line in lines if line[9:].startswith("ray ")]
    assert cluster.startswith("ok ")
    assert "cluster started here, 1 nodes: 4 CPUs, 0 GPUs" in cluster
    (worker,) = [line for line in lines if line[9:].startswith("worker ")]
    assert worker.startswith("ok ")
    assert [line[:2] for line in lines if f"{tmp_path / 'out'}, from a worker: 1 MiB written" in line] == ["ok"]
    assert not any((tmp_path / "out").iterdir())

    assert main(["doctor", *flags, "--cluster.num_workers", "99"]) == 1
    captured = capsys.readouterr()
    assert "cluster.num_workers=99 needs 99 CPUs, but the cluster has 4" in captured.out
    assert captured.err.splitlines()[-1].endswith("checks failed: ray.")
