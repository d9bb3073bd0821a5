"""An archive and its score table: the frozen listing, the run that holds an output, and what happens to a slice."""

from feclip.archive.listing import (
    Block,
    ListedFile,
    Part,
    Source,
    first_repeated,
    list_part,
    plan_parts,
    write_numbered,
)
from feclip.archive.reading import read_decisions, read_scores
from feclip.archive.run import LISTING_FOLDER, SUMMARY_FILE, Run, find_run, scored_options, slice_name
from feclip.archive.slices import (
    FetchedSlice,
    Tally,
    check_slices,
    decide_slice,
    decode_jpegs,
    fetch_slice,
    forget_decisions,
    publish_slice,
    score_slice,
    slices_with_errors,
)
from feclip.archive.summary import (
    finished_summary,
    log_start_up,
    log_summary,
    require_few_errors,
    start_up_line,
    write_summary,
)

__all__ = [
    "LISTING_FOLDER",
    "SUMMARY_FILE",
    "Block",
    "FetchedSlice",
    "ListedFile",
    "Part",
    "Run",
    "Source",
    "Tally",
    "check_slices",
    "decide_slice",
    "decode_jpegs",
    "fetch_slice",
    "find_run",
    "finished_summary",
    "first_repeated",
    "forget_decisions",
    "list_part",
    "log_start_up",
    "log_summary",
    "plan_parts",
    "publish_slice",
    "read_decisions",
    "read_scores",
    "require_few_errors",
    "score_slice",
    "scored_options",
    "slice_name",
    "slices_with_errors",
    "start_up_line",
    "write_numbered",
    "write_summary",
]
