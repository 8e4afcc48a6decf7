"""Time-outs of remote stores: what is slow gets its time, what is dead is noticed."""

from __future__ import annotations

import pytest
from obstore.store import S3Store

from bench.proxy import Proxy
from bench.seaweedfs_process import SeaweedFs
from s3stream.objectstore import opening
from s3stream.objectstore.hedging import HedgingStore
from s3stream.objectstore.meter import MeteredStore
from s3stream.objectstore.patience import MEASURED_SIZE_MIN, RATE_MIN, TIMEOUT_S, Patience
from s3stream.objectstore.remote import RemoteStore
from s3stream.objectstore.retrying import RetryingStore

MIB = 1 << 20


@pytest.mark.parametrize("rate", [30_000, 100_000, 300_000, 900_000])
def test_a_large_put_to_a_slow_store_is_done_after_few_attempts(rate: int) -> None:
    patience = Patience()
    size, attempts = 32 * MIB, 1
    while (timeout_s := patience.timeout_s(size)) < size / rate:
        patience.timed_out(size, timeout_s)
        attempts += 1
    assert attempts <= 4
    patience.done(size, size / rate)
    assert patience.timeout_s(size) > min(size / rate * 2, size / RATE_MIN)


def test_calls_that_are_given_up_at_the_same_time_count_once() -> None:
    patience = Patience()
    timeout_s = patience.timeout_s(32 * MIB)
    for _ in range(3):
        patience.timed_out(32 * MIB, timeout_s)
    assert patience.timeout_s(32 * MIB) < 4 * timeout_s


def test_patience_ends_when_the_store_is_fast_again() -> None:
    patience = Patience()
    for _ in range(20):
        patience.timed_out(32 * MIB, patience.timeout_s(32 * MIB))
    assert patience.timeout_s(32 * MIB) == TIMEOUT_S + 32 * MIB / RATE_MIN
    patience.done(MEASURED_SIZE_MIN - 1, 0.001)
    assert patience.timeout_s(32 * MIB) == TIMEOUT_S + 32 * MIB / RATE_MIN
    patience.done(32 * MIB, 1.0)
    assert patience.timeout_s(32 * MIB) < TIMEOUT_S + 40


@pytest.mark.integration
async def test_a_put_that_is_slower_than_its_first_time_out_is_done(s3_url: str, seaweedfs: SeaweedFs) -> None:
    data = bytes(range(256)) * 4096
    with Proxy(seaweedfs.port, rate=500_000) as proxy:
        url = s3_url.replace(f":{seaweedfs.port}", f":{proxy.port}")
        store = await opening.open_store(url)
        assert isinstance(store, HedgingStore)
        retrying = store._store
        assert isinstance(retrying, RetryingStore)
        metered = retrying._store
        assert isinstance(metered, MeteredStore)
        remote = metered._store
        assert isinstance(remote, RemoteStore)
        assert isinstance(remote._store, S3Store)
        impatient = RetryingStore(RemoteStore("slow", remote._store, Patience(timeout_s=0.3, rate_max=4_000_000)))
        await impatient.put("slow", [data])
        assert proxy.passed > 1.2 * len(data), "it was done at the first attempt"
    direct = await opening.open_store(s3_url)
    assert bytes(await direct.get("slow")) == data
