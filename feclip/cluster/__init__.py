"""The only room that imports ray: what the library does, spread over a cluster."""

from feclip.cluster.finetune import finetune

__all__ = ["finetune"]
