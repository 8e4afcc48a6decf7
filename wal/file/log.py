"""The appending half of the file WAL: group commit between the event loop and two threads.

The loop queues records and hands the whole queue to the **writing thread** whenever no flush is in flight. The first
append schedules that for the end of the loop's turn, so that all appends of one turn share a sync; while every further
look at the sockets brings more, a few more turns are waited for. The writing
thread builds frames, writes and syncs them with one system call each, and reports back; on a disk that is fast the loop
does the same itself (see `wal.file.placement`). The **keeping thread** prepares segments ahead, persists the trim
position and recycles what was trimmed.

The segment writer belongs to the writing thread while a flush is in flight, and to the loop while none is.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable, Sequence
from queue import Empty, SimpleQueue
from threading import Thread
from time import perf_counter
from typing import TypeVarTuple, Unpack

from wal.api import Buffer, WalError, WalFailed, WalFull, WalUnreachable
from wal.file.checkpoint import CheckpointFile
from wal.file.files import NO_SPACE, Files, OsFiles
from wal.file.format import FRAME_HEADER_SIZE, RECORD_OVERHEAD, SEGMENT_HEADER_SIZE, State
from wal.file.opening import FileWalSettings, open_directory
from wal.file.placement import Placement
from wal.file.segments import FRAME_SIZE_MAX, Segment, SegmentPool, SegmentWriter

LOOKS_MAX = 3
"""Turns of the loop that a flush waits for while each of them brings more appends. A turn that brings none is a few
microseconds: the loop does not sleep in it."""
_RETRY_INTERVAL_S = 1.0
"""How often the keeping thread looks whether a full disk has room again."""
_Arguments = TypeVarTuple("_Arguments")
_Job = tuple[list[Sequence[Buffer]], list[int]]


async def open_file_wal(
    path: str,
    epoch: int,
    settings: FileWalSettings,
    open_files: Callable[[str], Files] | None = None,
    owner: str | None = None,
) -> FileWal:
    """See `wal.open_wal`. `open_files` puts something else in the place of the operating system's files."""
    return await asyncio.to_thread(
        _open,
        asyncio.get_running_loop(),
        path,
        epoch,
        settings,
        owner,
        open_files or (lambda path: OsFiles(path, create=True)),
    )


def _open(
    loop: asyncio.AbstractEventLoop,
    path: str,
    epoch: int,
    settings: FileWalSettings,
    owner: str | None,
    open_files: Callable[[str], Files],
) -> FileWal:
    files = open_files(path)
    try:
        files.lock()
        checkpoint, pool = open_directory(files, epoch, settings, owner)
    except OSError as error:
        files.close()
        if error.errno in NO_SPACE:
            raise WalFull(f"no room for a log in {path}: {error.strerror}") from error
        raise WalUnreachable(f"cannot open the log in {path}: {error}") from error
    except WalError:
        files.close()
        raise
    return FileWal(loop, files, checkpoint, pool, epoch, settings.segment_size)


