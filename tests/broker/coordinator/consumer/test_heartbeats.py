"""ConsumerGroupHeartbeat, request by request: what Apache Kafka 4.3.1 answers to the same."""

from __future__ import annotations

from typing import Any

import pytest

from broker.coordinator.group.consumer.config import ConsumerGroupConfig, Interval
from broker.coordinator.reply import Reply
from protocol.errors import ErrorCode
from protocol.messages.consumer_group_heartbeat import TopicPartitions
from protocol.types import ZERO_UUID
from tests.broker.coordinator.harness import Coordinator, commit_error, subscription

NOW = Interval(0, 0, 15_000)
SESSION_MS = 45_000


@pytest.fixture
def coordinator() -> Coordinator:
    return started()


def started(**config: Any) -> Coordinator:
    coordinator = Coordinator(
        initial_rebalance_delay_ms=0, consumer=ConsumerGroupConfig(**({"assignment_interval": NOW} | config))
    )
    coordinator.topics.put("a", 4)
    coordinator.topics.put("b", 2)
    return coordinator


def join(coordinator: Coordinator, member_id: str, *topics: str, **fields: Any) -> Reply:
    fields.setdefault("rebalance_timeout_ms", 30_000)
    fields.setdefault("subscribed_topic_names", [*topics])
    return coordinator.consumer_heartbeat("g", member_id, 0, topic_partitions=[], **fields)


def beat(coordinator: Coordinator, member_id: str, epoch: int, owned: dict[str, list[int]] | None = None) -> Reply:
    return coordinator.consumer_heartbeat("g", member_id, epoch, topic_partitions=said(coordinator, owned))


def said(coordinator: Coordinator, owned: dict[str, list[int]] | None) -> list[TopicPartitions] | None:
    if owned is None:
        return None
    topics = [(coordinator.topics.topic(name), indexes) for name, indexes in owned.items()]
    return [TopicPartitions(topic_id=topic.topic_id, partitions=each) for topic, each in topics if topic is not None]


def told(coordinator: Coordinator, reply: Reply) -> tuple[int, dict[str, list[int]] | None]:
    """Epoch and assignment of an answer without error."""
    response = reply.response
    assert response.error_code == ErrorCode.NONE, response.error_message
    if response.assignment is None:
        return response.member_epoch, None
    names = {each.topic_id: each.partitions for each in response.assignment.topic_partitions}
    return response.member_epoch, {coordinator.topics.name_of(each) or "?": names[each] for each in names}


def error(reply: Reply) -> tuple[int, str]:
    return reply.response.error_code, reply.response.error_message


def two_members(coordinator: Coordinator) -> None:
    """m1 has a-0 and a-1, m2 has a-2 and a-3, at epoch 3."""
    join(coordinator, "m1", "a")
    join(coordinator, "m2", "a")
    beat(coordinator, "m1", 2)
    beat(coordinator, "m1", 2, {"a": [0, 1]})
    assert told(coordinator, beat(coordinator, "m2", 3)) == (3, {"a": [2, 3]})


# -- joining, reconciling ----------------------------------------------------------------------------------------------
def test_the_first_member_gets_everything_at_epoch_2(coordinator: Coordinator) -> None:
    assert told(coordinator, join(coordinator, "m1", "a", "b")) == (2, {"a": [0, 1, 2, 3], "b": [0, 1]})


def test_partitions_are_given_up_before_they_are_given_away(coordinator: Coordinator) -> None:
    join(coordinator, "m1", "a")
    assert told(coordinator, join(coordinator, "m2", "a")) == (3, {})
    assert told(coordinator, beat(coordinator, "m1", 2)) == (2, {"a": [0, 1]})
    assert told(coordinator, beat(coordinator, "m2", 3)) == (3, None)
    assert told(coordinator, beat(coordinator, "m1", 2, {"a": [0, 1, 2, 3]})) == (2, None)
    assert told(coordinator, beat(coordinator, "m2", 3)) == (3, None)
    assert told(coordinator, beat(coordinator, "m1", 2, {"a": [0, 1]})) == (3, None)
    assert told(coordinator, beat(coordinator, "m2", 3)) == (3, {"a": [2, 3]})


