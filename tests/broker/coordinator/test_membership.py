"""What JoinGroup, SyncGroup, Heartbeat and LeaveGroup promise, as Kafka 4.3.1 keeps it."""

from __future__ import annotations

import pytest

from broker.coordinator.group.group import GroupState
from protocol.errors import ErrorCode
from tests.broker.coordinator.harness import Coordinator, commit_error, subscription

DELAY_MS = 3_000


def member_results(reply) -> list[int]:
    return [each.error_code for each in reply.response.members]


# -- joining -----------------------------------------------------------------------------------------------------------
def test_a_dynamic_member_is_told_its_id_first() -> None:
    coordinator = Coordinator()
    response = coordinator.join(client_id="app").response
    assert response.error_code == ErrorCode.MEMBER_ID_REQUIRED
    assert response.member_id.startswith("app-")
    assert not coordinator.join(member_id=response.member_id).done


def test_before_version_4_a_member_joins_at_once() -> None:
    coordinator = Coordinator()
    reply = coordinator.join(version=3)
    coordinator.advance(DELAY_MS)
    assert reply.response.error_code == ErrorCode.NONE
    assert reply.response.leader == reply.response.member_id


def test_an_id_that_was_given_out_lapses_after_the_session_timeout() -> None:
    coordinator = Coordinator()
    member_id = coordinator.join(session_ms=6_000).response.member_id
    coordinator.advance(6_000)
    assert coordinator.join(member_id=member_id).response.error_code == ErrorCode.UNKNOWN_MEMBER_ID


def test_an_unknown_id_is_refused_and_makes_no_group() -> None:
    coordinator = Coordinator()
    assert coordinator.join(member_id="stranger").response.error_code == ErrorCode.UNKNOWN_MEMBER_ID
    assert not coordinator.groups


@pytest.mark.parametrize("session_ms", [5_999, 1_800_001])
def test_a_session_timeout_out_of_bounds_is_refused(session_ms: int) -> None:
    coordinator = Coordinator()
    assert coordinator.join(session_ms=session_ms).response.error_code == ErrorCode.INVALID_SESSION_TIMEOUT
    assert not coordinator.groups


def test_the_first_generation_waits_for_others_and_each_newcomer_extends_the_wait() -> None:
    coordinator = Coordinator()
    _, first = coordinator.new_member()
    coordinator.advance(DELAY_MS - 1)
    _, second = coordinator.new_member()
    coordinator.advance(1)
    assert not first.done
    coordinator.advance(DELAY_MS)
    assert first.response.generation_id == second.response.generation_id == 1
    assert len(first.response.members) == 2
    assert second.response.members == []


def test_the_initial_wait_ends_with_the_rebalance_timeout() -> None:
    coordinator = Coordinator()
    _, first = coordinator.new_member(rebalance_ms=7_000)
    for _ in range(6):
        coordinator.advance(1_000)
        coordinator.new_member(rebalance_ms=7_000)
    coordinator.advance(1_000)
    assert first.done


def test_the_protocol_that_all_support_and_most_prefer_is_chosen() -> None:
    coordinator = Coordinator()
    _, first = coordinator.new_member(protocols={"a": b"1", "b": b"1"})
    coordinator.new_member(protocols={"c": b"2", "b": b"2", "a": b"2"})
    coordinator.new_member(protocols={"b": b"3", "a": b"3"})
    coordinator.advance(2 * DELAY_MS)
    assert first.response.protocol_name == "b"
    assert [each.metadata for each in first.response.members] == [b"1", b"2", b"3"]


def test_a_member_without_a_protocol_in_common_is_refused() -> None:
    coordinator = Coordinator()
    coordinator.stable_group()
    for options in ({"protocols": {"other": b""}}, {"protocol_type": "connect"}):
        assert coordinator.join(**options).response.error_code == ErrorCode.INCONSISTENT_GROUP_PROTOCOL


def test_a_group_at_its_limit_takes_nobody_else() -> None:
    coordinator = Coordinator(size_max=2)
    ids = coordinator.stable_group(members=2)
    assert coordinator.join().response.error_code == ErrorCode.GROUP_MAX_SIZE_REACHED
    assert not coordinator.join(member_id=ids[0]).done