class FileWal:
    """See the module docstring, and `wal.api.Wal` for the contract."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        files: Files,
        checkpoint: CheckpointFile,
        pool: SegmentPool,
        epoch: int,
        segment_size: int,
    ) -> None:
        self._loop = loop
        self._files = files
        self._checkpoint = checkpoint
        self._pool = pool
        self._epoch = epoch
        self._segment_size = segment_size
        position = checkpoint.current.end_position
        self._writer = SegmentWriter(
            self._take_segment,
            self._seal_segment,
            log_id=checkpoint.current.log_id,
            epoch=epoch,
            position=position,
            segment_size=segment_size,
        )
        self.record_size_max = segment_size - SEGMENT_HEADER_SIZE - FRAME_HEADER_SIZE - RECORD_OVERHEAD
        """A bigger record is refused with ValueError."""
        self._records: list[Sequence[Buffer]] = []
        self._sizes: list[int] = []
        self._end = self._durable = self._trimmed = position
        self._room = 0
        self._in_flight = False
        self._scheduled = False
        self._looks_left = 0
        self._gathered_end = 0
        self._placement = Placement()
        self._starved: str | None = None
        self._failure: WalFailed | None = None
        self._closing: asyncio.Future[None] | None = None
        self._waiters: deque[tuple[int, asyncio.Future[None]]] = deque()
        self._on_durable: Callable[[int], None] = lambda position: None
        self._on_failure: Callable[[WalError], None] = lambda error: None
        self._write_jobs: SimpleQueue[_Job | None] = SimpleQueue()
        self._keep_jobs: SimpleQueue[tuple[int, int] | None] = SimpleQueue()
        self._threads = [
            Thread(target=self._write_in_thread, name="wal-writer", daemon=True),
            Thread(target=self._keep_in_thread, name="wal-keeper", daemon=True),
        ]
        for thread in self._threads:
            thread.start()

    # -- on the loop --------------------------------------------------------------------------------------------------

    @property
    def durable_position(self) -> int:
        return self._durable

    @property
    def end_position(self) -> int:
        return self._end

    @property
    def backlog_size(self) -> int:
        return self._end - self._durable

    def set_listeners(self, on_durable: Callable[[int], None], on_failure: Callable[[WalError], None]) -> None:
        self._on_durable = on_durable
        self._on_failure = on_failure

    def append(self, pieces: Sequence[Buffer]) -> int:
        if self._failure is not None:
            raise WalFailed(str(self._failure))
        size = sum(map(len, pieces))
        if self._starved is not None and not self._fits(size):
            raise WalFull(f"no room in the log in {self._files.path}: {self._starved}")
        if size > self.record_size_max:
            raise ValueError(f"a record of {size} bytes does not fit into a segment of {self._segment_size}")
        self._records.append(pieces)
        self._sizes.append(size)
        self._end += size + RECORD_OVERHEAD
        if not self._scheduled and not self._in_flight:
            self._scheduled = True
            self._looks_left = LOOKS_MAX
            self._gathered_end = 0
            self._loop.call_soon(self._gather)
        return self._end

    def trim(self, position: int) -> None:
        position = min(position, self._durable)
        if position > self._trimmed:
            self._trimmed = position
            self._keep_jobs.put((position, self._durable))

    async def flush(self) -> None:
        if self._failure is not None:
            raise WalFailed(str(self._failure))
        if self._durable < self._end:
            waiter: asyncio.Future[None] = self._loop.create_future()
            self._waiters.append((self._end, waiter))
            await waiter

    async def close(self) -> None:
        if self._closing is None:
            self._closing = asyncio.ensure_future(self._close())
        await asyncio.shield(self._closing)

    async def _close(self) -> None:
        if self._failure is None:
            if self._starved is not None and not self._fits(0):
                self._fail(WalFailed(f"closed while there was no room: {self._starved}"))
            else:
                with contextlib.suppress(WalFailed):
                    await self.flush()
        clean = self._failure is None
        self._failure = self._failure or WalFailed("the log is closed")
        self._write_jobs.put(None)
        self._pool.ready.put(None)
        self._keep_jobs.put(None)
        await asyncio.to_thread(self._finish, clean)

    def _fits(self, size: int) -> bool:
        """The queue and `size` bytes more fit into what is already reserved."""
        needed = self._end - self._durable + size + RECORD_OVERHEAD
        needed += FRAME_HEADER_SIZE * (4 + 2 * needed // min(FRAME_SIZE_MAX, self._segment_size // 4))
        # A frame that does not fit goes into the next segment, so that the tails of segments cannot be counted on.
        return needed <= max(self._room, self._pool.ready.qsize() * (self._segment_size // 2))

    def _gather(self) -> None:
        end = self._end
        if self._looks_left and end > self._gathered_end and end - self._durable <= FRAME_SIZE_MAX:
            self._gathered_end = end
            self._looks_left -= 1
            self._loop.call_soon(self._gather)
        else:
            self._start_flush()

    def _start_flush(self, behind_another: bool = False) -> None:
        self._scheduled = False
        if not self._records or self._in_flight or self._failure is not None:
            return
        records, sizes = self._records, self._sizes
        self._records, self._sizes = [], []
        size = self._end - self._durable
        self._in_flight = True
        if not (self._writer.has_room(size) and self._placement.on_loop(size)):
            self._write_jobs.put((records, sizes))
        elif behind_another:
            # The listener is still to be told of that one.
            self._loop.call_soon(self._write_here, records, sizes, size)
        else:
            self._write_here(records, sizes, size)

    def _write_here(self, records: list[Sequence[Buffer]], sizes: list[int], size: int) -> None:
        """As the writing thread does, which waits for a job meanwhile."""
        if self._failure is not None:
            return
        writer = self._writer
        began = perf_counter()
        try:
            for _ in writer.write(records, sizes):
                pass
        except Exception as error:
            self._fail(self._write_failure(error))
            return
        self._placement.took(size, perf_counter() - began)
        self._flushed(writer.position, writer.room, True)

    def _flushed(self, position: int, room: int, last: bool) -> None:
        if self._failure is not None:
            return
        self._durable = position
        self._room = room
        if last:
            self._in_flight = False
            if self._records:
                self._start_flush(behind_another=True)
        waiters = self._waiters
        while waiters and waiters[0][0] <= position:
            waiter = waiters.popleft()[1]
            if not waiter.done():
                waiter.set_result(None)
        self._on_durable(position)

    def _fail(self, error: WalFailed) -> None:
        if self._failure is not None:
            return
        self._failure = error
        self._records, self._sizes = [], []
        while self._waiters:
            waiter = self._waiters.popleft()[1]
            if not waiter.done():
                waiter.set_exception(WalFailed(str(error)))
        self._on_failure(error)

    def _set_starved(self, reason: str | None) -> None:
        self._starved = reason
        if reason is not None and self._closing is not None and not self._fits(0):
            self._fail(WalFailed(f"closed while there was no room: {reason}"))

    # -- in the writing thread ----------------------------------------------------------------------------------------

    def _write_in_thread(self) -> None:
        writer = self._writer
        while (job := self._write_jobs.get()) is not None:
            records, sizes = job
            end = writer.position + sum(sizes) + RECORD_OVERHEAD * len(sizes)
            try:
                for position in writer.write(records, sizes):
                    self._report(self._flushed, position, writer.room, position == end)
            except _Stopped:
                return
            except Exception as error:
                # Also what is not an OSError: without this thread nothing more can become durable.
                self._report(self._fail, self._write_failure(error))
                return
            del job, records, sizes

    def _write_failure(self, error: Exception) -> WalFailed:
        return WalFailed(f"writing the log in {self._files.path} failed: {error!r}")

    def _take_segment(self) -> Segment:
        if self._pool.ready.empty():
            self._keep_jobs.put((0, 0))
        segment = self._pool.ready.get()
        if segment is None:
            raise _Stopped
        self._keep_jobs.put((0, 0))
        return segment

    def _seal_segment(self, segment: Segment, end_position: int) -> None:
        self._pool.seal(segment, end_position)

    # -- in the keeping thread ----------------------------------------------------------------------------------------

    def _keep_in_thread(self) -> None:
        jobs = self._keep_jobs
        trimmed = durable = 0
        starved: str | None = None
        while True:
            try:
                job = jobs.get(timeout=_RETRY_INTERVAL_S if starved is not None else None)
                while job is not None:
                    trimmed, durable = max(trimmed, job[0]), max(durable, job[1])
                    job = jobs.get_nowait()
                return
            except Empty:
                pass
            try:
                reason = self._keep(trimmed, durable)
            except Exception as error:
                # Without this thread the log would wait for a segment for ever.
                self._report(self._fail, WalFailed(f"keeping the log in {self._files.path} failed: {error!r}"))
                return
            if reason != starved:
                starved = reason
                self._report(self._set_starved, reason)

    def _keep(self, trimmed: int, durable: int) -> str | None:
        """Recycle and prepare; the reason why there is no room, if so."""
        try:
            self._pool.release(trimmed, durable)
            while self._pool.prepare():
                pass
        except OSError as error:
            return error.strerror or str(error)
        return "the log has reached its greatest size" if self._pool.exhausted else None

    # -- in any thread ------------------------------------------------------------------------------------------------

    def _report(self, callback: Callable[[Unpack[_Arguments]], None], *arguments: *_Arguments) -> None:
        try:
            self._loop.call_soon_threadsafe(callback, *arguments)
        except RuntimeError:
            # The loop is closed: nobody is left to be told.
            return

    def _finish(self, clean: bool) -> None:
        for thread in self._threads:
            thread.join()
        try:
            if clean:
                self._checkpoint.write(
                    State.CLEAN, epoch=self._epoch, trim_position=self._trimmed, end_position=self._durable, both=True
                )
        except OSError as error:
            raise WalFailed(f"closing the log in {self._files.path} failed: {error}") from error
        finally:
            self._writer.close()
            self._pool.close()
            self._checkpoint.close()
            self._files.close()


class _Stopped(Exception):
    """The log is being closed while the writing thread waits for room."""
