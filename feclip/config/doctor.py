"""Checks of an installation, a model, storage and a cluster, before a job needs them."""

from dataclasses import dataclass, field

from feclip.config.checks import require_member, require_texts
from feclip.config.choices import Device, OutputFormat, Precision
from feclip.config.cluster import ClusterConfig
from feclip.config.lists import Names
from feclip.config.model import ModelConfig

__all__ = ["DoctorConfig"]


@dataclass(frozen=True, kw_only=True)
class DoctorConfig:
    """Check installation, model, storage and cluster, and say what to do about what is wrong."""

    bundle: str | None = None
    """Folder or s3:// prefix of a bundle, whose model is checked; null checks the model of the fields below."""
    model: ModelConfig = field(default_factory=ModelConfig)
    """The model, where no bundle is given."""
    output: str | None = None
    """Folder or s3:// prefix where a file is written, read back and deleted, here and by a worker."""
    device: Device = Device.auto
    """Where the model is tried; auto takes a GPU if this process sees one."""
    precision: Precision = Precision.auto
    """Arithmetic of the trunk that is tried."""
    ray: bool = True
    """Whether Ray is tried: the cluster that RAY_ADDRESS names, else one that is started here."""
    cluster: ClusterConfig = field(default_factory=ClusterConfig)
    """What jobs will ask of the cluster."""
    format: OutputFormat = OutputFormat.text
    """text for people, or json: one line for each check."""
    diagnose: str | None = None
    """File .zip, or folder, for a bug report: checks, versions, config, the ends of logs; of the environment the names
    and some harmless values, and nothing that looks like a secret."""
    run: str | None = None
    """Output of a job whose records go into the diagnosis."""
    logs: Names | None = None
    """Log files whose ends go into the diagnosis, written a.log,b.log."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "model", self.model.settled())
        given = {name: getattr(self, name) for name in ("bundle", "output", "diagnose", "run")}
        require_texts(**{name: value for name, value in given.items() if value is not None})
        require_member("device", self.device, Device)
        require_member("precision", self.precision, Precision)
        if self.format not in {OutputFormat.text, OutputFormat.json}:
            msg = f"format must be text or json, got {self.format.value!r}."
            raise ValueError(msg)
        if self.bundle is not None and self.model != ModelConfig().settled():
            msg = "bundle and model were given: a bundle has its own model, so leave one of them out."
            raise ValueError(msg)
        if self.diagnose is None and (self.run is not None or self.logs is not None):
            msg = "run and logs are read for --diagnose alone; give --diagnose out.zip, or leave them out."
            raise ValueError(msg)
