"""What a failing cluster means, in one line for the user; defects of ours keep their traceback."""

from collections.abc import Iterator
from contextlib import contextmanager

import ray
from ray.data.exceptions import ExecutionTimeoutError

from feclip.errors import RunError

__all__ = ["in_one_line"]


@contextmanager
def in_one_line() -> Iterator[None]:
    """Turn the cluster's failures within a ``with`` block into errors for users.

    Errors for users never come this way from a worker: tasks and actors return them.

    Raises:
        RunError: If the cluster lost what it was given to do: a lost node, a worker without memory again and again.
    """
    try:
        yield
    except ray.exceptions.RayTaskError:
        raise  # what our own code did not foresee
    except (ray.exceptions.RayError, ExecutionTimeoutError) as error:
        told = " ".join(str(error).split()).rstrip(".")
        msg = f"The cluster lost its work: {told}. Submit the same command again; what is written stays."
        raise RunError(msg) from error
