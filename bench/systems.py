"""What is compared: tailrace, Apache Kafka, a stub that stores nothing, and any broker that runs already.

Each is a real process behind one bootstrap address; CPU and memory come from /proc. A system that was not started here
(`Running`) has an address only, hence no such figures.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from bench.broker_process import BrokerProcess
from bench.figures import KAFKA, STUB, TAILRACE, Results
from bench.kafka_process import KafkaProcess
from bench.stub_process import StubProcess

PARTITIONS = 4
"""Of topics that tools make by producing to them."""


class System(Protocol):
    """`name` is what its samples are filed under. What is not known of it is None."""

    @property
    def name(self) -> str: ...

    @property
    def address(self) -> str: ...

    def cpu_seconds(self) -> float | None:
        """User and system time of its process so far."""

    def resident_size(self) -> int | None:
        """Bytes now."""

    def resident_size_max(self) -> int | None:
        """The most bytes so far."""

    def drop_caches(self) -> None:
        """What it holds in its own memory, as far as that can be done from outside."""


@dataclass(frozen=True, slots=True)
class Started:
    """A process of this run. A system that uses the kernel's page cache as its cache keeps it."""

    name: str
    process: BrokerProcess | KafkaProcess | StubProcess

    @property
    def address(self) -> str:
        return self.process.address

    def cpu_seconds(self) -> float:
        return self.process.cpu_seconds()

    def resident_size(self) -> int:
        return self.process.resident_size()

    def resident_size_max(self) -> int:
        return self.process.resident_size_max()

    def drop_caches(self) -> None:
        if isinstance(self.process, BrokerProcess):
            self.process.restart()


@dataclass(frozen=True, slots=True)
class Running:
    """Somebody else's broker, by its address (`--also NAME=HOST:PORT`)."""

    name: str
    address: str

    def cpu_seconds(self) -> None:
        return None

    def resident_size(self) -> None:
        return None

    def resident_size_max(self) -> None:
        return None

    def drop_caches(self) -> None:
        pass


@dataclass(slots=True)
class Run:
    """What every scenario gets. `scale` shortens loads for a quick run; `libs` is None without Java or Kafka."""

    libs: Path | None
    folder: Path
    results: Results
    rounds: int = 3
    scale: float = 1.0
    also: list[Running] = field(default_factory=list)
    scenario: str = ""
    """The name of the one that runs."""
    ends_at: float | None = None
    """It begins no further round that would end later than this (`time.monotonic`)."""

    def say(self, text: str) -> None:
        """Progress, for whoever waits."""
        print(text, file=sys.stderr, flush=True)

    def turns(self) -> Iterator[int]:
        """The numbers of the rounds; fewer than wanted, at least one, if time would not suffice, which is noted."""
        longest = 0.0
        for turn in range(self.rounds):
            began = time.monotonic()
            if turn and self.ends_at is not None and began + longest > self.ends_at:
                self.results.notes.append(f"{self.scenario}: {turn} of {self.rounds} rounds, its time was up")
                return
            yield turn
            longest = max(longest, time.monotonic() - began)

    @property
    def system_count(self) -> int:
        """Of those that take turns, the stub not among them."""
        return 1 + (self.libs is not None) + len(self.also)

    def count(self, full: int, least: int = 1000) -> int:
        """A number of records, scaled."""
        return max(int(full * self.scale), least)

    def directory(self, name: str) -> Path:
        """A fresh one for a broker's data."""
        return Path(tempfile.mkdtemp(prefix=f"{name}-", dir=self.folder))

    def tools(self) -> Path:
        """Kafka's jars, for scenarios that were chosen because they are there."""
        if self.libs is None:
            raise RuntimeError("this scenario needs Kafka's tools")
        return self.libs

    @contextmanager
    def single_brokers(self, *, stub: bool = False) -> Iterator[list[System]]:
        """One broker of each system, running together."""
        configs = {"num.partitions": str(PARTITIONS)}
        with ExitStack() as stack:
            systems: list[System] = [Started(TAILRACE, stack.enter_context(self.tailrace(configs)))]
            if self.libs is not None:
                kafka = KafkaProcess(self.libs, self.directory(KAFKA), configs)
                systems.append(Started(KAFKA, stack.enter_context(kafka)))
            if stub:
                systems.append(Started(STUB, stack.enter_context(StubProcess())))
            yield [*systems, *self.also]

    def tailrace(self, configs: Mapping[str, str] | None = None) -> BrokerProcess:
        """Not started yet."""
        return BrokerProcess(self.directory(TAILRACE) / "data", configs=configs)
