"""Train, tune and batch-score FE-CLIP anomaly detection on a Ray cluster."""

__version__ = "0.1.0"
