"""A bundle judged on labelled images: presets, the leakage guard, numbers from a score table, tables, the paper."""

from feclip.evaluation.cells import code, header, line, on_screen
from feclip.evaluation.claim import holds_result, identity_digest, identity_of, take_output
from feclip.evaluation.comparison import Pair, compare_category, compare_domain
from feclip.evaluation.guard import Look, data_digest, look, require_sound, require_unknown
from feclip.evaluation.judging import CategoryResult, count_pixels, image_rows, judge_category, mean_result
from feclip.evaluation.paper import PAPER, PaperRow, find_dataset
from feclip.evaluation.presets import PRESETS, Preset, override_of, preset_bundle, preset_scoring
from feclip.evaluation.results import RESULT_SCHEMA, Evaluation, Judgement
from feclip.evaluation.selection import WHOLE, check_selection, read_images, scored_manifest, select_images
from feclip.evaluation.tables import markdown, screen

__all__ = [
    "PAPER",
    "PRESETS",
    "RESULT_SCHEMA",
    "WHOLE",
    "CategoryResult",
    "Evaluation",
    "Judgement",
    "Look",
    "Pair",
    "PaperRow",
    "Preset",
    "check_selection",
    "code",
    "compare_category",
    "compare_domain",
    "count_pixels",
    "data_digest",
    "find_dataset",
    "header",
    "holds_result",
    "identity_digest",
    "identity_of",
    "image_rows",
    "judge_category",
    "line",
    "look",
    "markdown",
    "mean_result",
    "on_screen",
    "override_of",
    "preset_bundle",
    "preset_scoring",
    "read_images",
    "require_sound",
    "require_unknown",
    "scored_manifest",
    "screen",
    "select_images",
    "take_output",
]
