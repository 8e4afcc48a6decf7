"""A day of two brokers in virtual time: streams of very different rates, retention, compaction, faults, and readers.

Everything of the storage is real (`S3Storage` with uploads, compaction of objects and by key, cleaner, recovery, the
store's retries and second requests); store, WAL and catalog are those in memory. Brokers are stopped and killed, their
streams go from one to the other, streams are deleted and made anew, the store fails by rule and is away for minutes.
All the time: every read equals the model, and what is kept stays bounded (`day_bounds`). A seed is a whole day.
"""

from __future__ import annotations

import asyncio
import heapq
import random
from collections import Counter
from collections.abc import Callable, MutableMapping
from dataclasses import dataclass, field
from typing import Any

import structlog

from broker.retention import retained_from
from s3stream.api import (
    ObjectCorrupt,
    OffsetOutOfRange,
    StorageFull,
    StreamClosed,
    StreamFailed,
    StreamFenced,
)
from s3stream.catalog.api import BrokerFenced, CatalogUnreachable
from s3stream.objectstore.api import StoreError, StoreUnreachable
from s3stream.objectstore.faults import FaultyStore, parse_rules
from s3stream.objectstore.hedging import HedgingStore
from s3stream.objectstore.memory import MemoryStore
from s3stream.objectstore.retrying import RetryingStore
from s3stream.stream import S3Stream
from tests.s3stream.sim.catalog import MemoryCatalog
from tests.s3stream.sim.day_bounds import Bounds
from tests.s3stream.sim.day_broker import LIMITS, SETTINGS, Broker
from tests.s3stream.sim.day_model import KINDS, KeyFilter, Kind, ModelStream
from tests.s3stream.sim.faults import Faults, Faulty
from tests.s3stream.sim.virtual_loop import DAY, run_virtual
from wal.memory import forget

NODES = (1, 2)
HOUR = 3600.0
USUAL_FAULTS = """
* error p=0.02
* delay=0.4 p=0.03
put lost p=0.02
delete lost p=0.05
get torn p=0.01
get flipped p=0.0005
"""
_GONE = (StreamClosed, StreamFailed, StreamFenced)
"""What somebody who still works on a stream is told when it goes elsewhere."""


