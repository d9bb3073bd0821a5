"""What a user sets: one frozen dataclass per thing, each field with its unit and origin.

The dotted field names are the flags of the jobs, the keys of their YAML files, the keys of search spaces and what a
bundle records. Values are checked where they are born, in ``__post_init__``.
"""

from feclip.config.choices import (
    Comparison,
    Dataset,
    EvaluatedSplit,
    JpegDecoder,
    JpegDecoding,
    Layout,
    LfsStatistic,
    PaddingMode,
    Precision,
    PrefixCache,
    Protocol,
    Resize,
    SearchMethod,
    TrialScheduling,
    ValidRegion,
)
from feclip.config.cluster import ClusterConfig
from feclip.config.evaluation import PRESET_NAMES, EvaluateConfig, EvaluationDataConfig
from feclip.config.fields import changed_fields, flat_fields, plain
from feclip.config.finetuning import SPEED_FIELDS, DataConfig, FinetuneConfig, LossConfig, OptimConfig
from feclip.config.lists import Indices, Names, Shares
from feclip.config.model import DEMO_BACKBONE, DEMO_DEFAULTS, ModelConfig
from feclip.config.reporting import ReportConfig
from feclip.config.scoring import (
    OPTIONAL_COLUMNS,
    CalibrateConfig,
    DecideConfig,
    ListingConfig,
    PlanningConfig,
    ScoreConfig,
    ScoringConfig,
)
from feclip.config.sweeps import SweepConfig, TuneConfig

__all__ = [
    "DEMO_BACKBONE",
    "DEMO_DEFAULTS",
    "OPTIONAL_COLUMNS",
    "PRESET_NAMES",
    "SPEED_FIELDS",
    "CalibrateConfig",
    "ClusterConfig",
    "Comparison",
    "DataConfig",
    "Dataset",
    "DecideConfig",
    "EvaluateConfig",
    "EvaluatedSplit",
    "EvaluationDataConfig",
    "FinetuneConfig",
    "Indices",
    "JpegDecoder",
    "JpegDecoding",
    "Layout",
    "LfsStatistic",
    "ListingConfig",
    "LossConfig",
    "ModelConfig",
    "Names",
    "OptimConfig",
    "PaddingMode",
    "PlanningConfig",
    "Precision",
    "PrefixCache",
    "Protocol",
    "ReportConfig",
    "Resize",
    "ScoreConfig",
    "ScoringConfig",
    "SearchMethod",
    "Shares",
    "SweepConfig",
    "TrialScheduling",
    "TuneConfig",
    "ValidRegion",
    "changed_fields",
    "flat_fields",
    "plain",
]
