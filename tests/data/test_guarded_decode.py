"""No file ends, stops or fills the process that decodes an archive: each is an image or a named error."""

import copy
import gc
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from odd_files import BAD, GOOD, KIND, encoded, noise, solid
from PIL import Image

from feclip.data import LabelledImages, StorageForbiddenError, build_manifest
from feclip.data import fetch as fetch_module
from feclip.data._frames import receive_frame, send_frame
from feclip.data.fetch import fetch_and_decode
from feclip.data.guarded_decode import GuardedDecoder
from feclip.data.image_errors import ImageError, ImageErrorKind
from feclip.data.prepare import InputOptions, prepare_image
from feclip.errors import DataError, RunError, StorageError

HOSTILE = (sys.executable, "-P", str(Path(__file__).with_name("hostile_decoder.py")))
OPTIONS = InputOptions(image_size=32)
DEEDS: dict[str, tuple[bytes, ImageErrorKind, str]] = {
    "segfault": (b"segfault", KIND.crashed, "crashed on it (SIGSEGV)"),
    "abort": (b"abort", KIND.crashed, "crashed on it (SIGABRT)"),
    "killed": (b"kill", KIND.crashed, "crashed on it (SIGKILL)"),
    "exit": (b"exit", KIND.crashed, "crashed on it (exit status 3)"),
    "assertion": (b"assert", KIND.crashed, "crashed on it (AssertionError)"),
    "garbage_for_an_answer": (b"babble", KIND.crashed, "crashed on it (its answer is no answer)"),
    "an_answer_without_an_image": (b"lie", KIND.crashed, "crashed on it (its answer is no answer)"),
    "hang": (b"hang", KIND.timed_out, "did not end within 2 s"),
    "stopped": (b"stop", KIND.timed_out, "did not end within 2 s"),
    "memory": (b"memory", KIND.out_of_memory, "needs more than the 128 MiB it may take"),
}


@pytest.fixture(scope="module")
def decoder() -> Iterator[GuardedDecoder]:
    with GuardedDecoder(OPTIONS) as decoder:
        yield decoder


@pytest.fixture(scope="module")
def hostile() -> Iterator[GuardedDecoder]:
    with GuardedDecoder(OPTIONS, command=HOSTILE, seconds=2, memory_bytes=128 << 20) as decoder:
        yield decoder


def is_gone(pid: int, *, within_seconds: float = 20) -> bool:
    deadline = time.monotonic() + within_seconds
    while time.monotonic() < deadline:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
            return True  # dead; whoever took it over has not looked yet
        time.sleep(0.02)
    return False


@pytest.mark.parametrize("name", GOOD)
def test_an_odd_file_shows_the_right_pixels(name: str, decoder: GuardedDecoder) -> None:
    data, size, color = GOOD[name]
    image = decoder.decode(data, uri=f"{name}.png")
    assert (image.width, image.height) == size
    assert image.pixels.shape == (32, 32, 3)
    valid = image.valid_pixels()
    assert np.abs(image.pixels[valid].astype(int) - color).max() <= 3
    assert (image.pixels[~valid] == 255).all()
    scale = 32 / max(size)
    assert valid.sum() == max(1, round(size[0] * scale)) * max(1, round(size[1] * scale))


def test_the_child_does_what_this_process_would(decoder: GuardedDecoder) -> None:
    data = encoded(noise()[:40], "JPEG")
    there, here = decoder.decode(data, uri="a"), prepare_image(data, uri="a", options=OPTIONS)
    assert np.array_equal(there.pixels, here.pixels)
    assert there.pixels.flags.writeable
    assert (there.width, there.height, there.valid_box, there.valid_mask) == (64, 40, here.valid_box, None)


@pytest.mark.parametrize("name", BAD)
def test_a_bad_file_is_one_line_and_its_kind(name: str, decoder: GuardedDecoder) -> None:
    data, kind = BAD[name]
    pid = decoder.pid
    with pytest.raises(ImageError, match=rf"^Cannot decode s3://plant/{name}\.png: ") as error:
        decoder.decode(data, uri=f"s3://plant/{name}.png")
    assert error.value.kind is kind
    assert "\n" not in str(error.value)
    assert pid is None or decoder.pid == pid  # an ordinary error costs no new child


@pytest.mark.parametrize("name", DEEDS)
def test_a_file_that_ends_or_stops_the_decoder_is_named_and_the_next_is_decoded(
    name: str, hostile: GuardedDecoder
) -> None:
    data, kind, words = DEEDS[name]
    with pytest.raises(ImageError, match=rf"^Cannot decode s3://plant/a\.png: .*{re.escape(words)}") as error:
        hostile.decode(data, uri="s3://plant/a.png")
    assert error.value.kind is kind
    assert "\n" not in str(error.value)
    assert hostile.decode(GOOD["png"][0], uri="b.png").width == 20


