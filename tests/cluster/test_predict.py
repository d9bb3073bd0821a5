"""Predictions in this process against the score table of a job, whose code they share."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from job_runner import Finished
from small_archive import table_of

from feclip.prediction import FailedPrediction, Predictor
from feclip.score_table import pack_token_map

SLICE_SIZE = 8  # of the score table: what its actors scored together


@pytest.fixture
def one_thread() -> Iterator[None]:
    """As many threads as a scoring actor has."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.cluster
@pytest.mark.usefixtures("one_thread")
def test_predictions_are_the_rows_of_a_score_table_to_the_last_bit(
    bundle: str, scored: tuple[str, Finished], archive: Path
) -> None:
    rows = table_of(scored[0]).to_pylist()
    assert all(row["uri"].startswith(str(archive)) for row in rows)
    with Predictor.load(bundle, device="cpu", precision="float32", batch_size=SLICE_SIZE) as predictor:
        found = list(predictor.predict_all(row["uri"] for row in rows))
    assert [item.uri for item in found] == [row["uri"] for row in rows]
    for item, row in zip(found, rows, strict=True):
        if isinstance(item, FailedPrediction):
            assert (str(item.error), item.error.kind.value) == (row["error"], row["error_kind"])  # type: ignore[union-attr]
            continue
        assert row["error"] is None
        for name in ("sha256", "width", "height", "image_logit", "image_score", "map_max", "map_topk_mean"):
            assert getattr(item, name) == row[name], (row["uri"], name)
        assert (list(item.valid_box), item.valid_mask) == (row["valid_box"], row["valid_mask"])
        assert pack_token_map(item.token_map) == row["token_map"]
    assert sum(isinstance(item, FailedPrediction) for item in found) > 0
