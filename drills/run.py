"""One run of a drill: what a scenario has at hand, and what becomes of it in the end.

A scenario is a coroutine that gets a `Run`. It makes phases (`async with run.phase("killed")`), does what the drill is
about to `run.cluster`, and states promises about what the phases measured. The load is there before it begins; after
it everything is read and checked, and what no drill may break is added to its promises: nothing that was
acknowledged is lost, doubled, reordered or changed; no client is told of an error; no broker has a defect in its log,
or ends unasked.
"""

from __future__ import annotations

import asyncio
import random
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from subprocess import SubprocessError

from bench.broker_process import BrokerFailed
from drills.backends import BackendMissing
from drills.client.admin import Admin, Refused
from drills.client.client import Client
from drills.client.connection import Disconnected
from drills.client.producer import ProducerFailed
from drills.client.view import Address
from drills.cluster import Cluster, CommandFailed, RunningCluster, Setup, tailrace
from drills.drill import Drill, Options
from drills.load import Load, LoadFailed
from drills.promise import Promise, all_kept, quantity
from drills.report import Report
from drills.timeline import Phase, Timeline, Traffic
from drills.waiting import LOOK_S

EXPECTED_FAILURES = (
    BrokerFailed,
    BackendMissing,
    CommandFailed,
    Disconnected,
    LoadFailed,
    ProducerFailed,
    OSError,
    Refused,
    RuntimeError,
    SubprocessError,
)
"""What ends a drill with one line: something did not come up, or did not do what it must."""
UPLOAD_LOOK_S = 3
_DEFECT = re.compile(r"Traceback|has a defect|InvariantBroken")


