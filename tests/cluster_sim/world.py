"""One history: a cluster, its clients, what goes wrong, the healing, and the judgement.

    start the brokers -> clients produce and read while faults come and go -> everything is healed -> all partitions are
    led again and every producer gets on within `LIVENESS_MAX_S` -> a complete read -> clean stops -> the catalog and
    the bucket are looked through -> now and then everything is started once more and read again, from objects

A `Plan` says what kind of cluster it is; it comes from the seed too.
"""

from __future__ import annotations

import asyncio
import gc
import random
import sys
import traceback
from collections import Counter
from collections.abc import Callable, Coroutine
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import structlog

from s3stream.catalog.api import NewTopic, TopicInfo
from tests.cluster_sim import checks
from tests.cluster_sim.chaos import Chaos
from tests.cluster_sim.clients import TOPIC, Client, Producer, Reader
from tests.cluster_sim.disk import Disks
from tests.cluster_sim.holding import Holds
from tests.cluster_sim.installing import Machine, installed
from tests.cluster_sim.kernel import Kernel, Process, Stuck
from tests.cluster_sim.network import Network
from tests.cluster_sim.node import Node
from tests.cluster_sim.observing import Observer, observed
from tests.cluster_sim.services import CatalogServer, StoreServer, at_once

CALM_WAIT_MAX_S = 1.5
"""Of a producer, from send to acknowledgement, while partitions move and brokers stop cleanly."""
LIVENESS_MAX_S = 150.0
"""Failed recoveries and unreadable partitions are tried again after a minute at most."""
MUTANT_LIVENESS_MAX_S = 20.0
"""Of a product that is broken on purpose: hardly any history of the whole one needs as much."""
HISTORY_MAX_S = 900.0
START_MAX_S = 60.0
STOP_MAX_S = 120.0


@dataclass(frozen=True, slots=True)
class Violation:
    """A broken promise. `kind` is one of `bench.history`'s, or says what else."""

    kind: str
    detail: str


@dataclass(frozen=True, slots=True)
class Focus:
    """Faults and ambushes (by name) that are to happen far more often than others, and on which logs. What a mutation
    breaks is guarded against a few of all things that may go wrong."""

    faults: tuple[str, ...] = ()
    steps: tuple[str, ...] = ()
    wal_kinds: tuple[str, ...] = ()
    is_calm: bool = False
    lease_ms: int | None = None


NO_FOCUS = Focus()


@dataclass(frozen=True, slots=True)
class Plan:
    """What a seed chose."""

    node_count: int
    wal_kinds: tuple[str, ...]
    lease_ms: int
    partition_count: int
    producer_count: int
    reader_count: int
    duration_s: float
    restarts_in_the_end: bool
    is_calm: bool
    """Nothing fails; partitions are moved, brokers are stopped and come. Then clients never wait for long."""
    durability: str

    @classmethod
    def of(cls, rng: random.Random, is_brief: bool, focus: Focus) -> Plan:
        node_count = 3 if is_brief else rng.choice((3, 3, 3, 4, 5))
        mixed = rng.random() < 0.3
        kinds = ("shared", "shared", "volume", "object", "object", "private")
        if focus.wal_kinds:
            kinds = focus.wal_kinds
        kind = rng.choice(kinds)
        return cls(
            node_count=node_count,
            wal_kinds=tuple(rng.choice(kinds) if mixed else kind for _ in range(node_count + 2)),
            lease_ms=focus.lease_ms or rng.choice((1000, 1000, 2000, 3000)),
            partition_count=rng.choice((2, 3, 6)),
            producer_count=rng.choice((2, 3, 4)),
            reader_count=rng.choice((1, 2)),
            duration_s=rng.uniform(1.0, 2.5) if is_brief else rng.uniform(2.0, 6.0),
            restarts_in_the_end=rng.random() < 0.3 and not is_brief,
            is_calm=focus.is_calm if focus != NO_FOCUS else rng.random() < 0.1,
            durability="wal" if focus != NO_FOCUS else rng.choice(("wal", "wal", "wal", "object")),
        )


