"""Consumers of either protocol over one coordinator, as simple as they can be: they own what they have been told and
have taken in.

Nobody is believed to own anything longer than the coordinator lets it: a consumer that was silent for its session, or
took longer than its rebalance time-out, has stopped. So ownership is what a consumer may act on.
"""

from __future__ import annotations

from typing import Any

from broker.coordinator.group.subscription import decode_assignment, decode_subscription, encode_assignment
from broker.coordinator.reply import Reply
from protocol.codec import encode_record_message
from protocol.errors import ErrorCode
from protocol.messages.consumer_group_heartbeat import TopicPartitions
from protocol.messages.records.consumer_protocol import ConsumerProtocolSubscription, TopicPartitionResponse
from tests.broker.coordinator.harness import Coordinator

Partition = tuple[bytes, int]
"""Topic id, index."""

SESSION_MS = 45_000
REBALANCE_MS = 30_000
CLASSIC_REBALANCE_MS = 3_600_000


class Cluster:
    """What consumers share: where the coordinator is now, and the topics."""

    def __init__(self, coordinator: Coordinator) -> None:
        self.coordinator = coordinator
        self.group_id = "g"

    @property
    def now_ms(self) -> int:
        return self.coordinator.scheduler.now_ms


class Consumer:
    """One of the new protocol. `beat` sends what there is to say; `receive` takes in the answer, whenever it comes."""

    def __init__(self, cluster: Cluster, name: str, topics: list[str], instance_id: str | None = None) -> None:
        self.cluster = cluster
        self.name = name
        self.topics = topics
        self.regex = ""
        self.said_topics: tuple[list[str], str] = ([], "")
        self.assignor: str | None = None
        self.instance_id = instance_id
        self.epoch = 0
        self.told: frozenset[Partition] = frozenset()
        self.owned: frozenset[Partition] = frozenset()
        self.alive_until_ms = 0
        self.revoked_by_ms: int | None = None
        self.asked_at_ms = 0
        self.pending: Reply | None = None
        self.full = True
        """The next request says everything: the first one does, and one after an answer was lost."""
        self.unsaid = True
        """What is owned has changed since it was last told."""
        self.said: frozenset[Partition] = frozenset()
        self.last: dict[str, Any] = {}
        self.epochs: list[int] = []

    # -- what it may act on --------------------------------------------------------------------------------------------
    def owns(self) -> frozenset[Partition]:
        now_ms = self.cluster.now_ms
        late = self.revoked_by_ms is not None and now_ms >= self.revoked_by_ms
        return frozenset() if late or now_ms >= self.alive_until_ms else self.owned

    # -- requests ------------------------------------------------------------------------------------------------------
    def beat(self) -> None:
        """Send a heartbeat, unless one is under way."""
        if self.pending is not None:
            return
        fields: dict[str, Any] = {"instance_id": self.instance_id}
        if self.full or self.epoch == 0:
            fields |= self.description()
            fields["topic_partitions"] = self._encoded_owned()
        elif self.unsaid:
            fields["topic_partitions"] = self._encoded_owned()
        self._send(self.epoch, fields)

    def description(self) -> dict[str, Any]:
        self.said_topics = (self.topics, self.regex)
        return {
            "rebalance_timeout_ms": REBALANCE_MS,
            "subscribed_topic_names": [*self.topics],
            "subscribed_topic_regex": self.regex,
            "server_assignor": self.assignor,
        }

    def subscribe(self, topics: list[str], regex: str = "") -> None:
        self.topics, self.regex = topics, regex
        self.full = True

    def leave(self, epoch: int = -1) -> None:
        """It gives up everything first."""
        self.cluster.coordinator.consumer_heartbeat(
            self.cluster.group_id, self.name, epoch, instance_id=self.instance_id
        )
        self.stop()

    def stop(self) -> None:
        """Like a process that dies."""
        self._forget()
        self.pending = None

    def repeat(self) -> None:
        """The network delivers the last request once more, when the member has got further by it."""
        if self.last and 0 < self.last["epoch"] < self.epoch:
            self.cluster.coordinator.consumer_heartbeat(
                self.cluster.group_id, self.name, self.last["epoch"], **self.last["fields"]
            )

    def _send(self, epoch: int, fields: dict[str, Any]) -> None:
        self.last = {"epoch": epoch, "fields": fields}
        self.asked_at_ms = self.cluster.now_ms
        if epoch == 0:
            self.owned = self.told = frozenset()
        self.pending = self.cluster.coordinator.consumer_heartbeat(self.cluster.group_id, self.name, epoch, **fields)

    def _encoded_owned(self) -> list[TopicPartitions]:
        self.said = self.owned
        by_topic: dict[bytes, list[int]] = {}
        for topic_id, index in sorted(self.owned):
            by_topic.setdefault(topic_id, []).append(index)
        return [TopicPartitions(topic_id=each, partitions=indexes) for each, indexes in by_topic.items()]

    # -- answers -------------------------------------------------------------------------------------------------------
    def receive(self, *, lost: bool = False) -> None:
        """Take in the answer, if there is one."""
        reply = self.pending
        if reply is None or not reply.done:
            return
        self.pending = None
        response = reply.response
        if lost or response.error_code in (ErrorCode.NOT_COORDINATOR, ErrorCode.COORDINATOR_LOAD_IN_PROGRESS):
            self.full = True
            return
        if response.error_code == ErrorCode.UNRELEASED_INSTANCE_ID:
            return
        if response.error_code != ErrorCode.NONE:
            assert response.error_code in (ErrorCode.FENCED_MEMBER_EPOCH, ErrorCode.UNKNOWN_MEMBER_ID), response
            self._forget()
            return
        if self.last["fields"].get("topic_partitions") is not None:
            self.unsaid = self.owned != self.said
            if self.said <= self.told:
                self.revoked_by_ms = None
        self.full = self.said_topics != (self.topics, self.regex)
        self.alive_until_ms = self.asked_at_ms + SESSION_MS
        assert response.member_epoch >= self.epoch
        self.epoch = response.member_epoch
        self.epochs.append(self.epoch)
        if response.assignment is not None:
            self.told = frozenset(
                (each.topic_id, index) for each in response.assignment.topic_partitions for index in each.partitions
            )
            if not self.owned <= self.told:
                self.revoked_by_ms = self.revoked_by_ms or self.asked_at_ms + REBALANCE_MS
            if self.owned != self.told:
                self.unsaid = True

    def act(self) -> None:
        """Give up first what it should; take what is new once that is done."""
        if not self.owned <= self.told:
            self.owned &= self.told
            self.unsaid = True
        elif self.owned != self.told:
            self.owned = self.told
            self.unsaid = True

    def _forget(self) -> None:
        self.epoch = 0
        self.owned = self.told = frozenset()
        self.revoked_by_ms = None
        self.alive_until_ms = 0
        self.full = True
        self.unsaid = True


