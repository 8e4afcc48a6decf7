"""One broker of the simulated cluster: its machine, its disk, and the process that runs there at present, if any.

The process runs `broker.app.running_broker`, unchanged. A supervisor's part (start again what ended) is the history's.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING

from broker.app import Ending, RunningBroker, running_broker
from broker.settings import Address, Settings
from s3stream.api import InvariantBroken
from s3stream.settings import StorageSettings
from tests.cluster_sim.kernel import Process
from wal.api import WalCorrupt, WalForeign

if TYPE_CHECKING:
    from tests.cluster_sim.world import World

STORAGE = StorageSettings(
    cache_size_max=64_000,
    block_cache_size_max=40_000,
    block_size=6_000,
    upload_interval_ms=300,
    uploads_in_flight_max=3,
    pressure_low_size=20_000,
    pressure_high_size=30_000,
    unuploaded_size_max=48_000,
    object_ids_ahead=4,
    object_id_age_max_ms=8_000,
    abandoned_age_ms=20_000,
    clean_interval_ms=3_000,
)
THREADS_END_S = 3.0
_DEFECTS = (InvariantBroken, WalCorrupt, WalForeign, AssertionError, TypeError, AttributeError, KeyError, ValueError)
"""A broker that ends with one of these, however faulty its world, has a defect."""


class Node:
    """`wal_kind`: that of its directory (see `disk.Directory`), or "object"."""

    def __init__(self, world: World, node_id: int, wal_kind: str, lease_ms: int) -> None:
        self.world = world
        self.node_id = node_id
        self.host = f"node{node_id}"
        self.wal_kind = wal_kind
        self.process: Process | None = None
        self.running: RunningBroker | None = None
        self.ending: Ending | None = None
        self.is_gone = False
        """It never comes back."""
        self.starts = 0
        self.boots = 0
        self._was_asked_to_stop = False
        self.ended_cleanly = True
        self.has_served = False
        """The latest process got so far."""
        directory = f"/sim/{self.host}/wal"
        self.disk = None
        if wal_kind != "object":
            self.disk = world.disks.add(directory, self.host, wal_kind)
        self.settings = Settings(
            node_id=node_id,
            listen=Address(self.host, 9092),
            data_dir=Path(f"/sim/{self.host}"),
            objects="s3://objects",
            metadata="sqlite://",
            wal=f"s3://wal{node_id}" if wal_kind == "object" else f"file://{directory}",
            lease_ms=lease_ms,
            storage=STORAGE,
        )

    @property
    def is_up(self) -> bool:
        return self.process is not None and not self.process.is_dead

    @property
    def is_stopping(self) -> bool:
        """Asked to, and not done."""
        return self.is_up and self._was_asked_to_stop

    def start(self) -> None:
        world = self.world
        assert not self.is_up
        self.starts += 1
        self.has_served = self._was_asked_to_stop = False
        process = Process(
            world.kernel, world.network, f"{self.host}.{self.starts}", self.host, world.rng.uniform(0.992, 1.008)
        )
        process.machine = ("all", 0) if self.wal_kind == "shared" else (self.host, self.boots)
        self.process = process
        self.running = None
        self.ending = ending = Ending()
        world.note(process.name, "starts")
        task = ending.starting = process.loop.create_task(self._serve(process, ending))
        task.add_done_callback(lambda task: self._exited(process, task, ending))

    async def _serve(self, process: Process, ending: Ending) -> None:
        async with running_broker(self.settings, ending) as running:
            ending.starting = None
            self.running = running
            self.has_served = True
            self.world.note(process.name, "serves, epoch", running.services.storage._broker_epoch)
            self.world.network_ready(self)
            await ending.wait()
            if self.process is process:
                self.running = None

    def _exited(self, process: Process, task: asyncio.Task[None], ending: Ending) -> None:
        error = None if task.cancelled() else task.exception() or ending.error
        self.ended_cleanly = error is None
        self.world.note(process.name, "exits", repr(error))
        self.world.counters["exit " + ("clean" if error is None else type(error).__name__)] += 1
        if isinstance(error, _DEFECTS):
            self.world.violation("defect", f"{process.name} ended: {error!r}", error)
        # as a runner does: pending work in threads is waited for, then the process is over
        self.world.kernel.after(0.0 if not process.thread_count else THREADS_END_S, self._over, process, error)

    def _over(self, process: Process, error: BaseException | None) -> None:
        if error is None and not process.is_dead and not process.is_paused:
            self.world.check_leaks(process)
        self._dead(process)

    def _dead(self, process: Process) -> None:
        if not process.is_dead:
            process.kill()
            self.world.chaos.ended(self)

    def stop(self) -> None:
        """SIGTERM."""
        process = self.process
        if process is not None and not process.is_dead and self.ending is not None:
            self._was_asked_to_stop = True
            process.loop.call_soon(self.ending.stop)

    def kill(self, power: bool = False) -> None:
        if self.process is not None:
            self.process.kill()
        self.running = None
        if power and self.wal_kind != "shared":
            self.boots += 1
            if self.disk is not None:
                self.disk.lose_power()
