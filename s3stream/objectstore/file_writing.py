"""Writing a new file so that its content is durable, past the page cache where the file system can.

An object is written once and, while it is fresh, read from the log cache: pages of it in the kernel's cache are work
without use, and most of what an upload to a directory costs. So larger files are written with `O_DIRECT` from one
aligned buffer; the last block is padded and the file cut to its size. Where that is not to be had (small files, tmpfs,
macOS) they are written the ordinary way. See docs/decisions/0008-objects-past-the-page-cache.md.
"""

from __future__ import annotations

import contextlib
import errno
import mmap
import os
import threading
from collections.abc import Iterator, Sequence

from s3stream.objectstore.pieces import joined_runs
from wal.api import Buffer
from wal.syncing import sync_file

DIRECT_SIZE_MIN = 262_144
"""Smaller files go through the page cache: one aligned write would cost as much."""
ALIGNMENT = 4096
_BUFFER_SIZE = 1 << 20
_IOV_MAX = 1024
_of_thread = threading.local()
_O_DIRECT: int = getattr(os, "O_DIRECT", 0)


def write_synced(path: str, pieces: Sequence[Buffer]) -> None:
    """Create `path` with the pieces as its content, synced (its name is not). Raises OSError."""
    size = sum(map(len, pieces))
    if _O_DIRECT and size >= DIRECT_SIZE_MIN:
        try:
            with _created(path, _O_DIRECT) as fd:
                _write_direct(fd, pieces, size)
                sync_file(fd)
            return
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)
    with _created(path, 0) as fd:
        _write_buffered(fd, pieces)
        sync_file(fd)


@contextlib.contextmanager
def _created(path: str, flags: int) -> Iterator[int]:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | flags, 0o640)
    try:
        yield fd
    finally:
        os.close(fd)


def _write_direct(fd: int, pieces: Sequence[Buffer], size: int) -> None:
    buffer = _threads_buffer()
    filled = 0
    for piece in joined_runs(pieces):
        position = 0
        while position < len(piece):
            count = min(len(piece) - position, len(buffer) - filled)
            with memoryview(piece) as source:
                buffer[filled : filled + count] = source[position : position + count]
            filled += count
            position += count
            if filled == len(buffer):
                _write_whole(fd, buffer)
                filled = 0
    if filled:
        with buffer[: _aligned(filled)] as last:
            _write_whole(fd, last)
    os.ftruncate(fd, size)


def _threads_buffer() -> memoryview:
    """Aligned, and kept by the thread: fresh memory for each object would cost a page fault for every 4 KiB of it."""
    buffer: memoryview | None = getattr(_of_thread, "buffer", None)
    if buffer is None:
        buffer = _of_thread.buffer = memoryview(mmap.mmap(-1, _BUFFER_SIZE))
    return buffer


def _aligned(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT


def _write_whole(fd: int, data: memoryview) -> None:
    written = 0
    while written < len(data):
        written += os.write(fd, data[written:])


def _write_buffered(fd: int, pieces: Sequence[Buffer]) -> None:
    for start in range(0, len(pieces), _IOV_MAX):
        some = pieces[start : start + _IOV_MAX]
        size = sum(map(len, some))
        written = os.writev(fd, some)
        if written < size:
            with memoryview(b"".join(some)) as rest:
                _write_whole(fd, rest[written:])
