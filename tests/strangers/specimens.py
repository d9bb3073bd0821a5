"""A whole bundle, manifests and a score table to be damaged, and what each of them says when it is read.

A specimen's `damage` writes one damaged file into its folder. `read` reads everything there is, as the jobs do, and
returns all of it in one comparable value; what is wrong is a `FeclipError`.
"""

import contextlib
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from mutating import ODD_VALUES, changed, damaged

from feclip.archive import (
    LISTING_FOLDER,
    ListedFile,
    Run,
    Source,
    check_slices,
    decide_slice,
    find_run,
    list_part,
    plan_parts,
    publish_slice,
    read_decisions,
    read_scores,
    write_numbered,
)
from feclip.archive.slices import encode_table
from feclip.building import build_model
from feclip.bundle import read_bundle, reading, write_bundle, write_calibrated
from feclip.bundle.layout import model_id_of
from feclip.bundle.record import sealed
from feclip.calibration import Calibration, CalibrationOptions, Statistic, calibrate, decide
from feclip.config import FinetuneConfig, ModelConfig, OptimConfig, ScoringConfig, plain
from feclip.data import MANIFEST_SCHEMA, read_manifest
from feclip.model import tensor_digest
from feclip.score_table import build_score_table, pack_token_map, recompute_statistics

SHARE_OF_FORGERIES = 0.4
SIDE = 16  # pixels of a model input that nobody computes
GRID = 4
NUM_ROWS, SLICE_SIZE = 20, 8
MODEL_ID = "a" * 64


