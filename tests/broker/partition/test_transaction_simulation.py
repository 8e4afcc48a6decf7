"""Random histories of one partition with transactions, beside a model that knows nothing but the batches themselves.

Producers of both kinds (an epoch per producer, an epoch per transaction), plain ones, markers in time, late and
repeated, flushes of any part, crashes, deletions from the beginning. After every step a read_committed reader at a
random place, from memory and from objects, sees exactly what the model says; after a crash the state is that of the
durable log, from whichever snapshot it starts.
"""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass

import pytest

from broker.config.broker_config import BrokerConfig
from broker.config.topic_config import TopicConfig
from broker.partition import PartitionError
from broker.partition.log_view import READ_COMMITTED
from broker.partition.opening import RecoveredState, empty_state, recover_state
from broker.partition.partition import Partition
from broker.partition.snapshot import decode_snapshot
from broker.partition.verification import VerificationGuard
from protocol.errors import ErrorCode
from tests.broker.partition.batches import NOW_MS, batch
from tests.broker.partition.committed_reader import visible_offsets
from tests.broker.partition.fake_stream import FakeStream
from tests.broker.partition.intervals import snapshot_every

CONFIG = TopicConfig.resolve({}, BrokerConfig())
EPOCH_EACH = (1, 2, 3)
"""Producers with an epoch per transaction (transaction version 2)."""
EPOCH_KEPT = (4, 5)
IDEMPOTENT = 6
PLAIN = -1
STEPS = 120


@dataclass(frozen=True)
class Event:
    """A batch or, if `committed` is not None, a marker. Half-open offsets."""

    start: int
    end: int
    producer: int
    epoch: int
    sequence: int = -1
    transactional: bool = False
    committed: bool | None = None
    coordinator_epoch: int = -1