class Run:
    def __init__(self, drill: Drill, options: Options, tell: Callable[[str], None]) -> None:
        self.drill = drill
        self.options = options
        self.timeline = Timeline()
        self.promises: list[Promise] = []
        self.chance = random.Random(options.seed)
        self._tell = tell
        self._other_loads: list[Load] = []
        self._began = time.monotonic()
        self._cluster: Cluster | None = None
        if options.bootstrap is None:
            self._cluster = Cluster(_setup_of(drill, options.setup))
        self._target = self._cluster or RunningCluster(options.bootstrap or ())
        self.load = Load(
            lambda: self._target.bootstrap,
            self.timeline,
            self.now,
            options.seed,
            topic="drill" if options.bootstrap is None else f"tailrace-drill-{drill.name}-{options.seed}",
        )

    def now(self) -> float:
        """Seconds since the drill began."""
        return time.monotonic() - self._began

    @property
    def cluster(self) -> Cluster:
        """The throw-away one."""
        assert self._cluster is not None
        return self._cluster

    # -- for scenarios ----------------------------------------------------------------------------------------------
    def say(self, text: str) -> None:
        """An event of the timeline."""
        at = self.now()
        self.timeline.event(at, text)
        self._tell(f"{at:7.2f} s  {text}")

    async def wait(self, seconds: float) -> None:
        await asyncio.sleep(seconds * self.options.pace)

    @asynccontextmanager
    async def phase(self, name: str) -> AsyncIterator[Phase]:
        before = await self._traffic()
        phase = Phase(name, self.now())
        self.timeline.phases.append(phase)
        yield phase
        phase.end = self.now()
        phase.traffic = _difference(before, await self._traffic())
        self._tell(f"{phase.end:7.2f} s  [{name}] {self._figures(phase)}")

    def gap_s(self, phase: Phase) -> float:
        """The longest time without an acknowledgement in a partition; up to now, while the phase lasts."""
        return self.timeline.longest_gap(phase.start, min(phase.end, self.now())).length_s

    def promise(self, text: str, measured: float, at_most: float, unit: str = "s") -> None:
        promise = Promise(text, measured, at_most, unit)
        self.promises.append(promise)
        self._tell(f"{self.now():7.2f} s  {promise}")

    async def a_leader(self) -> int:
        """A broker that leads partitions of the load, by the seed."""
        leaders = sorted(set((await self.load.admin.leaders(self.load.topic)).values()) - {-1})
        return self.chance.choice(leaders)

    async def led_by(self, node_id: int) -> int:
        """How many partitions of the load it leads."""
        return sum(leader == node_id for leader in (await self.load.admin.leaders(self.load.topic)).values())

    async def until(self, what: str, holds: Callable[[], Awaitable[bool]], timeout_s: float) -> float:
        """Wait for it; returns how long that took. Raises TimeoutError."""
        began = self.now()
        try:
            async with asyncio.timeout(timeout_s):
                while not await self._holds(holds):  # noqa: ASYNC110 (it asks brokers)
                    await asyncio.sleep(LOOK_S)
        except TimeoutError:
            raise TimeoutError(f"{what}: not within {timeout_s:.0f} s") from None
        return self.now() - began

    async def _holds(self, holds: Callable[[], Awaitable[bool]]) -> bool:
        try:
            return await holds()
        except Disconnected:
            return False

    async def until_uploaded(self) -> None:
        """Until little goes to the store besides the load: what was put in before has arrived there."""
        usual = 3 * self.load.rate * 1024
        written: int | None = usual * UPLOAD_LOOK_S
        while written is not None and written >= usual * UPLOAD_LOOK_S:
            before = await self._traffic()
            await asyncio.sleep(UPLOAD_LOOK_S)
            written = _difference(before, await self._traffic()).written

    async def tailrace(self, *arguments: str) -> str:
        """A command of the command line on this cluster."""
        address = self.chance.choice(self._alive())
        return await tailrace(*arguments, "--bootstrap", str(address))

    def _alive(self) -> list[Address]:
        if self._cluster is None:
            return self._target.bootstrap
        brokers = (self._cluster.brokers[node_id] for node_id in self._cluster.alive())
        return [Address(broker.host, broker.port) for broker in brokers]

    async def other_load(self, topic: str, *, partitions: int, rate: int) -> Load:
        """One more, on a topic with the usual configs; what it tells is the scenario's to judge."""
        load = Load(
            lambda: self._target.bootstrap,
            Timeline(),
            self.now,
            self.options.seed + 1,
            topic=topic,
            partitions=partitions,
            rate=rate,
        )
        self._other_loads.append(load)
        await load.prepare()
        load.start()
        return load

    # -- the frame --------------------------------------------------------------------------------------------------
    async def execute(self) -> Report:
        failure = ""
        try:
            await self._start()
            for _ in range(self.options.times):
                await self.drill.scenario(self)
            await self._judge()
        except EXPECTED_FAILURES as error:
            failure = _one_line(error)
            self.say(f"FAILED: {failure}")
        finally:
            await self._end()
        passed = not failure and all_kept(self.promises)
        return Report(
            drill=self.drill.name,
            setup="a running cluster" if self._cluster is None else str(self._cluster.setup),
            seed=self.options.seed,
            seconds=self.now(),
            timeline=self.timeline,
            promises=self.promises,
            violations=[f"{violation.kind}: {violation.detail}" for violation in self.load.violations],
            errors=self.load.errors,
            failure=failure,
            passed=passed,
        )

    async def _start(self) -> None:
        if self._cluster is not None:
            self.say(f"{self._cluster.setup.brokers} brokers: {self._cluster.setup}; seed {self.options.seed}")
            began = self.now()
            await self._cluster.start()
            self.say(f"all serve, {self.now() - began:.1f} s later")
            await self._all_know_all(self._cluster)
        await self.load.prepare(dict(self.drill.topic))
        self.load.start()
        await self.load.wait_for_acks(len(self.load.places))
        self.say(f"load: {len(self.load.places)} partitions, {self.load.rate} records/s of 1 KiB, and a reader")

    async def _all_know_all(self, cluster: Cluster) -> None:
        """One that was alone a moment ago learns of others within a second; topics are spread over those known."""
        for address in cluster.bootstrap:
            client = Client("start", [address], [], self.chance)
            await self.until(f"{address} knows all brokers", partial(_knows, Admin(client), list(cluster.brokers)), 20)
            await client.close()

    async def _judge(self) -> None:
        await self.load.settle()
        self.say("the load has ended, everything is read and checked")
        violations = await self.load.verdict()
        acknowledged = self.timeline.ack_count()
        for group, unread in self.load.unread_by_groups().items():
            self.promise(f"records that group {group} has not read", unread, 0, "")
        kinds = ", ".join(sorted({violation.kind for violation in violations})) or "none"
        self.promise(
            f"violations in the history of {acknowledged} acknowledged records ({kinds})", len(violations), 0, ""
        )
        self.promise("errors that an application was told", len(self.load.errors), 0, "")
        if self._cluster is not None:
            bad = [node_id for node_id, text in self._cluster.logs().items() if _DEFECT.search(text)]
            self.promise(f"brokers with a defect in their log {bad or ''}".strip(), len(bad), 0, "")
            gone = self._cluster.gone()
            self.promise(f"brokers that ended unasked {gone or ''}".strip(), len(gone), 0, "")

    async def _end(self) -> None:
        """What was begun is ended, also when the drill is interrupted."""
        for load in self._other_loads:
            await load.close()
        if self._cluster is None:
            if not self.options.keep:
                await self.load.remove_topic()
            await self.load.close()
            return
        await self.load.close()
        await self._cluster.close(keep=self.options.keep)
        if self.options.keep:
            self._tell(f"kept: {self._cluster.directory}")

    async def _traffic(self) -> Traffic:
        if self._cluster is None:
            return Traffic()
        try:
            return await asyncio.to_thread(self._cluster.store.traffic)
        except OSError:  # it is away
            return Traffic()

    def _figures(self, phase: Phase) -> str:
        timeline, length = self.timeline, phase.end - phase.start
        gap = timeline.longest_gap(phase.start, phase.end)
        freshness = timeline.freshness(phase.start, phase.end)
        figures = [
            f"{timeline.ack_count(phase.start, phase.end) / length:.0f} acks/s",
            f"longest gap {quantity(gap.length_s, 's')}",
            f"freshness median {quantity(freshness.median * 1000, 'ms')}, worst {quantity(freshness.worst, 's')}",
        ]
        if phase.traffic.written is not None:
            figures.append(f"{quantity(phase.traffic.written, 'bytes')} to the store")
        if phase.traffic.read is not None:
            figures.append(f"{quantity(phase.traffic.read, 'bytes')} from it")
        return ", ".join(figures)


def _one_line(error: Exception) -> str:
    """The first line, and the last one where there are more: a broker's last words."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0] if len(lines) == 1 else f"{lines[0]} {lines[-1]}"


async def _knows(admin: Admin, node_ids: Sequence[int]) -> bool:
    return await admin.nodes() == sorted(node_ids)


def _setup_of(drill: Drill, setup: Setup) -> Setup:
    return Setup(
        brokers=drill.brokers,
        wal=setup.wal,
        metadata=setup.metadata,
        objects=setup.objects,
        throttled=drill.throttled,
        env={**drill.env, **setup.env},
    )


def _difference(before: Traffic, after: Traffic) -> Traffic:
    """None where one of them is not known, or the counters began anew."""

    def grown(old: int | None, new: int | None) -> int | None:
        return None if old is None or new is None or new < old else new - old

    return Traffic(grown(before.written, after.written), grown(before.read, after.read))