class Specimen:
    """Files in a folder; one of them is damaged at a time."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.make()
        self.files = {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}

    def make(self) -> None:
        """Write the files, whole."""
        raise NotImplementedError

    def read(self) -> object:
        """Return all that the files say."""
        raise NotImplementedError

    def forge(self, chance: Random) -> tuple[str, dict[Path, bytes]]:
        """Return files that are well-formed and whose digests are right, but with another content."""
        raise NotImplementedError

    def strict(self, path: Path, before: bytes, after: bytes) -> bool:
        """Tell whether this damage must not be read as another content."""
        return before != after and path.is_relative_to(self.folder)

    def damage(self, chance: Random) -> tuple[str, bool]:
        """Damage or forge; return what was done, and whether another content would be a wrong result."""
        if chance.random() < SHARE_OF_FORGERIES:
            text, files = self.forge(chance)
            for path, content in files.items():
                path.write_bytes(content)
            return f"forged: {text}", False
        path = chance.choice(list(self.files))
        before = self.files[path]
        text, after = damaged(chance, before)
        path.write_bytes(after)
        return f"{path.name}: {text}", self.strict(path, before, after)

    def mend(self) -> None:
        """Put everything back."""
        for path, content in self.files.items():
            path.write_bytes(content)


class BundleSpecimen(Specimen):
    """A calibrated bundle."""

    def make(self) -> None:
        """Write an untrained bundle of the demonstration backbone, and thresholds to it."""
        model = ModelConfig(backbone="feclip-demo", num_taps=1).settled()
        config = FinetuneConfig(output="/runs/first", model=model, optim=OptimConfig(epochs=0))
        images = pa.table({"uri": ["/a.png", "/b.png"], "role": ["trained"] * 2, "sha256": ["0" * 64] * 2})
        metrics = [{"epoch": 1, "loss": 0.5}, {"epoch": 2, "loss": 0.25}]
        plain_folder = self.folder.with_name(f"{self.folder.name}-plain")
        write_bundle(str(plain_folder), model=build_model(model, seed=3), config=config, images=images, metrics=metrics)
        bundle = read_bundle(str(plain_folder))
        calibration = calibration_of(bundle.model_id)
        added = pa.table({"uri": ["/n.png"], "sha256": ["1" * 64]})
        write_calibrated(str(self.folder), bundle=bundle, calibration=calibration, images=added)

    def read(self) -> object:
        """Return every field."""
        bundle = read_bundle(str(self.folder))
        assert bundle.input_options.image_size == bundle.model.image_size
        calibration = bundle.calibration
        return (
            plain(bundle.model), bundle.input, bundle.model_id, bundle.backbone_digest, tensor_digest(bundle.adapters),
            bundle.images.to_pylist(), bundle.metrics, bundle.training,
            None if calibration is None else (calibration.to_json(), calibration.calibration_id),
        )  # fmt: skip

    def forge(self, chance: Random) -> tuple[str, dict[Path, bytes]]:
        """Change one file, then every digest that is over it."""
        path = chance.choice([path for path in self.files if path.name != "config.json"] + [self._config] * 4)
        content = self.files[path]
        record = json.loads(self.files[self._config])
        if path == self._config:
            text, record = changed(chance, record)
        elif path.suffix == ".json":
            text, value = changed(chance, json.loads(content))
            content = json.dumps(value).encode()
        elif path.suffix == ".parquet":
            text, content = forged_table(chance, content)
        else:
            text, content = damaged(chance, content)
        with contextlib.suppress(Exception):  # what was changed may have no digest any more
            record["files"][path.name] = hashlib.sha256(content).hexdigest()
        with contextlib.suppress(Exception):
            adapters = self._adapters(content if path.suffix == ".safetensors" else None)
            record["model_id"] = model_id_of(record, adapters)
        if isinstance(record, dict):
            with contextlib.suppress(Exception):
                record = sealed(record)
        files = {self._config: json.dumps(record).encode()}
        return f"{path.name}: {text}", files if path == self._config else files | {path: content}

    @property
    def _config(self) -> Path:
        return self.folder / "config.json"

    def _adapters(self, content: bytes | None) -> Any:  # noqa: ANN401 - tensors by name
        path = self.folder / "adapters.safetensors"
        return reading._read_adapters(content or self.files[path], where=str(path))  # noqa: SLF001


class ManifestSpecimen(Specimen):
    """Manifests of labelled images and of an archive, each as CSV and as Parquet."""

    def make(self) -> None:
        """Write four tables of the same images."""
        rows = [
            {
                "path": f"line={number % 3}/{number:02}.png",
                "label": number % 2,
                "mask_path": f"masks/{number:02}.png" if number % 2 else None,
                "category": ("screw", "grid")[number % 2],
                "group": f"lot {number // 4}",
                "size": 1000 + number,
                "note": 'a "quoted, odd" é' if number == 7 else None,
            }
            for number in range(NUM_ROWS)
        ]
        table = pa.Table.from_pylist(rows)
        for name in ("labelled", "archive"):
            pq.write_table(table, self.folder / f"{name}.parquet", row_group_size=9, write_page_checksum=True)
            (self.folder / f"{name}.csv").write_bytes(as_csv(rows))

    def read(self) -> object:
        """Return the rows of each, after a check that they are what a reader may rely on."""
        labelled = [read_manifest(str(self.folder / f"labelled.{kind}")) for kind in ("csv", "parquet")]
        for table in labelled:
            assert table.schema.names[: len(MANIFEST_SCHEMA)] == MANIFEST_SCHEMA.names
            assert set(table["label"].to_pylist()) <= {None, 0, 1}
            assert table["uri"].null_count == table["path"].null_count == 0
            assert all(".." not in uri.split("/") for uri in table["uri"].to_pylist())
            assert len(set(table["uri"].to_pylist())) == len(table)
        archives = [listed(str(self.folder / f"archive.{kind}")) for kind in ("csv", "parquet")]
        return [table.to_pylist() for table in (*labelled, *archives)]

    def forge(self, chance: Random) -> tuple[str, dict[Path, bytes]]:
        """Change a cell or a column."""
        path = chance.choice(list(self.files))
        if path.suffix == ".parquet":
            text, content = forged_table(chance, self.files[path])
        else:
            rows = pq.read_table(path.with_suffix(".parquet")).to_pylist()
            text, rows = changed(chance, rows)
            content = as_csv([row for row in rows if isinstance(row, dict)])
        return f"{path.name}: {text}", {path: content}

    def strict(self, path: Path, before: bytes, after: bytes) -> bool:
        """A CSV of other letters is another table; the pages of a Parquet file have sums, its footer has none."""
        footer = len(before) - 8 - int.from_bytes(before[-8:-4], "little")
        return path.suffix == ".parquet" and after[footer:] == before[footer:] and len(before) == len(after)


class ScoresSpecimen(Specimen):
    """The output of a scoring job: claim, listing, slices of scores, decisions."""

    def make(self) -> None:
        """Fill an output as the job does, with scores that no model computed."""
        numbers = range(NUM_ROWS)
        listing = pa.table(
            {
                "uri": [f"/plant/line={number % 2}/{number}.png" for number in numbers],
                "size": pa.array(numbers, pa.int64()),
                "etag": pa.nulls(NUM_ROWS, pa.string()),
                "valid_mask_uri": pa.nulls(NUM_ROWS, pa.string()),
                "line": [str(number % 2) for number in numbers],
            }
        )
        file = write_numbered(str(self.folder / LISTING_FOLDER), listing, first_row_id=0, columns=["line"])
        run = Run.frozen(
            str(self.folder), model_id=MODEL_ID, config=ScoringConfig(slice_size=SLICE_SIZE),
            source=Source(archive="/plant", manifest=None), files=[file], ignored={".txt": 2}, image_size=SIDE,
        )  # fmt: skip
        run.publish()
        self.calibration = calibration_of(MODEL_ID)
        for index in range(run.num_slices):
            found = run.read_listing(index).drop_columns(["valid_mask_uri"])
            rows = [scored_row(row_id) for row_id in run.rows_of(index)]
            publish_slice(run, index, build_score_table(found, rows=rows, model_id=MODEL_ID))
            decide_slice(run, index, calibration=self.calibration)

    def read(self) -> object:
        """Return listing, scores, decisions, and what is computed from them."""
        run = find_run(str(self.folder))
        if run is None:
            return None
        indices = range(run.num_slices)
        identity = self.calibration.calibration_id
        tally = check_slices(run, indices, calibration_id=identity)
        found: list[object] = [run.digest, dict(run.ignored), tally]
        for index in indices:
            table = read_scores(run, index)
            decided = decide(table, self.calibration, statistic_options=run.statistic_options)
            normalized = [f"{statistic}_normalized" for statistic in Statistic]
            kept = read_decisions(run, index, calibration_id=identity, columns=[*normalized, "uri", "pred_label"])
            statistics = recompute_statistics(table, image_size=SIDE)
            found += [run.read_listing(index).to_pylist(), table.to_pylist(), kept.to_pylist()]
            found += [decided.to_pylist(), statistics.to_pylist()]
        return found

    def forge(self, chance: Random) -> tuple[str, dict[Path, bytes]]:
        """Change the claim, under the name of its digest, or a column of a slice."""
        path = chance.choice(list(self.files))
        if path.suffix == ".parquet":
            text, content = forged_table(chance, self.files[path])
            return f"{path.name}: {text}", {path: content}
        text, record = changed(chance, json.loads(self.files[path]))
        path.unlink()
        target = path
        with contextlib.suppress(Exception):
            names = ("model_id", "options", "source", "ignored", "slice_size")
            files = tuple(ListedFile(**file) for file in record["files"])
            target = path.with_name(
                f"{Run(output='-', files=files, **{name: record[name] for name in names}).digest}.json"
            )
        return f"claim: {text}", {target: json.dumps(record).encode()}

    def mend(self) -> None:
        """Put everything back, and take forged claims away."""
        for path in set((self.folder / "_run").glob("*.json")) - set(self.files):
            path.unlink()
        super().mend()


def calibration_of(model_id: str) -> Calibration:
    """Return thresholds by line, from scores that no model computed."""
    chance = np.random.default_rng(5)
    scores = {str(name): pa.array(chance.normal(size=300).astype(np.float32)) for name in Statistic}
    table = pa.table(scores | {"model_id": [model_id] * 300, "line": ["0", "1"] * 150})
    options = CalibrationOptions(percentiles=("95",), threshold_by="line", fallback=True, normalization="zscore")
    return calibrate([table], model_id=model_id, options=options, statistic_options=ScoringConfig().statistic_options)


def scored_row(row_id: int) -> dict[str, Any]:
    """Return what scoring says of an image; of each seventh, an error."""
    if row_id % 7 == 6:
        return {"row_id": row_id, "error": "Cannot decode it: the file is empty.", "error_kind": "empty"}
    chance = np.random.default_rng(row_id)
    logits = chance.normal(size=3).astype(np.float32)
    return {
        "row_id": row_id, "sha256": f"{row_id:064x}", "width": 30, "height": 20, "valid_box": [2, 0, 12, SIDE],
        "image_logit": logits[0], "image_score": 0.5, "map_max": logits[1], "map_topk_mean": logits[2],
        "token_map": pack_token_map(chance.normal(size=(GRID, GRID)).astype(np.float16)),
    }  # fmt: skip


def listed(manifest: str) -> pa.Table:
    """Return the listing of an archive's manifest."""
    source = Source(archive=None, manifest=manifest).identified()
    tables = [block.table for part in plan_parts(source) for block in list_part(part, source)]
    return pa.concat_tables(tables, promote_options="default")


