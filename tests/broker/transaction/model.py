"""The world around a simulated coordinator: partitions with Kafka's rules for producers, the producers, and what must
hold in its log."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping

from broker.coordinator.log import KeyValue
from broker.coordinator.transaction.marker_job import MarkerJob
from broker.coordinator.transaction.records import NO_PRODUCER_EPOCH, TransactionValue, decode_record
from broker.coordinator.transaction.states import FOLLOWERS
from tests.broker.transaction.harness import BUMPING, Producer

NOBODY = (-1, -1)


class Partition:
    """What a leader keeps of producers: their epochs, who has a transaction open, what was written."""

    def __init__(self) -> None:
        self.epochs: dict[int, int] = {}
        self.open: dict[int, int] = {}
        """Producer id -> token."""
        self.coordinator_epochs: dict[int, int] = {}
        self.outcomes: dict[int, list[bool]] = defaultdict(list)
        """Token -> how it ended here; more than once only if data came after the end."""
        self.tokens: set[int] = set()

    def write(self, producer: Producer, token: int) -> bool:
        producer_id, epoch = producer
        if epoch < self.epochs.get(producer_id, -1):
            return False
        assert self.open.get(producer_id, token) == token, "data of two transactions are mixed"
        self.epochs[producer_id] = epoch
        self.open[producer_id] = token
        self.tokens.add(token)
        return True

    def mark(self, job: MarkerJob, coordinator_epoch: int) -> bool:
        """Whether the coordinator may count this one as done."""
        producer_id, epoch = job.producer_id, job.producer_epoch
        if coordinator_epoch < self.coordinator_epochs.get(producer_id, -1):
            return False
        known = self.epochs.get(producer_id, -1)
        is_open = producer_id in self.open
        if epoch < known or (job.transaction_version == BUMPING and epoch == known and is_open):
            return True
        self.coordinator_epochs[producer_id] = coordinator_epoch
        self.epochs[producer_id] = epoch
        if is_open:
            self.outcomes[self.open.pop(producer_id)].append(job.commit)
        return True


class Client:
    """A producer that has asked for this transactional id. It has at most one request under way, which it may send
    again; its transactions are numbered by tokens."""

    def __init__(self, name: str, transactional_id: str, version: int) -> None:
        self.name = name
        self.transactional_id = transactional_id
        self.version = version
        self.producer = NOBODY
        self.token: int | None = None
        self.decision: bool | None = None
        self.fenced = False


def check_log(records: Iterable[tuple[KeyValue, int]], aged_to_epoch: int) -> dict[str, TransactionValue]:
    """Each value follows from the one before; epochs and producer ids only grow. Returns the last ones.

    One value with the epoch `aged_to_epoch` was put there by the simulation.
    """
    values: dict[str, TransactionValue] = {}
    seen: dict[str, set[int]] = defaultdict(set)
    for each, _ in records:
        record = decode_record(*each)
        assert record is not None
        assert record.value is not None
        name, value = record.transactional_id, record.value
        before = values.get(name)
        aged = value.producer_epoch == aged_to_epoch
        assert aged or value.state in FOLLOWERS[None if before is None else before.state]
        if before is not None:
            assert value.previous_producer_id == before.producer_id
            if value.producer_id == before.producer_id:
                assert value.producer_epoch >= before.producer_epoch
            else:
                assert value.producer_id not in seen[name]
                assert value.producer_epoch == 0
        seen[name].add(value.producer_id)
        values[name] = value
    return values


def forgetting(values: Mapping[str, TransactionValue]) -> dict[str, TransactionValue]:
    """What is left of them after a load."""
    return {name: value._replace(last_producer_epoch=NO_PRODUCER_EPOCH) for name, value in values.items()}