@dataclass(slots=True)
class Day:
    """`run` it inside a virtual loop. `counts` says what happened, `bounds` how large things were."""

    seed: int
    hours: float
    counts: Counter[str] = field(default_factory=Counter)
    report: Callable[[str], None] = lambda line: None
    rng: random.Random = field(init=False)
    memory_catalog: MemoryCatalog = field(init=False)
    memory_store: MemoryStore = field(init=False)
    faulty: FaultyStore = field(init=False)
    catalog_faults: Faults = field(init=False)
    catalog: Any = field(init=False)
    store: Any = field(init=False)
    models: dict[int, ModelStream] = field(init=False, default_factory=dict)
    brokers: dict[int, Broker] = field(init=False)
    bounds: Bounds = field(init=False)
    _due: list[tuple[float, int]] = field(init=False, default_factory=list)
    _ends_at: float = field(init=False)

    def now(self) -> float:
        return asyncio.get_running_loop().time()

    async def run(self) -> None:
        self.rng = random.Random(self.seed)
        self._ends_at = self.now() + self.hours * HOUR
        self.memory_catalog = MemoryCatalog(self.now)
        self.memory_store = MemoryStore()
        self.faulty = FaultyStore(self.memory_store, parse_rules(USUAL_FAULTS), self.rng)
        self.store = HedgingStore(RetryingStore(self.faulty, clock=self.now, rng=self.rng))
        self.catalog_faults = Faults(self.rng, CatalogUnreachable, 0.01, 0.01, 0.01)
        self.catalog = Faulty(self.memory_catalog, self.catalog_faults)
        self.brokers = {node: Broker(node, self) for node in NODES}
        self.bounds = Bounds(self.memory_catalog, self.memory_store, SETTINGS, LIMITS, len(NODES), self.now)
        for broker in self.brokers.values():
            await broker.start()
        for count, kind in KINDS:
            await self._make_streams(count, kind)
        try:
            async with asyncio.TaskGroup() as group:
                for work in (self._append, self._retain, self._compact_keys, self._fail, self._live, self._check):
                    group.create_task(work())
                for _ in range(4):
                    group.create_task(self._read())
            await self._end()
        finally:
            for broker in self.brokers.values():
                forget(broker.wal_name)

    def is_over(self) -> bool:
        return self.now() >= self._ends_at

    def is_up(self, node: int) -> bool:
        return self.brokers[node].is_up

    async def until_answered(self, call: Callable[..., Any], *args: object) -> Any:
        while True:
            try:
                return await call(*args)
            except (CatalogUnreachable, StoreUnreachable):
                await asyncio.sleep(0.05)

    async def pause(self, low: float, high: float) -> bool:
        """False if the day is over by then."""
        await asyncio.sleep(min(self.rng.uniform(low, high), max(0.0, self._ends_at - self.now())))
        return not self.is_over()

    def any_stream(self) -> tuple[Broker, S3Stream] | None:
        broker = self.rng.choice(list(self.brokers.values()))
        if not broker.streams:
            return None
        return broker, broker.streams[self.rng.choice(list(broker.streams))]

    # -- streams -----------------------------------------------------------------------------------------------------

    async def _make_streams(self, count: int, kind: Kind) -> None:
        up = [broker for broker in self.brokers.values() if broker.is_up]
        for stream_id in self.memory_catalog.create_streams(count):
            self.models[stream_id] = ModelStream(stream_id, kind)
            heapq.heappush(self._due, (self.now() + self.rng.uniform(0, kind.period_s), stream_id))
            await self.rng.choice(up).open([stream_id])

    async def _delete_stream(self) -> None:
        """A topic is deleted, and another one of its kind is made."""
        chosen = self.any_stream()
        if chosen is None:
            return
        broker, stream = chosen
        del broker.streams[stream.stream_id]
        kind = self.models.pop(stream.stream_id).kind
        if self.rng.random() < 0.5:
            broker.wal.sync()
            await stream.close()
        self.memory_catalog.delete_stream(stream.stream_id)
        broker.storage.release_streams([stream])
        self.counts["streams deleted"] += 1
        await self._make_streams(1, kind)

    # -- what goes on ------------------------------------------------------------------------------------------------

    async def _append(self) -> None:
        while not self.is_over():
            await asyncio.sleep(1.0)
            now = self.now()
            open_here = {key: stream for broker in self.brokers.values() for key, stream in broker.streams.items()}
            while self._due[0][0] <= now:
                at, stream_id = heapq.heappop(self._due)
                model = self.models.get(stream_id)
                if model is None:
                    continue
                heapq.heappush(self._due, (at + self.rng.expovariate(1 / model.kind.period_s), stream_id))
                if (stream := open_here.get(stream_id)) is not None:
                    self._append_to(stream, model)
            for broker in self.brokers.values():
                if broker.is_up:
                    broker.wal.sync(self.rng.choice((None, None, None, 3)))

    def _append_to(self, stream: S3Stream, model: ModelStream) -> None:
        data, count = model.make(self.rng)
        time_ms = int(self.now() * 1000)
        try:
            base = stream.append(data, count, time_ms)
        except StorageFull:
            self.counts["appends refused"] += 1
            return
        model.append(base, count, time_ms, data)
        self.counts["batches appended"] += 1
        self.counts["bytes appended"] += len(data)

    async def _read(self) -> None:
        """Reads on from anywhere, from the start, near the end, or by time: a few steps each time."""
        while await self.pause(0, 20):
            if (chosen := self.any_stream()) is None:
                continue
            _, stream = chosen
            model = self.models[stream.stream_id]
            try:
                if self.rng.random() < 0.2 and not model.kind.keys:
                    await self._seek(stream, model)
                else:
                    await self._scan(stream, model)
            except _GONE:
                self.counts["reads of closed streams"] += 1
            except (StoreUnreachable, ObjectCorrupt):
                self.counts["reads that failed"] += 1

    async def _scan(self, stream: S3Stream, model: ModelStream) -> None:
        last = stream.confirmed_offset
        where = self.rng.random()
        offset = stream.start_offset if where < 0.2 else self.rng.randint(stream.start_offset, last)
        if where > 0.8:
            offset = max(stream.start_offset, last - self.rng.randrange(1, 50))
        max_size = self.rng.choice((1, 2_000, 50_000))
        for _ in range(self.rng.choice((1, 3, 20))):
            end_offset = stream.confirmed_offset
            passes = model.passes
            try:
                result = await stream.fetch(offset, max_size, end_offset)
            except OffsetOutOfRange:
                assert offset < stream.start_offset or offset > stream.confirmed_offset
                return
            if self.models.get(stream.stream_id) is not model or not self._is_open(stream):
                return
            self.counts["batches read"] += model.check(offset, max_size, end_offset, result, passes)
            self.counts["reads"] += 1
            if result.next_offset == offset:
                return
            offset = result.next_offset
            await asyncio.sleep(self.rng.choice((0, 0, 0.5)))

    async def _seek(self, stream: S3Stream, model: ModelStream) -> None:
        timestamp = int(self.rng.uniform(0, self.now() + 10) * 1000)
        confirmed_offset, start_offset = stream.confirmed_offset, stream.start_offset
        found = await stream.seek_timestamp(timestamp)
        unchanged = (stream.confirmed_offset, stream.start_offset) == (confirmed_offset, start_offset)
        if unchanged and self._is_open(stream):
            model.check_seek(timestamp, found)
            self.counts["seeks by time"] += 1

    def _is_open(self, stream: S3Stream) -> bool:
        return any(broker.streams.get(stream.stream_id) is stream for broker in self.brokers.values())

    async def _retain(self) -> None:
        while await self.pause(50, 70):
            for broker in self.brokers.values():
                for stream in list(broker.streams.values()):
                    if stream.stream_id in broker.streams:
                        await self._retain_stream(stream, self.models[stream.stream_id])

    async def _retain_stream(self, stream: S3Stream, model: ModelStream) -> None:
        kind = model.kind
        now_ms = int(self.now() * 1000)
        start_offset = retained_from(
            stream.ranges(), stream.start_offset, stream.size, now_ms, kind.retention_ms, kind.retention_bytes
        )
        if start_offset <= stream.start_offset:
            return
        model.start_offset = start_offset
        try:
            await stream.trim(start_offset)
        except _GONE:
            return
        model.trimmed(start_offset)
        self.counts["trims"] += 1

    async def _compact_keys(self) -> None:
        while await self.pause(200, 400):
            for broker in self.brokers.values():
                for stream in list(broker.streams.values()):
                    model = self.models.get(stream.stream_id)
                    if model is not None and model.kind.keys and stream.stream_id in broker.streams:
                        storage = broker.storage
                        try:
                            await self._compact_by_key(broker, stream, model)
                        except (*_GONE, BrokerFenced) as error:
                            if isinstance(error, BrokerFenced) and broker.is_up and broker.storage is storage:
                                raise
                            self.counts["passes broken off"] += 1
                        except (StoreError, ObjectCorrupt):
                            self.counts["passes that failed"] += 1

    async def _compact_by_key(self, broker: Broker, stream: S3Stream, model: ModelStream) -> None:
        """What the cleaner of the broker does, with keys that the storage knows nothing of."""
        dirty, end_offset = max(stream.compacted_offset, stream.start_offset), stream.committed_offset
        if dirty >= end_offset:
            return
        compactor = broker.storage.compactor
        last: dict[int, int] = {}
        async for batches in compactor.read(stream, dirty, end_offset):
            model.index(last, (batch[3] for batch in batches), dirty, end_offset)
        key_filter = KeyFilter(model, last, end_offset)
        if await compactor.rewrite(stream, end_offset, key_filter, end_offset):
            model.purge()
            self.counts["passes by key"] += 1
            self.counts["batches dropped by key"] += key_filter.count

    # -- what goes wrong ---------------------------------------------------------------------------------------------

    async def _fail(self) -> None:
        while await self.pause(0.3 * HOUR, 2 * HOUR):
            kind = self.rng.choice(("* down", "* error p=0.5; * delay=2 p=0.3", "catalog"))
            self.counts[f"outages: {kind}"] += 1
            self.bounds.trouble_until = float("inf")
            if kind == "catalog":
                self.catalog_faults.down = True
            else:
                self.faulty.set_rules(parse_rules(kind))
            await self.pause(30, 600)
            self.catalog_faults.down = False
            self.faulty.set_rules(parse_rules(USUAL_FAULTS))
            self.bounds.trouble_until = self.now()

    async def _live(self) -> None:
        """Brokers are stopped, killed, and started again; streams go from one to the other, are deleted and made."""
        while await self.pause(300, 1200):
            one, other = self.rng.sample(list(self.brokers.values()), 2)
            what = self.rng.choices(("move", "stop", "kill", "delete"), (4, 2, 3, 2))[0]
            if what == "delete":
                await self._delete_stream()
            elif what == "move":
                chosen = self.rng.sample(list(one.streams), self.rng.randint(0, len(one.streams)))
                await one.let_go(chosen)
                await other.open(chosen, ahead=self.rng.random() < 0.5)
                self.counts["streams moved"] += len(chosen)
            else:
                self.counts[f"brokers: {what}"] += 1
                had = await (one.stop() if what == "stop" else one.kill())
                if what == "kill":
                    await other.take_over(one)
                await other.open(had)
                await asyncio.sleep(self.rng.choice((0, 30, 300)))
                await one.start()

    # -- promises ----------------------------------------------------------------------------------------------------

    async def _check(self) -> None:
        while await self.pause(600, 600):
            self.check()

    def check(self) -> None:
        storages = [broker.storage for broker in self.brokers.values() if broker.is_up]
        for storage in storages:
            assert storage.failed is None, storage.failed
        self.bounds.check(storages)
        if int(self.now() / HOUR) > int((self.now() - 600) / HOUR):
            self.report(f"{self.now() / HOUR:5.1f} h  {self.bounds.line()}")

    async def _end(self) -> None:
        """The faults are gone: everything is read, before and after all is stopped; then nothing may be left over."""
        self.faulty.set_rules(())
        self.catalog_faults.down = False
        self.catalog_faults.fail_before = self.catalog_faults.fail_after = 0.0
        for broker in self.brokers.values():
            broker.wal.sync()
        await self._read_all()
        had = [await broker.stop() for broker in self.brokers.values()]
        for broker, stream_ids in zip(self.brokers.values(), reversed(had), strict=True):
            await broker.start()
            await broker.open(stream_ids)
        await self._read_all()
        await asyncio.sleep(self.bounds.grace_s)
        self.check()
        for broker in self.brokers.values():
            await broker.stop()
        self.bounds.check_bucket_is_clean()

    async def _read_all(self) -> None:
        for broker in self.brokers.values():
            for stream in list(broker.streams.values()):
                model = self.models[stream.stream_id]
                offset = stream.start_offset
                while offset < stream.confirmed_offset:
                    passes, end_offset = model.passes, stream.confirmed_offset
                    result = await self.until_answered(stream.fetch, offset, 50_000, end_offset)
                    self.counts["batches read at the end"] += model.check(offset, 50_000, end_offset, result, passes)
                    assert result.next_offset > offset
                    offset = result.next_offset


def run_day(seed: int, hours: float, report: Callable[[str], None] = lambda line: None) -> Day:
    """Returns the day; raises AssertionError with what was not kept."""
    errors: list[str] = []

    def judge(_: object, level: str, event: MutableMapping[str, Any]) -> dict[str, Any]:
        if level == "error" and "process is dead" not in str(event.get("error")):
            errors.append(f"{event}")
        raise structlog.DropEvent

    day = Day(seed, hours, report=report)
    before = structlog.get_config()
    structlog.configure(processors=[judge], cache_logger_on_first_use=False)
    try:
        run_virtual(day.run(), limit=hours * HOUR + DAY)
        assert not errors, errors
    except BaseException as error:
        error.add_note(f"replay with: python -m tests.s3stream.sim --hours {hours:g} --seed {seed}")
        raise
    finally:
        structlog.configure(**before)
    return day
