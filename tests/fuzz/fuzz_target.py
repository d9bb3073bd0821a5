"""Coverage-guided fuzzing of the parsers that are ours, with atheris (libFuzzer): one process, one target.

    python tests/fuzz/fuzz_target.py TARGET CORPUS -max_total_time=60 [further flags of libFuzzer]

Whatever is neither a value nor the one error of the reader ends the process, and libFuzzer writes the input that did
it to a file ``crash-<sha1>`` in the folder where it runs. TARGET ``list`` prints the targets.
"""

import contextlib
import sys
from collections.abc import Callable
from unittest import mock

import atheris

INSTRUMENTED = [
    "feclip.archive.listing", "feclip.archive.manifest", "feclip.archive.run", "feclip.bundle.record",
    "feclip.calibration.levels", "feclip.calibration.reading", "feclip.config.strict_yaml", "feclip.data.boundary",
    "feclip.data.manifest", "feclip.data.storage", "feclip.data.strict_json", "feclip.data.valid_region",
    "feclip.data.visa", "feclip.score_keys", "feclip.tuning.space", "json", "yaml",
]  # fmt: skip

with atheris.instrument_imports(include=INSTRUMENTED):
    import numpy as np
    import yaml

    from feclip.archive import Source, list_part, plan_parts
    from feclip.archive import listing as listing_module
    from feclip.archive import manifest as archive_manifest
    from feclip.archive import run as run_module
    from feclip.bundle.record import check_record, parse_object, read_epochs
    from feclip.calibration import read_calibration
    from feclip.config import load_yaml
    from feclip.data import local_path, parse_json, read_manifest, unpack_valid_pixels
    from feclip.data import manifest as manifest_module
    from feclip.data import visa as visa_module
    from feclip.errors import BundleError, ConfigError, DataError, RunError, StorageError
    from feclip.score_keys import keys_of, scores_of
    from feclip.tuning import read_space
    from feclip.tuning import space as space_module


READ_BYTES = mock.Mock(return_value=b"")
"""What the storage of the readers holds, whatever they ask for."""


def manifests(data: bytes) -> None:
    """Manifests of labelled images and of archives, and VisA's table."""
    READ_BYTES.return_value = data
    for read in (read_labelled, read_archive, read_visa):
        try:
            read()
        except DataError as error:
            is_one_line(error)


def read_labelled() -> None:
    table = read_manifest("/data/m.csv")
    assert set(table["label"].to_pylist()) <= {None, 0, 1}
    assert not any(".." in uri.split("/") for uri in table["uri"].to_pylist())


def read_archive() -> None:
    source = Source(archive=None, manifest="/data/m.csv").identified()
    for part in plan_parts(source):
        for block in list_part(part, source):
            block.table.validate(full=True)


def read_visa() -> None:
    visa_module.read_visa("/data")


def records(data: bytes) -> None:
    """JSON: of a bundle, a calibration, a scoring run."""
    READ_BYTES.return_value = data
    try:
        value = parse_json(data)
    except ValueError as error:
        is_one_line(error)
        return
    for read in (read_bundle_record, read_metrics, read_thresholds):
        try:
            read(data)
        except BundleError as error:
            is_one_line(error)
    try:
        run_module._read("/scores/_run/0123456789abcdef.json", output="/scores")  # noqa: SLF001
    except RunError as error:
        is_one_line(error)
    assert value == parse_json(data)


def read_bundle_record(data: bytes) -> None:
    check_record(parse_object(data, where="-"), files=("adapters.safetensors",), optional_files=(), where="-")


def read_metrics(data: bytes) -> None:
    read_epochs(parse_object(data, where="-"), where="-")


def read_thresholds(data: bytes) -> None:
    calibration = read_calibration(parse_object(data, where="-"))
    assert read_calibration(calibration.to_json()) == calibration


def spaces(data: bytes) -> None:
    """YAML: search spaces."""
    READ_BYTES.return_value = data
    with contextlib.suppress(yaml.YAMLError):
        load_yaml(data)
    try:
        read_space("space.yaml")
    except ConfigError as error:
        is_one_line(error)


def names(data: bytes) -> None:
    """Paths and URIs, keys of scores, and the bits of valid pixels."""
    try:
        assert "\0" not in local_path(f"file://{data.decode('utf-8', 'replace')}")
    except StorageError as error:
        is_one_line(error)
    scores = np.frombuffer(data[: len(data) // 4 * 4], np.float32)
    finite = scores[np.isfinite(scores)]
    np.testing.assert_array_equal(scores_of(keys_of(finite)), finite + np.float32(0))
    box = tuple(byte - 8 for byte in data[:4].ljust(4, b"\x0c"))
    try:
        assert unpack_valid_pixels(box, data[4:] or None, image_size=16).shape == (16, 16)
    except ValueError as error:
        is_one_line(error)


def is_one_line(error: Exception) -> None:
    assert str(error)
    assert "\n" not in str(error)


TARGETS: dict[str, Callable[[bytes], None]] = {
    "manifests": manifests, "records": records, "spaces": spaces, "names": names
}  # fmt: skip


def main() -> None:
    """Fuzz one target."""
    target, *flags = sys.argv[1:]
    if target == "list":
        sys.stdout.write("\n".join(TARGETS) + "\n")
        return
    for module in (archive_manifest, listing_module, manifest_module, run_module, space_module, visa_module):
        mock.patch.object(module, "read_bytes", READ_BYTES).start()
    mock.patch.object(visa_module, "exists", return_value=True).start()
    atheris.Setup([sys.argv[0], *flags], TARGETS[target])
    atheris.Fuzz()


if __name__ == "__main__":
    main()
