"""Clients on their own machine: idempotent producers with acks=all and readers, who speak the protocol with any broker.

A producer repeats what was not answered, in order, under the same sequence numbers, to whoever is said to lead or, now
and then, to anybody. A reader takes what any broker serves. What both know is the history that is judged.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bench.history import Assignment, Outcome, Seen, Send
from protocol.codec import decode_response, encode_request
from protocol.errors import ErrorCode
from protocol.framing import FrameReader
from protocol.messages.fetch import FetchPartition, FetchRequest, FetchTopic
from protocol.messages.init_producer_id import InitProducerIdRequest
from protocol.messages.metadata import MetadataRequest, MetadataRequestTopic
from protocol.messages.produce import PartitionProduceData, ProduceRequest, TopicProduceData
from protocol.records import decode_records, iter_batches
from tests.broker.partition.batches import batch

if TYPE_CHECKING:
    from tests.cluster_sim.world import World

TOPIC = "t"
REQUEST_TIMEOUT_S = 2.0
_PRODUCE, _FETCH, _METADATA, _INIT_PRODUCER_ID = (0, 10), (1, 12), (3, 9), (22, 3)
_UNAVAILABLE = (OSError, TimeoutError, asyncio.TimeoutError)


class Unanswered(OSError):
    """The connection ended first."""


class Wire(asyncio.Protocol):
    """One connection: requests are answered in order."""

    def __init__(self) -> None:
        self._reader = FrameReader(1 << 20)
        self._waiting: deque[tuple[int, int, asyncio.Future[Any]]] = deque()
        self._transport: Any = None
        self.is_lost = False

    def connection_made(self, transport: Any) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        for frame in self._reader.receive(data):
            key, version, answer = self._waiting.popleft()
            _, response = decode_response(key, version, frame)
            if not answer.done():
                answer.set_result(response)

    def connection_lost(self, exc: Exception | None) -> None:
        self.is_lost = True
        while self._waiting:
            answer = self._waiting.popleft()[2]
            if not answer.done():
                answer.set_exception(Unanswered("connection lost"))
                answer.exception()

    def ask(self, api: tuple[int, int], request: Any) -> asyncio.Future[Any]:
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        if self.is_lost:
            answer.set_exception(Unanswered("connection lost"))
            answer.exception()
            return answer
        self._waiting.append((*api, answer))
        self._transport.write(encode_request(*api, 0, "sim", request))
        return answer

    def close(self) -> None:
        if self._transport is not None:
            self._transport.abort()


class Client:
    """Connections of one client, and what it believes of leaders."""

    def __init__(self, world: World, name: str) -> None:
        self.world = world
        self.name = name
        self.rng = random.Random(world.rng.getrandbits(64))
        self.leaders: dict[int, int] = {}
        self.stopping = False
        self.errors: deque[str] = deque(maxlen=5)
        """The last reasons why something did not work."""
        self._wires: dict[int, Wire] = {}

    async def wire(self, node_id: int) -> Wire:
        known = self._wires.get(node_id)
        if known is not None and not known.is_lost:
            return known
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(REQUEST_TIMEOUT_S):
            _, wire = await loop.create_connection(Wire, f"node{node_id}", 9092)
        self._wires[node_id] = wire
        return wire  # type: ignore[no-any-return]

    async def ask(self, node_id: int, api: tuple[int, int], request: Any, timeout_s: float = REQUEST_TIMEOUT_S) -> Any:
        wire = await self.wire(node_id)
        try:
            async with asyncio.timeout(timeout_s):
                return await wire.ask(api, request)
        except TimeoutError:
            self.give_up(node_id)
            raise

    def give_up(self, node_id: int) -> None:
        wire = self._wires.pop(node_id, None)
        if wire is not None:
            wire.close()

    def close(self) -> None:
        for node_id in list(self._wires):
            self.give_up(node_id)

    def any_node(self) -> int:
        return self.rng.choice(sorted(self.world.nodes))

    async def learn_leaders(self, node_id: int | None = None) -> None:
        """From this one, or from anybody. Raises OSError, TimeoutError."""
        request = MetadataRequest(topics=[MetadataRequestTopic(name=TOPIC)], allow_auto_topic_creation=False)
        response = await self.ask(self.any_node() if node_id is None else node_id, _METADATA, request)
        for topic in response.topics:
            for partition in topic.partitions:
                if partition.leader_id >= 0:
                    self.leaders[partition.partition_index] = partition.leader_id
                else:
                    self.leaders.pop(partition.partition_index, None)

    def choose(self, partition: int, anybody: float) -> int:
        leader = self.leaders.get(partition)
        if leader is None or self.rng.random() < anybody:
            return self.any_node()
        return leader

    async def fetch(self, node_id: int, partition: int, offset: int, max_wait_ms: int) -> Any:
        """The partition's part of the response."""
        wanted = FetchPartition(
            partition=partition, fetch_offset=offset, partition_max_bytes=self.rng.choice((1, 5000))
        )
        request = FetchRequest(
            max_wait_ms=max_wait_ms,
            min_bytes=1,
            max_bytes=1 << 20,
            topics=[FetchTopic(topic=TOPIC, partitions=[wanted])],
        )
        response = await self.ask(node_id, _FETCH, request)
        return response.responses[0].partitions[0]


