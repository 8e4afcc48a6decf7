"""What is watched while a soak runs: memory and descriptors of the brokers, live objects and what waits to be deleted.

**Flat**: over the last quarter of the time a broker's resident memory is at most `RSS_GROWTH` times and `RSS_SLACK`
above the most of the second and third: in the first, caches fill up; after outages a broker holds what it could not
upload, within limits that are small here. It has at most `FD_SLACK` more descriptors open than in any quarter before:
they are connections mostly, and there are the more of them the more is read at the same time, at the end above all.

**Live objects**: see `tests.s3stream.sim.day_bounds`; the same bounds with the real limits.
"""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from sqlalchemy import Connection, select

from bench.broker_process import BrokerProcess
from s3stream.catalog.opening import open_database
from s3stream.catalog.ranges import decode_ranges
from s3stream.catalog.schema import COMMITTED, objects, streams
from s3stream.compaction.plan import Limits
from s3stream.settings import StorageSettings

RSS_GROWTH = 1.10
RSS_SLACK = 8 << 20
FD_SLACK = 16
ARRIVALS_MAX = 24
"""Objects that a stream gets between two looks of a compactor that is busy with hundreds of others."""
FLAT_FROM_S = 600.0
"""A shorter run says nothing about growth."""


@dataclass(slots=True)
class Sample:
    at: float
    rss: list[int]
    fds: list[int]


@dataclass(slots=True)
class Objects:
    """One look at the catalog."""

    count: int = 0
    live_max: int = 0
    shared_max: int = 0
    run_max: int = 0
    prepared_age_max_s: float = 0.0
    retired_age_max_s: float = 0.0


@dataclass(slots=True)
class Watch:
    """Takes samples until `stop`. `trouble_until` is set by who makes the trouble."""

    brokers: Sequence[BrokerProcess]
    metadata: str
    settings: StorageSettings
    interval_s: float
    trouble_until: float = 0.0
    samples: list[Sample] = field(default_factory=list)
    most: Objects = field(default_factory=Objects)
    calm: Objects = field(default_factory=Objects)
    """The most of each, at any time and outside of trouble."""
    breaches: list[str] = field(default_factory=list)
    report: Callable[[str], None] = print
    _thread: threading.Thread | None = None
    _stopping: threading.Event = field(default_factory=threading.Event)

    def start(self) -> None:
        self._thread = threading.Thread(target=self._run, daemon=True, name="watch")
        self._thread.start()

    def stop(self) -> None:
        self._stopping.set()
        assert self._thread is not None
        self._thread.join(60)

    def _run(self) -> None:
        while not self._stopping.wait(self.interval_s):
            try:
                self.sample()
            except Exception as error:
                self.breaches.append(f"the watch failed: {error!r}")
                return

    def sample(self) -> None:
        fds = [len(os.listdir(f"/proc/{broker.pid}/fd")) for broker in self.brokers]
        self.samples.append(Sample(time.monotonic(), [broker.resident_size() for broker in self.brokers], fds))
        found = asyncio.run(look(self.metadata))
        self._add(self.most, found)
        if time.monotonic() > self.trouble_until:
            self._add(self.calm, found)

    def _add(self, most: Objects, found: Objects) -> None:
        for name in Objects.__slots__:
            setattr(most, name, max(getattr(most, name), getattr(found, name)))

    def line(self) -> str:
        sample = self.samples[-1]
        memory = " ".join(f"{size >> 20}" for size in sample.rss)
        return (
            f"RSS {memory} MiB, descriptors {' '.join(map(str, sample.fds))}, objects {self.most.count} at most, "
            f"of a stream {self.most.live_max}"
        )

    # -- the verdict -------------------------------------------------------------------------------------------------

    def judge(self) -> list[str]:
        limits = Limits()
        shared_bound = len(self.brokers) * ((limits.fan_in - 1) * (limits.generation_max + 1) + limits.sources_max)
        run_bound = limits.run_count_max - 1 + ARRIVALS_MAX
        clean_s = 3 * 1.5 * self.settings.clean_interval_ms / 1000
        found = list(self.breaches)
        for name, value, bound in (
            ("shared live objects of a stream", self.calm.shared_max, shared_bound),
            ("small live objects side by side", self.calm.run_max, run_bound),
            ("age of prepared", self.calm.prepared_age_max_s, self.settings.abandoned_age_ms / 1000 + clean_s),
            ("age of retired", self.calm.retired_age_max_s, self.settings.retired_age_ms / 1000 + clean_s),
        ):
            if value > bound:
                found.append(f"{name}: {value:.0f}, at most {bound:.0f}")
        return found + self._growth()

    def quarters(self, values: Callable[[Sample], int]) -> list[int]:
        """The most of each quarter of the time."""
        began, ended = self.samples[0].at, self.samples[-1].at
        most = [0] * 4
        for sample in self.samples:
            quarter = min(3, int(4 * (sample.at - began) / max(ended - began, 1e-9)))
            most[quarter] = max(most[quarter], values(sample))
        return most

    def _growth(self) -> list[str]:
        if self.samples[-1].at - self.samples[0].at < FLAT_FROM_S:
            return []
        found = []
        for number, broker in enumerate(self.brokers):
            rss = self.quarters(lambda sample, number=number: sample.rss[number])  # type: ignore[misc]
            fds = self.quarters(lambda sample, number=number: sample.fds[number])  # type: ignore[misc]
            if rss[3] > max(rss[1:3]) * RSS_GROWTH + RSS_SLACK:
                found.append(f"broker {broker.node_id} grows: {[size >> 20 for size in rss]} MiB in the four quarters")
            if fds[3] > max(fds[:3]) + FD_SLACK:
                found.append(f"broker {broker.node_id} keeps descriptors open: {fds} in the four quarters")
        return found


async def look(metadata: str) -> Objects:
    database, _ = await open_database(metadata, create=False)
    try:
        return await database.read(_look)
    finally:
        await database.close()


def _look(tx: Connection) -> Objects:
    starts = {
        row.stream_id: row.start_offset for row in tx.execute(select(streams.c.stream_id, streams.c.start_offset))
    }
    now_ms = time.time() * 1000
    found = Objects()
    by_stream: defaultdict[int, list[tuple[int, bool]]] = defaultdict(list)
    columns = select(
        objects.c.state, objects.c.was_committed, objects.c.since_ms, objects.c.ranges, objects.c.stream_id
    )
    for state, was_committed, since_ms, ranges, stream_id in tx.execute(columns):
        found.count += 1
        age_s = (now_ms - since_ms) / 1000
        if state == COMMITTED:
            for part in decode_ranges(ranges):
                if part.end_offset > starts.get(part.stream_id, part.end_offset):
                    by_stream[part.stream_id].append((part.start_offset, stream_id is None))
        elif was_committed:
            found.retired_age_max_s = max(found.retired_age_max_s, age_s)
        elif since_ms:
            found.prepared_age_max_s = max(found.prepared_age_max_s, age_s)
    for parts in by_stream.values():
        run = longest = 0
        for _, is_shared in sorted(parts):
            run = 0 if is_shared else run + 1
            longest = max(longest, run)
        found.live_max = max(found.live_max, len(parts))
        found.shared_max = max(found.shared_max, sum(is_shared for _, is_shared in parts))
        found.run_max = max(found.run_max, longest)
    return found
