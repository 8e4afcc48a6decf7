"""`file:///directory`: objects as files, durable before a `put` returns.

An object is written aside in `.partial`, synced, renamed to its place, and then the directory of its name is synced;
puts that end at the same time share that sync. All of it happens in threads. What a crash left in `.partial` is
removed, once it is a day old, when the store is opened: the directory may be shared by several brokers.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import secrets
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import islice
from typing import ParamSpec, TypeVar

from s3stream.objectstore.api import (
    ObjectExists,
    ObjectMeta,
    ObjectMissing,
    RangeInvalid,
    StoreError,
    StoreFull,
    StoreUnreachable,
)
from s3stream.objectstore.file_writing import write_synced
from wal.api import Buffer

P = ParamSpec("P")
R = TypeVar("R")

_PARTIAL = ".partial"
_PARTIAL_AGE_MAX_S = 86_400
_LIST_CHUNK = 1000
_THREADS_MAX = 4


class FileStore:
    def __init__(self, root: str) -> None:
        self._root = os.path.abspath(root)
        self._threads = ThreadPoolExecutor(_THREADS_MAX, thread_name_prefix="object-files")
        self._syncs: dict[str, asyncio.Task[None]] = {}
        self._durable: set[str] = set()
        """Directories whose names this process has seen synced: that one is there does not say that it will stay."""

    @classmethod
    async def open(cls, root: str) -> FileStore:
        """Make the directory if need be. Raises StoreUnreachable."""
        store = cls(root)
        try:
            await store._run(store._prepare)
        except StoreError:
            store._threads.shutdown()
            raise
        return store

    async def put(self, key: str, pieces: Sequence[Buffer]) -> None:
        path = self._path(key)
        await self._run(self._write, path, pieces, os.replace)
        await self._sync_directory(os.path.dirname(path))

    async def put_if_absent(self, key: str, pieces: Sequence[Buffer]) -> None:
        path = self._path(key)
        try:
            await self._run(self._write, path, pieces, _link)
        except FileExistsError:
            raise ObjectExists(f"{key} exists") from None
        await self._sync_directory(os.path.dirname(path))

    async def get(self, key: str) -> Buffer:
        return await self._run(_read, self._path(key), key, 0, None)

    async def get_range(self, key: str, start: int, end: int) -> Buffer:
        if not 0 <= start < end:
            raise RangeInvalid(f"{key}: {start}..{end} is no range")
        return await self._run(_read, self._path(key), key, start, end)

    async def head(self, key: str) -> int | None:
        return await self._run(_size, self._path(key))

    async def delete_many(self, keys: Sequence[str]) -> None:
        await self._run(_remove, [self._path(key) for key in keys])

    async def list(self, prefix: str) -> AsyncIterator[ObjectMeta]:
        folder, slash, _ = prefix.rpartition("/")
        entries = _walk(self._path(folder) if folder else self._root, folder + slash)
        while True:
            chunk = await self._run(_take, entries)
            if not chunk:
                return
            for entry in chunk:
                if entry.key.startswith(prefix):
                    yield entry

    async def close(self) -> None:
        await asyncio.gather(*self._syncs.values(), return_exceptions=True)
        self._threads.shutdown(wait=False)

    async def _run(self, work: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, partial(work, *args, **kwargs))
        except FileExistsError:
            raise
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise StoreFull(f"no room for objects in {self._root}: {error.strerror}") from error
            raise StoreUnreachable(f"the object directory {self._root} failed: {error}") from error

    async def _sync_directory(self, directory: str) -> None:
        """A sync that has not begun yet serves everybody whose rename is done."""
        sync = self._syncs.get(directory)
        if sync is None:
            sync = asyncio.get_running_loop().create_task(self._sync_soon(directory))
            self._syncs[directory] = sync
        await asyncio.shield(sync)

    async def _sync_soon(self, directory: str) -> None:
        await asyncio.sleep(0)
        del self._syncs[directory]
        await self._run(_sync, directory)

    def _path(self, key: str) -> str:
        parts = key.split("/")
        if any(part in ("", ".", "..", _PARTIAL) for part in parts):
            raise StoreError(f"not an object key: {key!r}")
        return os.path.join(self._root, *parts)

    def _prepare(self) -> None:
        partial = os.path.join(self._root, _PARTIAL)
        _make_directories(partial)
        with os.scandir(partial) as entries:
            for entry in entries:
                if time.time() - entry.stat().st_mtime > _PARTIAL_AGE_MAX_S:
                    os.unlink(entry.path)

    def _write(self, path: str, pieces: Sequence[Buffer], publish: Callable[[str, str], None]) -> None:
        directory = os.path.dirname(path)
        self._make_durable(directory)
        partial = os.path.join(self._root, _PARTIAL, secrets.token_hex(12))
        try:
            write_synced(partial, pieces)
            publish(partial, path)
        except BaseException:
            self._durable.clear()
            with contextlib.suppress(OSError):
                os.unlink(partial)
            raise

    def _make_durable(self, directory: str) -> None:
        if directory in self._durable or directory == self._root:
            return
        parent = os.path.dirname(directory)
        self._make_durable(parent)
        with contextlib.suppress(FileExistsError):
            os.mkdir(directory)
        _sync(parent)
        self._durable.add(directory)


def _link(partial: str, path: str) -> None:
    os.link(partial, path)
    os.unlink(partial)


def _read(path: str, key: str, start: int, end: int | None) -> bytes:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        raise ObjectMissing(f"{key} does not exist") from None
    try:
        size = os.fstat(fd).st_size
        end = size if end is None else end
        if end > size:
            raise RangeInvalid(f"{key} has {size} bytes, asked for {start}..{end}")
        data = os.pread(fd, end - start, start)
        while len(data) < end - start:
            more = os.pread(fd, end - start - len(data), start + len(data))
            if not more:
                raise OSError(errno.EIO, f"{key} became shorter")
            data += more
        return data
    finally:
        os.close(fd)


def _size(path: str) -> int | None:
    try:
        return os.stat(path).st_size
    except (FileNotFoundError, NotADirectoryError):
        return None


def _remove(paths: Sequence[str]) -> None:
    for path in paths:
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            os.unlink(path)


def _take(entries: Iterator[ObjectMeta]) -> list[ObjectMeta]:
    return list(islice(entries, _LIST_CHUNK))


def _walk(directory: str, prefix: str) -> Iterator[ObjectMeta]:
    try:
        found = os.scandir(directory)
    except (FileNotFoundError, NotADirectoryError):
        if not prefix:
            raise
        return
    with found as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                if entry.name != _PARTIAL:
                    yield from _walk(entry.path, f"{prefix}{entry.name}/")
                continue
            with contextlib.suppress(FileNotFoundError):
                stat = entry.stat()
                yield ObjectMeta(prefix + entry.name, stat.st_size, int(stat.st_mtime * 1000))


def _make_directories(directory: str) -> None:
    """As os.makedirs, but durable."""
    if os.path.isdir(directory):
        return
    parent = os.path.dirname(os.path.abspath(directory))
    _make_directories(parent)
    with contextlib.suppress(FileExistsError):
        os.mkdir(directory)
    _sync(parent)


def _sync(directory: str) -> None:
    fd = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
