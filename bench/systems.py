"""What is compared: tailrace, Apache Kafka, a stub that stores nothing, and any broker that runs already.

Each is a real process (or several) behind one bootstrap address; CPU and memory come from /proc. A system that was not
started here (`Running`) has an address only, hence no such figures.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from bench import process_stats
from bench.broker_process import BrokerProcess
from bench.figures import KAFKA, STUB, TAILRACE, Results
from bench.kafka_process import KafkaProcess
from bench.stub_process import StubProcess

PARTITIONS = 4
"""Of topics that tools make by producing to them."""


class System(Protocol):
    """`name` is what its samples are filed under."""

    @property
    def name(self) -> str: ...

    @property
    def address(self) -> str: ...

    def cpu_seconds(self) -> float | None:
        """User and system time of its processes so far."""

    def resident_size(self) -> int | None:
        """Bytes."""


@dataclass(slots=True)
class Tailrace:
    """`broker` is what runs; object bytes and requests can be counted in its directory."""

    broker: BrokerProcess
    name: str = TAILRACE

    @property
    def address(self) -> str:
        return self.broker.address

    def cpu_seconds(self) -> float:
        return self.broker.cpu_seconds()

    def resident_size(self) -> int:
        return self.broker.resident_size()


@dataclass(slots=True)
class Kafka:
    node: KafkaProcess
    name: str = KAFKA

    @property
    def address(self) -> str:
        return self.node.address

    def cpu_seconds(self) -> float:
        return self.node.cpu_seconds()

    def resident_size(self) -> int:
        return process_stats.resident_size(self.node.pid)


@dataclass(slots=True)
class Stub:
    process: StubProcess
    name: str = STUB

    @property
    def address(self) -> str:
        return self.process.address

    def cpu_seconds(self) -> float:
        return process_stats.cpu_seconds(self.process.pid)

    def resident_size(self) -> int:
        return process_stats.resident_size(self.process.pid)


@dataclass(frozen=True, slots=True)
class Running:
    """Somebody else's broker, by its address (`--also NAME=HOST:PORT`)."""

    name: str
    address: str

    def cpu_seconds(self) -> None:
        return None

    def resident_size(self) -> None:
        return None


@dataclass(slots=True)
class Run:
    """What every scenario gets. `scale` shortens loads for a quick run; `libs` is None without Java or Kafka."""

    libs: Path | None
    folder: Path
    results: Results
    rounds: int = 3
    scale: float = 1.0
    also: list[Running] = field(default_factory=list)

    def say(self, text: str) -> None:
        """Progress, for whoever waits."""
        print(text, file=sys.stderr, flush=True)

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
    def single_brokers(self, configs: Mapping[str, str] | None = None, *, stub: bool = False) -> Iterator[list[System]]:
        """One broker of each system, running together; `configs` by Kafka's names go to those started here."""
        wanted = {"num.partitions": str(PARTITIONS), **(configs or {})}
        with ExitStack() as stack:
            systems: list[System] = [Tailrace(stack.enter_context(self.tailrace(wanted)))]
            if self.libs is not None:
                systems.append(Kafka(stack.enter_context(KafkaProcess(self.libs, self.directory("kafka"), wanted))))
            if stub:
                systems.append(Stub(stack.enter_context(StubProcess())))
            yield [*systems, *self.also]

    def tailrace(self, configs: Mapping[str, str] | None = None) -> BrokerProcess:
        """Not started yet."""
        env = {f"TAILRACE_BROKER_{name.upper().replace('.', '_')}": value for name, value in (configs or {}).items()}
        return BrokerProcess(self.directory("tailrace") / "data", env=env)
