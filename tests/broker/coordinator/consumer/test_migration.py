"""A group turns from one protocol to the other while its members go on: what Apache Kafka 4.3.1 answers on the way."""

from __future__ import annotations

from typing import Any

import pytest

from broker.coordinator.group.subscription import decode_assignment, encode_assignment
from broker.coordinator.reply import Reply
from protocol.codec import encode_record_message
from protocol.errors import ErrorCode
from protocol.messages.records.consumer_protocol import ConsumerProtocolSubscription, TopicPartitionResponse
from tests.broker.coordinator.consumer.test_heartbeats import beat, commit, error, join, started, told
from tests.broker.coordinator.harness import Coordinator, subscription


@pytest.fixture
def coordinator() -> Coordinator:
    return started()


def metadata(owned: dict[str, list[int]] | None = None) -> bytes:
    message = ConsumerProtocolSubscription(
        topics=["a"],
        owned_partitions=[TopicPartitionResponse(topic=name, partitions=each) for name, each in (owned or {}).items()],
    )
    return encode_record_message(message, 1)


def classic_join(
    coordinator: Coordinator, member_id: str, owned: dict[str, list[int]] | None = None, **options: Any
) -> Any:
    reply = coordinator.join("g", member_id, protocols={"range": metadata(owned)}, **options)
    coordinator.advance(0)
    return reply.response


def classic_group(coordinator: Coordinator, **options: Any) -> str:
    """Of one member, with all of a, in generation 1."""
    member_id: str = coordinator.join("g", protocols={"range": metadata()}).response.member_id
    response = classic_join(coordinator, member_id, **options)
    assert response.generation_id == 1
    everything = encode_assignment([("a", range(4))], metadata())
    coordinator.sync("g", member_id, 1, {member_id: everything})
    return member_id


def synced(reply: Reply) -> dict[str, list[int]] | ErrorCode:
    response = reply.response
    if response.error_code != ErrorCode.NONE:
        return ErrorCode(response.error_code)
    return {name: sorted(each) for name, each in decode_assignment(response.assignment).items()}


def kind(coordinator: Coordinator) -> str:
    value: str = coordinator.groups["g"].type.value
    return value


def test_a_member_of_the_new_protocol_turns_the_group_and_waits_for_the_old(coordinator: Coordinator) -> None:
    old = classic_group(coordinator)
    coordinator.commit("g", {("a", 0): 7}, member_id=old, generation=1)
    assert told(coordinator, join(coordinator, "new", "a")) == (2, {})
    assert kind(coordinator) == "consumer"
    assert coordinator.groups["g"].offsets["a"][0].offset == 7
    assert coordinator.heartbeat("g", old, 1).response.error_code == ErrorCode.REBALANCE_IN_PROGRESS
    assert synced(coordinator.sync("g", old, 1)) is ErrorCode.REBALANCE_IN_PROGRESS
    # it still has everything when it joins: it hears what is left to it, and gives up the rest
    response = classic_join(coordinator, old, {"a": [0, 1, 2, 3]})
    assert (response.generation_id, response.leader, response.members) == (1, "", [])
    assert synced(coordinator.sync("g", old, 1)) == {"a": [0, 1]}
    assert coordinator.heartbeat("g", old, 1).response.error_code == ErrorCode.REBALANCE_IN_PROGRESS
    assert told(coordinator, beat(coordinator, "new", 2)) == (2, None)
    assert classic_join(coordinator, old, {"a": [0, 1]}).generation_id == 2
    assert synced(coordinator.sync("g", old, 2)) == {"a": [0, 1]}
    assert coordinator.heartbeat("g", old, 2).response.error_code == ErrorCode.NONE
    assert told(coordinator, beat(coordinator, "new", 2)) == (2, {"a": [2, 3]})
    assert commit(coordinator, old, 2, "a", version=8) == ErrorCode.NONE
    assert commit(coordinator, old, 1, "a", version=8) == ErrorCode.NONE
    assert commit(coordinator, old, 3, "a", version=8) == ErrorCode.ILLEGAL_GENERATION


def test_a_member_that_gives_up_everything_to_join_is_through_at_once(coordinator: Coordinator) -> None:
    old = classic_group(coordinator)
    join(coordinator, "new", "a")
    assert classic_join(coordinator, old, {}).generation_id == 2
    assert synced(coordinator.sync("g", old, 2)) == {"a": [0, 1]}
    assert told(coordinator, beat(coordinator, "new", 2)) == (2, {"a": [2, 3]})


