"""An idempotent producer, acks=all: one request at a time holds what is to be sent to all partitions of a leader.

Nothing here is a task: a look at what may be sent (`_pump`) follows each record, answer, change of leaders and end of a
pause.
"""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

from bench.transaction_history import Place
from drills.client.client import Client
from drills.client.connection import Disconnected
from drills.client.outbox import IN_FLIGHT_MAX, Batch, Outbox, Verdict
from drills.client.view import Leader, endpoints_of
from protocol.errors import ErrorCode
from protocol.messages.init_producer_id import InitProducerIdRequest
from protocol.messages.produce import PartitionProduceData, ProduceRequest, TopicProduceData
from protocol.records import Record, build_batch

PRODUCE_VERSION = 13
INIT_PRODUCER_ID_VERSION = 4
TIMEOUT_MS = 30_000


class ProducerFailed(Exception):
    """No producer id was given out."""


@dataclass(slots=True, eq=False)
class Message:
    """A record on its way."""

    place: Place
    id: str
    value: bytes


class Listener(Protocol):
    def acknowledged(self, messages: Sequence[Message], base_offset: int | None) -> None:
        """The offset is not known of a batch that was found to be there already."""

    def failed(self, messages: Sequence[Message], reason: str) -> None: ...


class Producer:
    def __init__(self, client: Client, places: Iterable[Place], listener: Listener) -> None:
        self._client = client
        self._listener = listener
        self._loop = asyncio.get_running_loop()
        self._outboxes = {place: Outbox(self._encode, lambda message: len(message.value)) for place in places}
        self._in_flight: dict[int, int] = defaultdict(int)
        """Node id -> requests without answer."""
        self._id = (-1, -1)
        self._timer: asyncio.TimerHandle | None = None
        client.on_change.append(self._pump)

    async def start(self) -> None:
        """Raises ProducerFailed."""
        failures = 0
        while self._id[0] < 0:
            try:
                request = InitProducerIdRequest(transactional_id=None, transaction_timeout_ms=0)
                response = await self._client.call_any(INIT_PRODUCER_ID_VERSION, request)
            except Disconnected as error:
                reason = str(error)
            else:
                self._id = (response.producer_id, response.producer_epoch)
                reason = ErrorCode(response.error_code).name
            if self._id[0] < 0:
                failures += 1
                if failures > 20:
                    raise ProducerFailed(f"{self._client.name} gets no producer id: {reason}")
                await asyncio.sleep(self._client.retry_backoff.pause_s(failures))

    def send(self, messages: Iterable[Message]) -> None:
        for message in messages:
            self._outboxes[message.place].put(message)
        self._pump()

    @property
    def is_idle(self) -> bool:
        """Everything was acknowledged, or failed."""
        return all(outbox.is_empty for outbox in self._outboxes.values())

    def _encode(self, messages: Sequence[Message], base_sequence: int) -> bytes:
        now_ms = time.time_ns() // 1_000_000
        records = [
            Record(offset, now_ms, message.id.encode(), message.value) for offset, message in enumerate(messages)
        ]
        return bytes(
            build_batch(records, producer_id=self._id[0], producer_epoch=self._id[1], base_sequence=base_sequence)
        )

    def _pump(self) -> None:
        if self._id[0] < 0:
            return
        now = self._loop.time()
        by_leader: dict[int, list[tuple[Place, Batch[Message]]]] = defaultdict(list)
        view = self._client.view
        for place, outbox in self._outboxes.items():
            if outbox.is_empty:
                continue
            leader = view.leader(place)
            if leader.node_id < 0:
                self._client.refresh()
            elif self._in_flight[leader.node_id] < IN_FLIGHT_MAX and self._client.ready(leader.node_id) is not None:
                batch = outbox.take(now, leader.epoch)
                if batch is not None:
                    by_leader[leader.node_id].append((place, batch))
        for node_id, batches in by_leader.items():
            self._request(node_id, batches)
        self._wake_later(now)

    def _wake_later(self, now: float) -> None:
        due = [at for outbox in self._outboxes.values() if (at := outbox.due(now)) is not None]
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_at(min(due), self._pump) if due else None

    def _request(self, node_id: int, batches: list[tuple[Place, Batch[Message]]]) -> None:
        connection = self._client.ready(node_id)
        assert connection is not None
        ids = self._client.view.topic_ids
        topics: dict[str, list[PartitionProduceData]] = defaultdict(list)
        for place, batch in batches:
            topics[place.topic].append(PartitionProduceData(index=place.partition, records=batch.data))
        request = ProduceRequest(
            acks=-1,
            timeout_ms=TIMEOUT_MS,
            topic_data=[TopicProduceData(topic_id=ids[topic], partition_data=data) for topic, data in topics.items()],
        )
        self._in_flight[node_id] += 1
        answer = connection.call(PRODUCE_VERSION, request)
        answer.add_done_callback(partial(self._answered, node_id, dict(batches)))

    def _answered(self, node_id: int, batches: dict[Place, Batch[Message]], answer: asyncio.Future[Any]) -> None:
        self._in_flight[node_id] -= 1
        if answer.cancelled():
            return
        if answer.exception() is not None:
            for place, batch in batches.items():
                self._settle(place, batch, ErrorCode.NETWORK_EXCEPTION, None)
        else:
            self._take_in(batches, answer.result())
        self._pump()

    def _take_in(self, batches: dict[Place, Batch[Message]], response: Any) -> None:
        endpoints = endpoints_of(response.node_endpoints)
        names = self._client.view.topic_names
        for topic in response.responses:
            for partition in topic.partition_responses:
                place = Place(names[bytes(topic.topic_id)], partition.index)
                hint = partition.current_leader
                self._client.view.learn_leader(place, Leader(hint.leader_id, hint.leader_epoch), endpoints)
                self._settle(place, batches.pop(place), partition.error_code, partition.base_offset)
        for place, batch in batches.items():
            self._settle(place, batch, ErrorCode.UNKNOWN_SERVER_ERROR, None)

    def _settle(self, place: Place, batch: Batch[Message], error_code: int, base_offset: int | None) -> None:
        outbox = self._outboxes[place]
        verdict = outbox.answered(batch, error_code, self._loop.time(), self._client.retry_backoff.pause_s)
        if verdict is Verdict.ACKNOWLEDGED:
            known = base_offset is not None and base_offset >= 0 and error_code == ErrorCode.NONE
            self._listener.acknowledged(batch.items, base_offset if known else None)
        elif verdict is Verdict.RETRY:
            self._client.refresh()
        else:
            self._listener.failed(batch.items, f"{place}: {ErrorCode(error_code).name}")
