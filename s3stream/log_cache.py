"""Recent appends, in memory: what tail reads are served from and what uploads are made of.

The same batches are seen in two ways:

* A **tail** per open stream: parallel lists of its batches in offset order, so that a read is two or three bisections
  and a slice, whatever the number of batches.
* **Blocks** in append order: which tails have batches in it and from which offset on. A block is what is uploaded as
  one object, and what is evicted at once. It holds no batches itself.

A block's life: current -> sealed -> committed -> evicted. Blocks are sealed, committed and evicted in the same order,
so a tail is cut at its front always, and what is not committed is never evicted. Sealing usually ends the current one;
`seal_awaited` takes out of it only what waits for its commit, and it goes on with the rest.

Sizes are accounted with `BATCH_OVERHEAD` for each batch, so that the bound holds for tiny batches too. A batch may be a
slice of a larger buffer (a whole request) which it keeps alive; the batches of one request land in the same one or two
blocks, so the buffer goes when they are evicted.

Pure: no clock, no I/O. `appended`, `sealed`, `committed` and `evicted` count accounted bytes since the start.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import deque
from collections.abc import Callable
from operator import sub

from s3stream.api import FetchResult
from s3stream.stream_part import StreamPart
from wal.api import Buffer

BATCH_OVERHEAD = 400
"""Bytes of memory a batch costs beside its payload: its memoryview, four list slots, three integers (measured)."""


class Tail:
    """The cached batches of one open stream: contiguous offsets from `bases[0]` (or `end_offset` if empty) on."""

    __slots__ = (
        "awaits_commit",
        "bases",
        "batches",
        "block",
        "discarded",
        "end_offset",
        "end_position",
        "ends",
        "epoch",
        "stream_id",
        "timestamps",
    )

    def __init__(self, stream_id: int, epoch: int, end_offset: int) -> None:
        self.stream_id = stream_id
        self.epoch = epoch
        self.bases: list[int] = []
        self.ends: list[int] = []
        """Cumulative payload size after each batch, counted from the stream's opening."""
        self.timestamps: list[int] = []
        self.batches: list[Buffer] = []
        self.end_offset = end_offset
        self.end_position = 0
        self.block: Block | None = None
        """The block that the last batch went to; None also if that was sealed without the rest of the current one."""
        self.awaits_commit = False
        """What is appended is confirmed by its commit: it does not wait for the block to be full or old."""
        self.discarded = False
        """The stream was fenced or let go: nothing of it is to be uploaded any more."""

    @property
    def start_offset(self) -> int:
        return self.bases[0] if self.bases else self.end_offset

    def read(self, offset: int, max_size: int, end_offset: int) -> FetchResult | None:
        """Batches from the one that contains `offset` on; None if the tail does not reach back to it.

        Needs offset < end_offset <= self.end_offset. At least one batch, then as many as fit.
        """
        bases = self.bases
        first = bisect_right(bases, offset) - 1
        if first < 0:
            return None
        ends = self.ends
        batches = self.batches
        start_position = ends[first] - len(batches[first])
        stop = bisect_left(bases, end_offset, first + 1)
        fit = bisect_right(ends, start_position + max_size, first, stop)
        if fit == first:
            fit += 1
        return FetchResult(
            batches[first:fit],
            ends[fit - 1] - start_position,
            bases[fit] if fit < len(bases) else self.end_offset,
        )

    def slice(self, start_offset: int, end_offset: int) -> StreamPart:
        """The batches of [start_offset, end_offset): batch boundaries, not empty."""
        bases = self.bases
        first = bisect_left(bases, start_offset)
        stop = bisect_left(bases, end_offset, first)
        starts = bases[first:stop]
        counts = map(sub, [*starts[1:], end_offset], starts)
        batches = self.batches[first:stop]
        size = self.ends[stop - 1] - self.ends[first] + len(batches[0])
        tuples = zip(starts, counts, self.timestamps[first:stop], batches, strict=True)
        return StreamPart(self.stream_id, self.epoch, tuples, size)

    def accounted_size(self, start_offset: int) -> int:
        """Of the batches from `start_offset`, a batch boundary, on."""
        first = bisect_left(self.bases, start_offset)
        if first == len(self.bases):
            return 0
        start_position = self.ends[first] - len(self.batches[first])
        return self.end_position - start_position + (len(self.bases) - first) * BATCH_OVERHEAD

    def seek_timestamp(self, timestamp: int, end_offset: int) -> int | None:
        """The base offset of the first batch below `end_offset` whose max timestamp is >= `timestamp`."""
        stop = bisect_left(self.bases, end_offset)
        for i in range(stop):
            if self.timestamps[i] >= timestamp:
                return self.bases[i]
        return None

    def evict_before(self, offset: int) -> None:
        """Drop the batches that begin below `offset`."""
        count = bisect_left(self.bases, offset)
        del self.bases[:count], self.ends[:count], self.timestamps[:count], self.batches[:count]

    def clear(self) -> None:
        self.evict_before(self.end_offset)