def test_thirty_kinds_of_files_are_covered() -> None:
    assert len(GOOD) + len(BAD) + len(DEEDS) >= 30


def test_a_child_killed_from_outside_costs_no_image(hostile: GuardedDecoder, tmp_path: Path) -> None:
    with pytest.raises(ImageError) as error:  # text, once the child is not killed
        hostile.decode(b"kill_once " + os.fsencode(tmp_path / "marker"), uri="a.png")
    assert error.value.kind is KIND.not_an_image
    pid = hostile.pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    assert hostile.decode(GOOD["png"][0], uri="b.png").width == 20
    assert hostile.pid != pid


def test_any_name_stays_on_one_line(decoder: GuardedDecoder) -> None:
    with pytest.raises(ImageError, match=r"Cannot decode line\\n2 \\x00 Löwe  \.png") as error:
        decoder.decode(b"", uri="line\n2 \0 Löwe  .png")
    assert str(error.value).isprintable()


def test_a_child_that_cannot_start_is_no_fault_of_the_image(tmp_path: Path) -> None:
    program = tmp_path / "broken.py"
    program.write_text("import no_such_module\n")
    for command, words in (
        ((sys.executable, str(program)), "No module named 'no_such_module'"),
        (("/no/such",), "/no"),
    ):
        decoder = GuardedDecoder(OPTIONS, command=command)
        with pytest.raises(RunError, match=rf"^The decoding process cannot start: .*{words}"):
            decoder.decode(GOOD["png"][0], uri="a.png")
        assert decoder.pid is None


def test_threads_share_a_decoder(decoder: GuardedDecoder) -> None:
    def width(number: int) -> int:
        return decoder.decode(encoded(solid(number, 4)), uri=f"{number}.png").width

    with ThreadPoolExecutor(8) as executor:
        assert list(executor.map(width, range(1, 60))) == list(range(1, 60))


@pytest.mark.usefixtures("interruptible")
def test_an_interrupt_leaves_no_answer_for_the_next_image() -> None:
    with GuardedDecoder(OPTIONS, command=HOSTILE) as decoder:
        assert decoder.decode(GOOD["png"][0], uri="a.png").width == 20
        pid = decoder.pid
        assert pid is not None
        timer = threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGINT))
        timer.start()
        with pytest.raises(KeyboardInterrupt):
            decoder.decode(b"hang", uri="b.png")
        timer.join()
        assert is_gone(pid)
        assert decoder.decode(GOOD["one_pixel"][0], uri="c.png").width == 1


def test_closing_and_forgetting_end_the_child() -> None:
    decoder = GuardedDecoder(OPTIONS)
    decoder.decode(GOOD["png"][0], uri="a.png")
    first = decoder.pid
    decoder.close()
    decoder.close()
    assert first is not None
    assert is_gone(first)
    assert decoder.decode(GOOD["png"][0], uri="a.png").width == 20  # a closed one starts anew
    second = decoder.pid
    assert second is not None
    del decoder
    gc.collect()
    assert is_gone(second)


PROGRAM = """
import sys
from feclip.data.guarded_decode import GuardedDecoder
from feclip.data.prepare import InputOptions
decoder = GuardedDecoder(InputOptions(image_size=8))
decoder.decode(b"P5 2 1 255 ab", uri="a.pgm")
print(decoder.pid, flush=True)
sys.stdin.read()
"""


