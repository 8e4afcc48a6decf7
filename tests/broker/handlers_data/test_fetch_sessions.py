from __future__ import annotations

from dataclasses import dataclass, field
from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st

from broker.fetch_sessions import EVICTION_MS, FetchContext, Fetched, FetchSessions
from protocol.errors import ErrorCode
from protocol.messages.fetch import FetchPartition, FetchRequest, FetchTopic, ForgottenTopic
from protocol.types import ZERO_UUID
from s3stream.api import FetchResult


def request(
    session_id: int = 0,
    epoch: int = 0,
    offsets: dict[int, int] | None = None,
    forget: list[int] | None = None,
) -> FetchRequest:
    partitions = [FetchPartition(partition=index, fetch_offset=offset) for index, offset in (offsets or {}).items()]
    return FetchRequest(
        session_id=session_id,
        session_epoch=epoch,
        topics=[FetchTopic(topic="t", partitions=partitions)] if partitions else [],
        forgotten_topics_data=[ForgottenTopic(topic="t", partitions=forget)] if forget else [],
    )


def results(
    context: FetchContext, sizes: dict[int, int] | None = None, marks: dict[int, int] | None = None
) -> list[Fetched]:
    return [
        Fetched(
            target,
            ErrorCode.NONE,
            FetchResult((), (sizes or {}).get(target.index, 0), 0),
            (marks or {}).get(target.index, 0),
            0,
            0,
            None,
        )
        for target in context.targets
    ]


def named(selected: list[Fetched]) -> list[int]:
    return [each.target.index for each in selected]


def opened(sessions: FetchSessions, offsets: dict[int, int], now_ms: int = 0) -> int:
    context = sessions.begin(request(0, 0, offsets), False, now_ms)
    session_id, _ = context.select(results(context), now_ms)
    return session_id


def test_a_full_request_without_session_gets_everything_and_no_session() -> None:
    sessions = FetchSessions(2, Random(1))
    context = sessions.begin(request(0, -1, {0: 0, 1: 0}), False, 0)
    session_id, selected = context.select(results(context), 0)
    assert (session_id, named(selected), len(sessions)) == (0, [0, 1], 0)


def test_an_incremental_request_is_answered_with_what_changed() -> None:
    sessions = FetchSessions(2, Random(1))
    session_id = opened(sessions, {0: 0, 1: 0, 2: 0})
    context = sessions.begin(request(session_id, 1), False, 0)
    assert named(context.select(results(context, marks={1: 5}), 0)[1]) == [1]
    context = sessions.begin(request(session_id, 2), False, 0)
    assert named(context.select(results(context, marks={1: 5}), 0)[1]) == []


def test_partitions_with_records_are_read_last_next_time() -> None:
    sessions = FetchSessions(2, Random(1))
    session_id = opened(sessions, {0: 0, 1: 0, 2: 0})
    context = sessions.begin(request(session_id, 1), False, 0)
    context.select(results(context, sizes={0: 10}), 0)
    context = sessions.begin(request(session_id, 2), False, 0)
    assert [target.index for target in context.targets] == [1, 2, 0]


def test_an_error_is_told_and_so_is_its_end() -> None:
    sessions = FetchSessions(2, Random(1))
    session_id = opened(sessions, {0: 0})
    context = sessions.begin(request(session_id, 1), False, 0)
    failed = [Fetched(context.targets[0], ErrorCode.NOT_LEADER_OR_FOLLOWER, None, -1, -1, -1, None)]
    assert named(context.select(failed, 0)[1]) == [0]
    context = sessions.begin(request(session_id, 2), False, 0)
    assert named(context.select(results(context), 0)[1]) == [0]


def test_unknown_sessions_and_wrong_epochs_are_refused() -> None:
    sessions = FetchSessions(2, Random(1))
    session_id = opened(sessions, {0: 0})
    assert sessions.begin(request(session_id + 1, 1), False, 0).error_code == ErrorCode.FETCH_SESSION_ID_NOT_FOUND
    assert sessions.begin(request(session_id, 2), False, 0).error_code == ErrorCode.INVALID_FETCH_SESSION_EPOCH
    assert sessions.begin(request(session_id, 1), True, 0).error_code == ErrorCode.FETCH_SESSION_TOPIC_ID_ERROR
    assert sessions.begin(request(session_id, 1), False, 0).error_code == ErrorCode.NONE
    assert sessions.begin(request(session_id, 1), False, 0).error_code == ErrorCode.INVALID_FETCH_SESSION_EPOCH


