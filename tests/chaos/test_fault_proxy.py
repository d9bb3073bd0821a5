"""The proxy does to requests what it says, and the storage room lives with each of its faults."""

from collections import Counter

import pytest
from fault_proxy import DOWN, FLAKY, FaultProxy

from feclip.data import STORAGE_PATIENCE_VARIABLE, delete, exists, join_uri, list_files, read_bytes, write_bytes
from feclip.errors import StorageError

pytestmark = [pytest.mark.chaos, pytest.mark.storage]

CONTENT = b"0123456789" * 5000


@pytest.fixture
def bucket(s3_bucket: str, proxy: FaultProxy, monkeypatch: pytest.MonkeyPatch) -> str:
    """URI of a fresh bucket behind the proxy."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.endpoint)
    monkeypatch.setenv(STORAGE_PATIENCE_VARIABLE, "60")
    return s3_bucket


def work(bucket: str) -> None:
    """Write, list, read and delete."""
    for number in range(6):
        write_bytes(join_uri(bucket, "a b", f"{number}.bin"), CONTENT)
    assert [entry.size for entry in list_files(join_uri(bucket, "a b"))] == [len(CONTENT)] * 6
    for number in range(6):
        uri = join_uri(bucket, "a b", f"{number}.bin")
        assert read_bytes(uri) == CONTENT
        delete(uri)
        assert not exists(uri)


@pytest.mark.parametrize("fault", FLAKY)
def test_every_fault_is_lived_with(fault: str, bucket: str, proxy: FaultProxy) -> None:
    with proxy.faults({fault: 0.4}, seed=1):
        work(bucket)
    assert proxy.counts[fault] >= 5


def test_the_same_seed_brings_the_same_faults(bucket: str, proxy: FaultProxy) -> None:
    def befell(seed: int) -> Counter[str]:
        with proxy.faults(FLAKY, seed=seed):
            work(bucket)
        return proxy.counts.copy()

    assert befell(3) == befell(3)
    assert befell(3) != befell(4)


def test_storage_that_is_down_is_named_and_comes_back(
    bucket: str, proxy: FaultProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(STORAGE_PATIENCE_VARIABLE, "0.5")
    with proxy.faults(DOWN, seed=0), pytest.raises(StorageError, match=rf"storage at {proxy.endpoint} keeps failing"):
        write_bytes(join_uri(bucket, "a.bin"), CONTENT)
    work(bucket)
