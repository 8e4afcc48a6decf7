"""Incremental fetch sessions (KIP-227): what a consumer fetches is remembered, so that it only says what changed and
is only told what changed.

Pure: time is an argument, randomness is passed in. A request's session id and epoch choose what happens:

====================  =========================================================================================
epoch                 meaning
====================  =========================================================================================
-1 (final)            a full request without a session; ends the session that it names
0 (initial)           a full request that would like a session; ends the session that it names
n > 0                 changes to the session that it names, whose next epoch must be n
====================  =========================================================================================

Invariants
----------
* At most `slots_max` sessions are kept. When there are as many, a new one takes the place of one that was not used for
  `EVICTION_MS`, or of a smaller one that is older than that; else the client gets session id 0 and sends full requests.
* Partitions of a session are read in the order of `partitions`; one that was answered with records goes to the end, so
  that none is starved by the limit on the response's size.
* A partition is part of an incremental response only if it has records or an error, or its high watermark or log start
  offset moved since the last response that named it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from random import Random
from typing import NamedTuple

from broker.partition.partition import Partition
from broker.replica_reads.view import ReplicaView
from protocol.errors import ErrorCode
from protocol.messages.fetch import FetchPartition, FetchRequest
from s3stream.api import FetchResult

EVICTION_MS = 120_000
NO_SESSION = 0
_FINAL_EPOCH = -1
_INITIAL_EPOCH = 0
_INT_MAX = 0x7FFFFFFF
_UNKNOWN_OFFSET = -1

PartitionKey = tuple[str, bytes, int]


class FetchTarget:
    """One partition that a consumer fetches: what it asks for, and what it was told last.

    `topic` is empty when the request names topics by id. `partition` is a cache of the look-up; a view stands in for
    one that another broker leads (`broker.replica_reads`).
    """

    __slots__ = (
        "fetch_offset",
        "index",
        "last_fetched_epoch",
        "leader_epoch",
        "max_size",
        "partition",
        "sent_high_watermark",
        "sent_log_start_offset",
        "topic",
        "topic_id",
    )

    def __init__(self, topic: str, topic_id: bytes, wanted: FetchPartition) -> None:
        self.topic = topic
        self.topic_id = topic_id
        self.index = wanted.partition
        self.partition: Partition | ReplicaView | None = None
        self.sent_high_watermark = _UNKNOWN_OFFSET
        self.sent_log_start_offset = _UNKNOWN_OFFSET
        self.update(wanted)

    def update(self, wanted: FetchPartition) -> None:
        self.fetch_offset = wanted.fetch_offset
        self.max_size = wanted.partition_max_bytes
        self.leader_epoch = wanted.current_leader_epoch
        self.last_fetched_epoch = wanted.last_fetched_epoch


class Fetched(NamedTuple):
    """What a read of one target came to. Offsets are -1 with an error. `found` is None while older data has to be
    fetched; `diverging` is (epoch, end offset) where the client's log has left ours; `aborted` has (producer id, first
    offset) of the aborted transactions in what was found, under read_committed. `preferred_read_replica`: the node to
    read from instead, if not this one."""

    target: FetchTarget
    error_code: ErrorCode
    found: FetchResult | None
    high_watermark: int
    last_stable_offset: int
    log_start_offset: int
    diverging: tuple[int, int] | None
    aborted: Sequence[tuple[int, int]] = ()
    preferred_read_replica: int = -1


class FetchSession:
    """The partitions of one consumer, in the order in which they are read next."""

    __slots__ = ("created_ms", "epoch", "last_used_ms", "partitions", "session_id", "uses_topic_ids")

    def __init__(self, session_id: int, uses_topic_ids: bool, now_ms: int, targets: Iterable[FetchTarget]) -> None:
        self.session_id = session_id
        self.epoch = 1
        self.uses_topic_ids = uses_topic_ids
        self.created_ms = now_ms
        self.last_used_ms = now_ms
        self.partitions: dict[PartitionKey, FetchTarget] = {
            (target.topic, target.topic_id, target.index): target for target in targets
        }


class FetchContext:
    """One request's view: the targets to read, and afterwards what of it is sent."""

    __slots__ = ("_incremental", "_sessions", "_uses_topic_ids", "error_code", "session", "targets")

    def __init__(
        self,
        targets: Sequence[FetchTarget] = (),
        error_code: ErrorCode = ErrorCode.NONE,
        session: FetchSession | None = None,
        creator: FetchSessions | None = None,
        uses_topic_ids: bool = False,
    ) -> None:
        self.targets = targets
        self.error_code = error_code
        self.session = session
        self._incremental = session is not None
        self._sessions = creator
        self._uses_topic_ids = uses_topic_ids

    def select(self, results: list[Fetched], now_ms: int) -> tuple[int, list[Fetched]]:
        """The session id of the response, and the results that are part of it. Called once, with all results."""
        if self._incremental:
            assert self.session is not None
            return self.session.session_id, _changed(self.session, results)
        if self._sessions is not None:
            session = self._sessions.create(self.targets, self._uses_topic_ids, now_ms)
            if session is not None:
                for result in results:
                    _note_sent(result)
                return session.session_id, results
        return NO_SESSION, results


