"""Reads partitions from given positions on, as a consumer without a group does: one fetch at a time at each leader."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from bench.transaction_history import Place
from drills.client.client import Client
from drills.client.outbox import RETRIABLE
from drills.client.view import Leader, endpoints_of
from protocol.errors import ErrorCode
from protocol.messages.fetch import FetchPartition, FetchRequest, FetchTopic
from protocol.records import Record, iter_batches, iter_records

FETCH_VERSION = 17
MAX_WAIT_MS = 500
"""Kafka's `fetch.max.wait.ms`."""
MAX_BYTES = 16 << 20
PARTITION_MAX_BYTES = 1 << 20

OnRecords = Callable[[Place, Sequence[Record]], None]


class Consumer:
    """`on_records` gets what was read of one partition, in order; `errors` holds what the application would be told."""

    def __init__(
        self, client: Client, on_records: OnRecords, *, partition_max_bytes: int = PARTITION_MAX_BYTES
    ) -> None:
        self.errors: list[str] = []
        self._client = client
        self._on_records = on_records
        self._partition_max_bytes = partition_max_bytes
        self._loop = asyncio.get_running_loop()
        self._positions: dict[Place, int] = {}
        self._asked: dict[Place, int] = {}
        """Place -> which fetch asks for it."""
        self._failures: dict[Place, int] = defaultdict(int)
        self._not_before: dict[Place, tuple[float, int]] = {}
        """Place -> when it may be asked for again, unless its leader's epoch grows above this."""
        self._busy: set[int] = set()
        """Node ids with a fetch without answer."""
        self._fetch_number = 0
        self._closed = False
        client.on_change.append(self._pump)

    def assign(self, positions: Mapping[Place, int]) -> None:
        """Read these from now on, and no others; what is read already goes on where it is."""
        for place in self._positions.keys() - positions.keys():
            del self._positions[place]
            self._asked.pop(place, None)
        for place, position in positions.items():
            self._positions.setdefault(place, position)
        self._pump()

    def seek(self, positions: Mapping[Place, int]) -> None:
        """Go on from here; what is under way is not delivered."""
        for place, position in positions.items():
            self._positions[place] = position
            self._asked.pop(place, None)
        self._pump()

    def positions(self) -> dict[Place, int]:
        return dict(self._positions)

    def close(self) -> None:
        self._closed = True
        self._positions.clear()

    def _pump(self) -> None:
        if self._closed:
            return
        now = self._loop.time()
        by_leader: dict[int, list[Place]] = defaultdict(list)
        for place in self._positions:
            leader = self._client.view.leader(place)
            not_before, epoch = self._not_before.get(place, (0.0, -1))
            if place in self._asked or (now < not_before and leader.epoch <= epoch):
                continue
            if leader.node_id < 0:
                self._client.refresh()
            elif leader.node_id not in self._busy and self._client.ready(leader.node_id) is not None:
                by_leader[leader.node_id].append(place)
        for node_id, places in by_leader.items():
            self._fetch(node_id, places)

    def _fetch(self, node_id: int, places: Sequence[Place]) -> None:
        connection = self._client.ready(node_id)
        assert connection is not None
        view = self._client.view
        topics: dict[str, list[FetchPartition]] = defaultdict(list)
        for place in places:
            topics[place.topic].append(
                FetchPartition(
                    partition=place.partition,
                    current_leader_epoch=view.leader(place).epoch,
                    fetch_offset=self._positions[place],
                    partition_max_bytes=self._partition_max_bytes,
                )
            )
        request = FetchRequest(
            max_wait_ms=MAX_WAIT_MS,
            min_bytes=1,
            max_bytes=MAX_BYTES,
            topics=[FetchTopic(topic_id=view.topic_ids[topic], partitions=asked) for topic, asked in topics.items()],
        )
        self._fetch_number += 1
        self._asked.update(dict.fromkeys(places, self._fetch_number))
        self._busy.add(node_id)
        answer = connection.call(FETCH_VERSION, request)
        answer.add_done_callback(partial(self._answered, node_id, places, self._fetch_number))

    def _answered(self, node_id: int, places: Sequence[Place], number: int, answer: asyncio.Future[Any]) -> None:
        self._busy.discard(node_id)
        if answer.cancelled() or self._closed:
            return
        current = {place for place in places if self._asked.get(place) == number}
        for place in current:
            del self._asked[place]
        if answer.exception() is not None:
            for place in current:
                self._failed(place, ErrorCode.NETWORK_EXCEPTION, self._client.view.leader(place).epoch)
        else:
            self._take_in(current, answer.result())
        self._pump()

    def _take_in(self, current: set[Place], response: Any) -> None:
        endpoints = endpoints_of(response.node_endpoints)
        names = self._client.view.topic_names
        if response.error_code:
            for place in current:
                self._failed(place, response.error_code, self._client.view.leader(place).epoch)
        for topic in response.responses:
            for partition in topic.partitions:
                place = Place(names[bytes(topic.topic_id)], partition.partition_index)
                if place not in current:
                    continue
                if partition.error_code:
                    tried = self._client.view.leader(place).epoch
                    hint = partition.current_leader
                    self._client.view.learn_leader(place, Leader(hint.leader_id, hint.leader_epoch), endpoints)
                    self._failed(place, partition.error_code, tried)
                else:
                    self._failures.pop(place, None)
                    self._deliver(place, partition.records)

    def _deliver(self, place: Place, data: Any) -> None:
        position = self._positions[place]
        found: list[Record] = []
        for header, batch in iter_batches(data or b""):
            if not header.is_control:
                found += (record for record in iter_records(batch) if record.offset >= position)
            self._positions[place] = header.next_offset
        if found:
            self._on_records(place, found)

    def _failed(self, place: Place, error_code: int, tried_epoch: int) -> None:
        if error_code not in RETRIABLE:
            self.errors.append(f"{self._client.name}: {place}: {ErrorCode(error_code).name}")
        self._failures[place] += 1
        pause_s = self._client.retry_backoff.pause_s(self._failures[place])
        self._not_before[place] = (self._loop.time() + pause_s, tried_epoch)
        self._loop.call_later(pause_s, self._pump)
        self._client.refresh()