def test_a_final_epoch_ends_the_session() -> None:
    sessions = FetchSessions(2, Random(1))
    session_id = opened(sessions, {0: 0})
    sessions.begin(request(session_id, -1), False, 0)
    assert len(sessions) == 0


def test_a_session_without_partitions_ends() -> None:
    sessions = FetchSessions(2, Random(1))
    session_id = opened(sessions, {0: 0})
    context = sessions.begin(request(session_id, 1, forget=[0]), False, 0)
    assert context.select([], 0) == (0, [])
    assert len(sessions) == 0


def test_a_full_cache_gives_no_session_until_one_is_stale() -> None:
    sessions = FetchSessions(2, Random(1))
    assert opened(sessions, {0: 0}) != 0
    assert opened(sessions, {0: 0}) != 0
    assert opened(sessions, {0: 0, 1: 0}, now_ms=EVICTION_MS) == 0
    assert opened(sessions, {0: 0}, now_ms=EVICTION_MS + 1) != 0
    assert len(sessions) == 2


def test_a_larger_session_takes_the_place_of_an_old_smaller_one() -> None:
    sessions = FetchSessions(1, Random(1))
    session_id = opened(sessions, {0: 0})
    later = EVICTION_MS + 1
    context = sessions.begin(request(session_id, 1), False, later)
    context.select(results(context), later)
    assert opened(sessions, {0: 0}, now_ms=later) == 0
    assert opened(sessions, {0: 0, 1: 0}, now_ms=later) != 0


@dataclass
class ClientModel:
    """What a client believes: partitions with their offsets, and the high watermark it was last told."""

    offsets: dict[int, int] = field(default_factory=dict)
    told: dict[int, int] = field(default_factory=dict)


change = st.tuples(
    st.dictionaries(st.integers(0, 5), st.integers(0, 9), max_size=3),
    st.lists(st.integers(0, 5), max_size=2, unique=True),
    st.dictionaries(st.integers(0, 5), st.integers(0, 3), max_size=3),
    st.sets(st.integers(0, 5), max_size=2),
)


@settings(max_examples=60)
@given(st.dictionaries(st.integers(0, 5), st.integers(0, 9), min_size=1), st.lists(change, max_size=15))
def test_client_and_session_never_disagree(
    first: dict[int, int],
    script: list[tuple[dict[int, int], list[int], dict[int, int], set[int]]],
) -> None:
    sessions = FetchSessions(3, Random(2))
    client = ClientModel(dict(first))
    marks: dict[int, int] = {}
    session_id = opened(sessions, first)
    client.told = dict.fromkeys(first, 0)
    epoch = 1
    for wanted, forget, new_marks, with_records in script:
        marks |= new_marks
        client.offsets |= wanted
        client.told |= {index: -1 for index in wanted if index not in client.told}
        for index in forget:
            client.offsets.pop(index, None)
            client.told.pop(index, None)
        context = sessions.begin(request(session_id, epoch, wanted, forget), False, 0)
        if not client.offsets:
            assert not context.targets
            return
        assert {target.index: target.fetch_offset for target in context.targets} == client.offsets
        answered_id, selected = context.select(results(context, dict.fromkeys(with_records, 1), marks), 0)
        assert answered_id == session_id
        expected = {
            index for index in client.offsets if index in with_records or marks.get(index, 0) != client.told[index]
        }
        assert set(named(selected)) == expected
        client.told |= {index: marks.get(index, 0) for index in expected}
        epoch += 1


def test_topic_ids_are_part_of_a_partition_s_identity() -> None:
    sessions = FetchSessions(2, Random(1))
    first, second = bytes(15) + b"\1", bytes(15) + b"\2"
    topics = [FetchTopic(topic_id=each, partitions=[FetchPartition(partition=0)]) for each in (first, second)]
    context = sessions.begin(FetchRequest(session_epoch=0, topics=topics), True, 0)
    assert [target.topic_id for target in context.targets] == [first, second]
    assert ZERO_UUID not in (first, second)