def as_csv(rows: list[dict[str, Any]]) -> bytes:
    """Return rows as a CSV file, quoted where it must be."""
    names = list(dict.fromkeys(name for row in rows for name in row))

    def cell(value: object) -> str:
        text = "" if value is None else str(value)
        return f'"{text.replace(chr(34), chr(34) * 2)}"' if any(mark in text for mark in ',"\r\n') else text

    lines = [",".join(map(cell, names)), *(",".join(cell(row.get(name)) for name in names) for row in rows)]
    return ("\n".join(lines) + "\n").encode("utf-8", "replace")


def forged_table(chance: Random, content: bytes) -> tuple[str, bytes]:
    """Return a well-formed Parquet file with another cell, column or order of rows."""
    table = pq.read_table(pa.BufferReader(content))
    name = chance.choice(table.column_names)
    index = table.column_names.index(name)
    for _ in range(20):
        kind, change = chance.choice(list(_FORGERIES.items()))
        with contextlib.suppress(Exception):  # not every change suits every column
            return f"{kind} {name}", encode_table(change(chance, table, index))
    return "unchanged", content


def _with_column(table: pa.Table, index: int, values: Any) -> pa.Table:  # noqa: ANN401 - an array, or its values
    return table.set_column(
        index, table.column_names[index], values if isinstance(values, pa.Array) else pa.array(values)
    )