class Block:
    """A part of the append sequence: tail -> offset of its first batch here, and, once sealed, where it ends.

    `number` counts the blocks that were current. One that was sealed ahead of the current one (not `is_whole`) has the
    number before that one's: when the block of a number is committed, so is every batch that was there before it.
    """

    __slots__ = ("awaited", "ends", "is_whole", "number", "opened_at", "size", "starts", "wal_position")

    def __init__(self, number: int) -> None:
        self.number = number
        self.opened_at = 0.0
        """When its first batch came, by the owner's clock."""
        self.starts: dict[Tail, int] = {}
        self.ends: dict[Tail, int] = {}
        self.awaited: dict[Tail, None] = {}
        """Of the current block: tails whose batches here are awaited."""
        self.is_whole = True
        self.size = 0
        """Accounted; set when the block is sealed, as is `wal_position`."""
        self.wal_position = 0
        """The end position in the WAL of the last batch."""


class LogCache:
    """Tails and blocks together. Eviction comes with sealing and committing, so `size` may pass `capacity` by a block.

    `on_alarm` is called by `append` when `appended` reaches `alarm_position`, which the owner moves: one comparison on
    the hot path stands for every size limit. `on_opened` is called for the first batch of a block, `on_awaited` for the
    first in it that awaits its commit.
    """

    __slots__ = (
        "alarm_position",
        "appended",
        "blocks",
        "capacity",
        "committed",
        "current",
        "evicted",
        "on_alarm",
        "on_awaited",
        "on_opened",
        "sealed",
    )

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.on_opened: Callable[[], None] = _nothing
        self.on_awaited: Callable[[], None] = _nothing
        self.on_alarm: Callable[[], None] = _nothing
        self.alarm_position = 0
        self.appended = 0
        self.sealed = 0
        self.committed = 0
        self.evicted = 0
        self.current = Block(1)
        self.blocks: deque[Block] = deque()
        """Sealed blocks, committed ones first."""

    @property
    def size(self) -> int:
        return self.appended - self.evicted

    @property
    def unuploaded_size(self) -> int:
        return self.appended - self.committed

    @property
    def current_size(self) -> int:
        return self.appended - self.sealed

    def append(self, tail: Tail, next_offset: int, data: Buffer, max_timestamp: int) -> None:
        """Add the batch [tail.end_offset, next_offset)."""
        size = len(data)
        base_offset = tail.end_offset
        position = tail.end_position + size
        tail.bases.append(base_offset)
        tail.ends.append(position)
        tail.timestamps.append(max_timestamp)
        tail.batches.append(data)
        tail.end_offset = next_offset
        tail.end_position = position
        self.appended = appended = self.appended + size + BATCH_OVERHEAD
        if tail.block is not self.current:
            self._join_block(tail, base_offset)
        if appended >= self.alarm_position:
            self.on_alarm()

    def _join_block(self, tail: Tail, base_offset: int) -> None:
        block = self.current
        opened = not block.starts
        block.starts[tail] = base_offset
        tail.block = block
        if opened:
            self.on_opened()
        if tail.awaits_commit:
            self.await_commit(tail)

    def await_commit(self, tail: Tail) -> None:
        """What the tail has in the current block, if anything, is waited for."""
        block = self.current
        if tail.block is block:
            first = not block.awaited
            block.awaited[tail] = None
            if first:
                self.on_awaited()

    def seal(self, wal_position: int) -> Block:
        """Close the current block, which is not empty, and start the next."""
        block = self.current
        block.ends = {tail: tail.end_offset for tail in block.starts}
        block.size = self.appended - self.sealed
        self.current = Block(block.number + 1)
        self._close(block, wal_position)
        return block

    def seal_awaited(self, wal_position: int) -> Block:
        """Close a block of what is awaited in the current one, which goes on with the rest if there is any."""
        current = self.current
        if len(current.awaited) == len(current.starts):
            return self.seal(wal_position)
        block = Block(current.number - 1)
        block.is_whole = False
        block.opened_at = current.opened_at
        for tail in current.awaited:
            start_offset = block.starts[tail] = current.starts.pop(tail)
            block.ends[tail] = tail.end_offset
            block.size += tail.accounted_size(start_offset)
            tail.block = None
        current.awaited = {}
        self._close(block, wal_position)
        return block

    def _close(self, block: Block, wal_position: int) -> None:
        block.wal_position = wal_position
        self.sealed += block.size
        self.blocks.append(block)
        self.evict()

    def commit(self, block: Block) -> None:
        """The block is in a committed object: it may be evicted from now on. They are committed as they were sealed."""
        self.committed += block.size
        self.evict()

    def evict(self) -> None:
        """Drop the oldest committed blocks until the cache is within its capacity."""
        while self.appended - self.evicted > self.capacity and self.evicted < self.committed:
            block = self.blocks.popleft()
            self.evicted += block.size
            for tail, end_offset in block.ends.items():
                tail.evict_before(end_offset)


def _nothing() -> None:
    pass
