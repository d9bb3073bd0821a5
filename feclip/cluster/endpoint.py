"""The object storage of a job, told to this process and, by `feclip.cluster.session`, to the workers."""

import os

from feclip.config import ClusterConfig

__all__ = ["endpoint_variables", "use_endpoint"]

ENDPOINT_VARIABLES = ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3")  # the second one wins where it is set


def use_endpoint(config: ClusterConfig) -> None:
    """Make the job's object storage that of this process, before anything is read."""
    os.environ.update(endpoint_variables(config))


def endpoint_variables(config: ClusterConfig) -> dict[str, str]:
    """Return what the environment must say of the job's object storage; nothing where it is that of the environment."""
    return {} if config.storage_endpoint is None else dict.fromkeys(ENDPOINT_VARIABLES, config.storage_endpoint)
