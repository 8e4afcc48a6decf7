"""Three brokers on one machine, of tailrace and of Kafka, for what is about several of them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

from bench.broker_process import BrokerProcess
from bench.figures import KAFKA, TAILRACE
from bench.free_ports import free_ports
from bench.kafka_process import KafkaProcess, random_cluster_id

SIZE = 3
NODES = range(1, SIZE + 1)


class Cluster:
    """Runs for as long as the context is open. `brokers` by node id; each may be ended and started meanwhile."""

    name: str
    brokers: Mapping[int, BrokerProcess | KafkaProcess]

    @property
    def addresses(self) -> list[str]:
        return [broker.address for broker in self.brokers.values()]

    @property
    def bootstrap(self) -> str:
        return ",".join(self.addresses)

    def cpu_seconds(self) -> float:
        return sum(broker.cpu_seconds() for broker in self.brokers.values())

    def __enter__(self) -> Self:
        try:
            self._start()
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()

    def _start(self) -> None:
        raise NotImplementedError

    def _end(self) -> None:
        for broker in self.brokers.values():
            if broker.is_running:
                broker.kill()


class TailraceCluster(Cluster):
    """Common catalog (SQLite) and object directory; each broker has a data dir and a log of its own."""

    name = TAILRACE

    def __init__(self, folder: Path, configs: Mapping[str, str] | None = None) -> None:
        common = ["--objects", f"file://{folder}/objects", "--metadata", f"sqlite:///{folder}/catalog.db"]
        self.brokers: dict[int, BrokerProcess] = {
            node_id: BrokerProcess(folder / f"broker-{node_id}", node_id=node_id, args=common, configs=configs)
            for node_id in NODES
        }

    def _start(self) -> None:
        for broker in self.brokers.values():
            broker.start()


class KafkaCluster(Cluster):
    """Three nodes, each broker and controller; topics made by tools get replication factor 3, min ISR 2."""

    name = KAFKA

    def __init__(self, libs: Path, folder: Path, configs: Mapping[str, str] | None = None, *, heap: str = "1g") -> None:
        ports = free_ports(SIZE)
        voters = ",".join(f"{node_id}@127.0.0.1:{port}" for node_id, port in zip(NODES, ports, strict=True))
        replicated = {
            "controller.quorum.voters": voters,
            "default.replication.factor": "3",
            "min.insync.replicas": "2",
            "offsets.topic.replication.factor": "3",
            "transaction.state.log.replication.factor": "3",
            "transaction.state.log.min.isr": "2",
            **(configs or {}),
        }
        cluster_id = random_cluster_id(libs)
        self.brokers: dict[int, KafkaProcess] = {
            node_id: KafkaProcess(
                libs,
                folder / f"kafka-{node_id}",
                replicated,
                heap=heap,
                node_id=node_id,
                controller_port=port,
                cluster_id=cluster_id,
            )
            for node_id, port in zip(NODES, ports, strict=True)
        }

    def _start(self) -> None:
        for broker in self.brokers.values():
            broker.format()
        for broker in self.brokers.values():
            broker.spawn()
        for broker in self.brokers.values():
            broker.wait_until_it_listens()