def test_who_was_waiting_is_told_to_join_again(coordinator: Coordinator) -> None:
    old = classic_group(coordinator)
    second: str = coordinator.join("g", protocols={"range": metadata()}).response.member_id
    waiting = coordinator.join("g", second, protocols={"range": metadata()})
    assert not waiting.done
    join(coordinator, "new", "a")
    assert waiting.response.error_code == ErrorCode.REBALANCE_IN_PROGRESS
    assert {*coordinator.groups["g"].members} == {old, second, "new"}


def test_what_a_member_said_that_it_owned_is_kept_for_it(coordinator: Coordinator) -> None:
    """A cooperative member owns on until it hears of its new assignment, and the leader's has not reached it yet."""
    old = classic_group(coordinator)
    second: str = coordinator.join("g", protocols={"range": metadata()}).response.member_id
    coordinator.join("g", second, protocols={"range": metadata()})
    response = classic_join(coordinator, old, {"a": [0, 1, 2, 3]})
    nothing = encode_assignment([], metadata())
    coordinator.sync("g", second, response.generation_id, {old: nothing, second: nothing})
    assert told(coordinator, join(coordinator, "new", "a")) == (3, {})
    assert told(coordinator, beat(coordinator, "new", 3)) == (3, None)


def test_the_last_member_of_the_new_protocol_turns_the_group_back(coordinator: Coordinator) -> None:
    old = classic_group(coordinator)
    join(coordinator, "new", "a")
    classic_join(coordinator, old, {})
    coordinator.sync("g", old, 2)
    coordinator.consumer_heartbeat("g", "new", -1)
    coordinator.advance(0)
    assert kind(coordinator) == "classic"
    assert coordinator.describe("g").group_state == "PreparingRebalance"
    assert coordinator.heartbeat("g", old, 2).response.error_code == ErrorCode.REBALANCE_IN_PROGRESS
    response = classic_join(coordinator, old, {"a": [0, 1]})
    assert (response.generation_id, response.leader) == (3, old)
    assert error(beat(coordinator, "new", 2))[0] == ErrorCode.UNKNOWN_MEMBER_ID


def test_so_does_its_death(coordinator: Coordinator) -> None:
    old = classic_group(coordinator, session_ms=60_000)
    join(coordinator, "new", "a")
    classic_join(coordinator, old, {}, session_ms=60_000)
    coordinator.advance(45_000)
    assert kind(coordinator) == "classic"


def test_a_crash_before_the_rebalance_does_not_leave_partitions_to_nobody(coordinator: Coordinator) -> None:
    old = classic_group(coordinator)
    join(coordinator, "new", "a")
    classic_join(coordinator, old, {})
    coordinator.sync("g", old, 2)
    coordinator.consumer_heartbeat("g", "new", -1)
    coordinator.restart()
    assert coordinator.heartbeat("g", old, 2).response.error_code == ErrorCode.REBALANCE_IN_PROGRESS


def test_a_crash_within_a_conversion_leaves_one_kind_of_group_or_the_other(coordinator: Coordinator) -> None:
    old = classic_group(coordinator)
    log = coordinator.log
    start = log.end_offset
    join(coordinator, "new", "a")
    classic_join(coordinator, old, {})
    coordinator.consumer_heartbeat("g", "new", -1)
    coordinator.advance(0)
    kinds = []
    for end in range(start, log.end_offset + 1):
        log.durable_offset = end
        survivor = started()
        survivor.restart(log.survivor())
        assert old in survivor.groups["g"].members
        kinds.append(kind(survivor))
        # what the crash left half done is gone after the load
        survivor.restart()
        assert survivor.shard.machine.table.leftovers() == []
        assert kind(survivor) == kinds[-1]
    assert [*dict.fromkeys(kinds)] == ["classic", "consumer"]
    assert kinds[-1] == "classic"


@pytest.mark.parametrize("policy", [{"upgrade": False}, {"size_max": 0}])
def test_a_group_that_may_not_turn_stays(policy: dict[str, Any]) -> None:
    coordinator = started(**policy)
    old = classic_group(coordinator)
    assert error(join(coordinator, "new", "a"))[0] == ErrorCode.GROUP_ID_NOT_FOUND
    assert coordinator.heartbeat("g", old, 1).response.error_code == ErrorCode.NONE


