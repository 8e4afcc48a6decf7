"""`MarkerSender`: WriteTxnMarkers to the leaders of the partitions of decided transactions, until all are there.

Invariants
----------
* A job ends when each of its partitions has its marker, can have none (its topic was deleted), or knows a later epoch
  of the producer. Everything else is tried again, with back-off, at whoever leads the partition then.
* All markers of one turn of the loop for one broker leave as one request; a broker has at most `IN_FLIGHT_MAX` of ours.
  What becomes due meanwhile waits for the next one.
* Jobs go with their shard: whoever loads its log next makes them anew.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable, Iterable
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

import structlog

from broker.coordinator.transaction.marker_job import MarkerJob
from broker.coordinator.transaction.records import TopicPartition
from broker.peers import PeerUnavailable
from protocol.errors import ErrorCode
from protocol.messages.write_txn_markers import (
    WritableTxnMarker,
    WritableTxnMarkerTopic,
    WriteTxnMarkersRequest,
    WriteTxnMarkersResponse,
)
from protocol.types import Message

if TYPE_CHECKING:
    from broker.cluster.image import MetadataImage

log = structlog.get_logger()

IN_FLIGHT_MAX = 5
"""Requests to one broker that wait for their answer."""
JOBS_PER_REQUEST_MAX = 500
RETRY_FIRST_S = 0.02
RETRY_MAX_S = 1.0
TELL_AFTER_ATTEMPTS = 5
"""A job that was tried so often is worth a line in the log, once."""

_VERSION = 2

_DONE = frozenset(
    {
        ErrorCode.NONE,
        ErrorCode.INVALID_PRODUCER_EPOCH,
        ErrorCode.UNSUPPORTED_FOR_MESSAGE_FORMAT,
        ErrorCode.UNSUPPORTED_VERSION,
    }
)
"""No (further) marker is due: it is there, the partition knows a later epoch, or it can have no transactions."""


class Brokers(Protocol):
    """What is needed of `broker.peers.Peers`."""

    def call(self, node_id: int, api_version: int, request: Message) -> asyncio.Future[Any]: ...


class MarkerChannel:
    """The jobs of one load of one shard; the machine's `MarkerSink`. `coordinator_epoch`: the leader epoch of its
    partition, by which the partitions tell a former coordinator."""

    __slots__ = ("closed", "coordinator_epoch", "done", "sender")

    def __init__(self, sender: MarkerSender, coordinator_epoch: int, done: Callable[[MarkerJob], None]) -> None:
        self.sender = sender
        self.coordinator_epoch = coordinator_epoch
        self.done = done
        self.closed = False

    def send(self, job: MarkerJob) -> None:
        self.sender.dispatch(_Sending(self, job), job.remaining)

    def close(self) -> None:
        """Nothing more is sent, and no answer counts."""
        self.closed = True


class _Sending:
    """A job under way. `failed`: the partitions that its next attempt is for."""

    __slots__ = ("attempts", "channel", "failed", "job")

    def __init__(self, channel: MarkerChannel, job: MarkerJob) -> None:
        self.channel = channel
        self.job = job
        self.attempts = 0
        self.failed: list[TopicPartition] = []


_Batch = dict[_Sending, list[TopicPartition]]


class MarkerSender:
    def __init__(self, image: MetadataImage, brokers: Brokers) -> None:
        self._image = image
        self._brokers = brokers
        self._queues: defaultdict[int, _Batch] = defaultdict(dict)
        self._in_flight: defaultdict[int, int] = defaultdict(int)
        self._flushing = False
        self._retries: dict[_Sending, asyncio.TimerHandle] = {}

    def close(self) -> None:
        self._queues.clear()
        for retry in self._retries.values():
            retry.cancel()
        self._retries.clear()

    def dispatch(self, sending: _Sending, partitions: Iterable[TopicPartition]) -> None:
        """Send the markers of these partitions of the job; what has no leader is tried again later."""
        leaderless: list[TopicPartition] = []
        for each in [*partitions]:
            topic = self._image.topic(each[0])
            if topic is None or each[1] >= len(topic.partitions):
                sending.job.remaining.discard(each)
                continue
            leader = topic.partitions[each[1]].leader
            broker = self._image.broker(leader)
            if broker is None or not broker.alive:
                leaderless.append(each)
            else:
                self._queues[leader].setdefault(sending, []).append(each)
        self._conclude(sending, leaderless)
        if self._queues and not self._flushing:
            self._flushing = True
            asyncio.get_running_loop().call_soon(self._flush)

    def _flush(self) -> None:
        self._flushing = False
        for node_id in [*self._queues]:
            while node_id in self._queues and self._in_flight[node_id] < IN_FLIGHT_MAX:
                batch = self._next_batch(node_id)
                if batch:
                    self._in_flight[node_id] += 1
                    answer = self._brokers.call(node_id, _VERSION, _request(batch))
                    answer.add_done_callback(partial(self._answered, node_id, batch))

    def _next_batch(self, node_id: int) -> _Batch:
        queue = self._queues[node_id]
        batch = {}
        for sending in [*queue][:JOBS_PER_REQUEST_MAX]:
            partitions = queue.pop(sending)
            if not sending.channel.closed:
                batch[sending] = partitions
        if not queue:
            del self._queues[node_id]
        return batch

    def _answered(self, node_id: int, batch: _Batch, answer: asyncio.Future[Any]) -> None:
        self._in_flight[node_id] -= 1
        if not self._in_flight[node_id]:
            del self._in_flight[node_id]
        codes: dict[tuple[int, str, int], int] = {}
        if not answer.cancelled():
            error = answer.exception()
            if error is None:
                codes = _codes(answer.result())
            elif not isinstance(error, PeerUnavailable):
                raise error
        for sending, partitions in batch.items():
            self._apply(sending, partitions, codes)
        if self._queues:
            self._flush()

    def _apply(
        self, sending: _Sending, partitions: list[TopicPartition], codes: dict[tuple[int, str, int], int]
    ) -> None:
        job = sending.job
        failed: list[TopicPartition] = []
        for each in partitions:
            code = codes.get((job.producer_id, *each), ErrorCode.NETWORK_EXCEPTION)
            if code in _DONE:
                job.remaining.discard(each)
            else:
                failed.append(each)
            if code not in (ErrorCode.NONE, ErrorCode.NETWORK_EXCEPTION) and sending.attempts == TELL_AFTER_ATTEMPTS:
                log.warning(
                    "transaction marker refused",
                    transactional_id=job.transactional_id,
                    topic=each[0],
                    partition=each[1],
                    error=ErrorCode(code).name,
                )
        self._conclude(sending, failed)

    def _conclude(self, sending: _Sending, failed: list[TopicPartition]) -> None:
        """After an attempt for some of the job's partitions: it is done, or what failed is tried again."""
        if sending.channel.closed:
            return
        if not sending.job.remaining:
            sending.channel.done(sending.job)
        elif failed:
            sending.failed += failed
            if sending not in self._retries:
                delay_s = min(RETRY_FIRST_S * 2.0 ** min(sending.attempts, 16), RETRY_MAX_S)
                sending.attempts += 1
                self._retries[sending] = asyncio.get_running_loop().call_later(delay_s, self._retry, sending)

    def _retry(self, sending: _Sending) -> None:
        del self._retries[sending]
        failed, sending.failed = sending.failed, []
        if not sending.channel.closed:
            self.dispatch(sending, failed)


def _request(batch: _Batch) -> WriteTxnMarkersRequest:
    markers = []
    for sending, partitions in batch.items():
        job = sending.job
        topics: dict[str, list[int]] = {}
        for topic, index in partitions:
            topics.setdefault(topic, []).append(index)
        markers.append(
            WritableTxnMarker(
                producer_id=job.producer_id,
                producer_epoch=job.producer_epoch,
                transaction_result=job.commit,
                topics=[WritableTxnMarkerTopic(name=topic, partition_indexes=each) for topic, each in topics.items()],
                coordinator_epoch=sending.channel.coordinator_epoch,
                transaction_version=job.transaction_version,
            )
        )
    return WriteTxnMarkersRequest(markers=markers)


def _codes(response: WriteTxnMarkersResponse) -> dict[tuple[int, str, int], int]:
    return {
        (marker.producer_id, topic.name, each.partition_index): each.error_code
        for marker in response.markers
        for topic in marker.topics
        for each in topic.partitions
    }
