"""What all brokers share: the catalog's database and the object store, each behind the network.

A call may lose its request, lose its answer, be refused, be slow, or be carried out long after who asked has given up.
The catalog's transactions are the product's own, on SQLite in memory, one at a time, by the simulated clock.
"""

from __future__ import annotations

import asyncio
import random
import sqlite3
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from functools import cache, partial
from typing import Any, TypeVar

from sqlalchemy import Connection, create_engine
from sqlalchemy.pool import StaticPool

from s3stream.catalog.catalog import SqlCatalog
from s3stream.catalog.database import Database, OutcomeUnknown, RolledBack, Transaction
from s3stream.catalog.opening import _bring_up
from s3stream.objectstore.api import ObjectExists, ObjectMeta, ObjectMissing, RangeInvalid, StoreUnreachable
from tests.cluster_sim.kernel import WALL_CLOCK_S, Kernel, Process
from tests.cluster_sim.network import Network
from wal.api import Buffer

T = TypeVar("T")
OnRequest = Callable[[Process, str, Callable[[], None]], bool]
OnStep = Callable[[Process, str], bool]

CATALOG_TIMEOUT_S = 4.0
STORE_TIMEOUT_S = 3.0
CLUSTER_ID = "c2ltdWxhdGVkLWNsdXN0ZQ"


class NotDone(Exception):
    """The call was not carried out, and never will be."""


class NoAnswer(Exception):
    """It was carried out, or will be, or not."""


class Service:
    """A server that is always there, though not always reachable. `on_request` hears of every call that arrives, and
    may keep it back (see `holding`); `on_step` of every one that was carried out, and says whether its answer gets
    lost."""

    def __init__(self, kernel: Kernel, network: Network, host: str, on_request: OnRequest, on_step: OnStep) -> None:
        self.kernel = kernel
        self.network = network
        self.host = host
        self.on_request = on_request
        self.on_step = on_step
        self.rng = random.Random(kernel.rng.getrandbits(64))
        self.is_down = False
        self.lost = 0.0
        """Share of calls whose request or answer is lost without a partition."""
        self.slow_s = 0.0
        self.calls: Counter[str] = Counter()
        self.faults: Counter[str] = Counter()

    async def call(self, process: Process, name: str, work: Callable[[], T], timeout_s: float) -> T:
        loop = process.loop
        answer: asyncio.Future[T] = loop.create_future()
        there, back = (process.host, self.host), (self.host, process.host)
        sent = False

        def settle(result: Any, error: BaseException | None) -> None:
            if not answer.done():
                if error is None:
                    answer.set_result(result)
                else:
                    answer.set_exception(error)

        def reply(result: Any, error: BaseException | None) -> None:
            self.network.message(back, lambda: loop.call_soon(settle, result, error))

        def fail_soon(error: Exception) -> None:
            self.kernel.after(self.rng.uniform(0.0, 0.3), lambda: loop.call_soon(settle, None, error))

        def arrived() -> None:
            if self.is_down:
                self.faults["refused"] += 1
                reply(None, NotDone("refused"))
                return
            if not self.on_request(process, name, carry_out_soon):
                carry_out_soon()

        def carry_out_soon() -> None:
            self.kernel.after(self.rng.random() * (0.001 + self.slow_s), carry_out)

        def carry_out() -> None:
            self.calls[name] += 1
            try:
                result, error = work(), None
            except Exception as raised:
                result, error = None, raised
            loses_answer = self.on_step(process, name)
            if loses_answer or self.rng.random() < self.lost / 2:
                self.faults["answer lost"] += 1
                fail_soon(NoAnswer("connection lost"))
            else:
                reply(result, error)

        if self.rng.random() < self.lost / 2:
            self.faults["request lost"] += 1
            fail_soon(NotDone("connection lost"))
        else:
            sent = True
            self.network.message(there, arrived)
        timer = loop.call_later(timeout_s, settle, None, NoAnswer("no answer in time"))
        try:
            return await answer
        except NoAnswer:
            assert sent
            self.faults["no answer"] += 1
            raise
        finally:
            timer.cancel()


class CatalogServer(Service):
    def __init__(self, kernel: Kernel, network: Network, on_request: OnRequest, on_step: OnStep) -> None:
        super().__init__(kernel, network, "catalog", on_request, on_step)
        raw = _connect(lambda: WALL_CLOCK_S + kernel.now)
        raw.deserialize(_fresh_catalog())
        self._raw = raw
        self._engine = create_engine(
            "sqlite://",
            creator=lambda: raw,
            poolclass=StaticPool,
            pool_reset_on_return=None,
            isolation_level="AUTOCOMMIT",
        )
        self._connection = self._engine.connect()

    def run(self, transaction: Transaction[T]) -> T:
        """Begun and ended here: it is one at a time, and SQLAlchemy's own way takes longer than most of them."""
        self._raw.execute("BEGIN")
        try:
            result = transaction(self._connection)
        except BaseException:
            self._raw.execute("ROLLBACK")
            raise
        self._raw.execute("COMMIT")
        return result

    def direct(self) -> SqlCatalog:
        """For the history's own questions: at once, and nothing fails. See `at_once`."""
        return SqlCatalog(Database(_Direct(self)), CLUSTER_ID)

    def open(self, process: Process) -> SqlCatalog:
        return SqlCatalog(
            Database(CatalogClient(self, process), random.Random(process.rng.getrandbits(64))), CLUSTER_ID
        )

    def lease_of(self, broker_epoch: int) -> float:
        """How long it still lasts, in seconds; not above 0: it is over, or was ended."""
        row = self._raw.execute("SELECT lease_end_ms FROM brokers WHERE epoch = ?", (broker_epoch,)).fetchone()
        return (row[0] / 1000 if row is not None else 0.0) - WALL_CLOCK_S - self.kernel.now

    def close(self) -> None:
        self._connection.close()
        self._engine.dispose()