def test_a_full_request_is_answered_in_full(coordinator: Coordinator) -> None:
    two_members(coordinator)
    fields: dict[str, Any] = {"rebalance_timeout_ms": 30_000, "subscribed_topic_names": ["a"]}
    reply = coordinator.consumer_heartbeat("g", "m1", 3, topic_partitions=said(coordinator, {"a": [0, 1]}), **fields)
    assert told(coordinator, reply) == (3, {"a": [0, 1]})


def test_who_missed_a_response_comes_with_the_epoch_before(coordinator: Coordinator) -> None:
    two_members(coordinator)
    assert told(coordinator, beat(coordinator, "m1", 2, {"a": [0]})) == (3, {"a": [0, 1]})
    for owned in (None, {"a": [0, 1, 2]}):
        code, message = error(beat(coordinator, "m1", 2, owned))
        assert code == ErrorCode.FENCED_MEMBER_EPOCH
        assert message == (
            "The consumer group member has a smaller member epoch (2) than the one known by the group coordinator (3). "
            "The member must abandon all its partitions and rejoin."
        )


def test_an_epoch_from_the_future_is_fenced(coordinator: Coordinator) -> None:
    two_members(coordinator)
    code, message = error(beat(coordinator, "m1", 4))
    assert code == ErrorCode.FENCED_MEMBER_EPOCH
    assert "a greater member epoch (4)" in message


def test_what_is_said_by_who_missed_a_response_counts_when_it_is_said_again(coordinator: Coordinator) -> None:
    """It may be about to take what it was told before, and has not heard yet that it should not."""
    join(coordinator, "m1", "a")
    join(coordinator, "m2", "a")
    fields: dict[str, Any] = {"rebalance_timeout_ms": 30_000, "subscribed_topic_names": ["a"], "topic_partitions": []}
    assert told(coordinator, coordinator.consumer_heartbeat("g", "m1", 2, **fields)) == (2, {"a": [0, 1]})
    assert told(coordinator, coordinator.consumer_heartbeat("g", "m1", 2, **fields)) == (2, {"a": [0, 1]})
    assert told(coordinator, beat(coordinator, "m2", 3)) == (3, None)
    assert told(coordinator, beat(coordinator, "m1", 2)) == (3, None)
    assert told(coordinator, beat(coordinator, "m2", 3)) == (3, {"a": [2, 3]})


def test_who_joins_again_owns_nothing(coordinator: Coordinator) -> None:
    join(coordinator, "m1", "a")
    join(coordinator, "m2", "a")
    assert told(coordinator, join(coordinator, "m1", "a")) == (3, {"a": [0, 1]})
    assert told(coordinator, beat(coordinator, "m2", 3)) == (3, {"a": [2, 3]})


def test_the_coordinator_makes_an_id_for_who_has_none(coordinator: Coordinator) -> None:
    response = join(coordinator, "", "a").response
    assert response.error_code == ErrorCode.NONE
    assert response.member_id
    assert [*coordinator.groups["g"].members] == [response.member_id]


def test_a_group_has_no_more_members_than_it_may() -> None:
    coordinator = started(size_max=1)
    join(coordinator, "m1", "a")
    join(coordinator, "m1", "a")
    assert error(join(coordinator, "m2", "a")) == (
        ErrorCode.GROUP_MAX_SIZE_REACHED,
        "The consumer group has reached its maximum capacity of 1 members.",
    )


def test_assignments_of_a_group_keep_their_distance() -> None:
    coordinator = started(assignment_interval=Interval(1_000, 0, 15_000))
    join(coordinator, "m1", "a")
    assert told(coordinator, join(coordinator, "m2", "a")) == (2, {})
    assert coordinator.groups["g"].state.value == "Assigning"
    coordinator.advance(1_000)
    assert told(coordinator, beat(coordinator, "m1", 2)) == (2, {"a": [0, 1]})