def test_a_group_that_may_not_turn_back_stays() -> None:
    coordinator = started(downgrade=False)
    old = classic_group(coordinator)
    join(coordinator, "new", "a")
    classic_join(coordinator, old, {})
    coordinator.consumer_heartbeat("g", "new", -1)
    assert kind(coordinator) == "consumer"
    assert classic_join(coordinator, old, {}).generation_id == 3
    assert synced(coordinator.sync("g", old, 3)) == {"a": [0, 1, 2, 3]}


def test_a_group_that_is_not_one_of_consumers_stays(coordinator: Coordinator) -> None:
    coordinator.join("g", protocol_type="connect", protocols={"x": b""}, version=3)
    coordinator.advance(0)
    assert error(join(coordinator, "new", "a")) == (
        ErrorCode.GROUP_ID_NOT_FOUND,
        "Cannot upgrade classic group g to consumer group because the group does not use the consumer embedded "
        "protocol.",
    )


# -- members of the classic protocol in a consumer group ---------------------------------------------------------------
def test_a_classic_member_may_join_a_consumer_group(coordinator: Coordinator) -> None:
    join(coordinator, "new", "a")
    response = coordinator.join("g", protocols={"range": metadata()}).response
    assert response.error_code == ErrorCode.MEMBER_ID_REQUIRED
    assert classic_join(coordinator, response.member_id).generation_id == 3
    assert synced(coordinator.sync("g", response.member_id, 3)) == {}
    beat(coordinator, "new", 2)
    beat(coordinator, "new", 2, {"a": [0, 1]})
    code = coordinator.heartbeat("g", response.member_id, 3).response.error_code
    assert code == ErrorCode.REBALANCE_IN_PROGRESS
    classic_join(coordinator, response.member_id)
    assert synced(coordinator.sync("g", response.member_id, 3)) == {"a": [2, 3]}


def test_one_that_was_fenced_gives_up_what_it_thinks_it_has(coordinator: Coordinator) -> None:
    join(coordinator, "new", "a")
    assert classic_join(coordinator, "fenced", {"a": [0]}).error_code == ErrorCode.UNKNOWN_MEMBER_ID
    assert classic_join(coordinator, "fenced").error_code == ErrorCode.NONE


@pytest.mark.parametrize("options", [{"protocol_type": "connect"}, {"protocols": {"range": b"\xff"}}])
def test_a_member_that_is_no_consumer_may_not(coordinator: Coordinator, options: dict[str, Any]) -> None:
    join(coordinator, "new", "a")
    response = coordinator.join("g", **({"protocols": {"range": subscription("a")}} | options)).response
    assert response.error_code == ErrorCode.INCONSISTENT_GROUP_PROTOCOL


def test_classic_members_must_have_a_protocol_in_common(coordinator: Coordinator) -> None:
    join(coordinator, "new", "a")
    classic_join(coordinator, "k1")
    other = coordinator.join("g", "k2", protocols={"sticky": metadata()}).response
    assert other.error_code == ErrorCode.INCONSISTENT_GROUP_PROTOCOL


def test_an_instance_may_change_its_protocol(coordinator: Coordinator) -> None:
    join(coordinator, "m1", "a", instance_id="i")
    join(coordinator, "m2", "a")
    response = classic_join(coordinator, "", instance_id="i")
    assert response.error_code == ErrorCode.NONE
    assert synced(coordinator.sync("g", response.member_id, response.generation_id, instance_id="i")) == {"a": [0, 1]}
    assert error(coordinator.consumer_heartbeat("g", "m1", 2, instance_id="i"))[0] == ErrorCode.FENCED_INSTANCE_ID
    assert told(coordinator, join(coordinator, "m3", "a", instance_id="i")) == (3, {"a": [0, 1]})


def test_a_classic_member_that_joins_but_does_not_sync_is_removed(coordinator: Coordinator) -> None:
    join(coordinator, "new", "a")
    classic_join(coordinator, "k1", session_ms=60_000, rebalance_ms=20_000)
    coordinator.advance(20_000)
    assert [*coordinator.groups["g"].members] == ["new"]


def test_a_classic_member_leaves(coordinator: Coordinator) -> None:
    join(coordinator, "new", "a")
    classic_join(coordinator, "k1")
    answer = coordinator.leave("g", ("k1", None), ("new", None), ("k9", None)).response
    codes = [each.error_code for each in answer.members]
    assert codes == [ErrorCode.NONE, ErrorCode.UNKNOWN_MEMBER_ID, ErrorCode.UNKNOWN_MEMBER_ID]
    assert [*coordinator.groups["g"].members] == ["new"]
