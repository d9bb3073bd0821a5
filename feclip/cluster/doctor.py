"""The doctor's round: machine, model, storage, cluster; ray is loaded last, for it may be what fails."""

import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from feclip.cluster.endpoint import use_endpoint
from feclip.config import DoctorConfig, OutputFormat
from feclip.doctor import (
    Finding,
    Status,
    check_devices,
    check_installation,
    check_model,
    check_storage,
    guarded,
    require_new_place,
    write_diagnosis,
)
from feclip.errors import RunError

__all__ = ["doctor"]


def doctor(config: DoctorConfig) -> None:
    """Check everything, write a line for each finding to standard output, and the diagnosis where it is wanted.

    Raises:
        RunError: At the end, if something failed.
        FeclipError: If the diagnosis cannot be written.
    """
    use_endpoint(config.cluster)
    if config.diagnose is not None:
        require_new_place(config.diagnose)
    logs = (
        [] if config.diagnose is None else list(_ray_logs())
    )  # before a cluster is started here, with logs of its own
    findings = []
    for finding in _findings(config):
        findings.append(finding)
        line = finding.json() if config.format is OutputFormat.json else finding.text()
        sys.stdout.write(f"{line}\n")
        sys.stdout.flush()
    if config.diagnose is not None:
        write_diagnosis(config.diagnose, config=config, findings=findings, logs=logs)
    broken = [finding.check for finding in findings if finding.status is Status.failed]
    if broken:
        msg = f"{len(broken)} of {len(findings)} checks failed: {', '.join(dict.fromkeys(broken))}."
        raise RunError(msg)


def _findings(config: DoctorConfig) -> Iterator[Finding]:
    yield from guarded("versions", check_installation)
    yield from guarded("devices", partial(check_devices, str(config.device), str(config.precision)))
    yield from guarded("model", partial(check_model, config))
    if config.output is not None:
        yield from guarded("storage", partial(check_storage, config.output, where="from here"))
    if config.ray:
        yield from guarded("ray", partial(_ray, config))


def _ray(config: DoctorConfig) -> Iterator[Finding]:
    from feclip.cluster.ray_checks import check_ray  # noqa: PLC0415 - whether it can be loaded is what is checked

    return check_ray(config)


def _ray_logs() -> Iterator[Path]:
    """Return the logs of the newest Ray sessions of this machine; none where ray cannot be loaded."""
    find: Callable[[], Iterator[Path]]
    try:
        from feclip.cluster.ray_checks import session_logs as find  # noqa: PLC0415 - see above
    except ImportError:
        return iter(())
    return find()