class ClassicConsumer:
    """One of the classic protocol: `cooperative` keeps what it owns while it joins, others give it up."""

    def __init__(self, cluster: Cluster, name: str, topics: list[str], *, cooperative: bool) -> None:
        self.cluster = cluster
        self.name = name
        self.topics = topics
        self.cooperative = cooperative
        self.member_id = ""
        self.generation = -1
        self.owned: frozenset[Partition] = frozenset()
        self.alive_until_ms = 0
        self.asked_at_ms = 0
        self.must_join = True
        self.must_sync = False
        self.leads: dict[str, bytes] = {}
        self.pending: tuple[str, Reply] | None = None
        self.epochs: list[int] = []

    def owns(self) -> frozenset[Partition]:
        return frozenset() if self.cluster.now_ms >= self.alive_until_ms else self.owned

    def beat(self) -> None:
        if self.pending is not None:
            return
        coordinator, group_id = self.cluster.coordinator, self.cluster.group_id
        self.asked_at_ms = self.cluster.now_ms
        if self.must_join:
            if not self.cooperative:
                self.owned = frozenset()
            protocol = "cooperative" if self.cooperative else "eager"
            self.pending = (
                "join",
                coordinator.join(
                    group_id,
                    self.member_id,
                    protocols={protocol: self._subscription()},
                    session_ms=SESSION_MS,
                    rebalance_ms=CLASSIC_REBALANCE_MS,
                    client_id=self.name,
                ),
            )
        elif self.must_sync:
            assignments = self._assign() if self.leads else {}
            self.pending = ("sync", coordinator.sync(group_id, self.member_id, self.generation, assignments))
        else:
            self.pending = ("heartbeat", coordinator.heartbeat(group_id, self.member_id, self.generation))

    def leave(self) -> None:
        self.cluster.coordinator.leave(self.cluster.group_id, (self.member_id, None))
        self.stop()

    def stop(self) -> None:
        self._forget()
        self.pending = None

    def receive(self, *, lost: bool = False) -> None:
        if self.pending is None or not self.pending[1].done:
            return
        kind, reply = self.pending
        self.pending = None
        response = reply.response
        code = response.error_code
        if lost or code in (ErrorCode.NOT_COORDINATOR, ErrorCode.COORDINATOR_LOAD_IN_PROGRESS):
            self.must_join = self.must_join or kind != "heartbeat"
        elif code == ErrorCode.MEMBER_ID_REQUIRED:
            self.member_id = response.member_id
        elif code == ErrorCode.REBALANCE_IN_PROGRESS:
            self.must_join = True
            self.alive_until_ms = self.asked_at_ms + SESSION_MS
        elif code != ErrorCode.NONE:
            assert code in (ErrorCode.UNKNOWN_MEMBER_ID, ErrorCode.ILLEGAL_GENERATION), response
            keep = self.member_id if code == ErrorCode.ILLEGAL_GENERATION else ""
            self._forget()
            self.member_id = keep
        elif kind == "join":
            self._joined(response)
        elif kind == "sync":
            self._synced(response)
        else:
            self.alive_until_ms = self.asked_at_ms + SESSION_MS

    def act(self) -> None:
        """It takes in answers as a whole."""

    def _joined(self, response: Any) -> None:
        self.must_join, self.must_sync = False, True
        self.member_id, self.generation = response.member_id, response.generation_id
        self.epochs.append(self.generation)
        self.leads = {each.member_id: each.metadata for each in response.members}
        # who has waited for the others has been kept alive by that
        self.alive_until_ms = self.cluster.now_ms + SESSION_MS

    def _synced(self, response: Any) -> None:
        self.must_sync = False
        self.alive_until_ms = self.asked_at_ms + SESSION_MS
        topics = self.cluster.coordinator.topics
        assigned = frozenset(
            (topic.topic_id, index)
            for name, indexes in decode_assignment(response.assignment).items()
            if (topic := topics.topic(name)) is not None
            for index in indexes
        )
        # a cooperative one that has given up something joins again to say so
        self.must_join = not self.owned <= assigned
        self.owned = assigned

    def _subscription(self) -> bytes:
        topics = self.cluster.coordinator.topics
        owned: dict[str, list[int]] = {}
        for topic_id, index in sorted(self.owned):
            name = topics.name_of(topic_id)
            if name is not None:
                owned.setdefault(name, []).append(index)
        message = ConsumerProtocolSubscription(
            topics=[*self.topics],
            owned_partitions=[TopicPartitionResponse(topic=name, partitions=each) for name, each in owned.items()],
            generation_id=self.generation,
        )
        return encode_record_message(message, 2)

    def _assign(self) -> dict[str, bytes]:
        """As the leader of a classic group: in turn; with cooperative members, only what nobody else owns."""
        subscriptions = {member_id: decode_subscription(data) for member_id, data in sorted(self.leads.items())}
        owners = {
            (name, index): member_id
            for member_id, each in subscriptions.items()
            if each is not None
            for name, indexes in each.owned.items()
            for index in indexes
        }
        shares: dict[str, dict[str, list[int]]] = {member_id: {} for member_id in subscriptions}
        turn = 0
        for name in sorted({name for each in subscriptions.values() if each is not None for name in each.topics}):
            topic = self.cluster.coordinator.topics.topic(name)
            subscribers = [each for each, asked in subscriptions.items() if asked is not None and name in asked.topics]
            for index in range(0 if topic is None else topic.partition_count):
                member_id = subscribers[turn % len(subscribers)]
                turn += 1
                if owners.get((name, index), member_id) == member_id or not self.cooperative:
                    shares[member_id].setdefault(name, []).append(index)
        return {each: encode_assignment(share.items(), self.leads[each]) for each, share in shares.items()}

    def _forget(self) -> None:
        self.member_id = ""
        self.generation = -1
        self.owned = frozenset()
        self.alive_until_ms = 0
        self.must_join, self.must_sync = True, False
        self.leads = {}
