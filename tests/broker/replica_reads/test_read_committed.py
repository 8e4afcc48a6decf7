"""A view beside the leader: random histories with transactions, of which a random part is committed in objects.

Whatever the view gives to a read_committed reader is what the model of the batches says, whichever snapshots and
batches are committed, and it gives all that is stable among what it can know.
"""

from __future__ import annotations

import os

import pytest

from broker.partition.log_view import READ_COMMITTED
from broker.partition.snapshot import decode_snapshot
from broker.replica_reads.view import BACK_TO_LEADER, ReplicaView
from s3stream.api import FetchResult, OffsetOutOfRange
from s3stream.catalog.api import PartitionInfo
from tests.broker.partition.committed_reader import visible_offsets
from tests.broker.partition.fake_stream import FakeStream
from tests.broker.partition.intervals import snapshot_every
from tests.broker.partition.test_transaction_simulation import World

STEPS = 100


class Committed:
    """As a CommittedStream: a fake stream as it was when it was taken last, up to what was committed."""

    info = None

    def __init__(self) -> None:
        self.start_offset = self.end_offset = 0
        self.stream_id = 1
        self.range_count = 0
        self._batches: list[tuple[int, int, bytes, int]] = []

    def take(self, stream: FakeStream, end_offset: int) -> None:
        self.start_offset = max(stream.start_offset, self.start_offset)
        self.end_offset = max(end_offset, self.start_offset)
        self._batches = [each for each in stream.batches if self.start_offset < each[1] <= self.end_offset]

    async def fetch(self, offset: int, max_size: int, end_offset: int) -> FetchResult:
        if not self.start_offset <= offset <= self.end_offset:
            raise OffsetOutOfRange(str(offset))
        data: list[bytes] = []
        for base, end, batch, _ in self._batches:
            if end <= offset or base >= end_offset:
                continue
            if data and sum(map(len, data)) + len(batch) > max_size:
                break
            data.append(batch)
            next_offset = end
        return FetchResult(data, sum(map(len, data)), next_offset) if data else FetchResult((), 0, offset)


class ReplicaWorld(World):
    """Uploads whole blocks: the log and the snapshots that were appended before its end."""

    view: ReplicaView
    served = 0

    def attach(self) -> None:
        self.committed_log = 0
        self.fresh = False
        self.view = ReplicaView("t", PartitionInfo(0, 2, 1, 1, 2), None, self)  # type: ignore[arg-type]
        self.view.log, self.view.state = Committed(), Committed()  # type: ignore[assignment]

    async def keep_fresh(self, view: ReplicaView) -> None:
        if self.rng.random() < 0.3:
            await self.refresh(view)

    async def refresh(self, view: ReplicaView, *, anew: bool = False) -> bool:
        if self.fresh:
            return False
        self.fresh = True
        view.log.take(self.log, self.committed_log)  # type: ignore[arg-type]
        covered = [
            end
            for _, end, data, _ in self.state.batches
            if end <= self.state.confirmed_offset and decode_snapshot(data).log_offset <= self.committed_log
        ]
        view.state.take(self.state, max(covered, default=0))  # type: ignore[arg-type]
        return True

    async def look(self) -> None:
        if self.rng.random() < 0.3:
            confirmed = [end for _, end, _, _ in self.log.batches if end <= self.log.confirmed_offset]
            self.committed_log = max(self.committed_log, self.rng.choice([0, *confirmed, *confirmed[-1:] * 5]))
        self.fresh = False
        view = self.view
        offset = self.rng.randint(self.log.start_offset, max(self.log.start_offset, self.committed_log))
        while True:
            max_size = self.rng.choice((1, 200, 1000))
            found = await view.fetch(offset, max_size, READ_COMMITTED)
            if found is BACK_TO_LEADER:
                break
            aborted = view.aborted_transactions(offset, found.next_offset)
            assert found.next_offset <= self.committed_log
            assert found.next_offset <= max(self.last_stable_offset(), view.last_stable_offset)
            assert visible_offsets(found.buffers, aborted, offset) == self.committed(offset, found.next_offset)
            self.served += 1
            offset = found.next_offset
        known = view._transactions
        if known is not None and view.log.start_offset <= offset < view.log.end_offset:
            assert offset >= known.stable_offset or known.end_offset < view.log.start_offset, "it could have gone on"


@pytest.mark.parametrize("snapshot_interval", [1, 600, 1 << 30])
async def test_a_view_tells_a_committed_reader_what_the_batches_say(
    snapshot_interval: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    snapshot_every(monkeypatch, snapshot_interval)
    served = 0
    for seed in range(int(os.environ.get("TAILRACE_SIM_SEEDS", "10"))):
        world = ReplicaWorld(seed * 1000 + snapshot_interval)
        world.attach()
        try:
            for _ in range(STEPS):
                await world.step()
        except BaseException as error:
            error.add_note(f"seed {seed}")
            raise
        served += world.served
    assert served > 100
