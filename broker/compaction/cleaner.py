"""`LogCleaner`: finds the log that needs compaction most, and takes it through a pass. One log at a time.

It looks every `log.cleaner.backoff.ms` at the partitions led here whose topic compacts. A pass that fails changed
nothing but what it had committed, and is tried again; a log that holds what cannot be decoded is left alone for an
hour.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass
from typing import Protocol

import structlog

from broker.background import BackgroundTask
from broker.compaction.cleaning import Batch, CleaningInput, Filtered
from broker.compaction.eligibility import Cleanable, cleanable
from broker.compaction.transactions import AbortedTransaction
from broker.compaction.worker import WorkerDied
from broker.config.broker_config import BrokerConfig
from broker.partition import Partition
from broker.partitions import Partitions
from protocol.errors import InvalidBatch
from protocol.records import BatchHeader
from s3stream.api import StorageError, Stream
from s3stream.catalog.api import CatalogError

log = structlog.get_logger()

UNCLEANABLE_S = 3600.0
"""How long a log is left alone that holds what is no record."""
RETRY_S = 60.0
"""How long one is left alone that could not be compacted: others come first meanwhile."""
COORDINATOR_TOPICS = ("__consumer_offsets", "__transaction_state")
LOOKS_PER_TURN = 100
"""Partitions that are looked at before the event loop gets its turn."""
_LONG_MAX = 2**63 - 1


class Rewriter(Protocol):
    """What is asked of the storage's compactor."""

    def read(self, stream: Stream, start_offset: int, end_offset: int) -> AsyncIterator[list[Batch]]: ...

    async def rewrite(
        self, stream: Stream, end_offset: int, batch_filter: PassFilter, compacted_offset: int
    ) -> bool: ...


class Passes(Protocol):
    """Where a pass is computed; see `worker.CleaningProcess`."""

    async def begin(self, given: CleaningInput) -> None: ...
    async def index(self, batches: Sequence[Batch]) -> bool: ...
    async def begin_filtering(self) -> int: ...
    async def filter(self, batches: Sequence[Batch]) -> Filtered: ...
    async def seal(self) -> Batch | None: ...
    async def counts(self) -> tuple[int, int, int | None]: ...
    def rest(self) -> None: ...
    def close(self) -> None: ...


@dataclass(slots=True)
class CleanerStats:
    """Since the start."""

    passes: int = 0
    failures: int = 0
    records_read: int = 0
    records_kept: int = 0


class PassFilter:
    """`s3stream.compaction.streams.BatchFilter` over the process, for one pass over one partition."""

    def __init__(self, passes: Passes, partition: Partition) -> None:
        self._passes = passes
        self._partition = partition
        self._aborts_dropped: list[int] = []

    async def filter(self, batches: Sequence[Batch]) -> Sequence[Batch]:
        found = await self._passes.filter(batches)
        self._aborts_dropped += found.aborts_dropped
        return found.batches

    async def seal(self) -> Batch | None:
        return await self._passes.seal()

    async def before_commit(self) -> None:
        """A reader that is told of an aborted transaction looks for its marker; one without marker is forgotten first.
        Nothing of it is left in the log but that, so a crash in between harms nobody."""
        if self._aborts_dropped:
            dropped, self._aborts_dropped = self._aborts_dropped, []
            await self._partition.forget_aborted(dropped)