def test_configs_of_a_group_are_kept_within_the_bounds_of_the_broker() -> None:
    own = {"consumer.heartbeat.interval.ms": "7000", "consumer.session.timeout.ms": "900000"}
    coordinator = started(overrides=lambda group_id: own if group_id == "g" else {})
    assert join(coordinator, "m1", "a").response.heartbeat_interval_ms == 7_000
    coordinator.advance(59_999)
    assert coordinator.groups["g"].members
    coordinator.advance(1)
    assert not coordinator.groups["g"].members


# -- refusals ----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("group_id", "epoch", "message"),
    [("none", 5, "Consumer group none not found."), ("none", -1, "Group none not found.")],
)
def test_a_group_that_is_not_there(coordinator: Coordinator, group_id: str, epoch: int, message: str) -> None:
    reply = coordinator.consumer_heartbeat(group_id, "m", epoch)
    assert error(reply) == (ErrorCode.GROUP_ID_NOT_FOUND, message)


@pytest.mark.parametrize("epoch", [1, -1])
def test_a_member_that_is_not_there(coordinator: Coordinator, epoch: int) -> None:
    join(coordinator, "m1", "a")
    code, message = error(coordinator.consumer_heartbeat("g", "m9", epoch))
    assert (code, message) == (ErrorCode.UNKNOWN_MEMBER_ID, "Member m9 is not a member of group g.")


def test_an_assignor_that_is_not_there(coordinator: Coordinator) -> None:
    assert error(join(coordinator, "m1", "a", server_assignor="foo")) == (
        ErrorCode.UNSUPPORTED_ASSIGNOR,
        "ServerAssignor foo is not supported. Supported assignors: uniform, range.",
    )
    assert not coordinator.groups


@pytest.mark.parametrize(
    ("expression", "reason"),
    [
        ("(a", "missing closing )"),
        ("a(?=b)", "invalid or unsupported Perl syntax"),
        ("*a", "missing argument to repetition operator"),
        ("[b-a]", "invalid character class range"),
        ("a\\1", "invalid escape sequence"),
    ],
)
def test_an_expression_that_is_none(coordinator: Coordinator, expression: str, reason: str) -> None:
    assert error(join(coordinator, "m1", subscribed_topic_regex=expression)) == (
        ErrorCode.INVALID_REGULAR_EXPRESSION,
        f"SubscribedTopicRegex `{expression}` is not a valid regular expression: {reason}.",
    )


# -- static members ----------------------------------------------------------------------------------------------------
def test_an_instance_is_one_member_until_that_has_left(coordinator: Coordinator) -> None:
    join(coordinator, "m1", "a", instance_id="i")
    code, message = error(join(coordinator, "m2", "a", instance_id="i"))
    assert code == ErrorCode.UNRELEASED_INSTANCE_ID
    assert message == (
        "Static member m2 with instance id i cannot join the group because the instance id is owned by m1 member."
    )
    reply = coordinator.consumer_heartbeat("g", "m2", 2, instance_id="i")
    assert error(reply) == (
        ErrorCode.FENCED_INSTANCE_ID,
        "Static member m2 with instance id i was fenced by member m1.",
    )
    reply = coordinator.consumer_heartbeat("g", "m1", 2, instance_id="other")
    assert error(reply) == (ErrorCode.UNKNOWN_MEMBER_ID, "Instance id other is unknown.")


