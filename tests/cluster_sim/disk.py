"""Disks with the product's file WAL on them: directories of `tests.wal.sim_disk`, shared by processes, that take time.

A directory has one lock, held by a living process, paused or not. A write that is under way when its process is killed
has happened, or in part, or not; names that were not synced are lost with the machine only, not with the process.
"""

from __future__ import annotations

import errno
import random
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from tests.cluster_sim.kernel import Process
from tests.wal.sim_disk import SimDisk, SimFile, SimFiles
from wal.api import Buffer, WalLocked, WalUnreachable

T = TypeVar("T")


class Directory(SimDisk):
    """A directory on a disk. "shared": of one machine, on which all brokers run; "volume": all machines reach it, but
    locks do not reach across; "private": only its host reaches it."""

    def __init__(self, rng: random.Random, path: str, host: str, kind: str) -> None:
        super().__init__(rng)
        self.path = path
        self.host = host
        self.kind = kind
        self.exists = False
        self.holders: list[Process] = []
        self.slow_s = 0.0
        self.stall_share = 0.0
        self.base_s = rng.choice((0.00005, 0.0003, 0.002))
        self.fails_next = False
        self.on_write: Callable[[], None] | None = None
        """Called in the middle of the next write."""
        self.torn_count = self.failed_count = 0
        self.under_way: dict[Process, list[tuple[SimFile, bytes, int]]] = {}

    def time(self) -> float:
        taken = self.base_s * self.rng.uniform(0.5, 1.5) + self.slow_s * self.rng.random()
        if self.rng.random() < self.stall_share:
            taken += self.rng.uniform(0.05, 1.5)
        return taken

    def died(self, process: Process) -> None:
        if process in self.holders:
            self.holders.remove(process)
        for file, data, offset in self.under_way.pop(process, ()):
            fate = self.rng.random()
            if fate < 0.3:
                continue
            self.torn_count += 1
            if fate < 0.6:
                keep = self.rng.randrange(len(data) + 1)
                file._data[offset : offset + keep] = data[:keep]
            elif fate < 0.8:
                file._write_any_sectors(data, offset)
            else:
                file._data[offset : offset + len(data)] = data

    def is_held(self, process: Process) -> bool:
        """As `process` can see."""
        return any(self.kind != "volume" or each.host == process.host for each in self.holders)

    def lose_power(self) -> None:
        self.restart()


class Disks:
    """All directories, by path."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self.directories: dict[str, Directory] = {}

    def add(self, path: str, host: str, kind: str) -> Directory:
        found = self.directories.get(path)
        if found is None:
            seed = self._rng.getrandbits(64)
            found = self.directories[path] = Directory(random.Random(seed), path, host, kind)
        return found

    def replace(self, path: str) -> Directory:
        """Another disk is at this path from now on, with nothing on it."""
        former = self.directories.pop(path)
        return self.add(path, former.host, former.kind)

    def is_dir(self, process: Process, path: str) -> bool:
        directory = self.directories.get(path)
        return directory is not None and directory.exists and self._reaches(process, directory)

    def _reaches(self, process: Process, directory: Directory) -> bool:
        return directory.kind != "private" or directory.host == process.host

    def open(self, process: Process, path: str, create: bool) -> ProcessFiles:
        directory = self.directories.get(path)
        if directory is None or not self._reaches(process, directory) or not (directory.exists or create):
            raise WalUnreachable(f"cannot open the log directory {path}: no such file or directory")
        directory.exists = True
        return ProcessFiles(directory, process)


class ProcessFiles(SimFiles):
    """`wal.file.files.Files` of one process. Every call takes time."""

    disk: Directory

    def __init__(self, directory: Directory, process: Process) -> None:
        super().__init__(directory)
        self.path = directory.path
        self.process = process
        self._holds_lock = False
        process.on_death.append(self._died)

    def _died(self) -> None:
        self.disk.died(self.process)

    def _timed(self, call: Callable[[], T]) -> T:
        """`call` when the disk has done it."""
        if self.process.is_dead:
            raise OSError(errno.EIO, "the process is dead")
        outcome = self.process.block(self.disk.time(), lambda: _outcome(call))
        result, error = outcome
        if error is not None:
            raise error
        return result  # type: ignore[no-any-return]

    def lock(self) -> None:
        if self.disk.is_held(self.process):
            raise WalLocked(f"{self.path} is in use by another process")
        self.disk.holders.append(self.process)
        self._holds_lock = True

    def names(self) -> list[str]:
        found: list[str] = self._timed(lambda: SimFiles.names(self))
        return found

    def is_lock_free(self) -> bool:
        return not self.disk.is_held(self.process)

    def create(self, name: str, size: int, *, fill: bool) -> ProcessFile:
        file: SimFile = self._timed(lambda: SimFiles.create(self, name, size, fill=fill))
        return ProcessFile(self, file)

    def open(self, name: str) -> ProcessFile:
        if name not in self._view():
            raise FileNotFoundError(errno.ENOENT, "no such file", name)
        return ProcessFile(self, super().open(name))

    def rename(self, old: str, new: str) -> None:
        self._timed(lambda: SimFiles.rename(self, old, new))

    def remove(self, name: str) -> None:
        self._timed(lambda: SimFiles.remove(self, name))

    def sync(self) -> None:
        self._timed(lambda: SimFiles.sync(self))

    def close(self) -> None:
        if self._holds_lock and not self.process.is_dead:
            self._holds_lock = False
            self.disk.holders.remove(self.process)
        if self._died in self.process.on_death:
            self.process.on_death.remove(self._died)


class ProcessFile:
    """`wal.file.files.File`: what `write` returned from is durable."""

    def __init__(self, files: ProcessFiles, file: SimFile) -> None:
        self._files = files
        self._file = file

    def write(self, pieces: Sequence[Buffer], offset: int) -> None:
        directory, process = self._files.disk, self._files.process
        data = b"".join(pieces)
        entry = (self._file, data, offset)
        under_way = directory.under_way.setdefault(process, [])
        under_way.append(entry)

        if directory.on_write is not None:
            process.kernel.after(directory.base_s / 2, directory.on_write)
            directory.on_write = None

        def write() -> None:
            under_way.remove(entry)
            if directory.fails_next:
                directory.fails_next = False
                directory.failed_count += 1
                if directory.rng.random() < 0.5:
                    self._file.write([data], offset)
                raise OSError(errno.EIO, "input/output error")
            self._file.write([data], offset)

        self._files._timed(write)

    def read(self, offset: int, size: int) -> bytes:
        found: bytes = self._files._timed(lambda: self._file.read(offset, size))
        return found

    def size(self) -> int:
        return self._file.size()

    def close(self) -> None:
        return None


def _outcome(call: Callable[[], Any]) -> tuple[Any, Exception | None]:
    try:
        return call(), None
    except Exception as error:
        return None, error
