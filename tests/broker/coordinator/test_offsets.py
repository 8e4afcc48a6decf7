"""What commits, fetches, deletions and expiry of offsets promise."""

from __future__ import annotations

import pytest

from protocol.errors import ErrorCode
from tests.broker.coordinator.harness import Coordinator, commit_error, offset_of, subscription

HOUR_MS = 3_600_000
RETENTION_MS = 24 * HOUR_MS
EXPIRY = {"offsets_retention_ms": RETENTION_MS, "offsets_retention_check_interval_ms": HOUR_MS}
TOPIC_ID = bytes(15) + b"1"


def test_what_was_committed_is_fetched_with_metadata_and_leader_epoch() -> None:
    coordinator = Coordinator()
    assert commit_error(coordinator.commit("g", {("t", 1): 42}, metadata="m", leader_epoch=7)) == ErrorCode.NONE
    for _ in range(2):
        found = coordinator.fetch("g", ("t", 1), ("t", 0), ("u", 1)).response
        partitions = [topic.partitions[0] for topic in found.topics]
        assert [each.committed_offset for each in partitions] == [42, -1, -1]
        assert (partitions[0].metadata, partitions[0].committed_leader_epoch) == ("m", 7)
        assert (partitions[1].metadata, partitions[1].committed_leader_epoch) == ("", -1)
        coordinator.restart()


def test_without_topics_all_offsets_are_fetched() -> None:
    coordinator = Coordinator()
    coordinator.commit("g", {("t", 0): 1, ("t", 5): 2, ("u", 0): 3})
    found = coordinator.fetch("g").response
    assert {
        (topic.name, each.partition_index): each.committed_offset for topic in found.topics for each in topic.partitions
    } == {("t", 0): 1, ("t", 5): 2, ("u", 0): 3}
    assert coordinator.fetch("nobody").response.topics == []


def test_a_commit_without_members_makes_a_simple_group() -> None:
    coordinator = Coordinator()
    coordinator.commit("simple", {("t", 0): 1})
    described = coordinator.describe("simple")
    assert (described.group_state, described.protocol_type) == ("Empty", "")


@pytest.mark.parametrize(
    ("version", "expected"), [(8, ErrorCode.ILLEGAL_GENERATION), (9, ErrorCode.GROUP_ID_NOT_FOUND)]
)
def test_a_member_of_a_group_that_is_gone_may_not_commit(version: int, expected: ErrorCode) -> None:
    coordinator = Coordinator()
    reply = coordinator.commit("gone", {("t", 0): 1}, member_id="m", generation=3, version=version)
    assert commit_error(reply) == expected


def test_members_commit_in_their_generation_only() -> None:
    coordinator = Coordinator()
    (member,) = coordinator.stable_group()

    def commit(member_id: str, generation: int) -> int:
        return commit_error(coordinator.commit("g", {("t", 0): 1}, member_id=member_id, generation=generation))

    assert commit(member, 1) == ErrorCode.NONE
    assert commit(member, 0) == ErrorCode.ILLEGAL_GENERATION
    assert commit(member, -1) == ErrorCode.ILLEGAL_GENERATION
    assert commit("stranger", 1) == ErrorCode.UNKNOWN_MEMBER_ID
    assert commit("", -1) == ErrorCode.UNKNOWN_MEMBER_ID
    coordinator.new_member()
    assert commit(member, 1) == ErrorCode.NONE  # while it is asked to rejoin
    coordinator.join(member_id=member)
    assert commit(member, 2) == ErrorCode.REBALANCE_IN_PROGRESS


def test_a_commit_counts_as_a_heartbeat() -> None:
    coordinator = Coordinator()
    (member,) = coordinator.stable_group(session_ms=10_000)
    for _ in range(3):
        coordinator.advance(9_000)
        coordinator.commit("g", {("t", 0): 1}, member_id=member, generation=1)
    assert coordinator.heartbeat("g", member, 1).response.error_code == ErrorCode.NONE


def test_metadata_that_is_too_long_refuses_its_partition_only() -> None:
    coordinator = Coordinator(offset_metadata_size_max=4)
    assert commit_error(coordinator.commit("g", {("t", 0): 1}, metadata="12345")) == ErrorCode.OFFSET_METADATA_TOO_LARGE
    assert commit_error(coordinator.commit("g", {("t", 1): 1}, metadata="1234")) == ErrorCode.NONE
    assert commit_error(coordinator.commit("g", {("t", 2): 1}, metadata=None)) == ErrorCode.NONE
    assert [offset_of(coordinator.fetch("g", ("t", index))) for index in range(3)] == [-1, 1, 1]