class World:
    def __init__(self, seed: int, prints: bool = False, is_brief: bool = False, focus: Focus = NO_FOCUS) -> None:
        self.seed = seed
        self.prints = prints
        self.kernel = Kernel(seed)
        self.rng = random.Random(self.kernel.rng.getrandbits(64))
        self.focus = focus
        self.plan = Plan.of(self.rng, is_brief, focus)
        self.partition_count = self.plan.partition_count
        self.trace: list[str] = []
        self.counters: Counter[str] = Counter()
        self.violations: list[Violation] = []
        self.network = Network(self.kernel)
        self.disks = Disks(random.Random(self.kernel.rng.getrandbits(64)))
        self.chaos = Chaos(self)
        self.holds = Holds(self.kernel)
        self.catalog = CatalogServer(self.kernel, self.network, self.holds.on_request, self.chaos.on_step)
        self.store = StoreServer(self.kernel, self.network, self.holds.on_request, self.chaos.on_step)
        self.metadata = self.catalog.direct()
        self.machine = Machine(self.kernel, self.network, self.disks, self.catalog, self.store)
        self.machine.prints_logs = prints
        self.outside = Process(self.kernel, self.network, "clients", "client")
        self.observer = Observer(self)
        self.nodes: dict[int, Node] = {}
        self.producers: list[Producer] = []
        self.readers: list[Reader] = []
        self.is_stopping = False
        self.liveness_max_s = LIVENESS_MAX_S
        self._client_tasks: list[asyncio.Task[None]] = []

    # -- telling ----------------------------------------------------------------------------------------------------
    def note(self, *what: object) -> None:
        line = f"{self.kernel.now:.6f} " + " ".join(map(str, what))
        self.trace.append(line)
        if self.prints:
            print("====", line)

    def violation(self, kind: str, detail: str, error: BaseException | None = None) -> None:
        if error is not None:
            detail += "\n" + "".join(traceback.format_exception(error))
        self.violations.append(Violation(kind, f"at {self.kernel.now:.3f}: {detail}"))
        self.note("VIOLATION", kind, detail)

    def check_leaks(self, process: Process) -> None:
        checks.check_leaks(self, process)

    def network_ready(self, node: Node) -> None:
        self.counters["start"] += 1

    # -- the cluster ------------------------------------------------------------------------------------------------
    def add_node(self) -> Node:
        node_id = len(self.nodes) + 1
        node = Node(self, node_id, self.plan.wal_kinds[node_id - 1], self.plan.lease_ms)
        self.nodes[node_id] = node
        return node

    def topic(self) -> TopicInfo:
        """As the catalog has it now."""
        found = at_once(self.metadata.load_changes(0)).topics.values()
        return next(topic for topic in found if topic is not None and topic.name == TOPIC)

    def _create_topic(self) -> None:
        leaders = [self.rng.choice(sorted(self.nodes)) for _ in range(self.partition_count)]
        at_once(self.metadata.create_topic(NewTopic(TOPIC, leaders, {"tailrace.durability": self.plan.durability})))

    async def start(self, *, waits: bool) -> None:
        """Brokers, a topic, clients. `waits`: until all brokers serve."""
        for _ in range(self.plan.node_count):
            self.add_node().start()
        if waits:
            await self.until(lambda: all(node.running is not None for node in self.nodes.values()), START_MAX_S)
        self._create_topic()
        self._start_clients()

    # -- the history ------------------------------------------------------------------------------------------------
    async def main(self) -> None:
        await self.start(waits=self.plan.is_calm or self.rng.random() < 0.5)
        await self.chaos.run(self.plan.duration_s)
        await self.finish()

    async def finish(self) -> None:
        """Heal, let it settle, judge."""
        self.heal()
        await self._recover()
        if self.violations:
            return
        await self._stop_clients()
        if self.violations:
            return
        read = await checks.read_everything(self)
        checks.check_history(self, read)
        if self.plan.is_calm:
            self._check_waits()
        await self._stop_brokers()
        checks.check_catalog(self)
        if self.plan.restarts_in_the_end and not self.violations:
            await self._read_once_more(read)

    def heal(self) -> None:
        """Nothing fails any more; what is down comes up."""
        self.note("healed")
        self.chaos.heal()
        for node in self.nodes.values():
            if not node.is_up and not node.is_gone:
                node.start()

    async def _recover(self) -> None:
        """All partitions are led again, and everybody gets on."""
        counts = [producer.acknowledged_count for producer in self.producers]

        def gets_on() -> bool:
            return all(
                producer.acknowledged_count > before for producer, before in zip(self.producers, counts, strict=True)
            )

        started = self.kernel.now
        if not await self.until(lambda: gets_on() or self.violations, self.liveness_max_s):
            for producer, before in zip(self.producers, counts, strict=True):
                if producer.acknowledged_count == before:
                    self.violation("stuck", f"{producer.name} on {producer.partition}: {list(producer.errors)}")
        self.counters["healed within ms"] = int((self.kernel.now - started) * 1000)

    def _check_waits(self) -> None:
        for producer in self.producers:
            if producer.longest_wait_s > CALM_WAIT_MAX_S:
                self.violation("slow", f"{producer.name} waited for {producer.longest_wait_s:.2f} s")

    def _start_clients(self) -> None:
        plan = self.plan
        for number in range(plan.producer_count):
            partition = self.rng.randrange(plan.partition_count)
            self.producers.append(Producer(self, number, partition, self.rng.choice((1, 1, 3))))
        self.readers = [Reader(self, number) for number in range(plan.reader_count)]
        clients: list[Producer | Reader] = [*self.producers, *self.readers]
        self._client_tasks = [self.outside.loop.create_task(client.run()) for client in clients]

    async def _stop_clients(self) -> None:
        clients: list[Client] = [*self.producers, *self.readers]
        for client in clients:
            client.stopping = True
        if not await self.until(lambda: all(task.done() for task in self._client_tasks), self.liveness_max_s):
            waiting = [c.name for c, task in zip(clients, self._client_tasks, strict=True) if not task.done()]
            self.violation("stuck", f"{waiting} are not done: {[list(c.errors) for c in clients]}")
        for task in self._client_tasks:
            if not task.done():
                task.cancel()
            elif task.exception() is not None:
                self.violation("client", repr(task.exception()), task.exception())
        for client in clients:
            client.close()

    async def _stop_brokers(self) -> None:
        """Those that fail meanwhile are started once more: they recover what they have left."""
        self.is_stopping = True
        await self._stop(list(self.nodes.values()))
        failed = [node for node in self.nodes.values() if not node.ended_cleanly and not node.is_gone]
        for node in failed:
            node.start()
        if failed:
            await self.until(lambda: all(node.running is not None for node in failed), START_MAX_S)
            await self._stop(failed)

    async def _stop(self, nodes: list[Node]) -> None:
        for node in nodes:
            node.stop()
        if not await self.until(lambda: not any(node.is_up for node in nodes), STOP_MAX_S):
            self.violation("stuck", f"{[node.host for node in nodes if node.is_up]} do not stop")

    async def _read_once_more(self, read: checks.CompleteRead) -> None:
        """A new cluster of the same nodes has the same records."""
        self.is_stopping = False
        for node in self.nodes.values():
            if not node.is_gone:
                node.start()
        again = await checks.read_everything(self)
        if again != read:
            self.violation("rewritten", "a restart of all brokers changed what is read")
        await self._stop_brokers()
        checks.check_catalog(self)

    async def until(self, holds: Any, time_max: float) -> bool:
        deadline = self.kernel.now + time_max
        while not holds():
            if self.kernel.now > deadline:
                return False
            await asyncio.sleep(0.05)
        return True

    # -- running ----------------------------------------------------------------------------------------------------
    def run(self, script: Script) -> None:
        task = self.outside.loop.create_task(script(self))
        try:
            self.kernel.run(task.done, HISTORY_MAX_S)
        except Stuck as error:
            self.violation("stuck", str(error))
            return
        error = task.exception()
        if error is not None and not self.violations:
            raise error
        checks.check_logged(self)

    def close(self) -> None:
        for process in self.kernel.processes:
            process.bury()
        self.catalog.close()