@dataclass(slots=True)
class Outstanding:
    """A batch that is not acknowledged, and since when it waits for that."""

    base_sequence: int
    sends: list[Send]
    since: float
    data: bytes = b""


class Producer(Client):
    """Appends to one partition; up to `window` batches are on their way."""

    def __init__(self, world: World, number: int, partition: int, window: int) -> None:
        super().__init__(world, f"p{number}")
        self.partition = partition
        self.window = window
        self.pause_s = 0.0
        """After each acknowledgement, at least."""
        self.sends: list[Send] = []
        self.acknowledged_count = 0
        self.acknowledged_by: Counter[int] = Counter()
        """Node id -> how many of them."""
        self.longest_wait_s = 0.0
        self._outstanding: deque[Outstanding] = deque()
        self._producer_id = -1
        self._sequence = 0

    async def run(self) -> None:
        while not (self.stopping and not self._outstanding):
            # a partition that does not know a producer takes any sequence number, as Kafka's do: the first goes alone
            window = self.window if self.acknowledged_count else 1
            while not self.stopping and len(self._outstanding) < window:
                self._add()
            try:
                if self._producer_id < 0:
                    await self._begin()
                progressed = await self._send_all()
            except _UNAVAILABLE as error:
                self.errors.append(repr(error))
                progressed = False
                if self.rng.random() < 0.7:
                    self.leaders.pop(self.partition, None)
            if progressed:
                await asyncio.sleep(max(self.pause_s, self.rng.choice((0.0, 0.05, 0.1, 0.3))))
                continue
            await asyncio.sleep(self.rng.uniform(0.01, 0.2))
            if self.rng.random() < 0.8:
                try:
                    await self.learn_leaders()
                except _UNAVAILABLE as error:
                    self.errors.append(f"metadata: {error!r}")

    async def _begin(self) -> None:
        request = InitProducerIdRequest(transactional_id=None, transaction_timeout_ms=60_000)
        response = await self.ask(self.any_node(), _INIT_PRODUCER_ID, request)
        if response.error_code:
            raise OSError(f"no producer id: {response.error_code}")
        self._producer_id = response.producer_id

    def _add(self) -> None:
        count = self.rng.choice((1, 1, 2, 4))
        sends = []
        for _ in range(count):
            number = len(self.sends)
            send = Send(f"{self.name}-{number}", self.name, number, self.partition)
            self.sends.append(send)
            sends.append(send)
        self._outstanding.append(Outstanding(self._sequence, sends, self.world.kernel.now))
        self._sequence += count

    def _encode(self, entry: Outstanding) -> bytes:
        if not entry.data:
            padding = b"x" * self.rng.choice((0, 10, 300))
            values = [f"{send.id} ".encode() + padding for send in entry.sends]
            entry.data = bytes(batch(values, producer_id=self._producer_id, epoch=0, sequence=entry.base_sequence))
        return entry.data

    async def _send_all(self) -> bool:
        """Send what is outstanding, in order; whether anything was acknowledged."""
        node_id = self.choose(self.partition, 0.02)
        wire = await self.wire(node_id)
        answers = []
        for entry in self._outstanding:
            data = TopicProduceData(
                name=TOPIC,
                partition_data=[PartitionProduceData(index=self.partition, records=memoryview(self._encode(entry)))],
            )
            answers.append((entry, wire.ask(_PRODUCE, ProduceRequest(acks=-1, timeout_ms=30_000, topic_data=[data]))))
        progressed = False
        try:
            async with asyncio.timeout(REQUEST_TIMEOUT_S * self.rng.choice((0.2, 1, 2))):
                for entry, answer in answers:
                    response = (await answer).responses[0].partition_responses[0]
                    code = response.error_code
                    if code == ErrorCode.NONE:
                        self._acknowledged(entry, response.base_offset, node_id)
                        progressed = True
                        continue
                    self.errors.append(f"node {node_id}: {ErrorCode(code).name}")
                    self.world.counters[f"produce {ErrorCode(code).name}"] += 1
                    hint = response.current_leader
                    if hint is not None and hint.leader_id >= 0:
                        self.leaders[self.partition] = hint.leader_id
                    else:
                        self.leaders.pop(self.partition, None)
                    if code not in _RETRIABLE:
                        self.world.violation("refused", f"{entry.sends[0]} by node {node_id}: {ErrorCode(code).name}")
                        self.stopping = True
                    break
        except TimeoutError:
            self.give_up(node_id)
            raise
        return progressed

    def _acknowledged(self, entry: Outstanding, base_offset: int, node_id: int) -> None:
        for delta, send in enumerate(entry.sends):
            send.outcome = Outcome.ACKNOWLEDGED
            send.offset = base_offset + delta
        self.acknowledged_count += len(entry.sends)
        self.acknowledged_by[node_id] += len(entry.sends)
        self._outstanding.remove(entry)
        self.longest_wait_s = max(self.longest_wait_s, self.world.kernel.now - entry.since)
        self.world.note(self.name, "acknowledged", self.partition, base_offset, len(entry.sends), "by", node_id)
        if self._outstanding and self._outstanding[0].base_sequence < entry.base_sequence:
            self.world.violation("reordered", f"{entry.sends[0]} was acknowledged before an earlier one")


