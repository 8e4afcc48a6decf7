"""Three brokers on one machine, of tailrace and of Kafka, for what is about several of them."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType

from bench.broker_process import BrokerProcess
from bench.free_ports import free_ports
from bench.kafka_process import KafkaProcess, random_cluster_id

SIZE = 3


class TailraceCluster:
    """Common catalog (SQLite) and object directory; each broker has a data dir and a log of its own."""

    name = "tailrace"

    def __init__(self, folder: Path, configs: Mapping[str, str] | None = None) -> None:
        common = ["--objects", f"file://{folder}/objects", "--metadata", f"sqlite:///{folder}/catalog.db"]
        env = {f"TAILRACE_BROKER_{key.upper().replace('.', '_')}": value for key, value in (configs or {}).items()}
        self.brokers = {
            node_id: BrokerProcess(folder / f"broker-{node_id}", node_id=node_id, args=common, env=env)
            for node_id in range(1, SIZE + 1)
        }

    @property
    def addresses(self) -> list[str]:
        return [broker.address for broker in self.brokers.values()]

    def cpu_seconds(self) -> float:
        return sum(broker.cpu_seconds() for broker in self.brokers.values())

    def __enter__(self) -> TailraceCluster:
        with ExitStack() as stack:
            for broker in self.brokers.values():
                stack.enter_context(broker)
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()


class KafkaCluster:
    """Three nodes, each broker and controller; topics made by tools get replication factor 3, min ISR 2."""

    name = "kafka"

    def __init__(self, libs: Path, folder: Path, configs: Mapping[str, str] | None = None, *, heap: str = "1g") -> None:
        ports = free_ports(SIZE)
        voters = ",".join(f"{node_id}@127.0.0.1:{port}" for node_id, port in enumerate(ports, 1))
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
        self.brokers = {
            node_id: KafkaProcess(
                libs,
                folder / f"kafka-{node_id}",
                replicated,
                heap=heap,
                node_id=node_id,
                controller_port=port,
                cluster_id=cluster_id,
            )
            for node_id, port in enumerate(ports, 1)
        }

    @property
    def addresses(self) -> list[str]:
        return [broker.address for broker in self.brokers.values()]

    def cpu_seconds(self) -> float:
        return sum(broker.cpu_seconds() for broker in self.brokers.values())

    def __enter__(self) -> KafkaCluster:
        try:
            for broker in self.brokers.values():
                broker.format()
            for broker in self.brokers.values():
                broker.spawn()
            for broker in self.brokers.values():
                broker.wait_until_it_listens()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for broker in self.brokers.values():
            broker.kill()
