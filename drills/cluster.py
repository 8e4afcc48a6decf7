"""A throw-away cluster of real broker processes, and one that runs already.

Processes are started and ended in threads, so that the load of a drill goes on meanwhile; signals are sent at once.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Protocol, TypeVar

from bench.broker_process import BrokerProcess
from drills.backends import Database, LocalStore, PostgresDatabase, S3Store, SqliteDatabase, Store
from drills.client.view import Address
from drills.waiting import until

T = TypeVar("T")

COMMAND_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 90.0


class CommandFailed(Exception):
    """A `tailrace` command did not do what was asked. Carries its last line."""


@dataclass(frozen=True, slots=True)
class Setup:
    """What a cluster is made of; `env` are further variables of its brokers."""

    brokers: int = 3
    wal: str = "file"
    metadata: str = "sqlite"
    objects: str = "local"
    throttled: bool = False
    env: Mapping[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        names = {"file": "file log", "object": "object log", "sqlite": "SQLite", "postgresql": "PostgreSQL"}
        store = {"local": "local directory", "s3": "S3 (SeaweedFS)"}[self.objects]
        return f"{names[self.wal]}, {names[self.metadata]}, {store}"


class Target(Protocol):
    """Where load goes to."""

    @property
    def bootstrap(self) -> list[Address]: ...


class RunningCluster:
    """Somebody else's: it is used, and never touched otherwise."""

    def __init__(self, bootstrap: Sequence[Address]) -> None:
        self.bootstrap = list(bootstrap)


class Cluster:
    def __init__(self, setup: Setup) -> None:
        self.setup = setup
        # PostgreSQL runs as another user when this is root, and has to get into its directory below this one.
        self.directory = Path(tempfile.mkdtemp(prefix="tailrace-drill-"))
        self.directory.chmod(0o755)
        self.brokers: dict[int, BrokerProcess] = {}
        self._down: set[int] = set()
        """Those that were ended on purpose, or were to end."""
        self._in_threads: set[asyncio.Future[Any]] = set()
        self.store: Store = (
            S3Store(self.directory, throttled=setup.throttled) if setup.objects == "s3" else LocalStore(self.directory)
        )
        self.database: Database = (
            PostgresDatabase(self.directory) if setup.metadata == "postgresql" else SqliteDatabase(self.directory)
        )

    async def start(self) -> None:
        """Raises BrokerFailed, BackendMissing, RuntimeError."""
        await asyncio.gather(self.in_thread(self.store.start), self.in_thread(self.database.start))
        await self.add(*range(1, self.setup.brokers + 1))

    async def close(self, *, keep: bool) -> None:
        """Everything ends, what was just being started too; with `keep` the directory stays."""
        await self._end_all()
        if self._in_threads:
            await asyncio.wait(self._in_threads)
            await self._end_all()
        if not keep:
            await asyncio.to_thread(shutil.rmtree, self.directory, ignore_errors=True)

    async def _end_all(self) -> None:
        running = [broker for broker in self.brokers.values() if broker.is_running]
        await asyncio.gather(*(asyncio.to_thread(broker.kill) for broker in running))
        await asyncio.gather(asyncio.to_thread(self.store.close), asyncio.to_thread(self.database.close))

    async def in_thread(self, call: Callable[[], T]) -> T:
        """What blocks; `close` waits for it."""
        running = asyncio.ensure_future(asyncio.to_thread(call))
        self._in_threads.add(running)
        running.add_done_callback(self._in_threads.discard)
        return await asyncio.shield(running)

    @property
    def bootstrap(self) -> list[Address]:
        return [Address(broker.host, broker.port) for broker in self.brokers.values()]

    def alive(self) -> list[int]:
        return [node_id for node_id, broker in self.brokers.items() if broker.is_running]

    def gone(self) -> list[int]:
        """Brokers that ended though nobody asked them to."""
        return [node_id for node_id in self.brokers if node_id not in {*self.alive(), *self._down}]

    # -- brokers ----------------------------------------------------------------------------------------------------
    async def add(self, *node_ids: int) -> None:
        """New brokers; returns when they serve."""
        for node_id in node_ids:
            self.brokers[node_id] = self._broker(node_id)
        await self.start_again(*node_ids)

    async def start_again(self, *node_ids: int) -> None:
        self._down.difference_update(node_ids)
        await asyncio.gather(*(self.in_thread(self.brokers[node_id].start) for node_id in node_ids))

    async def kill(self, *node_ids: int) -> None:
        """SIGKILL, and gone."""
        self._down.update(node_ids)
        await asyncio.gather(*(self.in_thread(self.brokers[node_id].kill) for node_id in node_ids))

    async def stop(self, node_id: int) -> int:
        """SIGTERM; returns the exit code."""
        self._down.add(node_id)
        return await self.in_thread(partial(self.brokers[node_id].terminate, STOP_TIMEOUT_S))

    def pause(self, node_id: int) -> None:
        self.brokers[node_id].pause()

    def resume(self, node_id: int) -> None:
        self.brokers[node_id].resume()

    async def ended(self, node_id: int, timeout_s: float) -> int | None:
        """The exit code of a broker that ends by itself. Raises TimeoutError."""
        self._down.add(node_id)
        broker = self.brokers[node_id]
        await until(lambda: broker.returncode is not None, timeout_s)
        return broker.returncode

    def wal_directory(self, node_id: int) -> Path:
        return self.brokers[node_id].data_dir / "wal"

    def logs(self) -> dict[int, str]:
        """What each broker wrote to standard error."""
        return {node_id: broker.log() for node_id, broker in self.brokers.items()}

    def _broker(self, node_id: int) -> BrokerProcess:
        args = ["--objects", self.store.url, "--metadata", self.database.url]
        if self.setup.wal == "object":
            args += ["--wal", self.store.log_url(node_id)]
        return BrokerProcess(
            self.directory / f"node-{node_id}",
            node_id=node_id,
            args=args,
            env={**self.store.env, **self.setup.env},
        )


async def tailrace(*arguments: str, env: Mapping[str, str] | None = None) -> str:
    """Run a command of the command line; returns what it printed. Raises CommandFailed."""

    def run() -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "broker.cli", *arguments],
            capture_output=True,
            text=True,
            timeout=COMMAND_TIMEOUT_S,
            env={**os.environ, **(env or {})},
            check=False,
        )

    done = await asyncio.to_thread(run)
    if done.returncode:
        raise CommandFailed(f"tailrace {' '.join(arguments[:3])}: {done.stderr.strip().splitlines()[-1:]}")
    return done.stdout