_RETRIABLE = frozenset(
    {
        ErrorCode.UNKNOWN_TOPIC_OR_PARTITION,
        ErrorCode.LEADER_NOT_AVAILABLE,
        ErrorCode.NOT_LEADER_OR_FOLLOWER,
        ErrorCode.REQUEST_TIMED_OUT,
        ErrorCode.KAFKA_STORAGE_ERROR,
        ErrorCode.NOT_ENOUGH_REPLICAS,
        ErrorCode.NOT_ENOUGH_REPLICAS_AFTER_APPEND,
        ErrorCode.COORDINATOR_NOT_AVAILABLE,
        ErrorCode.THROTTLING_QUOTA_EXCEEDED,
        ErrorCode.OUT_OF_ORDER_SEQUENCE_NUMBER,
    }
)
"""The last one: from a broker that was replaced and does not know it yet. Who never gets past it is found stuck."""


class Reader(Client):
    """Reads partitions, one after the other, from whoever serves them."""

    def __init__(self, world: World, number: int) -> None:
        super().__init__(world, f"r{number}")
        self.assignments: list[Assignment] = []
        self.high_watermarks: dict[int, int] = {}

    async def run(self) -> None:
        while not self.stopping:
            partition = self.rng.randrange(self.world.partition_count)
            assignment = Assignment(f"{self.name}.{len(self.assignments)}", partition, None)
            self.assignments.append(assignment)
            await self._read(assignment, self.rng.randint(5, 60))

    async def _read(self, assignment: Assignment, polls: int) -> None:
        position = 0
        for _ in range(polls):
            if self.stopping:
                return
            node_id = self.choose(assignment.partition, 0.3)
            try:
                found = await self.fetch(node_id, assignment.partition, position, self.rng.choice((0, 50, 500)))
                if found.error_code:
                    self.world.counters[f"fetch {ErrorCode(found.error_code).name}"] += 1
                    self.leaders.pop(assignment.partition, None)
                    if self.rng.random() < 0.5:
                        await self.learn_leaders()
            except _UNAVAILABLE:
                await asyncio.sleep(self.rng.uniform(0.01, 0.2))
                continue
            if not found.error_code:
                self.leaders.setdefault(assignment.partition, node_id)
                known = self.high_watermarks.get(assignment.partition, 0)
                self.high_watermarks[assignment.partition] = max(known, found.high_watermark)
                position = take(found.records, assignment.partition, position, assignment.seen.append)
            await asyncio.sleep(self.rng.choice((0.02, 0.1, 0.5)))


def take(records: Any, partition: int, position: int, add: Callable[[Seen], None]) -> int:
    """Hand out the records from `position` on; returns the position after them."""
    for header, data in iter_batches(memoryview(b"".join(records)) if isinstance(records, list) else records or b""):
        for record in decode_records(data):
            if record.offset >= position:
                assert record.value is not None
                add(Seen(partition, record.offset, bytes(record.value).split()[0].decode()))
                position = record.offset + 1
        assert header.last_offset < position
    return position
