"""What a client knows of the cluster: brokers, topics, and who leads which partition. No I/O.

Leaders come from metadata and from answers that refuse (KIP-951). What is older than what is known, by its leader
epoch, is ignored: a broker may be behind, and would send clients back to where they were refused.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from bench.transaction_history import Place
from protocol.messages.metadata import MetadataResponse

NOBODY = -1


class Address(NamedTuple):
    host: str
    port: int

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"


def parse_addresses(text: str) -> list[Address]:
    """From HOST:PORT[,HOST:PORT]... Raises ValueError."""
    found = []
    for part in text.split(","):
        host, colon, port = part.strip().rpartition(":")
        if not colon or not host or not port.isascii() or not port.isdigit():
            raise ValueError(f"{part!r} is not HOST:PORT")
        found.append(Address(host.strip("[]"), int(port)))
    return found


class Leader(NamedTuple):
    """`node_id` is NOBODY while a partition has none."""

    node_id: int
    epoch: int


class View:
    def __init__(self) -> None:
        self.nodes: dict[int, Address] = {}
        self.topic_ids: dict[str, bytes] = {}
        self.topic_names: dict[bytes, str] = {}
        self.leaders: dict[Place, Leader] = {}

    def leader(self, place: Place) -> Leader:
        return self.leaders.get(place, Leader(NOBODY, -1))

    def partition_count(self, topic: str) -> int:
        return sum(place.topic == topic for place in self.leaders)

    def led_by(self, node_id: int) -> list[Place]:
        return [place for place, leader in self.leaders.items() if leader.node_id == node_id]

    def learn(self, response: MetadataResponse) -> bool:
        """Take in metadata; returns whether a leader is another one than before."""
        self.nodes = {broker.node_id: Address(broker.host, broker.port) for broker in response.brokers}
        changed = False
        for topic in response.topics:
            if topic.error_code or topic.name is None:
                continue
            self.topic_ids[topic.name] = bytes(topic.topic_id)
            self.topic_names[bytes(topic.topic_id)] = topic.name
            for partition in topic.partitions:
                place = Place(topic.name, partition.partition_index)
                changed |= self._learn(place, Leader(partition.leader_id, partition.leader_epoch))
        return changed

    def learn_leader(self, place: Place, leader: Leader, endpoints: Mapping[int, Address]) -> bool:
        """Take in a hint of an answer that refused; returns whether it was news."""
        if leader.node_id < 0 or leader.epoch <= self.leader(place).epoch:
            return False
        self.nodes.update(endpoints)
        return leader.node_id in self.nodes and self._learn(place, leader)

    def _learn(self, place: Place, leader: Leader) -> bool:
        known = self.leaders.get(place)
        if known is not None and leader.epoch < known.epoch:
            return False
        self.leaders[place] = leader
        return known != leader


def endpoints_of(answered: Iterable[object]) -> dict[int, Address]:
    """The `node_endpoints` of a Produce or Fetch response."""
    return {
        endpoint.node_id: Address(endpoint.host, endpoint.port)  # type: ignore[attr-defined]
        for endpoint in answered
    }