def test_the_child_ends_with_its_parent_however_that_ends() -> None:
    parents = [
        subprocess.Popen([sys.executable, "-c", PROGRAM], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        for _ in range(2)
    ]
    try:
        for parent, end in zip(parents, (subprocess.Popen.kill, lambda parent: parent.stdin.close()), strict=True):
            assert parent.stdout is not None
            pid = int(parent.stdout.readline())
            assert not is_gone(pid, within_seconds=0.1)
            end(parent)
            parent.wait(30)
            assert is_gone(pid)
    finally:
        for parent in parents:
            parent.kill()
            parent.wait()
            assert parent.stdin is not None
            assert parent.stdout is not None
            parent.stdin.close()
            parent.stdout.close()


def test_a_hanging_child_whose_parent_was_killed_ends_itself() -> None:
    ours, theirs = socket.socketpair()
    seconds = -9.5  # with ten of grace, half a second
    arguments = [*HOSTILE, json.dumps({"image_size": 8}), str(1 << 30), str(seconds)]
    with theirs, subprocess.Popen(arguments, stdin=theirs.fileno(), stderr=subprocess.DEVNULL) as process:
        try:
            theirs.close()
            receive_frame(ours, max_body_bytes=0, deadline=None)  # it is ready
            send_frame(ours, {"uri": "a", "image_bytes": 4, "valid_mask_uri": None}, b"hang", deadline=None)
            ours.close()
            assert process.wait(30) == -signal.SIGALRM
        finally:
            process.kill()


def test_secrets_of_storage_do_not_reach_the_child(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret-of-a-test")
    with GuardedDecoder(OPTIONS) as decoder:
        decoder.decode(GOOD["png"][0], uri="a.png")
        assert b"secret-of-a-test" not in Path(f"/proc/{decoder.pid}/environ").read_bytes()
        maps = Path(f"/proc/{decoder.pid}/maps").read_text()
    assert "PIL" in maps
    assert "torch" not in maps


def test_options_are_checked_at_once() -> None:
    with pytest.raises(DataError, match=r"data\.resize must be one of letterbox, squash, rectangle, got 'crop'"):
        InputOptions(image_size=8, resize="crop")
    with pytest.raises(DataError, match="padding_color"):
        InputOptions(image_size=8, padding_color="plaid")
    with pytest.raises(DataError, match="image_size must be at least 1"):
        InputOptions(image_size=0)


def bordered() -> np.ndarray:
    image = np.full((40, 70, 3), 255, np.uint8)
    image[:, 11:59] = noise(64)[:40, :48] // 2
    return image


@pytest.mark.parametrize("resize", ["letterbox", "squash"])
@pytest.mark.parametrize("valid_region", ["letterbox", "uniform_border", "mask_uri"])
def test_scoring_sees_what_training_sees(resize: str, valid_region: str, tmp_path: Path) -> None:
    """Pixels and valid pixels equal those of the data set that trained the model, in every mode."""
    mask = np.zeros((40, 70), np.uint8)
    mask[5:30, 20:50] = 255
    mask[10:14, 25:40] = 0
    (tmp_path / "a.png").write_bytes(encoded(bordered()))
    (tmp_path / "valid.png").write_bytes(encoded(mask))
    row = {"path": "a.png", "label": 0, "valid_mask_path": "valid.png"}
    table = build_manifest([row], root=str(tmp_path), source="test")
    options = InputOptions(image_size=32, resize=resize, valid_region=valid_region)
    dataset = LabelledImages(
        table, image_size=32, resize=resize, padding_color=options.padding_color, valid_region=valid_region
    )
    trained = dataset[0]
    with GuardedDecoder(options) as decoder:
        fetched = fetch_and_decode(str(tmp_path / "a.png"), decoder=decoder, valid_mask_uri=str(tmp_path / "valid.png"))
    assert fetched.image is not None
    assert np.array_equal(fetched.image.pixels, trained.image.permute(1, 2, 0).numpy())
    assert np.array_equal(fetched.image.valid_pixels(), trained.valid_pixels.numpy())
    assert fetched.columns()["valid_box"] == list(fetched.image.valid_box)


MASKS = {
    "missing_column": (None, "has no valid_mask_uri"),
    "absent": ("none.png", "does not exist"),
    "empty": ("empty.png", "the file is empty"),
    "text": ("text.png", "no image in a known format"),
    "other_size": ("small.png", r"5 x 5 pixels, its image .*a\.png has 20 x 10"),
    "black": ("black.png", "marks nothing as valid"),
    "a_single_pixel": ("dot.png", "not one pixel is left at 4 pixels"),
}


@pytest.mark.parametrize("name", MASKS)
def test_a_mask_that_does_not_fit_is_an_error_of_the_image(name: str, tmp_path: Path) -> None:
    dot = Image.new("L", (20, 10))
    dot.putpixel((9, 4), 255)
    files = {"a.png": encoded(solid()), "empty.png": b"", "text.png": b"text", "dot.png": encoded(dot)}
    files |= {"small.png": encoded(Image.new("L", (5, 5), 255)), "black.png": encoded(Image.new("L", (20, 10)))}
    for file, data in files.items():
        (tmp_path / file).write_bytes(data)
    file, words = MASKS[name]
    with GuardedDecoder(InputOptions(image_size=4, valid_region="mask_uri")) as decoder:
        uri = None if file is None else str(tmp_path / file)
        fetched = fetch_and_decode(str(tmp_path / "a.png"), decoder=decoder, valid_mask_uri=uri)
    assert fetched.error is not None
    assert fetched.error.kind is KIND.unfit_mask
    assert re.search(words, str(fetched.error))


def test_a_fetched_image_has_its_columns(decoder: GuardedDecoder, tmp_path: Path) -> None:
    path = tmp_path / "with blanks, ünïcode #1%41.png"
    path.write_bytes(encoded(solid()))
    columns = fetch_and_decode(str(path), decoder=decoder, size=path.stat().st_size).columns()
    assert len(columns.pop("sha256")) == 64
    assert columns == {"width": 20, "height": 10, "valid_box": [8, 0, 16, 32], "valid_mask": None}


NAMES: dict[str, tuple[Callable[[Path], str], ImageErrorKind]] = {
    "deleted_after_the_listing": (lambda folder: str(folder / "gone.png"), KIND.absent),
    "folder": (str, KIND.unreadable_name),
    "below_a_file": (lambda folder: str(folder / "a.png" / "b.png"), KIND.unreadable_name),
    "nul": (lambda folder: f"{folder}/a\0.png", KIND.unreadable_name),
    "blank": (lambda _: "", KIND.unreadable_name),
    "too_long": (lambda folder: str(folder / ("x" * 300)), KIND.unreadable_name),
    "empty": (lambda folder: str(folder / "empty.png"), KIND.empty),
    "more_bytes_than_allowed": (lambda folder: str(folder / "large.png"), KIND.too_large),
}


@pytest.mark.parametrize("name", NAMES)
def test_a_file_that_cannot_be_read_is_a_row(name: str, decoder: GuardedDecoder, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(encoded(solid()))
    (tmp_path / "empty.png").write_bytes(b"")
    (tmp_path / "large.png").write_bytes(bytes(5000))
    uri, kind = NAMES[name]
    fetched = fetch_and_decode(uri(tmp_path), decoder=decoder, max_file_bytes=4000)
    assert fetched.image is None
    assert fetched.error is not None
    assert fetched.error.kind is kind
    columns = fetched.columns()
    assert columns["error_kind"] == kind.value
    assert columns["error"].startswith("Cannot ")
    assert columns["error"].isprintable()
    assert (columns["sha256"] is not None) is (name == "empty")


def test_a_forbidden_file_is_a_row_and_a_huge_one_is_not_even_read(
    decoder: GuardedDecoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(uri: str, **_: object) -> bytes:
        msg = f"Cannot read {uri}: storage answered 403, forbidden."
        raise StorageForbiddenError(msg)

    monkeypatch.setattr(fetch_module, "read_bytes", refuse)
    forbidden = fetch_and_decode("s3://plant/a.png", decoder=decoder, size=10)
    assert forbidden.error is not None
    assert forbidden.error.kind is KIND.forbidden
    huge = fetch_and_decode("s3://plant/a.png", decoder=decoder, size=1 << 40)
    assert huge.error is not None
    assert huge.error.kind is KIND.too_large


def test_storage_that_does_not_answer_is_no_row(decoder: GuardedDecoder, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    for name, value in {
        "ENDPOINT_URL": f"http://127.0.0.1:{port}",
        "ACCESS_KEY_ID": "a",
        "SECRET_ACCESS_KEY": "b",
    }.items():
        monkeypatch.setenv(f"AWS_{name}", value)
    with pytest.raises(StorageError, match=r"storage at .* keeps failing"):
        fetch_and_decode("s3://plant/a.png", decoder=decoder)


@pytest.mark.storage
def test_objects_are_fetched_and_absent_ones_are_rows(decoder: GuardedDecoder, s3_bucket: str) -> None:
    from feclip.data import write_bytes  # noqa: PLC0415

    write_bytes(f"{s3_bucket}/line=1/a b ü.png", encoded(solid()))
    assert fetch_and_decode(f"{s3_bucket}/line=1/a b ü.png", decoder=decoder).image is not None
    absent = fetch_and_decode(f"{s3_bucket}/line=1/gone.png", decoder=decoder)
    assert absent.error is not None
    assert absent.error.kind is KIND.absent
    with pytest.raises(StorageError, match="there is no bucket"):
        fetch_and_decode("s3://no-such-bucket/a.png", decoder=decoder)


def test_the_kind_survives_a_copy_between_processes() -> None:
    error = copy.copy(ImageError("Cannot decode a.png: it hangs.", kind=KIND.timed_out))
    assert (str(error), error.kind) == ("Cannot decode a.png: it hangs.", KIND.timed_out)