def test_an_instance_that_comes_back_has_what_it_had(coordinator: Coordinator) -> None:
    join(coordinator, "m1", "a", instance_id="i")
    assert coordinator.consumer_heartbeat("g", "m1", -2, instance_id="i").response.member_epoch == -2
    code, _ = error(coordinator.consumer_heartbeat("g", "m1", 2, instance_id="i"))
    assert code == ErrorCode.FENCED_MEMBER_EPOCH
    assert told(coordinator, join(coordinator, "m2", "a", instance_id="i")) == (2, {"a": [0, 1, 2, 3]})
    assert [*coordinator.groups["g"].members] == ["m2"]
    code, message = error(coordinator.consumer_heartbeat("g", "m1", -1, instance_id="i"))
    assert (code, message) == (
        ErrorCode.FENCED_INSTANCE_ID,
        "Static member m1 with instance id i was fenced by member m2.",
    )


def test_nobody_gets_what_an_instance_that_is_away_had_until_its_session_is_over(coordinator: Coordinator) -> None:
    join(coordinator, "m1", "a", instance_id="i")
    join(coordinator, "m2", "a")
    coordinator.consumer_heartbeat("g", "m1", -2, instance_id="i")
    coordinator.advance(SESSION_MS - 1)
    assert told(coordinator, beat(coordinator, "m2", 3)) == (3, None)
    coordinator.advance(1)
    assert told(coordinator, beat(coordinator, "m2", 3)) == (4, {"a": [0, 1, 2, 3]})


def test_an_administrator_can_remove_an_instance(coordinator: Coordinator) -> None:
    join(coordinator, "m1", "a", instance_id="i")
    assert coordinator.leave("g", ("", "i"), ("m1", None)).response.members[0].error_code == ErrorCode.NONE
    assert not coordinator.groups["g"].members


# -- leaving, time-outs ------------------------------------------------------------------------------------------------
def test_who_leaves_makes_room_at_once(coordinator: Coordinator) -> None:
    two_members(coordinator)
    response = coordinator.consumer_heartbeat("g", "m1", -1).response
    assert (response.member_id, response.member_epoch) == ("m1", -1)
    assert coordinator.groups["g"].state.value == "Assigning"
    assert told(coordinator, beat(coordinator, "m2", 3)) == (4, {"a": [0, 1, 2, 3]})


def test_who_is_silent_for_its_session_is_removed(coordinator: Coordinator) -> None:
    two_members(coordinator)
    coordinator.advance(SESSION_MS - 1)
    beat(coordinator, "m2", 3)
    coordinator.advance(1)
    assert [*coordinator.groups["g"].members] == ["m2"]
    assert error(beat(coordinator, "m1", 3))[0] == ErrorCode.UNKNOWN_MEMBER_ID


def test_who_does_not_give_up_partitions_in_time_is_removed(coordinator: Coordinator) -> None:
    join(coordinator, "m1", "a")
    join(coordinator, "m2", "a")
    beat(coordinator, "m1", 2)
    coordinator.advance(29_999)
    assert told(coordinator, beat(coordinator, "m1", 2, {"a": [0, 1, 2, 3]})) == (2, None)
    coordinator.advance(1)
    assert [*coordinator.groups["g"].members] == ["m2"]


def test_sessions_begin_anew_with_a_new_coordinator(coordinator: Coordinator) -> None:
    join(coordinator, "m1", "a")
    coordinator.advance(SESSION_MS - 1)
    coordinator.restart()
    coordinator.advance(SESSION_MS - 1)
    assert told(coordinator, beat(coordinator, "m1", 2)) == (2, None)
    coordinator.advance(SESSION_MS)
    assert not coordinator.groups["g"].members


# -- topics ------------------------------------------------------------------------------------------------------------
def test_topics_that_come_grow_and_go_are_followed(coordinator: Coordinator) -> None:
    assert told(coordinator, join(coordinator, "m1", "a", "new")) == (2, {"a": [0, 1, 2, 3]})
    coordinator.topics.put("new", 1)
    assert told(coordinator, beat(coordinator, "m1", 2)) == (3, {"a": [0, 1, 2, 3], "new": [0]})
    coordinator.topics.put("new", 2)
    assert told(coordinator, beat(coordinator, "m1", 3)) == (4, {"a": [0, 1, 2, 3], "new": [0, 1]})
    coordinator.topics.remove("new")
    assert told(coordinator, beat(coordinator, "m1", 4)) == (4, {"a": [0, 1, 2, 3]})
    assert told(coordinator, beat(coordinator, "m1", 4, {"a": [0, 1, 2, 3]})) == (5, None)


