"""What the bundles of these tests were made with."""

from feclip.calibration import StatisticOptions

SIZE = 64
NUM_NORMALS = 24
OPTIONS = StatisticOptions(topk_fraction=0.05, smoothing_sigma=1.5)
