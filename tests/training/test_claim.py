"""Whose run an output is: another config is refused, but not one that trades time for memory."""

import dataclasses
from pathlib import Path

import pyarrow as pa
import pytest

from feclip.config import FinetuneConfig, OptimConfig, PrefixCache
from feclip.data import INSPECTION_SCHEMA, MANIFEST_SCHEMA
from feclip.errors import RunError
from feclip.training import Claim


def test_a_run_goes_on_with_other_memory_but_no_other_rate(tmp_path: Path) -> None:
    config = FinetuneConfig(output=str(tmp_path), optim=OptimConfig(epochs=0))
    fields = {field.name: field for field in (*MANIFEST_SCHEMA, *INSPECTION_SCHEMA)}
    Claim.of(config).take(pa.schema(list(fields.values())).empty_table())
    saving = dataclasses.replace(
        config.optim, gradient_checkpointing=True, prefix_cache=PrefixCache.disk, prefix_cache_folder="/kept"
    )
    assert Claim.of(dataclasses.replace(config, optim=saving)).begun
    other = dataclasses.replace(config.optim, learning_rate=1.0)
    with pytest.raises(RunError, match=r"another config: optim.learning_rate was 0.0005, now 1.0"):
        Claim.of(dataclasses.replace(config, optim=other))