class LogCleaner:
    """See the module docstring. `passes` is closed with it."""

    def __init__(
        self,
        partitions: Partitions,
        rewriter: Rewriter,
        passes: Passes,
        config: BrokerConfig,
        now_ms: Callable[[], int],
    ) -> None:
        self.stats = CleanerStats()
        self._partitions = partitions
        self._rewriter = rewriter
        self._passes = passes
        self._config = config
        self._now_ms = now_ms
        self._left_alone: dict[tuple[bytes, int], float] = {}
        """Partition -> until when."""
        self._horizons: dict[tuple[bytes, int], int] = {}
        """Partition -> when the first tombstone or marker of its compacted part may go, as far as is known."""
        self._task = BackgroundTask(self._run, "log-cleaner")

    def start(self) -> None:
        self._task.start()

    async def stop(self) -> None:
        await self._task.stop()
        self._passes.close()

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(self._config.log_cleaner_backoff_ms / 1000)
            try:
                while self._config.log_cleaner_enable and await self.clean_one():
                    pass
            except Exception as error:
                # everything is readable as it is: no reason to stop serving
                log.error("the log cleaner has a defect", exc_info=error)

    async def clean_one(self) -> bool:
        """Compact the log that is due most; False if none is."""
        best: tuple[float, Partition, Cleanable] | None = None
        for number, partition in enumerate(list(self._partitions.all()), 1):
            if number % LOOKS_PER_TURN == 0:
                await asyncio.sleep(0)
            if not partition.config.compacts or partition.closed or self._is_left_alone(partition):
                continue
            found = await self._find(partition)
            if found is not None and (best is None or found.ratio > best[0]):
                best = (found.ratio, partition, found)
        if best is None:
            return False
        _, partition, found = best
        try:
            done = await self._clean(partition, found)
        except InvalidBatch as error:
            self._leave_alone(partition, UNCLEANABLE_S)
            log.error("log cannot be compacted", topic=partition.topic, partition=partition.index, error=error.message)
        except (StorageError, CatalogError, WorkerDied) as error:
            self._leave_alone(partition, RETRY_S)
            log.warning("log not compacted", topic=partition.topic, partition=partition.index, error=repr(error))
        else:
            return done
        self.stats.failures += 1
        return False

    async def _find(self, partition: Partition) -> Cleanable | None:
        """What of this log is to be compacted now."""
        stream, config, now_ms = partition.log, partition.config, self._now_ms()

        def look(first_dirty_timestamp: int | None = None) -> Cleanable | None:
            return cleanable(
                stream.ranges(),
                stream.compacted_offset,
                partition.log_start_offset,
                partition.last_stable_offset,
                stream.size,
                config,
                now_ms,
                is_coordinator=partition.topic in COORDINATOR_TOPICS,
                first_dirty_timestamp=first_dirty_timestamp,
            )

        found = look()
        if found is not None and not found.is_due and config.max_compaction_lag_ms < _LONG_MAX:
            with suppress(StorageError, InvalidBatch):
                found = look(await _first_timestamp(stream, found.dirty_offset, found.end_offset))
        if found is not None and found.is_due:
            return found
        horizon = self._horizons.get(_key(partition))
        if horizon is not None and horizon <= now_ms and stream.compacted_offset > partition.log_start_offset:
            return Cleanable(stream.compacted_offset, stream.compacted_offset, 1, 0, is_due=True)
        return None

    async def _clean(self, partition: Partition, found: Cleanable) -> bool:
        """One pass. False if others are at work on the log."""
        began = time.monotonic()
        stream = partition.log
        passes = self._passes
        self._horizons.pop(_key(partition), None)
        given = CleaningInput(
            dirty_offset=found.dirty_offset,
            end_offset=found.end_offset,
            now_ms=self._now_ms(),
            delete_retention_ms=partition.config.delete_retention_ms,
            map_size_max=self._config.log_cleaner_dedupe_buffer_size,
            aborted=[AbortedTransaction(*each) for each in partition.aborted_below(found.end_offset)],
            last_batches=partition.producers.last_batches(),
        )
        await passes.begin(given)
        try:
            async with aclosing(self._dirty(stream, found)) as dirty:
                async for batches in dirty:
                    if not await passes.index(batches):
                        break
            end_offset = await passes.begin_filtering()
            done = await self._rewriter.rewrite(stream, end_offset, PassFilter(passes, partition), end_offset)
            read, kept, horizon = await passes.counts()
        finally:
            passes.rest()
        self.stats.records_read += read
        self.stats.records_kept += kept
        if not done:
            return False
        self.stats.passes += 1
        if horizon is not None:
            self._horizons[_key(partition)] = horizon
        log.info(
            "log compacted",
            topic=partition.topic,
            partition=partition.index,
            dirty_offset=found.dirty_offset,
            compacted_offset=end_offset,
            records=read,
            records_kept=kept,
            seconds=round(time.monotonic() - began, 3),
        )
        return True

    async def _dirty(self, stream: Stream, found: Cleanable) -> AsyncGenerator[list[Batch], None]:
        if found.dirty_offset < found.end_offset:
            async for batches in self._rewriter.read(stream, found.dirty_offset, found.end_offset):
                yield batches

    def _is_left_alone(self, partition: Partition) -> bool:
        until = self._left_alone.get(_key(partition))
        return until is not None and time.monotonic() < until

    def _leave_alone(self, partition: Partition, seconds: float) -> None:
        self._left_alone[_key(partition)] = time.monotonic() + seconds


def _key(partition: Partition) -> tuple[bytes, int]:
    return partition.topic_id, partition.index


async def _first_timestamp(stream: Stream, offset: int, end_offset: int) -> int | None:
    found = await stream.fetch(offset, 1, end_offset)
    return BatchHeader.read(found.buffers[0]).base_timestamp if found.buffers else None
