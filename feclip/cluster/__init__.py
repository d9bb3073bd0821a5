"""The only room that imports ray: what the library does, spread over a cluster."""

from feclip.cluster.calibrate import calibrate
from feclip.cluster.decide import decide
from feclip.cluster.evaluate import evaluate
from feclip.cluster.finetune import finetune
from feclip.cluster.score import score
from feclip.cluster.tune import tune

__all__ = ["calibrate", "decide", "evaluate", "finetune", "score", "tune"]