def test_a_limit_that_was_lowered_removes_the_last_to_rejoin() -> None:
    coordinator = Coordinator()
    ids = coordinator.stable_group(members=3)
    coordinator.config = type(coordinator.config)(size_max=2)
    coordinator.restart()
    replies = [coordinator.join(member_id=member_id) for member_id in ids]
    assert replies[2].response.error_code == ErrorCode.GROUP_MAX_SIZE_REACHED
    coordinator.advance(60_000)
    assert [reply.response.error_code for reply in replies[:2]] == [ErrorCode.NONE] * 2


# -- rebalancing -------------------------------------------------------------------------------------------------------
def test_a_newcomer_makes_the_others_rejoin_and_they_keep_their_ids() -> None:
    coordinator = Coordinator()
    (leader,) = coordinator.stable_group()
    _, newcomer = coordinator.new_member()
    assert coordinator.heartbeat("g", leader, 1).response.error_code == ErrorCode.REBALANCE_IN_PROGRESS
    rejoined = coordinator.join(member_id=leader)
    assert newcomer.response.generation_id == rejoined.response.generation_id == 2
    assert rejoined.response.leader == leader


def test_the_slow_are_removed_when_the_rebalance_timeout_ends_and_the_joined_stay() -> None:
    coordinator = Coordinator()
    leader, follower = coordinator.stable_group(members=2, rebalance_ms=20_000, session_ms=30_000)
    rejoined = coordinator.join(member_id=follower, protocols={"range": b"changed"}, rebalance_ms=20_000)
    coordinator.advance(19_999)
    assert not rejoined.done
    coordinator.advance(1)
    assert rejoined.response.leader == follower
    assert [each.member_id for each in rejoined.response.members] == [follower]
    assert coordinator.heartbeat("g", leader, 1).response.error_code == ErrorCode.UNKNOWN_MEMBER_ID


def test_a_silent_member_is_removed_after_its_session_and_the_rest_rebalance() -> None:
    coordinator = Coordinator()
    leader, _ = coordinator.stable_group(members=2, session_ms=10_000)
    coordinator.advance(9_000)
    assert coordinator.heartbeat("g", leader, 1).response.error_code == ErrorCode.NONE
    coordinator.advance(1_000)
    assert coordinator.heartbeat("g", leader, 1).response.error_code == ErrorCode.REBALANCE_IN_PROGRESS
    rejoined = coordinator.join(member_id=leader)
    assert [each.member_id for each in rejoined.response.members] == [leader]


def test_a_member_that_waits_for_the_others_need_not_heartbeat() -> None:
    coordinator = Coordinator()
    leader, follower = coordinator.stable_group(members=2, session_ms=10_000, rebalance_ms=60_000)
    waiting = coordinator.join(member_id=leader)
    for _ in range(5):
        coordinator.advance(8_000)
        coordinator.heartbeat("g", follower, 1)
    assert not waiting.done
    coordinator.join(member_id=follower)
    assert waiting.response.error_code == ErrorCode.NONE


def test_when_the_leader_goes_another_one_leads() -> None:
    coordinator = Coordinator()
    leader, follower = coordinator.stable_group(members=2)
    coordinator.leave("g", (leader, None))
    assert coordinator.join(member_id=follower).response.leader == follower


def test_a_leader_that_rejoins_a_stable_group_rebalances_it_and_a_follower_does_not() -> None:
    coordinator = Coordinator()
    leader, follower = coordinator.stable_group(members=2)
    assert coordinator.join(member_id=follower).response.generation_id == 1
    assert not coordinator.join(member_id=leader).done
    assert coordinator.heartbeat("g", follower, 1).response.error_code == ErrorCode.REBALANCE_IN_PROGRESS


def test_a_repeated_join_answers_the_former_one() -> None:
    coordinator = Coordinator()
    leader, follower = coordinator.stable_group(members=2)
    first = coordinator.join(member_id=leader)
    second = coordinator.join(member_id=leader)
    assert first.response.error_code == ErrorCode.REBALANCE_IN_PROGRESS
    assert not second.done
    coordinator.join(member_id=follower)
    assert second.response.generation_id == 2


def test_a_member_that_missed_its_join_response_gets_it_again() -> None:
    coordinator = Coordinator()
    member_id, joined = coordinator.new_member()
    coordinator.advance(DELAY_MS)
    again = coordinator.join(member_id=member_id)
    assert again.response == joined.response


