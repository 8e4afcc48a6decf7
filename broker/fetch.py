"""How a fetch reads its partitions: from memory at once, from objects where it must, and waiting at the tail.

`Fetch` is one request in work. A pass over its targets reads what is in memory and notes what is not; a fetch that has
to wait (`WaitingFetch`) makes the same pass again when it is woken. Sizes follow Kafka: partitions take from one
budget in order, and the first batch found is returned whole whatever its size.

A read_committed fetch sees and counts only what is below the last stable offset. The aborted transactions in it come
from the partition's index, by the offsets that were found: from memory or from objects, the answer is the same.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from broker.fetch_sessions import Fetched, FetchTarget
from broker.leadership import absence_code
from broker.partition.errors import PartitionError, code_of
from broker.partition.log_view import READ_COMMITTED
from broker.partition.partition import Partition
from broker.replica_reads.view import ReplicaView
from broker.request import Deferred
from broker.services import Services
from protocol.errors import ErrorCode
from protocol.types import ZERO_UUID
from s3stream.api import FetchResult, StorageError

COLD_READS_MAX = 16
"""Partitions of one request that are fetched from objects at the same time."""

_EMPTY = FetchResult(buffers=(), size=0, next_offset=-1)


class Arriving(PartitionError):
    """The partition will be led here in a moment: a fetch that waits anyway waits for it too."""


class Fetch:
    """One fetch request: its targets and limits in bytes. `cold` are positions in `results` still to be fetched, with
    their share of the budget."""

    __slots__ = (
        "_services",
        "answer_now",
        "arriving",
        "cold",
        "isolation_level",
        "max_size",
        "min_size",
        "results",
        "size",
        "targets",
    )

    def __init__(
        self, services: Services, targets: Sequence[FetchTarget], max_size: int, min_size: int, isolation_level: int
    ) -> None:
        self._services = services
        self.isolation_level = isolation_level
        self.targets = targets
        self.max_size = max_size
        self.min_size = min(min_size, max_size)
        self.results: list[Fetched] = []
        self.cold: list[tuple[int, int]] = []
        self.size = 0
        self.answer_now = False
        """Something is to be told that does not wait for `min_size`."""
        self.arriving: list[tuple[str, int]] = []

    def read(self) -> None:
        """Read every target from memory, anew."""
        results = self.results = []
        self.cold = []
        self.arriving = []
        size = 0
        remaining = self.max_size
        whole_batch = True
        isolation_level = self.isolation_level
        for target in self.targets:
            diverging = None
            partition = target.partition
            try:
                if partition is None or partition.closed:
                    partition = self._find(target)
                if target.leader_epoch >= 0 and target.leader_epoch != partition.leader_epoch:
                    partition.check_leader_epoch(target.leader_epoch)
                if target.last_fetched_epoch >= 0:
                    diverging = _divergence(partition, target)
                limit = max(0, min(target.max_size, remaining))
                found: FetchResult | None = _EMPTY
                aborted: Sequence[tuple[int, int]] = ()
                if (limit > 0 or whole_batch) and diverging is None:
                    found = partition.read(target.fetch_offset, limit, isolation_level)
            except (PartitionError, StorageError) as error:
                if not isinstance(error, Arriving):
                    self.answer_now = True
                results.append(Fetched(target, code_of(error), _EMPTY, -1, -1, -1, None))
                continue
            if found is None:
                self.cold.append((len(results), limit))
                remaining -= limit
                whole_batch = False
            elif found.size:
                if found.size > limit and not whole_batch:
                    found = _EMPTY
                else:
                    remaining = max(0, remaining - found.size)
                    size += found.size
                    whole_batch = False
                    if isolation_level == READ_COMMITTED:
                        aborted = partition.aborted_transactions(target.fetch_offset, found.next_offset)
            elif diverging is not None:
                self.answer_now = True
            results.append(
                Fetched(
                    target,
                    ErrorCode.NONE,
                    found,
                    partition.high_watermark,
                    partition.last_stable_offset,
                    partition.log_start_offset,
                    diverging,
                    aborted,
                )
            )
        self.size = size

    def _find(self, target: FetchTarget) -> Partition:
        services = self._services
        name = target.topic
        if target.topic_id != ZERO_UUID:
            topic = services.image.topic_by_id(target.topic_id)
            if topic is None:
                raise PartitionError(ErrorCode.UNKNOWN_TOPIC_ID)
            name = topic.name
        partitions = services.partitions
        partition = partitions.readable(name, target.index)
        if partition is None:
            code = absence_code(services.image.topic(name), target.index)
            if partitions.in_transit(name, target.index):
                self.arriving.append((name, target.index))
                raise Arriving(code)
            raise PartitionError(code)
        if target.topic_id not in (ZERO_UUID, partition.topic_id):
            raise PartitionError(ErrorCode.INCONSISTENT_TOPIC_ID)
        target.partition = partition
        return partition

    def park(self, key: tuple[str, int], parked: Callable[[], None]) -> bool:
        """See `Partitions.park`."""
        return self._services.partitions.park(*key, parked)

    def leave_parking(self, key: tuple[str, int], parked: Callable[[], None]) -> None:
        self._services.partitions.leave_parking(*key, parked)

    async def read_cold(self) -> None:
        """Fetch what `read` did not find in memory."""
        limit = asyncio.Semaphore(COLD_READS_MAX)
        async with asyncio.TaskGroup() as group:
            for position, max_size in self.cold:
                group.create_task(self._read_cold(limit, position, max_size))

    async def _read_cold(self, limit: asyncio.Semaphore, position: int, max_size: int) -> None:
        result = self.results[position]
        partition = result.target.partition
        assert partition is not None
        async with limit:
            try:
                found = await partition.fetch(result.target.fetch_offset, max_size, self.isolation_level)
            except (PartitionError, StorageError) as error:
                self.results[position] = Fetched(result.target, code_of(error), _EMPTY, -1, -1, -1, None)
            else:
                offset = result.target.fetch_offset
                committed_only = self.isolation_level == READ_COMMITTED and found.size
                self.results[position] = Fetched(
                    result.target,
                    ErrorCode.NONE,
                    found,
                    partition.high_watermark,
                    partition.last_stable_offset,
                    partition.log_start_offset,
                    None,
                    partition.aborted_transactions(offset, found.next_offset) if committed_only else (),
                )
                self.size += found.size


def _divergence(partition: Partition | ReplicaView, target: FetchTarget) -> tuple[int, int] | None:
    """(epoch, end offset) if the client's last fetched epoch ended before its fetch offset here (KIP-595)."""
    epoch, end_offset = partition.end_offset_for_epoch(target.last_fetched_epoch)
    if epoch < 0 or end_offset < 0:
        raise PartitionError(ErrorCode.OFFSET_OUT_OF_RANGE)
    if epoch < target.last_fetched_epoch or end_offset < target.fetch_offset:
        return epoch, end_offset
    return None


