"""The contract of `wal.api`, on the file WAL and on its in-memory twin."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable
from pathlib import Path

import pytest

import wal
from wal.api import Wal, WalError, WalFailed, WalForeign, WalLocked, WalNotRecovered, WalUnreachable
from wal.memory import MemoryWal

_names = itertools.count()
SEGMENT_SIZE = 1 << 20


@pytest.fixture(params=["file", "memory"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return f"file://{tmp_path}/wal" if request.param == "file" else f"memory://contract-{next(_names)}"


async def open_log(url: str, epoch: int = 1) -> Wal:
    return await wal.open_wal(url, epoch=epoch, segment_size=SEGMENT_SIZE)


async def abandon(log: Wal) -> None:
    """As a crash: the lock goes, nothing else is done."""
    if isinstance(log, MemoryWal):
        log.crash()
        return
    log._fail(WalFailed("crashed"))  # type: ignore[attr-defined]
    await log.close()


async def recovered(url: str, *, discard: bool = False) -> list[tuple[int, int, bytes]]:
    log = await wal.fence_wal(url)
    try:
        found = [(r.position, r.end, bytes(r.data)) async for chunk in log.records() for r in chunk]
        if discard:
            await log.discard()
    finally:
        await log.close()
    return found


def collector() -> tuple[list[int], list[WalError], Callable[[int], None], Callable[[WalError], None]]:
    durable: list[int] = []
    failures: list[WalError] = []
    return durable, failures, durable.append, failures.append


async def test_what_was_durable_is_recovered_in_order(url: str) -> None:
    log = await open_log(url)
    durable, failures, on_durable, on_failure = collector()
    log.set_listeners(on_durable, on_failure)
    records = [[b"a"], [b"", b"bc", memoryview(b"xdex")[1:3]], [], [bytearray(5000)]]
    ends = [log.append(record) for record in records]
    assert log.backlog_size > 0
    assert log.durable_position < log.end_position == ends[-1]
    await log.flush()
    assert durable == [ends[-1]], "appends of one loop turn share one flush"
    assert (log.durable_position, log.backlog_size, failures) == (ends[-1], 0, [])
    await abandon(log)
    found = await recovered(url)
    assert [data for _, _, data in found] == [b"".join(record) for record in records]
    assert [end for _, end, _ in found] == ends
    assert [start for start, _, _ in found][1:] == ends[:-1]


async def test_durable_positions_only_grow_and_every_append_is_reported(url: str) -> None:
    log = await open_log(url)
    durable, _, on_durable, on_failure = collector()
    log.set_listeners(on_durable, on_failure)
    end = 0
    for n in range(200):
        end = log.append([b"x" * n])
        if n % 7 == 0:
            await asyncio.sleep(0)
    await log.flush()
    assert durable == sorted(set(durable))
    assert durable[-1] == end
    await log.close()


async def test_a_log_bigger_than_its_segments_is_recovered_whole(url: str) -> None:
    log = await open_log(url)
    records = [bytes([n]) * 100_000 for n in range(35)]
    for record in records:
        log.append([record])
        if record[0] % 5 == 0:
            await log.flush()
    await log.flush()
    await abandon(log)
    assert [data for _, _, data in await recovered(url)] == records


async def test_trimmed_records_need_not_be_recovered_later_ones_must(url: str) -> None:
    log = await open_log(url)
    ends = []
    for n in range(40):
        ends.append(log.append([bytes([n]) * 100_000]))
        await log.flush()
    log.trim(ends[24])
    log.trim(ends[3])
    await abandon(log)
    found = [data[0] for _, _, data in await recovered(url)]
    assert found == list(range(found[0], 40))
    assert found[0] <= 25


async def test_trimming_beyond_what_is_durable_loses_nothing(url: str) -> None:
    log = await open_log(url)
    log.append([b"kept"])
    log.trim(10**9)
    await log.flush()
    await abandon(log)
    assert [data for _, _, data in await recovered(url)] == [b"kept"]


async def test_records_must_be_recovered_before_the_log_is_opened_again(url: str) -> None:
    log = await open_log(url)
    log.append([b"x"])
    await log.close()
    with pytest.raises(WalNotRecovered):
        await open_log(url, 2)
    assert len(await recovered(url)) == 1
    with pytest.raises(WalNotRecovered):
        await open_log(url, 2)
    await recovered(url, discard=True)
    assert await recovered(url) == []
    await (await open_log(url, 2)).close()


async def test_a_log_that_was_trimmed_to_its_end_and_closed_is_empty(url: str) -> None:
    log = await open_log(url)
    end = log.append([b"x"])
    await log.flush()
    log.trim(end)
    await log.close()
    assert await recovered(url) == []
    again = await open_log(url, 2)
    assert again.end_position == again.durable_position == end
    await again.close()


async def test_positions_grow_over_restarts(url: str) -> None:
    end = 0
    for epoch in range(1, 5):
        log = await open_log(url, epoch)
        assert log.end_position >= end
        start = log.end_position
        end = log.append([b"x" * 10 * epoch])
        await log.flush()
        await abandon(log)
        assert await recovered(url, discard=True) == [(start, end, b"x" * 10 * epoch)]


async def test_an_epoch_never_goes_back(url: str) -> None:
    await (await open_log(url, 7)).close()
    with pytest.raises(WalError, match="epoch 6"):
        await open_log(url, 6)
    await (await open_log(url, 7)).close()


async def test_a_log_has_one_owner(url: str) -> None:
    log = await open_log(url)
    with pytest.raises(WalLocked):
        await open_log(url, 2)
    with pytest.raises(WalLocked):
        await wal.fence_wal(url)
    await log.close()
    fenced = await wal.fence_wal(url)
    with pytest.raises(WalLocked):
        await open_log(url, 2)
    await fenced.close()
    await fenced.close()
    await (await open_log(url, 2)).close()


async def test_a_log_that_is_not_there_is_unreachable(url: str) -> None:
    with pytest.raises(WalUnreachable):
        await wal.fence_wal(url + "-other")


async def test_closing_flushes_and_then_nothing_is_accepted(url: str) -> None:
    log = await open_log(url)
    durable, failures, on_durable, on_failure = collector()
    log.set_listeners(on_durable, on_failure)
    end = log.append([b"x"])
    await asyncio.gather(log.close(), log.close())
    assert (durable, failures) == ([end], [])
    with pytest.raises(WalFailed):
        log.append([b"y"])
    await log.close()


async def test_a_flush_of_nothing_returns(url: str) -> None:
    log = await open_log(url)
    await log.flush()
    await log.close()


async def test_discarding_is_idempotent(url: str) -> None:
    log = await open_log(url)
    log.append([b"x"])
    await log.close()
    fenced = await wal.fence_wal(url)
    await fenced.discard()
    await fenced.discard()
    assert [chunk async for chunk in fenced.records()] == []
    await fenced.close()


@pytest.mark.parametrize("bad", ["http://x", "s4://x", "file://host/x", "nothing", "file:"])
async def test_an_address_of_no_log_is_refused(bad: str) -> None:
    with pytest.raises(WalError):
        await wal.open_wal(bad, epoch=1)


async def test_a_log_with_an_owner_is_refused_to_others_and_stays_as_it_is(url: str) -> None:
    log = await wal.open_wal(url, epoch=1, owner="one", segment_size=SEGMENT_SIZE)
    log.append([b"record"])
    await log.flush()
    await abandon(log)
    for attempt in (wal.fence_wal(url, owner="two"), wal.open_wal(url, epoch=2, owner="two")):
        with pytest.raises(WalForeign, match="one"):
            await attempt
    assert [data for _, _, data in await recovered(url, discard=True)] == [b"record"]
    await (await wal.open_wal(url, epoch=2, owner="one", segment_size=SEGMENT_SIZE)).close()
    with pytest.raises(WalForeign):
        await wal.open_wal(url, epoch=3, owner="two")


async def test_a_log_without_an_owner_belongs_to_whoever_opens_it(url: str) -> None:
    await (await open_log(url)).close()
    await (await wal.fence_wal(url, owner="one")).close()
    await (await wal.open_wal(url, epoch=2, owner="one", segment_size=SEGMENT_SIZE)).close()
    with pytest.raises(WalForeign):
        await wal.fence_wal(url, owner="two")
