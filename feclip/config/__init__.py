"""What a user sets: one frozen dataclass per thing, each field with its unit and origin.

The dotted field names are the flags of the jobs, the keys of their YAML files, the keys of search spaces and what a
bundle records. Values are checked where they are born, in ``__post_init__``.
"""

from feclip.config.checks import holds_credentials
from feclip.config.choices import (
    Comparison,
    Dataset,
    Device,
    EvaluatedSplit,
    ExportFormat,
    JpegDecoder,
    JpegDecoding,
    Layout,
    LfsStatistic,
    OutputFormat,
    PaddingMode,
    Precision,
    PrefixCache,
    Prompts,
    Protocol,
    Resize,
    SearchMethod,
    TrialScheduling,
    ValidRegion,
)
from feclip.config.cluster import ClusterConfig
from feclip.config.demo import DemoConfig
from feclip.config.doctor import DoctorConfig
from feclip.config.evaluation import PRESET_NAMES, EvaluateConfig, EvaluationDataConfig
from feclip.config.exporting import ExportConfig
from feclip.config.fields import changed_fields, flat_fields, plain
from feclip.config.finetuning import SPEED_FIELDS, DataConfig, FinetuneConfig, LossConfig, OptimConfig
from feclip.config.guarding import GuardConfig
from feclip.config.lists import Indices, Names, Shares
from feclip.config.memory_bank import ALL_SHOTS, BankConfig
from feclip.config.model import DEMO_BACKBONE, DEMO_DEFAULTS, ModelConfig
from feclip.config.nouns import Nouns
from feclip.config.parsing import ENDLESS_TEXT, UNFIT_VALUES, parse_fields, strict_parsing, unfit_reason
from feclip.config.prediction import PredictConfig
from feclip.config.reporting import ReportConfig
from feclip.config.reproduction import PAPER_SEEDS, ReproduceConfig, ReproductionDataConfig
from feclip.config.scoring import (
    OPTIONAL_COLUMNS,
    CalibrateConfig,
    DecideConfig,
    ListingConfig,
    PlanningConfig,
    ScoreConfig,
    ScoringConfig,
    is_manifest,
)
from feclip.config.strict_yaml import is_endless, load_yaml
from feclip.config.sweeps import SweepConfig, TuneConfig

__all__ = [
    "ALL_SHOTS",
    "DEMO_BACKBONE",
    "DEMO_DEFAULTS",
    "ENDLESS_TEXT",
    "OPTIONAL_COLUMNS",
    "PAPER_SEEDS",
    "PRESET_NAMES",
    "SPEED_FIELDS",
    "UNFIT_VALUES",
    "BankConfig",
    "CalibrateConfig",
    "ClusterConfig",
    "Comparison",
    "DataConfig",
    "Dataset",
    "DecideConfig",
    "DemoConfig",
    "Device",
    "DoctorConfig",
    "EvaluateConfig",
    "EvaluatedSplit",
    "EvaluationDataConfig",
    "ExportConfig",
    "ExportFormat",
    "FinetuneConfig",
    "GuardConfig",
    "Indices",
    "JpegDecoder",
    "JpegDecoding",
    "Layout",
    "LfsStatistic",
    "ListingConfig",
    "LossConfig",
    "ModelConfig",
    "Names",
    "Nouns",
    "OptimConfig",
    "OutputFormat",
    "PaddingMode",
    "PlanningConfig",
    "Precision",
    "PredictConfig",
    "PrefixCache",
    "Prompts",
    "Protocol",
    "ReportConfig",
    "ReproduceConfig",
    "ReproductionDataConfig",
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
    "holds_credentials",
    "is_endless",
    "is_manifest",
    "load_yaml",
    "parse_fields",
    "plain",
    "strict_parsing",
    "unfit_reason",
]