def test_a_topic_that_nobody_asked_for_changes_nothing(coordinator: Coordinator) -> None:
    join(coordinator, "m1", "a")
    appended = coordinator.log.append_count
    coordinator.topics.put("unasked", 1)
    assert told(coordinator, beat(coordinator, "m1", 2)) == (2, None)
    assert coordinator.log.append_count == appended


def test_expressions_match_whole_names_and_are_followed(coordinator: Coordinator) -> None:
    reply = join(coordinator, "m1", subscribed_topic_regex="(?i)A|foo.*")
    assert told(coordinator, reply) == (2, {"a": [0, 1, 2, 3]})
    coordinator.topics.put("foo1", 1)
    coordinator.topics.put("xfoo", 1)
    assert told(coordinator, beat(coordinator, "m1", 2)) == (3, {"a": [0, 1, 2, 3], "foo1": [0]})
    reply = coordinator.consumer_heartbeat("g", "m1", 3, subscribed_topic_regex="", subscribed_topic_names=["b"])
    assert told(coordinator, reply) == (3, {})
    assert told(coordinator, beat(coordinator, "m1", 3, {})) == (4, {"b": [0, 1]})
    assert not coordinator.groups["g"].regexes


# -- offsets -----------------------------------------------------------------------------------------------------------
def commit(coordinator: Coordinator, member_id: str, epoch: int, name: str, version: int = 9) -> int:
    topic = coordinator.topics.topic(name)
    topic_id = ZERO_UUID if topic is None else topic.topic_id
    reply = coordinator.commit(
        "g", {(name, 0): 1}, member_id=member_id, generation=epoch, version=version, topic_id=topic_id
    )
    return commit_error(reply)


def test_members_commit_with_their_epoch(coordinator: Coordinator) -> None:
    join(coordinator, "m1", "a")
    assert commit(coordinator, "m1", 2, "a") == ErrorCode.NONE
    assert commit(coordinator, "m1", 3, "a") == ErrorCode.STALE_MEMBER_EPOCH
    assert commit(coordinator, "m1", -1, "a") == ErrorCode.STALE_MEMBER_EPOCH
    assert commit(coordinator, "m9", 2, "a") == ErrorCode.UNKNOWN_MEMBER_ID
    assert commit(coordinator, "", -1, "a") == ErrorCode.UNKNOWN_MEMBER_ID
    assert commit(coordinator, "m1", 2, "a", version=8) == ErrorCode.UNSUPPORTED_VERSION
    coordinator.consumer_heartbeat("g", "m1", -1)
    assert commit(coordinator, "", -1, "a") == ErrorCode.NONE
    assert commit(coordinator, "m1", 2, "a") == ErrorCode.UNKNOWN_MEMBER_ID


def test_an_older_epoch_will_do_for_what_was_owned_then(coordinator: Coordinator) -> None:
    join(coordinator, "m1", "a")
    reply = coordinator.consumer_heartbeat("g", "m1", 2, subscribed_topic_names=["a", "b"])
    assert told(coordinator, reply) == (3, {"a": [0, 1, 2, 3], "b": [0, 1]})
    assert commit(coordinator, "m1", 2, "a") == ErrorCode.NONE
    assert commit(coordinator, "m1", 2, "b") == ErrorCode.STALE_MEMBER_EPOCH
    assert commit(coordinator, "m1", 1, "a") == ErrorCode.STALE_MEMBER_EPOCH