def _other_cell(chance: Random, table: pa.Table, index: int) -> pa.Table:
    values = table.column(index).to_pylist()
    values[chance.randrange(len(values))] = chance.choice(
        (*ODD_VALUES, float("nan"), float("inf"), b"", b"\0" * 40, chance.randbytes(32), [0, 0, 99, 99], [-1, 0, 4, 4])
    )
    kind = table.schema.field(index).type
    return _with_column(table, index, pa.array(values, kind if chance.random() < 0.8 else None))


_FORGERIES: dict[str, Callable[[Random, pa.Table, int], pa.Table]] = {
    "another cell of": _other_cell,
    "no": lambda _, table, index: table.remove_column(index),
    "a double": lambda _, table, index: table.append_column(table.schema.names[index], table.column(index)),
    "renamed": lambda _, table, index: table.rename_columns(
        [f"{name} " if place == index else name for place, name in enumerate(table.column_names)]
    ),
    "as text": lambda _, table, index: _with_column(table, index, [str(v) for v in table.column(index).to_pylist()]),
    "as bytes": lambda _, table, index: _with_column(
        table, index, [str(value).encode() + b"\xff" for value in table.column(index).to_pylist()]
    ),
    "as numbers": lambda _, table, index: _with_column(table, index, [float(number) for number in range(len(table))]),
    "as lists": lambda _, table, index: _with_column(
        table, index, [[value] for value in table.column(index).to_pylist()]
    ),
    "nothing in": lambda _, table, index: _with_column(
        table, index, pa.nulls(len(table), table.schema.field(index).type)
    ),
    "null typed": lambda _, table, index: _with_column(table, index, pa.nulls(len(table))),
    "rows reversed of": lambda _, table, index: table.take(list(range(len(table)))[::-1]) if index >= 0 else table,
    "rows missing of": lambda chance, table, _: table.slice(0, chance.randrange(len(table))),
    "rows twice of": lambda _, table, index: pa.concat_tables([table, table]) if index >= 0 else table,
}
SPECIMENS: dict[str, type[Specimen]] = {
    "bundle": BundleSpecimen,
    "manifest": ManifestSpecimen,
    "scores": ScoresSpecimen,
}