@dataclass(slots=True)
class Result:
    """What came out of a seed."""

    seed: int
    violations: list[Violation]
    trace: list[str]
    counters: Counter[str]
    event_count: int
    virtual_s: float


Script = Callable[[World], Coroutine[Any, Any, None]]


def run_history(
    seed: int,
    mutation: AbstractContextManager[None] | None = None,
    *,
    prints: bool = False,
    is_brief: bool = False,
    focus: Focus = NO_FOCUS,
    script: Script = World.main,
) -> Result:
    """One history, or what `script` does in the place of one. `mutation` breaks the product meanwhile."""
    enabled = gc.isenabled()
    gc.disable()
    unraisable, sys.unraisablehook = sys.unraisablehook, lambda _: None
    config = structlog.get_config()
    try:
        with mutation or nullcontext():
            world = World(seed, prints, is_brief, focus)
            if mutation is not None:
                world.liveness_max_s = MUTANT_LIVENESS_MAX_S
            result = _run(world, script)
            del world
        # the last words of dead processes are nobody's business, and not the next history's
        structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50), cache_logger_on_first_use=False)
        gc.collect()
        return result
    finally:
        structlog.configure(**config)
        sys.unraisablehook = unraisable
        if enabled:
            gc.enable()


def _run(world: World, script: Script) -> Result:
    with observed(world.observer), installed(world.machine):
        world.run(script)
        world.chaos.count()
        world.close()
    return Result(world.seed, world.violations, world.trace, world.counters, world.kernel.event_count, world.kernel.now)