@pytest.mark.parametrize(
    ("member_id", "epoch", "code"),
    [
        (None, -1, ErrorCode.NONE),
        ("m1", 2, ErrorCode.NONE),
        ("m1", 1, ErrorCode.STALE_MEMBER_EPOCH),
        ("m9", 2, ErrorCode.UNKNOWN_MEMBER_ID),
        ("", -1, ErrorCode.UNKNOWN_MEMBER_ID),
    ],
)
def test_who_says_that_he_is_a_member_must_be_one_to_fetch_offsets(
    coordinator: Coordinator, member_id: str | None, epoch: int, code: ErrorCode
) -> None:
    join(coordinator, "m1", "a")
    reply = coordinator.call(
        "g",
        lambda refused: refused,
        lambda machine, out, reply: machine.offsets.fetch(out, reply, "g", None, False, member_id, epoch),
    )
    assert (reply.response if isinstance(reply.response, ErrorCode) else ErrorCode.NONE) == code


def test_offsets_of_subscribed_topics_stay(coordinator: Coordinator) -> None:
    join(coordinator, "m1", "a", subscribed_topic_regex="b")
    for name, code in (
        ("a", ErrorCode.GROUP_SUBSCRIBED_TO_TOPIC),
        ("b", ErrorCode.GROUP_SUBSCRIBED_TO_TOPIC),
        ("c", 0),
    ):
        assert coordinator.delete_offsets("g", (name, 0)).response.topics[0].partitions[0].error_code == code
    assert coordinator.delete_group("g").response.error_code == ErrorCode.NON_EMPTY_GROUP


def test_an_empty_group_is_deleted_to_the_last_record(coordinator: Coordinator) -> None:
    join(coordinator, "m1", "a", subscribed_topic_regex="b")
    commit(coordinator, "m1", 2, "a")
    coordinator.consumer_heartbeat("g", "m1", -1)
    assert coordinator.delete_group("g").response.error_code == ErrorCode.NONE
    assert not coordinator.groups
    last = {key: value for (key, value), _ in coordinator.log.records}
    assert set(last.values()) == {None}
    coordinator.restart()
    assert not coordinator.groups


def test_offsets_of_a_group_without_members_expire_and_the_group_with_them(coordinator: Coordinator) -> None:
    join(coordinator, "m1", "a")
    commit(coordinator, "m1", 2, "a")
    coordinator.consumer_heartbeat("g", "m1", -1)
    coordinator.advance(coordinator.config.offsets_retention_ms + 2 * 600_000)
    assert not coordinator.groups


# -- a restart ---------------------------------------------------------------------------------------------------------
def test_a_new_coordinator_knows_what_the_last_one_knew(coordinator: Coordinator) -> None:
    two_members(coordinator)
    join(coordinator, "m3", "a", instance_id="i", subscribed_topic_regex="b", rack_id="r", server_assignor="range")
    before = coordinator.groups["g"]
    coordinator.restart()
    after = coordinator.groups["g"]
    for name in ("epoch", "metadata_hash", "assignment_epoch", "assignment_timestamp", "members", "current", "target"):
        assert getattr(after, name) == getattr(before, name), name
    for name in ("regexes", "static_members", "owners"):
        assert getattr(after, name) == getattr(before, name), name


def test_an_empty_consumer_group_is_anybodys_to_take(coordinator: Coordinator) -> None:
    join(coordinator, "m1", "a")
    commit(coordinator, "m1", 2, "a")
    coordinator.consumer_heartbeat("g", "m1", -1)
    reply = coordinator.join("g", protocol_type="connect", protocols={"x": subscription("a")}, version=3)
    coordinator.advance(0)
    assert reply.response.error_code == ErrorCode.NONE
    assert coordinator.groups["g"].type.value == "classic"
    assert coordinator.groups["g"].offsets
    coordinator.restart()
    assert coordinator.groups["g"].type.value == "classic"
    assert error(join(coordinator, "m1", "a"))[0] in (ErrorCode.NONE, ErrorCode.GROUP_ID_NOT_FOUND)
