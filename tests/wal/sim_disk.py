"""A disk in memory that loses power at a chosen byte, and files with faults on order."""

from __future__ import annotations

import random
from collections.abc import Sequence

from wal.api import Buffer, WalLocked

_SECTOR_SIZE = 512


class PowerLost(Exception):
    """The machine is gone. Not an OSError: nobody may handle it."""


class SimDisk:
    """What is on the platter. `write_budget` is the number of bytes (and names) after which power is lost."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.names: dict[str, bytearray] = {}
        self.unsynced: list[tuple[str, str, str]] = []
        self.locked = False
        self.write_budget: int | None = None
        self.dead = False

    def restart(self) -> None:
        """Of the name operations that were not synced, the first few have happened."""
        for operation, old, new in self.unsynced[: self.rng.randint(0, len(self.unsynced))]:
            if operation == "rename":
                self.names[new] = self.names.pop(old)
            elif operation == "remove":
                self.names.pop(old)
        self.unsynced.clear()
        self.locked = self.dead = False
        self.write_budget = None

    def spend(self, amount: int) -> int:
        """How much of `amount` still happens."""
        if self.dead:
            raise PowerLost
        if self.write_budget is None:
            return amount
        granted = min(amount, self.write_budget)
        self.write_budget -= granted
        if granted < amount:
            self.dead = True
        return granted


class SimFile:
    def __init__(self, disk: SimDisk, data: bytearray) -> None:
        self._disk = disk
        self._data = data

    def write(self, pieces: Sequence[Buffer], offset: int) -> None:
        data = b"".join(pieces)
        granted = self._disk.spend(len(data))
        if granted == len(data):
            self._data[offset : offset + len(data)] = data
            return
        if self._disk.rng.random() < 0.5:
            self._data[offset : offset + granted] = data[:granted]
        else:
            self._write_any_sectors(data, offset)
        raise PowerLost

    def _write_any_sectors(self, data: bytes, offset: int) -> None:
        """A disk may write the sectors in any order."""
        position = offset
        while position < offset + len(data):
            end = min(position // _SECTOR_SIZE * _SECTOR_SIZE + _SECTOR_SIZE, offset + len(data))
            if self._disk.rng.random() < 0.5:
                self._data[position:end] = data[position - offset : end - offset]
            position = end

    def read(self, offset: int, size: int) -> bytes:
        return bytes(self._data[offset : offset + size])

    def size(self) -> int:
        return len(self._data)

    def close(self) -> None:
        return None


class SimFiles:
    path = "disk"

    def __init__(self, disk: SimDisk) -> None:
        self.disk = disk

    def lock(self) -> None:
        if self.disk.locked:
            raise WalLocked("the disk is locked")
        self.disk.locked = True

    def is_lock_free(self) -> bool:
        return not self.disk.locked

    def _view(self) -> dict[str, bytearray]:
        view = dict(self.disk.names)
        for operation, old, new in self.disk.unsynced:
            if operation == "rename":
                view[new] = view.pop(old)
            elif operation == "remove":
                view.pop(old)
        return view

    def names(self) -> list[str]:
        return sorted(self._view())

    def create(self, name: str, size: int, *, fill: bool) -> SimFile:
        assert name not in self._view()
        data = bytearray(size)
        self._settle()
        if self.disk.spend(1) == 0:
            raise PowerLost
        self.disk.names[name] = data
        return SimFile(self.disk, data)

    def open(self, name: str) -> SimFile:
        return SimFile(self.disk, self._view()[name])

    def rename(self, old: str, new: str) -> None:
        self._operate("rename", old, new)

    def remove(self, name: str) -> None:
        self._operate("remove", name, "")

    def _operate(self, operation: str, old: str, new: str) -> None:
        if self.disk.spend(1) == 0:
            raise PowerLost
        self.disk.unsynced.append((operation, old, new))

    def sync(self) -> None:
        if self.disk.spend(1) == 0:
            raise PowerLost
        self._settle()

    def _settle(self) -> None:
        self.disk.names = self._view()
        self.disk.unsynced.clear()

    def close(self) -> None:
        self.disk.locked = False