# -- syncing -----------------------------------------------------------------------------------------------------------
def test_followers_wait_for_the_leader_and_everybody_gets_their_own_assignment() -> None:
    coordinator = Coordinator()
    leader, joined = coordinator.new_member()
    follower, _ = coordinator.new_member()
    coordinator.advance(2 * DELAY_MS)
    waiting = coordinator.sync("g", follower, 1)
    assert not waiting.done
    done = coordinator.sync("g", leader, 1, {leader: b"L", follower: b"F"}, protocol_name="range")
    assert (done.response.assignment, waiting.response.assignment) == (b"L", b"F")
    assert waiting.response.protocol_name == joined.response.protocol_name == "range"
    assert coordinator.sync("g", follower, 1).response.assignment == b"F"


def test_a_member_that_the_leader_left_out_gets_an_empty_assignment() -> None:
    coordinator = Coordinator()
    leader, _ = coordinator.new_member()
    follower, _ = coordinator.new_member()
    coordinator.advance(2 * DELAY_MS)
    coordinator.sync("g", leader, 1, {leader: b"all"})
    assert coordinator.sync("g", follower, 1).response.assignment == b""


def test_who_does_not_sync_in_time_is_removed() -> None:
    coordinator = Coordinator()
    leader, _ = coordinator.new_member(rebalance_ms=20_000, session_ms=60_000)
    follower, _ = coordinator.new_member(rebalance_ms=20_000, session_ms=60_000)
    coordinator.advance(2 * DELAY_MS)
    waiting = coordinator.sync("g", follower, 1)
    coordinator.advance(20_000)
    assert waiting.response.error_code == ErrorCode.REBALANCE_IN_PROGRESS
    assert coordinator.join(member_id=follower, rebalance_ms=20_000).response.leader == follower
    assert coordinator.sync("g", leader, 1).response.error_code == ErrorCode.UNKNOWN_MEMBER_ID


def test_a_rebalance_sends_those_who_sync_back_to_join() -> None:
    coordinator = Coordinator()
    coordinator.new_member()
    follower, _ = coordinator.new_member()
    coordinator.advance(2 * DELAY_MS)
    waiting = coordinator.sync("g", follower, 1)
    coordinator.new_member()
    assert waiting.response.error_code == ErrorCode.REBALANCE_IN_PROGRESS
    assert coordinator.sync("g", follower, 1).response.error_code == ErrorCode.REBALANCE_IN_PROGRESS


def test_sync_and_heartbeat_check_member_generation_and_protocol() -> None:
    coordinator = Coordinator()
    (leader,) = coordinator.stable_group()
    for check in (coordinator.sync, coordinator.heartbeat):
        assert check("nowhere", leader, 1).response.error_code == ErrorCode.UNKNOWN_MEMBER_ID
        assert check("g", "stranger", 1).response.error_code == ErrorCode.UNKNOWN_MEMBER_ID
        assert check("g", leader, 2).response.error_code == ErrorCode.ILLEGAL_GENERATION
    wrong = coordinator.sync("g", leader, 1, protocol_name="other")
    assert wrong.response.error_code == ErrorCode.INCONSISTENT_GROUP_PROTOCOL
    wrong = coordinator.sync("g", leader, 1, protocol_type="connect")
    assert wrong.response.error_code == ErrorCode.INCONSISTENT_GROUP_PROTOCOL


# -- leaving -----------------------------------------------------------------------------------------------------------
def test_leaving_members_have_an_error_each() -> None:
    coordinator = Coordinator()
    leader, _ = coordinator.stable_group(members=2)
    reply = coordinator.leave("g", (leader, None), ("stranger", None), ("", "no-instance"))
    assert member_results(reply) == [ErrorCode.NONE, ErrorCode.UNKNOWN_MEMBER_ID, ErrorCode.UNKNOWN_MEMBER_ID]
    assert member_results(coordinator.leave("nowhere", ("m", None))) == [ErrorCode.UNKNOWN_MEMBER_ID]


