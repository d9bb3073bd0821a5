"""What a field may be, where it is one of a few words."""

from enum import StrEnum

__all__ = [
    "Comparison",
    "Dataset",
    "Device",
    "EvaluatedSplit",
    "ExportFormat",
    "JpegDecoder",
    "JpegDecoding",
    "Layout",
    "LfsStatistic",
    "OutputFormat",
    "PaddingMode",
    "Precision",
    "PrefixCache",
    "Prompts",
    "Protocol",
    "Resize",
    "SearchMethod",
    "TrialScheduling",
    "ValidRegion",
]


class LfsStatistic(StrEnum):
    """What the LFS adapter averages over the coefficients of a window."""

    signed = "signed"
    magnitude = "magnitude"
    power = "power"


class PaddingMode(StrEnum):
    """How the model treats tokens that hold padding only."""

    ignore = "ignore"
    masked = "masked"
    attention = "attention"


class Resize(StrEnum):
    """How an image becomes what the model reads."""

    letterbox = "letterbox"
    squash = "squash"
    rectangle = "rectangle"


class ValidRegion(StrEnum):
    """Where the image ends and padding begins."""

    letterbox = "letterbox"
    uniform_border = "uniform_border"
    mask_uri = "mask_uri"


class JpegDecoding(StrEnum):
    """At which size a JPEG is decoded that is much larger than the model's input."""

    full = "full"
    scaled = "scaled"


class JpegDecoder(StrEnum):
    """Who decodes the JPEGs of an archive."""

    pillow = "pillow"
    nvjpeg = "nvjpeg"


class Protocol(StrEnum):
    """What the labelled test images are used for."""

    a = "a"
    b = "b"


class Precision(StrEnum):
    """Number format of the trunk's arithmetic."""

    auto = "auto"
    float32 = "float32"
    bfloat16 = "bfloat16"


class PrefixCache(StrEnum):
    """Where the tokens of the frozen blocks before the first tap are kept once an image was seen."""

    none = "none"
    memory = "memory"
    disk = "disk"


class Prompts(StrEnum):
    """What the prompts say of the two states."""

    paper = "paper"
    winclip = "winclip"


class SearchMethod(StrEnum):
    """What proposes the values of the next trial."""

    optuna = "optuna"
    random = "random"


class TrialScheduling(StrEnum):
    """Whether trials that are behind end early."""

    asha = "asha"
    none = "none"


class Layout(StrEnum):
    """How the folder of a labelled data set is laid out."""

    auto = "auto"
    mvtec = "mvtec"
    visa = "visa"
    btad = "btad"
    mpdd = "mpdd"
    dtd = "dtd"
    dagm = "dagm"


class EvaluatedSplit(StrEnum):
    """Splits that hold both normal and anomalous images."""

    train = "train"
    held_out = "held_out"
    report = "report"


class Dataset(StrEnum):
    """Data sets of the paper's table."""

    mvtec = "mvtec"
    visa = "visa"
    mpdd = "mpdd"
    btad = "btad"
    dagm = "dagm"
    dtd = "dtd"


class Comparison(StrEnum):
    """What an evaluation is set beside."""

    paper = "paper"


class Device(StrEnum):
    """Where a model runs that this process itself holds."""

    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"


class OutputFormat(StrEnum):
    """How results are written to standard output: for people, or a line of JSON or CSV for each."""

    text = "text"
    json = "json"
    csv = "csv"


class ExportFormat(StrEnum):
    """What a bundle is exported as."""

    onnx = "onnx"
    torch = "torch"
