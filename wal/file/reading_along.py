"""Reads a log whose owner may be alive: without its lock, changing nothing, letting go of nothing.

Whoever recovers another broker's log reads it this way. The owner was put out in the catalog before (`wal.api`), so
that what it appends from then on is acknowledged to nobody; but it may not know that yet, and write and recycle
segments while they are read here. So a pass over the log that fails proves nothing: it saw one segment before a change
and another one after it. It is done again, from the checkpoint on, for as long as passes get further: frames become
durable one after the other, so all that is before an intact frame is there for a pass that begins after it was seen.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator

from wal.api import WalCorrupt, WalError, WalFailed, WalOfAnotherEpoch, WalRecord, WalUnreachable
from wal.file.checkpoint import read_checkpoint
from wal.file.files import Files, OsFiles
from wal.file.format import Checkpoint, State
from wal.file.machine import this_machine
from wal.file.owner import check_owner
from wal.file.reading import LogReader


class LogReadAlong:
    """See `wal.api.RecoverableWal`; `discard` leaves the log as it is."""

    def __init__(self, files: Files, epoch: int, owner_is_out: bool) -> None:
        self._files = files
        self._epoch = epoch
        self._owner_is_out = owner_is_out
        self._closed = False

    @property
    def epoch(self) -> int:
        return self._epoch

    @property
    def owner_is_out(self) -> bool:
        return self._owner_is_out

    async def records(self) -> AsyncIterator[list[WalRecord]]:
        chunks = _records(self._files, self._epoch)
        while True:
            try:
                chunk = await asyncio.to_thread(next, chunks, None)
            except OSError as error:
                raise WalFailed(f"cannot read the log in {self._files.path}: {error}") from error
            if chunk is None:
                return
            yield chunk

    async def discard(self) -> None:
        """Its owner may write it still. Its node's next start finds nothing in it that is missing, and empties it."""

    async def close(self) -> None:
        if not self._closed:
            self._closed = True
            self._files.close()


def _records(files: Files, epoch: int) -> Iterator[list[WalRecord]]:
    """Raises WalOfAnotherEpoch, WalCorrupt, OSError."""
    end = -1
    failed_at: tuple[int, int] | None = None
    while True:
        checkpoint = _checkpoint_of(files)
        if checkpoint.epoch != epoch:
            raise WalOfAnotherEpoch(checkpoint.epoch, epoch)
        try:
            for chunk in LogReader(files, checkpoint).records():
                new = [record for record in chunk if record.end > end]
                if new:
                    end = new[-1].end
                    yield new
            return
        except (WalCorrupt, FileNotFoundError):
            reached = (checkpoint.generation, end)
            if reached == failed_at:
                raise
            failed_at = reached


def _checkpoint_of(files: Files) -> Checkpoint:
    checkpoint = read_checkpoint(files)
    if checkpoint is None:
        raise WalUnreachable(f"there is no log in {files.path}")
    return checkpoint


def is_proof(checkpoint: Checkpoint) -> bool:
    """The log's lock is free: whether that says that the process which opened it last has ended, or closed it."""
    return checkpoint.state is not State.OPEN or checkpoint.machine == this_machine()


async def read_file_wal(
    path: str, owner: str | None = None, open_files: Callable[[str], Files] | None = None
) -> LogReadAlong:
    """See `wal.read_wal`. `open_files` puts something else in the place of the operating system's files."""
    return await asyncio.to_thread(_open, path, owner, open_files or (lambda path: OsFiles(path, writable=False)))


def _open(path: str, owner: str | None, open_files: Callable[[str], Files]) -> LogReadAlong:
    files = open_files(path)
    try:
        check_owner(files, owner)
        # In this order: whoever opened the log under the epoch that is read here had the lock by then.
        checkpoint = _checkpoint_of(files)
        is_free = files.is_lock_free()
    except OSError as error:
        files.close()
        raise WalUnreachable(f"cannot read the log in {path}: {error}") from error
    except WalError:
        files.close()
        raise
    return LogReadAlong(files, checkpoint.epoch, is_free and is_proof(checkpoint))