class World:
    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.log, self.state = FakeStream(1), FakeStream(2)
        self.events: list[Event] = []
        self.now_ms = NOW_MS
        self.coordinator_epoch = 0
        self.guards: dict[int, VerificationGuard] = {}
        self.stale_guards: list[tuple[int, VerificationGuard]] = []
        self._open(empty_state())

    def _open(self, recovered: RecoveredState) -> None:
        self.partition = Partition("t", bytes(16), 0, 1, self.log, self.state, CONFIG, recovered)

    # -- what the model derives from the batches --------------------------------------------------------------------
    def last_of(self, producer: int) -> Event | None:
        return next((each for each in reversed(self.events) if each.producer == producer), None)

    def open_since(self, producer: int) -> int | None:
        since = None
        for each in self.events:
            if each.producer == producer:
                if each.committed is not None:
                    since = None
                elif each.transactional and since is None:
                    since = each.start
        return since

    def next_of(self, producer: int) -> tuple[int, int]:
        """Epoch and sequence that the producer goes on with."""
        epoch = sequence = 0
        for each in self.events:
            if each.producer == producer:
                if each.epoch != epoch:
                    epoch, sequence = each.epoch, 0
                if each.committed is None:
                    sequence = each.sequence + each.end - each.start
        return epoch, sequence

    def last_stable_offset(self) -> int:
        unstable: dict[int, int] = {}
        for each in self.events:
            if each.committed is not None and each.end <= self.log.confirmed_offset:
                unstable.pop(each.producer, None)
            elif each.transactional:
                unstable.setdefault(each.producer, each.start)
        stable = min([self.log.confirmed_offset, *unstable.values()])
        return max(stable, self.log.start_offset)

    def committed(self, start: int, end: int) -> list[int]:
        """Offsets that a read_committed reader sees in [start, end)."""
        visible: list[int] = []
        for position, each in enumerate(self.events):
            if each.committed is None and (not each.transactional or self._outcome(position)):
                visible += range(max(each.start, start), min(each.end, end))
        return visible

    def _outcome(self, position: int) -> bool | None:
        producer = self.events[position].producer
        later = (each.committed for each in self.events[position:] if each.producer == producer)
        return next((each for each in later if each is not None), None)

    # -- steps ------------------------------------------------------------------------------------------------------
    async def step(self) -> None:
        action = self.rng.choices(
            [
                self.produce,
                self.mark,
                self.repeat_marker,
                self.repeat_batch,
                self.misuse,
                self.flush,
                self.crash,
                self.trim,
            ],
            [40, 18, 4, 5, 4, 20, 3, 3],
        )[0]
        self.now_ms += self.rng.randrange(3)
        await action()
        await self.look()

    async def produce(self) -> None:
        producer = self.rng.choice((*EPOCH_EACH, *EPOCH_KEPT, IDEMPOTENT, PLAIN))
        count = self.rng.randrange(1, 4)
        transactional = producer not in (IDEMPOTENT, PLAIN)
        epoch, sequence = self.next_of(producer) if producer != PLAIN else (-1, -1)
        if transactional and not self.partition.transaction_ongoing(producer, epoch):
            assert self.open_since(producer) is None
            guard = self.partition.begin_verification(producer, epoch, sequence, producer in EPOCH_EACH)
            self.guards[producer] = guard
            if self.rng.random() < 0.2:
                return
        start = self.log.next_offset
        self.append(producer, epoch, sequence, count, transactional, self.guards.pop(producer, None))
        self.events.append(Event(start, start + count, producer, epoch, sequence, transactional))

    def append(
        self,
        producer: int,
        epoch: int,
        sequence: int,
        count: int,
        transactional: bool,
        guard: VerificationGuard | None = None,
    ) -> int:
        data = batch([b"v"] * count, producer_id=producer, epoch=epoch, sequence=sequence, transactional=transactional)
        transactional_id = "tx" if transactional else None
        appended = self.partition.append_as_leader(
            memoryview(data), self.now_ms, transactional_id=transactional_id, verification=guard
        )
        return appended.base_offset

    async def mark(self) -> None:
        producer = self.rng.choice((*EPOCH_EACH, *EPOCH_KEPT))
        epoch, _ = self.next_of(producer)
        if self.rng.random() < 0.1:
            self.coordinator_epoch += 1
        bumped = producer in EPOCH_EACH
        self.write_marker(producer, epoch + bumped, self.rng.random() < 0.5, 2 if bumped else 1)

    def write_marker(self, producer: int, epoch: int, commit: bool, version: int) -> None:
        start = self.log.next_offset
        end = self.partition.append_marker(producer, epoch, self.coordinator_epoch, commit, self.now_ms, version)
        assert end == start + 1
        self.events.append(
            Event(start, end, producer, epoch, committed=commit, coordinator_epoch=self.coordinator_epoch)
        )
        if (guard := self.guards.pop(producer, None)) is not None:
            self.stale_guards.append((producer, guard))

    async def repeat_marker(self) -> None:
        """What the coordinator sends again, and what a former coordinator still sends."""
        markers = [each for each in self.events if each.committed is not None]
        if not markers:
            return
        again = self.rng.choice(markers)
        epoch, _ = self.next_of(again.producer)
        newest = max(each.coordinator_epoch for each in markers if each.producer == again.producer)
        ongoing = self.open_since(again.producer) is not None
        version = 2 if again.producer in EPOCH_EACH else 1
        if again.epoch < epoch or (version == 2 and ongoing):
            expected = ErrorCode.INVALID_PRODUCER_EPOCH
        elif again.coordinator_epoch < newest:
            expected = ErrorCode.TRANSACTION_COORDINATOR_FENCED
        else:
            self.write_marker(again.producer, again.epoch, bool(again.committed), version)
            return
        with pytest.raises(PartitionError) as refused:
            self.partition.append_marker(
                again.producer, again.epoch, again.coordinator_epoch, bool(again.committed), self.now_ms, version
            )
        assert refused.value.code == expected

    async def repeat_batch(self) -> None:
        """A batch of the last epoch is answered with where it is, after its transaction has ended as well."""
        sequenced = [each for each in self.events if each.sequence >= 0]
        if not sequenced:
            return
        again = self.rng.choice(sequenced)
        epoch, _ = self.next_of(again.producer)
        last = [each for each in sequenced if (each.producer, each.epoch) == (again.producer, epoch)][-5:]
        end = self.log.next_offset
        count = again.end - again.start
        if again in last:
            assert self.append(again.producer, again.epoch, again.sequence, count, again.transactional) == again.start
        else:
            with pytest.raises(PartitionError):
                self.append(again.producer, again.epoch, again.sequence, count, again.transactional)
        assert self.log.next_offset == end

    async def misuse(self) -> None:
        """Batches outside of a transaction that was verified."""
        if self.stale_guards and self.rng.random() < 0.7:
            producer, guard = self.stale_guards.pop()
        else:
            producer, guard = self.rng.choice((*EPOCH_EACH, *EPOCH_KEPT)), None
        epoch, sequence = self.next_of(producer)
        ongoing = self.open_since(producer) is not None
        with pytest.raises(PartitionError) as refused:
            # within a transaction it is the batch without one that does not belong there
            self.append(producer, epoch, sequence, 1, not ongoing, guard)
        assert refused.value.code == ErrorCode.INVALID_TXN_STATE

    async def flush(self) -> None:
        ends = [end for _, end, _, _ in self.log.batches if end > self.log.confirmed_offset]
        if ends:
            self.log.flush(self.rng.choice(ends))
        covered = sum(
            decode_snapshot(data).log_offset <= self.log.confirmed_offset for _, _, data, _ in self.state.batches
        )
        self.state.flush(max(self.state.confirmed_offset, self.rng.randint(0, covered)))

    async def crash(self) -> None:
        self.log, self.state = self.log.reopened(), self.state.reopened()
        self.events = [each for each in self.events if each.end <= self.log.confirmed_offset]
        self.guards.clear()
        self.stale_guards.clear()
        recovered = await recover_state(self.log, self.state)
        await self.compare_with_every_snapshot(recovered)
        self._open(recovered)

    async def compare_with_every_snapshot(self, recovered: RecoveredState) -> None:
        for count in range(len(self.state.batches)):
            earlier = self.state.reopened()
            earlier.batches = earlier.batches[:count]
            earlier.next_offset = count
            if count and decode_snapshot(earlier.batches[-1][2]).log_offset < self.log.start_offset:
                continue
            if not count and self.log.start_offset:
                continue
            other = await recover_state(self.log, earlier)
            assert other.producers == recovered.producers

    async def trim(self) -> None:
        offset = self.rng.randint(self.log.start_offset, self.log.confirmed_offset)
        deleting = asyncio.ensure_future(self.partition.delete_records(offset))
        await asyncio.sleep(0)
        self.log.flush()
        self.state.flush()
        assert await deleting == offset

    # -- what must hold ---------------------------------------------------------------------------------------------
    async def look(self) -> None:
        partition = self.partition
        stable = self.last_stable_offset()
        assert partition.last_stable_offset == stable
        for producer in (*EPOCH_EACH, *EPOCH_KEPT):
            epoch, _ = self.next_of(producer)
            assert partition.transaction_ongoing(producer, epoch) == (self.open_since(producer) is not None)
        start = offset = self.rng.randint(partition.log_start_offset, stable)
        visible: list[int] = []
        while offset < stable:
            max_size = self.rng.choice((1, 200, 1000))
            if self.rng.random() < 0.5:
                found = partition.read(offset, max_size, READ_COMMITTED)
            else:
                found = None
            if found is None:
                found = await partition.fetch(offset, max_size, READ_COMMITTED)
            assert found.next_offset > offset
            aborted = partition.aborted_transactions(offset, found.next_offset)
            visible += visible_offsets(found.buffers, aborted, offset)
            offset = found.next_offset
        assert visible == self.committed(start, stable)


@pytest.mark.parametrize("snapshot_interval", [1, 600, 1 << 30])
@pytest.mark.parametrize("seed", range(12))
async def test_readers_and_replay_agree_with_the_batches(
    seed: int, snapshot_interval: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    snapshot_every(monkeypatch, snapshot_interval)
    world = World(seed * 1000 + snapshot_interval)
    for _ in range(STEPS):
        await world.step()
