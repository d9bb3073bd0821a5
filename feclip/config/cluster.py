"""What a job asks of the cluster and of storage."""

from dataclasses import dataclass
from urllib.parse import urlsplit

from feclip.config.checks import require, require_uris

__all__ = ["ClusterConfig"]


@dataclass(frozen=True, kw_only=True)
class ClusterConfig:
    """What the job asks of the Ray cluster."""

    num_workers: int = 1
    """Training workers (DDP ranks)."""
    use_gpu: bool = False
    """Whether each worker gets one GPU; asked for here and never guessed where the job starts."""
    max_failures: int = 3
    """Worker failures after which the run gives up; it goes on from the last epoch each time."""
    storage_endpoint: str | None = None
    """URL of an S3-compatible server; null takes AWS_ENDPOINT_URL, or AWS itself."""
    storage_patience: float = 120.0
    """Seconds for which a running job tries a request again while storage fails; its first look takes 20."""

    def __post_init__(self) -> None:
        require("cluster.num_workers", self.num_workers, rule="at least 1", holds=self.num_workers >= 1)
        require("cluster.max_failures", self.max_failures, rule="at least 0", holds=self.max_failures >= 0)
        patience = self.storage_patience
        require("cluster.storage_patience", patience, rule="at least 0", holds=0 <= patience < float("inf"))
        if self.storage_endpoint is not None:
            require_uris("cluster.", storage_endpoint=self.storage_endpoint)
            _require_endpoint(self.storage_endpoint)


def _require_endpoint(url: str) -> None:
    """Refuse what is no plain URL of a server; a query could hold a secret, so the URL is not repeated."""
    try:
        parts = urlsplit(url)
        plain = parts.scheme in {"http", "https"} and parts.hostname and not parts.query and not parts.fragment
    except ValueError:
        plain = False
    if not plain:
        msg = "cluster.storage_endpoint must be the URL of a server, http(s)://host:port, without a query."
        raise ValueError(msg)
