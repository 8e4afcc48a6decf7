"""Decides when the log cache's current block becomes an object, and what follows from its commit.

A block is sealed when it is full; or, while the pipeline has room, when it is old or somebody asked for it. So a slow
store makes blocks larger, not more of them. It is uploaded once all of it is durable in the WAL. After the commit, in
this order: the streams know their new ranges, the block may be evicted, the WAL is trimmed, producers may go on.

What streams append that are confirmed by their commits is **awaited**: it is uploaded at once, or as soon as the last
upload of that kind is committed, as a block of its own. So with an idle store an append waits for one PUT, with a busy
one for two at most, the more is appended the larger the PUTs are, and what other streams append is not cut into small
objects.
"""

from __future__ import annotations

import asyncio
import sys
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from functools import partial

from s3stream.api import Pressure, StreamFenced
from s3stream.append_log import AppendLog
from s3stream.log_cache import Block, LogCache
from s3stream.settings import StorageSettings
from s3stream.stream import S3Stream
from s3stream.stream_part import StreamPart
from s3stream.upload_pipeline import UploadPipeline, UploadResult
from s3stream.watermark import Watermark

_STREAMS_PER_TURN = 256
"""How many streams of a block are handled before the event loop gets its turn."""


class Uploader:
    """`streams` is the storage's own mapping of the streams that are open."""

    def __init__(
        self,
        cache: LogCache,
        append_log: AppendLog,
        pipeline: UploadPipeline,
        streams: Mapping[int, S3Stream],
        settings: StorageSettings,
    ) -> None:
        self._cache = cache
        self._append_log = append_log
        self._pipeline = pipeline
        self._streams = streams
        self._settings = settings
        self._uncommitted: deque[Block] = deque()
        self._group: asyncio.TaskGroup
        self.started = asyncio.Event()
        """`run` is at work: from now on there may be appends."""
        self._wakeup = asyncio.Event()
        self._age_timer: asyncio.TimerHandle | None = None
        self._aged = False
        self._forced: Block | None = None
        """The block that somebody asked for, when it was the current one."""
        self._awaited: Block | None = None
        """The block of awaited appends that is being uploaded."""
        self._paused = False
        self._listener: Callable[[bool], None] = lambda paused: None
        self.committed = Watermark()
        """The number of the block up to which everything is in committed objects."""
        cache.on_opened = self._on_opened
        cache.on_awaited = self._wakeup.set
        cache.on_alarm = self._on_alarm
        self._set_alarm()

    # -- what is due -----------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Until cancelled, or until the pipeline ends with an error."""
        async with asyncio.TaskGroup() as self._group:
            self.started.set()
            while True:
                if self._is_due():
                    self._seal()
                elif self._is_awaited():
                    self._seal_awaited()
                await self._wakeup.wait()
                self._wakeup.clear()

    async def upload_all(self) -> None:
        """Return when everything appended so far is committed."""
        current = self._cache.current
        self.force()
        await self.committed.wait(current.number if current.starts else current.number - 1)

    def force(self) -> None:
        """Do not wait for the current block to be full or old."""
        if self._cache.current.starts:
            self._forced = self._cache.current
            self._wakeup.set()

    def stop(self, error: Exception) -> None:
        self.committed.fail(error)
        if self._age_timer is not None:
            self._age_timer.cancel()

    def _is_due(self) -> bool:
        """Whether to seal a block that is not full."""
        wanted = self._aged or self._forced is self._cache.current
        return wanted and bool(self._cache.current.starts) and self._pipeline.has_room

    def _is_awaited(self) -> bool:
        return bool(self._cache.current.awaited) and self._awaited is None and self._pipeline.has_room

    def _seal(self) -> None:
        self._submit(self._cache.seal(self._append_log.wal.end_position))

    def _seal_awaited(self) -> None:
        self._awaited = self._cache.seal_awaited(self._append_log.wal.end_position)
        self._submit(self._awaited)

    def _submit(self, block: Block) -> None:
        self._uncommitted.append(block)
        if block.is_whole:
            self._aged = False
            if self._age_timer is not None:
                self._age_timer.cancel()
                self._age_timer = None
        self._set_alarm()
        parts: list[StreamPart] = []
        self._pipeline.submit(self._group, partial(self._prepare, block, parts), partial(self._finish, block, parts))

    def _on_opened(self) -> None:
        loop = asyncio.get_running_loop()
        self._cache.current.opened_at = loop.time()
        self._age_timer = loop.call_later(self._settings.upload_interval_ms / 1000, self._on_age)

    def _on_age(self) -> None:
        self._age_timer = None
        self._aged = True
        self._wakeup.set()

    # -- one block -------------------------------------------------------------------------------------------

    async def _prepare(self, block: Block, parts: list[StreamPart]) -> Sequence[StreamPart]:
        await self._append_log.confirmed.wait(block.wal_position)
        for number, tail in enumerate(sorted(block.starts, key=lambda tail: tail.stream_id), 1):
            if not tail.discarded:
                parts.append(tail.slice(block.starts[tail], block.ends[tail]))
            if number % _STREAMS_PER_TURN == 0:
                await asyncio.sleep(0)
        return parts

    async def _finish(self, block: Block, parts: list[StreamPart], result: UploadResult) -> None:
        by_id = {part.stream_id: part for part in parts}
        for stream_id in result.fenced_stream_ids:
            stream = self._streams.get(stream_id)
            # it may be back already, under another epoch
            if stream is not None and stream.epoch == by_id[stream_id].epoch:
                stream.fail(StreamFenced(f"stream {stream_id} was opened by somebody else"))
        for number, (found, ref) in enumerate(result.committed, 1):
            part = by_id[found.stream_id]
            stream = self._streams.get(found.stream_id)
            if stream is not None and stream.epoch == part.epoch:
                stream.took_place(part, found, ref)
            if number % _STREAMS_PER_TURN == 0:
                await asyncio.sleep(0)
        first = self._uncommitted.popleft()
        assert first is block, "blocks are committed in the order in which they were sealed"
        if self._awaited is block:
            self._awaited = None
        self._cache.commit(block)
        self._append_log.appended_limit = self._cache.committed + self._settings.unuploaded_size_max
        if block.is_whole:
            self._append_log.wal.trim(block.wal_position)
        self.committed.advance(block.number)
        self._set_alarm()
        self._wakeup.set()
        if self._paused and self._cache.unuploaded_size <= self._settings.pressure_low_size:
            self._paused = False
            self._set_alarm()
            self._listener(False)

    # -- pressure --------------------------------------------------------------------------------------------

    def set_pressure_listener(self, listener: Callable[[bool], None]) -> None:
        self._listener = listener

    def pressure_level(self) -> float:
        return min(1.0, self._cache.unuploaded_size / self._settings.unuploaded_size_max)

    def pressure(self) -> Pressure:
        size = self._cache.unuploaded_size
        oldest = self._uncommitted[0] if self._uncommitted else self._cache.current
        age = asyncio.get_running_loop().time() - oldest.opened_at if size else 0.0
        return Pressure(
            self.pressure_level(),
            size,
            int(age * 1000),
            self._append_log.wal.backlog_size,
        )

    def _on_alarm(self) -> None:
        if not self._paused and self._cache.unuploaded_size >= self._settings.pressure_high_size:
            self._paused = True
            self._listener(True)
        if self._cache.current_size >= self._settings.block_size:
            self._seal()
        self._set_alarm()

    def _set_alarm(self) -> None:
        """The next size at which `_on_alarm` has something to do."""
        cache = self._cache
        alarm = sys.maxsize
        if cache.current_size < self._settings.block_size:
            alarm = cache.sealed + self._settings.block_size
        if not self._paused:
            alarm = min(alarm, cache.committed + self._settings.pressure_high_size)
        cache.alarm_position = alarm
