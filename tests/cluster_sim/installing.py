"""Puts the simulated world where the product's modules expect the operating system, and takes it away again.

What is replaced is found by identity in all loaded modules of the product, so that it does not matter who imports it
from where. Code that runs in no simulated process (the kernel's own) keeps the real things.
"""

from __future__ import annotations

import asyncio
import os
import queue
import random
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache, partial
from types import FunctionType, ModuleType
from typing import Any

import structlog
from crc32c import crc32c

import broker.app
import broker.data_dir
import broker.server.listener
import broker.wal_address
import s3stream.catalog
import s3stream.objectstore.opening
import wal
import wal.file.files
import wal.file.log
import wal.file.machine
import wal.file.reading_along
import wal.file.recovery
import wal.memory
from tests.cluster_sim import kernel as sim
from tests.cluster_sim.disk import Disks
from tests.cluster_sim.kernel import Kernel, Process
from tests.cluster_sim.network import Network, Socket
from tests.cluster_sim.ordered import OrderedSet
from tests.cluster_sim.services import CatalogServer, StoreServer

WAL_SEGMENT_SIZE = 16 << 10
WAL_SIZE_MAX = 512 << 10
_PACKAGES = ("broker", "protocol", "s3stream", "wal")
_REAL_RANDOM = random.Random
_ABSENT = object()
_SIMULATED_ROOT = "/sim/"


class Machine:
    """What processes ask of the world outside of them. `errors` are log lines at error level, with their process."""

    def __init__(
        self, kernel: Kernel, network: Network, disks: Disks, catalog: CatalogServer, store: StoreServer
    ) -> None:
        self.kernel = kernel
        self.network = network
        self.disks = disks
        self.catalog = catalog
        self.store = store
        self.errors: list[tuple[float, str, dict[str, Any]]] = []
        self.prints_logs = False

    @property
    def process(self) -> Process:
        assert self.kernel.current is not None
        return self.kernel.current

    # -- in the place of the product's way out ----------------------------------------------------------------------
    async def open_catalog(self, url: str, **options: Any) -> Any:
        catalog = self.catalog.open(self.process)
        await catalog.brokers()
        return catalog

    async def open_bucket(self, url: str, parts: Any) -> Any:
        """Only the remote end: what the product puts around it stays."""
        return self.store.open(self.process, url.removeprefix("s3://") + "/")

    def bind(self, host: str, port: int) -> Socket:
        return self.network.bind(self.process, host, port)

    def files(self, path: str, *, create: bool = False, writable: bool = True) -> Any:
        return self.disks.open(self.process, path, create)

    def this_machine(self) -> int:
        return crc32c(repr(self.process.machine).encode()) or 1

    def thread(self, *, target: Callable[[], object], **options: Any) -> sim.Thread:
        return sim.Thread(self.process, target)

    def queue(self) -> sim.Queue:
        return sim.Queue(self.process, queue.Empty)

    # -- logs -------------------------------------------------------------------------------------------------------
    def log(self, logger: Any, method: str, entry: dict[str, Any]) -> Any:
        process = self.kernel.current
        name = process.name if process is not None else "-"
        if self.prints_logs:
            print(f"{self.kernel.now:10.4f} {name:10} {method:8} {entry}")
        if method in ("error", "exception", "critical"):
            if entry.get("exc_info") is True:
                entry["exc_info"] = sys.exc_info()[1]
            self.errors.append((self.kernel.now, name, entry))
        raise structlog.DropEvent


