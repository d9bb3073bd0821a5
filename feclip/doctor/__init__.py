"""What can be wrong with an installation, a model and storage, checked before a job meets it; no ray.

check_installation, check_devices    versions, cores, memory, GPUs, precision
check_model                          backbone, token grid, trained parts, forward pass, training steps
check_storage                        a file written, read back and deleted
write_diagnosis                      all of it in one file for a bug report, without secrets
"""

from feclip.doctor.diagnosis import require_new_place, write_diagnosis
from feclip.doctor.finding import Finding, Status, failed, guarded, ok, warning
from feclip.doctor.installation import check_devices, check_installation
from feclip.doctor.model import check_model
from feclip.doctor.storage import check_storage

__all__ = [
    "Finding",
    "Status",
    "check_devices",
    "check_installation",
    "check_model",
    "check_storage",
    "failed",
    "guarded",
    "ok",
    "require_new_place",
    "warning",
    "write_diagnosis",
]