def test_the_last_member_leaves_an_empty_group_that_is_written_down() -> None:
    coordinator = Coordinator()
    (leader,) = coordinator.stable_group()
    coordinator.leave("g", (leader, None))
    for _ in range(2):
        group = coordinator.groups["g"]
        assert (group.state.value, group.generation, group.protocol_type) == ("Empty", 2, "consumer")
        coordinator.restart()


def test_a_pending_member_can_leave() -> None:
    coordinator = Coordinator()
    member_id = coordinator.join().response.member_id
    assert member_results(coordinator.leave("g", (member_id, None))) == [ErrorCode.NONE]
    assert coordinator.join(member_id=member_id).response.error_code == ErrorCode.UNKNOWN_MEMBER_ID


def test_a_member_that_leaves_while_it_waits_is_answered() -> None:
    coordinator = Coordinator()
    member_id, waiting = coordinator.new_member()
    coordinator.leave("g", (member_id, None))
    assert waiting.response.error_code == ErrorCode.UNKNOWN_MEMBER_ID


# -- static members ----------------------------------------------------------------------------------------------------
def static_group(coordinator: Coordinator, *instances: str, **options: int) -> dict[str, str]:
    """Instance id -> member id; the first one leads."""
    replies = [coordinator.join(instance_id=instance, **options) for instance in instances]
    coordinator.advance(2 * DELAY_MS)
    ids = {instance: reply.response.member_id for instance, reply in zip(instances, replies, strict=True)}
    for instance in reversed(instances):
        coordinator.sync("g", ids[instance], 1, {each: each.encode() for each in ids.values()}, instance_id=instance)
    return ids


def test_a_static_member_comes_back_without_a_rebalance_and_fences_its_former_self() -> None:
    coordinator = Coordinator()
    ids = static_group(coordinator, "i1", "i2")
    back = coordinator.join(instance_id="i2").response
    assert (back.error_code, back.generation_id) == (ErrorCode.NONE, 1)
    assert back.member_id != ids["i2"]
    assert coordinator.sync("g", back.member_id, 1, instance_id="i2").response.assignment == ids["i2"].encode()
    assert coordinator.heartbeat("g", ids["i1"], 1, "i1").response.error_code == ErrorCode.NONE
    for fenced in (
        coordinator.heartbeat("g", ids["i2"], 1, "i2").response.error_code,
        coordinator.sync("g", ids["i2"], 1, instance_id="i2").response.error_code,
        coordinator.join(member_id=ids["i2"], instance_id="i2").response.error_code,
        commit_error(coordinator.commit("g", {("t", 0): 1}, member_id=ids["i2"], generation=1, instance_id="i2")),
        member_results(coordinator.leave("g", (ids["i2"], "i2")))[0],
    ):
        assert fenced == ErrorCode.FENCED_INSTANCE_ID


def test_the_new_id_of_a_static_member_survives_the_coordinator() -> None:
    coordinator = Coordinator()
    static_group(coordinator, "i1", "i2")
    back = coordinator.join(instance_id="i2").response
    coordinator.restart()
    assert coordinator.heartbeat("g", back.member_id, 1, "i2").response.error_code == ErrorCode.NONE


def test_a_static_leader_that_comes_back_skips_the_assignment() -> None:
    coordinator = Coordinator()
    ids = static_group(coordinator, "i1", "i2")
    back = coordinator.join(instance_id="i1", version=9).response
    assert (back.skip_assignment, back.leader) == (True, back.member_id)
    assert [each.member_id for each in back.members] == [back.member_id, ids["i2"]]


def test_before_version_9_it_is_told_that_its_former_self_leads() -> None:
    coordinator = Coordinator()
    ids = static_group(coordinator, "i1", "i2")
    back = coordinator.join(instance_id="i1", version=8).response
    assert (back.skip_assignment, back.leader, back.members) == (False, ids["i1"], [])


def test_a_static_member_with_another_protocol_rebalances_the_group() -> None:
    coordinator = Coordinator()
    options = {"protocols": {"a": b"", "b": b""}}
    reply = coordinator.join(instance_id="i1", **options)
    coordinator.advance(DELAY_MS)
    coordinator.sync("g", reply.response.member_id, 1)
    back = coordinator.join(instance_id="i1", protocols={"b": b"", "a": b""})
    assert (back.response.generation_id, back.response.protocol_name) == (2, "b")