class _Direct:
    name = "simulated catalog"

    def __init__(self, server: CatalogServer) -> None:
        self._server = server

    async def run(self, transaction: Transaction[T], *, write: bool) -> T:
        return self._server.run(transaction)

    async def close(self) -> None:
        return None


def at_once(call: Coroutine[Any, Any, T]) -> T:
    """The result of a coroutine that waits for nothing, but may let others go first."""
    try:
        while call.send(None) is None:
            pass
    except StopIteration as done:
        return done.value  # type: ignore[no-any-return]
    raise AssertionError("it waits")


class CatalogClient:
    """A `Backend` of one process."""

    name = "simulated catalog"

    def __init__(self, server: CatalogServer, process: Process) -> None:
        self._server = server
        self._process = process

    async def run(self, transaction: Transaction[T], *, write: bool) -> T:
        name = transaction_name(transaction)
        try:
            return await self._server.call(
                self._process, name, lambda: self._server.run(transaction), CATALOG_TIMEOUT_S
            )
        except NotDone as error:
            raise RolledBack(str(error)) from None
        except NoAnswer as error:
            raise (OutcomeUnknown if write else RolledBack)(str(error)) from None

    async def close(self) -> None:
        return None


def transaction_name(transaction: Callable[..., Any]) -> str:
    """`commit_objects` for a closure of `SqlCatalog.commit_objects`; what a `partial` calls goes by its own name."""
    if isinstance(transaction, partial):
        return transaction.func.__name__
    parts = transaction.__qualname__.split(".")
    return parts[1] if len(parts) > 1 else parts[0]


def _connect(wall_clock: Callable[[], float]) -> sqlite3.Connection:
    raw = sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)
    # what `NowMs` is made of
    raw.create_function("julianday", 1, lambda _: 2440587.5 + wall_clock() / 86400)
    return raw


@cache
def _fresh_catalog() -> bytes:
    raw = _connect(lambda: WALL_CLOCK_S)
    engine = create_engine("sqlite://", creator=lambda: raw, poolclass=StaticPool)
    with engine.begin() as connection:
        _bring_up(connection, "simulated catalog", True)
        _name_cluster(connection)
    return raw.serialize()


def _name_cluster(connection: Connection) -> None:
    connection.exec_driver_sql(f"UPDATE meta SET value = '{CLUSTER_ID}' WHERE name = 'cluster_id'")


class StoreServer(Service):
    def __init__(self, kernel: Kernel, network: Network, on_request: OnRequest, on_step: OnStep) -> None:
        super().__init__(kernel, network, "store", on_request, on_step)
        self.objects: dict[str, bytes] = {}

    def open(self, process: Process, prefix: str) -> StoreClient:
        return StoreClient(self, process, prefix)


class StoreClient:
    """An `ObjectStore` of one process, under a prefix."""

    def __init__(self, server: StoreServer, process: Process, prefix: str) -> None:
        self._server = server
        self._process = process
        self._prefix = prefix

    async def _call(self, name: str, work: Callable[[dict[str, bytes]], T]) -> T:
        try:
            return await self._server.call(self._process, name, lambda: work(self._server.objects), STORE_TIMEOUT_S)
        except (NotDone, NoAnswer) as error:
            raise StoreUnreachable(str(error)) from None

    async def put(self, key: str, pieces: Sequence[Buffer]) -> None:
        await self._put(key, b"".join(pieces))

    async def _put(self, key: str, data: bytes) -> None:
        def put(objects: dict[str, bytes]) -> None:
            objects[self._prefix + key] = data

        await self._call("put", put)

    async def put_if_absent(self, key: str, pieces: Sequence[Buffer]) -> None:
        data = b"".join(pieces)

        def put(objects: dict[str, bytes]) -> None:
            if self._prefix + key in objects:
                raise ObjectExists(key)
            objects[self._prefix + key] = data

        await self._call("put_if_absent", put)

    async def get(self, key: str) -> Buffer:
        return await self._call("get", lambda objects: self._find(objects, key))

    async def get_range(self, key: str, start: int, end: int) -> Buffer:
        def get(objects: dict[str, bytes]) -> Buffer:
            data = self._find(objects, key)
            if not 0 <= start < end <= len(data):
                raise RangeInvalid(f"{key} has {len(data)} bytes, asked for {start}..{end}")
            return memoryview(data)[start:end]

        return await self._call("get_range", get)

    def _find(self, objects: dict[str, bytes], key: str) -> bytes:
        found = objects.get(self._prefix + key)
        if found is None:
            raise ObjectMissing(f"{key} does not exist")
        return found

    async def head(self, key: str) -> int | None:
        def head(objects: dict[str, bytes]) -> int | None:
            found = objects.get(self._prefix + key)
            return None if found is None else len(found)

        return await self._call("head", head)

    async def delete_many(self, keys: Sequence[str]) -> None:
        def delete(objects: dict[str, bytes]) -> None:
            for key in keys:
                objects.pop(self._prefix + key, None)

        await self._call("delete", delete)

    async def list(self, prefix: str) -> AsyncIterator[ObjectMeta]:
        def found(objects: dict[str, bytes]) -> list[ObjectMeta]:
            start = self._prefix + prefix
            size = len(self._prefix)
            return [ObjectMeta(key[size:], len(data), 0) for key, data in objects.items() if key.startswith(start)]

        for meta in await self._call("list", found):
            yield meta

    async def close(self) -> None:
        return None
