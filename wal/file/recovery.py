"""The recovering half of the file WAL for its own node, which holds the lock: reading is in `wal.file.reading`, this is
its asynchronous front. Other nodes read along (`wal.file.reading_along`).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from wal.api import WalCorrupt, WalError, WalFailed, WalRecord, WalUnreachable
from wal.file.checkpoint import CheckpointFile
from wal.file.files import Files, OsFiles
from wal.file.format import State, segment_sequence
from wal.file.owner import check_owner
from wal.file.reading import LogReader
from wal.file.reading_along import is_proof


class RecoverableFileWal:
    """Holds the directory's lock until it is closed."""

    def __init__(self, files: Files, checkpoint: CheckpointFile) -> None:
        self._files = files
        self._checkpoint = checkpoint
        self._owner_is_out = is_proof(checkpoint.current)
        self._closed = False
        self._end: int | None = None

    @property
    def epoch(self) -> int:
        return self._checkpoint.current.epoch

    @property
    def owner_is_out(self) -> bool:
        return self._owner_is_out

    async def records(self) -> AsyncIterator[list[WalRecord]]:
        reader = LogReader(self._files, self._checkpoint.current)
        chunks = reader.records()
        while True:
            try:
                chunk = await asyncio.to_thread(next, chunks, None)
            except OSError as error:
                raise WalFailed(f"cannot read the log in {self._files.path}: {error}") from error
            if chunk is None:
                self._end = reader.end_position
                return
            yield chunk

    async def discard(self) -> None:
        try:
            await asyncio.to_thread(self._discard)
        except OSError as error:
            raise WalFailed(f"cannot discard the log in {self._files.path}: {error}") from error

    def _discard(self) -> None:
        current = self._checkpoint.current
        end = end_of_log(self._files, self._checkpoint) if self._end is None else self._end
        self._checkpoint.write(State.DISCARDED, epoch=current.epoch, trim_position=end, end_position=end, both=True)

    async def close(self) -> None:
        if not self._closed:
            self._closed = True
            self._checkpoint.close()
            self._files.close()


def end_of_log(files: Files, checkpoint: CheckpointFile) -> int:
    """Read to the end of the log, for its end position. Raises WalCorrupt, OSError."""
    reader = LogReader(files, checkpoint.current)
    for _ in reader.records():
        pass
    return reader.end_position


def load_checkpoint(files: Files) -> CheckpointFile | None:
    """None if there is no log. Raises WalCorrupt if there are segments but no checkpoint, or if it is damaged."""
    checkpoint = CheckpointFile.load(files)
    if checkpoint is None and any(segment_sequence(name) is not None for name in files.names()):
        raise WalCorrupt(f"{files.path}: there are segments, but the checkpoint file is missing")
    return checkpoint


async def fence_file_wal(path: str, owner: str | None = None) -> RecoverableFileWal:
    """See `wal.fence_wal`."""
    return await asyncio.to_thread(_fence, path, owner)


def _fence(path: str, owner: str | None) -> RecoverableFileWal:
    files = OsFiles(path)
    try:
        files.lock()
        check_owner(files, owner)
        checkpoint = load_checkpoint(files)
        if checkpoint is None:
            raise WalUnreachable(f"there is no log in {path}")
    except OSError as error:
        files.close()
        raise WalUnreachable(f"cannot read the log in {path}: {error}") from error
    except WalError:
        files.close()
        raise
    return RecoverableFileWal(files, checkpoint)