def test_a_static_member_that_is_away_keeps_its_place_until_its_session_ends() -> None:
    coordinator = Coordinator()
    ids = static_group(coordinator, "i1", "i2", rebalance_ms=10_000, session_ms=60_000)
    rejoined = coordinator.join(member_id=ids["i1"], instance_id="i1", rebalance_ms=10_000, session_ms=60_000)
    coordinator.advance(10_000)
    assert {each.member_id for each in rejoined.response.members} == set(ids.values())


def test_a_static_member_that_replaces_one_that_waits_fences_it() -> None:
    coordinator = Coordinator()
    first = coordinator.join(instance_id="i1")
    second = coordinator.join(instance_id="i1")
    assert first.response.error_code == ErrorCode.FENCED_INSTANCE_ID
    coordinator.advance(DELAY_MS)
    assert [each.member_id for each in second.response.members] == [second.response.member_id]


def test_a_static_member_can_be_removed_by_its_instance_id_alone() -> None:
    coordinator = Coordinator()
    ids = static_group(coordinator, "i1", "i2")
    assert member_results(coordinator.leave("g", ("", "i2"))) == [ErrorCode.NONE]
    assert coordinator.heartbeat("g", ids["i2"], 1, "i2").response.error_code == ErrorCode.UNKNOWN_MEMBER_ID


# -- take-over ---------------------------------------------------------------------------------------------------------
def test_a_stable_group_goes_on_under_a_new_coordinator() -> None:
    coordinator = Coordinator()
    leader, follower = coordinator.stable_group(members=2)
    coordinator.restart()
    assert coordinator.heartbeat("g", leader, 1).response.error_code == ErrorCode.NONE
    assert coordinator.sync("g", follower, 1).response.assignment == follower.encode()
    described = coordinator.describe("g")
    assert (described.group_state, described.protocol_data) == ("Stable", "range")
    assert {each.member_assignment for each in described.members} == {leader.encode(), follower.encode()}
    assert {each.member_metadata for each in described.members} == {subscription("t")}
    assert {each.client_host for each in described.members} == {"/127.0.0.1"}


def test_members_have_a_whole_session_to_find_the_new_coordinator() -> None:
    coordinator = Coordinator()
    leader, _ = coordinator.stable_group(members=2, session_ms=10_000)
    coordinator.advance(9_000)
    coordinator.restart()
    coordinator.advance(9_999)
    assert len(coordinator.groups["g"].members) == 2
    coordinator.heartbeat("g", leader, 1)
    coordinator.advance(1)
    assert [*coordinator.groups["g"].members] == [leader]


def test_who_waits_is_sent_to_the_new_coordinator() -> None:
    coordinator = Coordinator()
    _, joining = coordinator.new_member()
    coordinator.shard.close()
    assert joining.response.error_code == ErrorCode.NOT_COORDINATOR
    assert coordinator.join().response.error_code == ErrorCode.NOT_COORDINATOR


def test_static_members_that_are_away_and_have_no_rebalance_timeout_are_waited_for_in_peace() -> None:
    coordinator = Coordinator()
    static = coordinator.join(instance_id="i", session_ms=30_000)
    leaving, _ = coordinator.new_member()
    coordinator.advance(6_000)
    generation = static.response.generation_id
    coordinator.sync("g", leaving, generation)
    coordinator.sync("g", static.response.member_id, generation, instance_id="i")
    coordinator.join(instance_id="i", rebalance_ms=0, session_ms=30_000)
    coordinator.leave("g", (leaving, None))
    coordinator.advance(5_000)
    assert coordinator.groups["g"].state is GroupState.PREPARING_REBALANCE
    coordinator.advance(25_000)
    assert coordinator.groups["g"].state is GroupState.EMPTY


def test_assignments_are_described_until_a_generation_ends_without_one() -> None:
    def described() -> list[bytes]:
        return [each.member_assignment for each in coordinator.describe("g").members]

    coordinator = Coordinator()
    (member,) = coordinator.stable_group()
    newcomer, _ = coordinator.new_member()
    assert described() == [member.encode(), b""]
    coordinator.join(member_id=member)
    assert coordinator.describe("g").group_state == "CompletingRebalance"
    assert described() == [member.encode(), b""]
    coordinator.leave("g", (newcomer, None))
    assert described() == [b""]