def test_a_commit_that_no_batch_of_the_topic_would_hold_is_refused_as_a_whole() -> None:
    coordinator = Coordinator(offset_commit_size_max=1_000)
    few = {("t", partition): 1 for partition in range(3)}
    many = {("t", partition): 2 for partition in range(20)}
    for metadata in ("", "m" * 200):
        assert commit_error(coordinator.commit("g", few, metadata=metadata)) == ErrorCode.NONE
        assert commit_error(coordinator.commit_in_transaction("h", few, metadata=metadata)) == ErrorCode.NONE
    end_offset = coordinator.log.end_offset
    for offsets, metadata in ((many, ""), (few, "m" * 400), (few, "\u20ac" * 200)):
        refused = (
            coordinator.commit("g", offsets, metadata=metadata),
            coordinator.commit_in_transaction("h", offsets, metadata=metadata),
        )
        assert [reply.response for reply in refused] == [ErrorCode.INVALID_COMMIT_OFFSET_SIZE] * 2
    assert coordinator.log.end_offset == end_offset
    assert offset_of(coordinator.fetch("g", ("t", 0))) == 1


def test_the_offset_of_a_former_topic_of_the_same_name_does_not_count() -> None:
    coordinator = Coordinator()
    coordinator.commit("g", {("t", 0): 9}, topic_id=b"1" * 16)
    assert offset_of(coordinator.fetch("g", ("t", 0), topic_id=b"1" * 16)) == 9
    assert offset_of(coordinator.fetch("g", ("t", 0), topic_id=b"2" * 16)) == -1


def test_an_offset_of_an_open_transaction_is_unstable_to_who_asks() -> None:
    coordinator = Coordinator()
    coordinator.commit("g", {("t", 0): 9})
    coordinator.groups["g"].transactional[("t", 0)] = 1
    assert offset_of(coordinator.fetch("g", ("t", 0))) == 9
    unstable = coordinator.fetch("g", ("t", 0), stable=True).response.topics[0].partitions[0]
    assert (unstable.committed_offset, unstable.error_code) == (-1, ErrorCode.UNSTABLE_OFFSET_COMMIT)


# -- deletion ----------------------------------------------------------------------------------------------------------
def test_a_group_without_members_is_deleted_with_its_offsets() -> None:
    coordinator = Coordinator()
    (member,) = coordinator.stable_group()
    coordinator.commit("g", {("t", 0): 1}, member_id=member, generation=1)
    assert coordinator.delete_group("g").response.error_code == ErrorCode.NON_EMPTY_GROUP
    coordinator.leave("g", (member, None))
    assert coordinator.delete_group("g").response.error_code == ErrorCode.NONE
    for _ in range(2):
        assert offset_of(coordinator.fetch("g", ("t", 0))) == -1
        assert coordinator.describe("g").error_code == ErrorCode.GROUP_ID_NOT_FOUND
        assert coordinator.delete_group("g").response.error_code == ErrorCode.GROUP_ID_NOT_FOUND
        coordinator.restart()


def test_before_version_6_an_unknown_group_is_dead_without_error() -> None:
    described = Coordinator().describe("nobody", version=5)
    assert (described.error_code, described.group_state) == (ErrorCode.NONE, "Dead")


def test_offsets_of_subscribed_topics_are_not_deleted() -> None:
    coordinator = Coordinator()
    (member,) = coordinator.stable_group(protocols={"range": subscription("used")})
    coordinator.commit("g", {("used", 0): 1, ("unused", 0): 1}, member_id=member, generation=1)
    result = coordinator.delete_offsets("g", ("used", 0), ("unused", 0), ("unused", 7)).response
    codes = [topic.partitions[0].error_code for topic in result.topics]
    assert codes == [ErrorCode.GROUP_SUBSCRIBED_TO_TOPIC, ErrorCode.NONE, ErrorCode.NONE]
    assert offset_of(coordinator.fetch("g", ("used", 0))) == 1
    assert offset_of(coordinator.fetch("g", ("unused", 0))) == -1


def test_offsets_of_groups_that_are_no_consumers_are_deleted_once_they_are_empty() -> None:
    coordinator = Coordinator()
    (member,) = coordinator.stable_group(protocol_type="connect")
    assert coordinator.delete_offsets("g", ("t", 0)).response.error_code == ErrorCode.NON_EMPTY_GROUP
    assert coordinator.delete_offsets("nowhere", ("t", 0)).response.error_code == ErrorCode.GROUP_ID_NOT_FOUND
    coordinator.leave("g", (member, None))
    assert coordinator.delete_offsets("g", ("t", 0)).response.error_code == ErrorCode.NONE


def test_offsets_of_deleted_topics_go_with_them() -> None:
    coordinator = Coordinator()
    coordinator.commit("g", {("gone", 0): 1, ("gone", 1): 1}, topic_id=TOPIC_ID)
    coordinator.commit("g", {("kept", 0): 2})
    forget_topic(coordinator, "gone")
    coordinator.restart()
    assert [offset_of(coordinator.fetch("g", each)) for each in [("gone", 0), ("gone", 1), ("kept", 0)]] == [-1, -1, 2]


