"""Images scored in this process, one or a folder of them, by the code of a scoring job; no ray and no table."""

from feclip.prediction.job import predict
from feclip.prediction.prediction import FailedPrediction, Prediction
from feclip.prediction.predictor import Predictor

__all__ = ["FailedPrediction", "Prediction", "Predictor", "predict"]