class FetchSessions:
    """All sessions of this broker, least recently used first."""

    def __init__(self, slots_max: int = 1000, random: Random | None = None) -> None:
        self._slots_max = slots_max
        self._random = random if random is not None else Random()
        self._sessions: dict[int, FetchSession] = {}

    def __len__(self) -> int:
        return len(self._sessions)

    def begin(self, request: FetchRequest, uses_topic_ids: bool, now_ms: int) -> FetchContext:
        """Find out what to read. `error_code` of the result is set if the session cannot be used."""
        if request.session_epoch in (_FINAL_EPOCH, _INITIAL_EPOCH):
            if request.session_id != NO_SESSION:
                self._sessions.pop(request.session_id, None)
            creator = self if request.session_epoch == _INITIAL_EPOCH else None
            return FetchContext(_targets(request), creator=creator, uses_topic_ids=uses_topic_ids)
        session = self._sessions.get(request.session_id)
        if session is None:
            return FetchContext(error_code=ErrorCode.FETCH_SESSION_ID_NOT_FOUND)
        if session.epoch != request.session_epoch:
            return FetchContext(error_code=ErrorCode.INVALID_FETCH_SESSION_EPOCH)
        if session.uses_topic_ids != uses_topic_ids:
            return FetchContext(error_code=ErrorCode.FETCH_SESSION_TOPIC_ID_ERROR)
        if request.topics or request.forgotten_topics_data:
            _update(session.partitions, request)
        del self._sessions[session.session_id]
        if not session.partitions:
            return FetchContext()
        self._sessions[session.session_id] = session
        session.last_used_ms = now_ms
        session.epoch = 1 if session.epoch == _INT_MAX else session.epoch + 1
        return FetchContext(list(session.partitions.values()), session=session)

    def create(self, targets: Sequence[FetchTarget], uses_topic_ids: bool, now_ms: int) -> FetchSession | None:
        """A new session, or None if there is no room."""
        if len(self._sessions) >= self._slots_max and not self._evict(len(targets), now_ms):
            return None
        session_id = self._random.randint(1, _INT_MAX)
        while session_id in self._sessions:
            session_id = self._random.randint(1, _INT_MAX)
        session = self._sessions[session_id] = FetchSession(session_id, uses_topic_ids, now_ms, targets)
        return session

    def _evict(self, partition_count: int, now_ms: int) -> bool:
        """Make room for a session of so many partitions, if it deserves it."""
        oldest = next(iter(self._sessions.values()), None)
        if oldest is None:
            return False
        if now_ms - oldest.last_used_ms > EVICTION_MS:
            del self._sessions[oldest.session_id]
            return True
        evictable = (each for each in self._sessions.values() if now_ms - each.created_ms > EVICTION_MS)
        smallest = min(evictable, key=lambda each: len(each.partitions), default=None)
        if smallest is None or len(smallest.partitions) >= partition_count:
            return False
        del self._sessions[smallest.session_id]
        return True


def _targets(request: FetchRequest) -> list[FetchTarget]:
    return [FetchTarget(topic.topic, topic.topic_id, wanted) for topic in request.topics for wanted in topic.partitions]


def _update(partitions: dict[PartitionKey, FetchTarget], request: FetchRequest) -> None:
    for topic in request.topics:
        for wanted in topic.partitions:
            key = (topic.topic, topic.topic_id, wanted.partition)
            target = partitions.get(key)
            if target is None:
                partitions[key] = FetchTarget(topic.topic, topic.topic_id, wanted)
            else:
                target.update(wanted)
    for forgotten in request.forgotten_topics_data:
        for index in forgotten.partitions:
            partitions.pop((forgotten.topic, forgotten.topic_id, index), None)


def _changed(session: FetchSession, results: list[Fetched]) -> list[Fetched]:
    """The results that an incremental response has to name; those with records go to the end of the order."""
    changed: list[Fetched] = []
    partitions = session.partitions
    for result in results:
        target = result.target
        found = result.found
        has_records = found is not None and found.size > 0
        if (
            has_records
            or result.high_watermark != target.sent_high_watermark
            or result.log_start_offset != target.sent_log_start_offset
            or result.error_code
            or result.diverging is not None
        ):
            changed.append(result)
            _note_sent(result)
            if has_records:
                key = (target.topic, target.topic_id, target.index)
                if partitions.pop(key, None) is not None:
                    partitions[key] = target
    return changed


def _note_sent(result: Fetched) -> None:
    target = result.target
    if result.error_code:
        # the recovery from an error is news, too
        target.sent_high_watermark = target.sent_log_start_offset = _UNKNOWN_OFFSET
    else:
        target.sent_high_watermark = result.high_watermark
        target.sent_log_start_offset = result.log_start_offset