def test_the_offsets_of_a_topic_that_was_made_anew_stay() -> None:
    coordinator = Coordinator()
    coordinator.commit("g", {("t", 0): 1}, topic_id=TOPIC_ID)
    coordinator.commit("g", {("t", 1): 2}, topic_id=bytes(15) + b"2")
    forget_topic(coordinator, "t")
    assert [offset_of(coordinator.fetch("g", each)) for each in [("t", 0), ("t", 1)]] == [-1, 2]


def test_many_offsets_of_a_deleted_topic_go_in_steps() -> None:
    coordinator = Coordinator()
    for group in range(20):
        coordinator.commit(f"g{group}", {("gone", index): 1 for index in range(100)}, topic_id=TOPIC_ID)
    batches = coordinator.log.append_count
    forget_topic(coordinator, "gone")
    coordinator.advance(1_000)
    assert not coordinator.groups
    assert coordinator.log.append_count - batches >= 3


def forget_topic(coordinator: Coordinator, name: str) -> None:
    coordinator.call(None, lambda code: code, lambda machine, out, _: machine.offsets.forget_topic(out, name, TOPIC_ID))


# -- expiry ------------------------------------------------------------------------------------------------------------
def test_the_offsets_of_a_simple_consumer_expire_by_their_commit_and_the_group_goes() -> None:
    coordinator = Coordinator(**EXPIRY)
    coordinator.commit("g", {("t", 0): 1})
    coordinator.advance(RETENTION_MS - HOUR_MS)
    coordinator.commit("g", {("t", 1): 1})
    coordinator.advance(HOUR_MS)
    assert [offset_of(coordinator.fetch("g", ("t", index))) for index in (0, 1)] == [-1, 1]
    coordinator.advance(RETENTION_MS)
    assert "g" not in coordinator.groups
    coordinator.restart()
    assert "g" not in coordinator.groups


def test_a_group_keeps_its_offsets_while_it_has_members_and_a_retention_time_after() -> None:
    coordinator = Coordinator(**EXPIRY)
    (member,) = coordinator.stable_group()
    coordinator.commit("g", {("t", 0): 1}, member_id=member, generation=1)
    for _ in range(4 * RETENTION_MS // HOUR_MS * 450):
        coordinator.advance(8_000)
        coordinator.heartbeat("g", member, 1)
    coordinator.leave("g", (member, None))
    coordinator.advance(RETENTION_MS - HOUR_MS)
    assert offset_of(coordinator.fetch("g", ("t", 0))) == 1
    coordinator.advance(2 * HOUR_MS)
    assert "g" not in coordinator.groups


def test_a_stable_group_loses_what_it_no_longer_subscribes_to() -> None:
    coordinator = Coordinator(**EXPIRY)
    (member,) = coordinator.stable_group(protocols={"range": subscription("used")}, session_ms=1_800_000)
    coordinator.commit("g", {("used", 0): 1, ("old", 0): 1}, member_id=member, generation=1)
    for _ in range(3 * RETENTION_MS // HOUR_MS):
        coordinator.advance(HOUR_MS // 3)
        assert coordinator.heartbeat("g", member, 1).response.error_code == ErrorCode.NONE
    assert [offset_of(coordinator.fetch("g", each)) for each in [("used", 0), ("old", 0)]] == [1, 1]
    for _ in range(6):
        coordinator.advance(HOUR_MS // 3)
        coordinator.heartbeat("g", member, 1)
    assert [offset_of(coordinator.fetch("g", each)) for each in [("used", 0), ("old", 0)]] == [1, -1]


def test_a_retention_time_of_the_client_is_honoured() -> None:
    coordinator = Coordinator(**EXPIRY)
    coordinator.commit("g", {("t", 0): 1}, retention_ms=2 * HOUR_MS, version=4)
    coordinator.restart()
    coordinator.advance(HOUR_MS)
    assert offset_of(coordinator.fetch("g", ("t", 0))) == 1
    coordinator.advance(2 * HOUR_MS)
    assert offset_of(coordinator.fetch("g", ("t", 0))) == -1


def test_a_sweep_over_many_offsets_is_done_in_steps() -> None:
    coordinator = Coordinator(**EXPIRY)
    for group in range(60):
        coordinator.commit(f"g{group}", {("t", index): 1 for index in range(100)})
    coordinator.advance(RETENTION_MS)
    batches = coordinator.log.append_count
    coordinator.advance(HOUR_MS)
    assert not coordinator.groups
    assert coordinator.log.append_count - batches >= 3