class WaitingFetch(Deferred):
    """A fetch at the tail: answered when enough has become readable, when its time is over, or when a partition goes.

    Woken by the partitions (`FetchWaiter`), it looks once per turn of the loop, after everything that the same WAL
    flush confirmed, so that one answer has it all.
    """

    __slots__ = ("_fetch", "_loop", "_missing_size", "_over", "_parked", "_respond", "_scheduled", "_timer")

    def __init__(self, fetch: Fetch, max_wait_ms: int, respond: Callable[[Fetch], Any]) -> None:
        super().__init__()
        self._fetch = fetch
        self._respond = respond
        self._missing_size = fetch.min_size - fetch.size
        self._scheduled = False
        self._over = False
        self._loop = asyncio.get_running_loop()
        self._timer = self._loop.call_later(max_wait_ms / 1000, self._time_is_over)
        self._parked: dict[tuple[str, int], Callable[[], None]] = {}
        self._register()

    def _register(self) -> None:
        fetch = self._fetch
        for target in fetch.targets:
            if target.partition is not None:
                target.partition.add_fetch_waiter(self, fetch.isolation_level == READ_COMMITTED)
        for key in fetch.arriving:
            if key not in self._parked:
                parked = partial(self._arrived, key)
                if fetch.park(key, parked):
                    self._parked[key] = parked

    def advanced(self, size: int) -> None:
        self._missing_size -= size
        if self._missing_size <= 0:
            self._schedule()

    def _arrived(self, key: tuple[str, int]) -> None:
        self._parked.pop(key, None)
        if not self.done and not self.cancelled:
            self._schedule()

    def interrupted(self) -> None:
        self._over = True
        self._schedule()

    def cancel(self) -> None:
        super().cancel()
        self._leave()

    def _schedule(self) -> None:
        if not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self._look)

    def _time_is_over(self) -> None:
        self._over = True
        self._look()

    def _look(self) -> None:
        self._scheduled = False
        if self.done or self.cancelled:
            return
        fetch = self._fetch
        waited_for_arrival = bool(fetch.arriving)
        fetch.read()
        if not self._over and not fetch.answer_now and not fetch.cold and fetch.size < fetch.min_size:
            self._missing_size = fetch.min_size - fetch.size
            if waited_for_arrival or fetch.arriving:
                self._register()
            return
        self._leave()
        self.complete(self._respond(fetch))

    def _leave(self) -> None:
        self._timer.cancel()
        for target in self._fetch.targets:
            if target.partition is not None:
                target.partition.remove_fetch_waiter(self)
        while self._parked:
            self._fetch.leave_parking(*self._parked.popitem())
