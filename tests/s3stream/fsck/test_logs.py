"""Write-ahead logs of a store whose broker crashed: what they hold is taken into account."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import cast

import pytest
from sqlalchemy import delete, update

from s3stream.api import StreamFailed
from s3stream.catalog.schema import objects, streams
from s3stream.fsck.checking import Depth
from s3stream.fsck.logs import BrokerLog
from s3stream.wal_record import encode_header
from tests.s3stream.fsck.world import END, NODE, OBJECT_BATCHES, World
from wal.api import WalRecord, WalUnreachable
from wal.memory import MemoryWal, forget

SPAN = OBJECT_BATCHES * 2


@pytest.fixture
async def crashed(tmp_path: Path) -> AsyncIterator[World]:
    """Everything is uploaded but the last batches, which are in the log."""
    world = World(tmp_path)
    await world.open()
    opened = await world.start()
    await world.fill(opened)
    wal = cast("MemoryWal", world.storage._wal)
    world.append(opened)
    await wal.flush()
    world.storage.lose_lease(StreamFailed("the process is gone"))
    await world.storage.close()
    await world.catalog.fence_broker(NODE, world.epoch)
    yield world
    await world.close()
    forget(world.wal_name)


async def test_what_a_log_holds_is_no_damage(crashed: World) -> None:
    report = await crashed.check(logs=[await crashed.fence_log()])
    assert report.problems == []
    assert any("30 records" in note and "3 streams" in note for note in report.notes), report.notes


async def test_a_log_that_is_lost_is_named_with_what_it_may_have_held(crashed: World) -> None:
    log = BrokerLog(NODE, crashed.epoch, "file:///gone", None, WalUnreachable("there is no log directory /gone"))
    [finding] = (await crashed.check(logs=[log])).problems
    assert finding.kind == "log-missing"
    assert f"orders-0 from offset {END}, orders-1 from offset {END}" in finding.detail
    assert await crashed.repair(logs=[log]) == []


async def test_a_hole_before_the_log_is_filled_so_that_the_log_can_be_recovered(crashed: World) -> None:
    """The last object went away with its row: the log goes on behind the hole."""
    object_id, key, _ = (await crashed.object_rows())[-1]
    await crashed.store.delete_many([key])
    await crashed.sql(delete(objects).where(objects.c.object_id == object_id))
    await crashed.sql(update(streams).values(end_offset=END - SPAN).where(streams.c.end_offset > 0))
    log = await crashed.fence_log()
    report = await crashed.check(logs=[log])
    assert {finding.kind for finding in report.problems} == {"log-gap"}
    done = await crashed.repair(logs=[log])
    assert f"lost: orders-0 offsets {END - SPAN} to {END - 1}" in done
    assert (await crashed.check(logs=[log])).problems == []


async def test_a_row_that_is_lost_before_the_log_is_found_again(crashed: World) -> None:
    object_id, _, _ = (await crashed.object_rows())[-1]
    await crashed.sql(delete(objects).where(objects.c.object_id == object_id))
    await crashed.sql(update(streams).values(end_offset=END - SPAN).where(streams.c.end_offset > 0))
    log = await crashed.fence_log()
    assert {finding.kind for finding in (await crashed.check(logs=[log])).problems} == {"log-gap", "orphan"}
    done = await crashed.repair(logs=[log])
    assert not any(line.startswith("lost") for line in done), done
    assert (await crashed.check(logs=[log])).problems == []


async def test_a_log_that_knows_more_than_the_catalog_is_named_and_left_alone(crashed: World) -> None:
    await crashed.sql(update(streams).where(streams.c.stream_id == crashed.log).values(epoch=0))
    log = await crashed.fence_log()
    [finding] = (await crashed.check(Depth(), [log])).problems
    assert finding.kind == "log-ahead"
    await crashed.repair(Depth(), [log])
    assert {finding.kind for finding in (await crashed.check(Depth(), [log])).problems} == {"log-ahead"}


class Records:
    """A log that holds these records."""

    epoch = 1
    owner_is_out = True

    def __init__(self, *records: bytes) -> None:
        self._records = records

    async def records(self) -> AsyncIterator[list[WalRecord]]:
        yield [WalRecord(n, n + 1, memoryview(data)) for n, data in enumerate(self._records)]

    async def discard(self) -> None:
        raise AssertionError("nothing is discarded here")

    async def close(self) -> None:
        return None


async def test_a_hole_in_the_log_itself_is_named_and_nothing_of_the_log_is_covered(crashed: World) -> None:
    def record(offset: int) -> bytes:
        return encode_header(crashed.log, 1, offset, 2, 0) + b"x"

    log = BrokerLog(NODE, crashed.epoch, "memory://x", Records(record(END + 4), record(END + 6), record(END + 10)))
    kinds = [finding.kind for finding in (await crashed.check(logs=[log])).problems]
    assert kinds == ["log-gap", "log-gap"]
    assert await crashed.repair(logs=[log]) == []
    [info] = await crashed.catalog.stream_infos([crashed.log])
    assert info.end_offset == END