@contextmanager
def installed(machine: Machine) -> Iterator[None]:
    kernel = machine.kernel

    def clock(real: Callable[..., Any], simulated: Callable[[Process], Any]) -> Callable[..., Any]:
        def read(*args: Any) -> Any:
            process = kernel.current
            return real(*args) if process is None else simulated(process)

        return read

    def bytes_of(size: int) -> bytes:
        return _source(kernel).randbytes(size)

    class SimulatedRandom(_REAL_RANDOM):
        def __init__(self, seed: Any = None) -> None:
            super().__init__(_source(kernel).getrandbits(64) if seed is None else seed)

    isdir = os.path.isdir

    def is_dir(path: Any) -> bool:
        if str(path).startswith(_SIMULATED_ROOT):
            return machine.disks.is_dir(machine.process, str(path))
        return isdir(path)

    open_wal = partial(wal.open_wal, segment_size=WAL_SEGMENT_SIZE, size_max=WAL_SIZE_MAX)
    perf_counter = clock(time.perf_counter, Process.clock)
    replaced: list[tuple[object, object]] = [
        (wal.file.files.OsFiles, machine.files),
        (wal.file.machine.this_machine, machine.this_machine),
        (threading.Thread, machine.thread),
        (queue.SimpleQueue, machine.queue),
        (time.perf_counter, perf_counter),
        (s3stream.catalog.open_catalog, machine.open_catalog),
        (s3stream.objectstore.opening._open_remote, machine.open_bucket),
        (broker.server.listener.bind, machine.bind),
        (broker.data_dir.prepare_data_dir, _nothing),
        (broker.data_dir.check_data_dir, _nothing),
        (broker.data_dir.claim_data_dir, _nothing),
        (wal.open_wal, open_wal),
    ]
    changes: list[tuple[object, str, object]] = [
        (module, name, new) for old, new in replaced for module, name in _places(old) if module is not wal
    ]
    changes += [
        (time, "time", clock(time.time, Process.wall_clock)),
        (time, "time_ns", clock(time.time_ns, lambda process: int(process.wall_clock() * 1e9))),
        (time, "monotonic", clock(time.monotonic, Process.clock)),
        (time, "clock_gettime", clock(time.clock_gettime, Process.clock)),
        (os, "urandom", bytes_of),
        (random, "_urandom", bytes_of),
        (random, "Random", SimulatedRandom),
        (os.path, "isdir", is_dir),
    ]
    clocks = {
        time.monotonic: clock(time.monotonic, Process.clock),
        time.perf_counter: perf_counter,
        time.time: clock(time.time, Process.wall_clock),
    }
    changes += [change for function in _functions_with_clocks() for change in _other_clocks(function, clocks)]
    changes += [(module, "set", OrderedSet) for module in (*_modules(), asyncio.tasks, asyncio.taskgroups)]
    saved = [(owner, name, getattr(owner, name, _ABSENT)) for owner, name, _ in changes]
    config = structlog.get_config()
    structlog.configure(
        processors=[machine.log],
        wrapper_class=structlog.make_filtering_bound_logger(0 if machine.prints_logs else 40),
        cache_logger_on_first_use=False,
    )
    for owner, name, new in changes:
        setattr(owner, name, new)
    try:
        yield
    finally:
        for owner, name, old in reversed(saved):
            if old is _ABSENT:
                delattr(owner, name)
            else:
                setattr(owner, name, old)
        structlog.configure(**config)


def _source(kernel: Kernel) -> random.Random:
    return kernel.rng if kernel.current is None else kernel.current.rng


def _nothing(*args: Any, **kwargs: Any) -> None:
    return None


@cache
def _places(value: object) -> list[tuple[object, str]]:
    """Where the product's modules hold it."""
    return [(module, name) for module in _modules() for name, held in vars(module).items() if held is value]


@cache
def _modules() -> list[ModuleType]:
    """The product's, as far as they are loaded."""
    return [module for name, module in sorted(sys.modules.items()) if module and name.partition(".")[0] in _PACKAGES]


_CLOCKS = (time.monotonic, time.perf_counter, time.time)


@cache
def _functions_with_clocks() -> list[FunctionType]:
    """Those that take a clock as an argument and have a real one as its default."""
    found = []
    for module in _modules():
        for held in vars(module).values():
            function = held.__dict__.get("__init__") if isinstance(held, type) else held
            if isinstance(function, FunctionType) and function.__module__ == module.__name__:
                defaults = [*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values()]
                if any(each in _CLOCKS for each in defaults if callable(each)):
                    found.append(function)
    return found


def _other_clocks(function: FunctionType, clocks: dict[Any, Any]) -> list[tuple[object, str, object]]:
    def other(value: Any) -> Any:
        return clocks.get(value, value) if callable(value) else value

    keywords = {name: other(value) for name, value in (function.__kwdefaults__ or {}).items()}
    return [
        (function, "__defaults__", tuple(map(other, function.__defaults__ or ())) or None),
        (function, "__kwdefaults__", keywords or None),
    ]
