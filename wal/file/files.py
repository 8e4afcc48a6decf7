"""File operations of the WAL behind two small Protocols, so that tests can put faults between the log and the disk."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
from collections.abc import Sequence
from typing import Protocol

from wal.api import Buffer, WalFull, WalLocked, WalUnreachable
from wal.syncing import sync_data, sync_file

_IOV_MAX = 1024
_ZEROS = bytes(1 << 20)
_FILL_SYNC_SIZE = 8 << 20
"""Zeros are synced in steps of this size, so that a group commit beside them does not wait for all of them."""
NO_SPACE = frozenset({errno.ENOSPC, errno.EDQUOT})


class File(Protocol):
    """One open file. All methods raise OSError."""

    def write(self, pieces: Sequence[Buffer], offset: int) -> None:
        """Write all pieces and sync them, as one call where the system can."""

    def read(self, offset: int, size: int) -> bytes:
        """Up to `size` bytes; fewer only at the end of the file."""

    def size(self) -> int: ...

    def close(self) -> None: ...


class Files(Protocol):
    """The log's directory."""

    path: str

    def lock(self) -> None:
        """Take the directory's lock. Raises WalLocked."""

    def is_lock_free(self) -> bool:
        """Nobody had the lock just now. Others that ask at the same time do not count."""

    def names(self) -> list[str]: ...

    def create(self, name: str, size: int, *, fill: bool) -> File:
        """A new file with `size` bytes reserved, and with `fill` also written, which makes later syncs cheaper."""

    def open(self, name: str) -> File: ...

    def rename(self, old: str, new: str) -> None: ...

    def remove(self, name: str) -> None: ...

    def sync(self) -> None:
        """Make created, renamed and removed names durable."""

    def close(self) -> None:
        """Let the lock go."""


class OsFile:
    __slots__ = ("_direct_sync", "_fd")

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._direct_sync: int = getattr(os, "RWF_DSYNC", 0)

    def write(self, pieces: Sequence[Buffer], offset: int) -> None:
        if len(pieces) > _IOV_MAX:
            step = -(-len(pieces) // _IOV_MAX)
            pieces = [b"".join(pieces[i : i + step]) for i in range(0, len(pieces), step)]
        size = sum(map(len, pieces))
        written = self._write_some(pieces, offset)
        if written < size:
            rest = memoryview(b"".join(pieces))
            while written < size:
                done = self._write_some([rest[written:]], offset + written)
                if done == 0:
                    raise OSError(errno.EIO, "a write wrote nothing")
                written += done
        if not self._direct_sync:
            sync_data(self._fd)

    def _write_some(self, pieces: Sequence[Buffer], offset: int) -> int:
        if self._direct_sync:
            try:
                return os.pwritev(self._fd, pieces, offset, self._direct_sync)
            except OSError as error:
                if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS):
                    raise
                self._direct_sync = 0
        return os.pwritev(self._fd, pieces, offset)

    def read(self, offset: int, size: int) -> bytes:
        parts = []
        while size > 0:
            part = os.pread(self._fd, size, offset)
            if not part:
                break
            parts.append(part)
            offset += len(part)
            size -= len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def size(self) -> int:
        return os.fstat(self._fd).st_size

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


class OsFiles:
    """A real directory. Raises WalUnreachable if it is not there (or cannot be made, with `create`).

    Without `writable` its files can only be read.
    """

    def __init__(self, path: str, *, create: bool = False, writable: bool = True) -> None:
        self.path = path
        self._access = os.O_RDWR if writable else os.O_RDONLY
        try:
            if create and not os.path.isdir(path):
                _make_directories(os.path.abspath(path))
            self._fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            if error.errno in NO_SPACE:
                raise WalFull(f"no room for a log in {path}: {error.strerror}") from error
            if error.errno == errno.ENOENT:
                raise WalUnreachable(f"there is no log directory {path}") from error
            raise WalUnreachable(f"cannot open the log directory {path}: {error.strerror}") from error

    def lock(self) -> None:
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise WalLocked(f"{self.path} is in use by another process") from None

    def is_lock_free(self) -> bool:
        try:
            fcntl.flock(self._fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        fcntl.flock(self._fd, fcntl.LOCK_UN)
        return True

    def names(self) -> list[str]:
        return os.listdir(self._fd) if os.listdir in os.supports_fd else os.listdir(self.path)

    def create(self, name: str, size: int, *, fill: bool) -> OsFile:
        fd = os.open(self._join(name), os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o640)
        try:
            _reserve(fd, size)
            if fill:
                for offset in range(0, size, len(_ZEROS)):
                    os.pwrite(fd, memoryview(_ZEROS)[: size - offset], offset)
                    if offset % _FILL_SYNC_SIZE == 0:
                        sync_data(fd)
            sync_file(fd)
        except BaseException:
            os.close(fd)
            with contextlib.suppress(OSError):
                os.unlink(self._join(name))
            raise
        return OsFile(fd)

    def open(self, name: str) -> OsFile:
        return OsFile(os.open(self._join(name), self._access | os.O_CLOEXEC))

    def rename(self, old: str, new: str) -> None:
        os.rename(self._join(old), self._join(new))

    def remove(self, name: str) -> None:
        os.unlink(self._join(name))

    def sync(self) -> None:
        os.fsync(self._fd)

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _join(self, name: str) -> str:
        return os.path.join(self.path, name)


def _reserve(fd: int, size: int) -> None:
    if hasattr(os, "posix_fallocate"):
        try:
            os.posix_fallocate(fd, 0, size)
            return
        except OSError as error:
            if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL):
                raise
    os.ftruncate(fd, size)


def _make_directories(path: str) -> None:
    """As os.makedirs, but durable, all of them."""
    parent = os.path.dirname(path)
    if not os.path.isdir(parent):
        _make_directories(parent)
    os.makedirs(path, exist_ok=True)
    fd = os.open(parent, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
