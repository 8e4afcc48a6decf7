"""Promises of the server-side assignors, on any group."""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from broker.coordinator.group.consumer.assignors import ASSIGNORS
from broker.coordinator.group.consumer.assignors.api import Subscriber
from broker.coordinator.group.consumer.values import Assignment

Assigned = dict[str, dict[bytes, frozenset[int]]]

topic_ids = [bytes([index]) * 16 for index in range(5)]
counts = st.fixed_dictionaries({topic_id: st.integers(1, 12) for topic_id in topic_ids})
ids = st.sampled_from([f"m{index}" for index in range(9)])
some_topics = st.frozensets(st.sampled_from(topic_ids))
mixed = st.dictionaries(ids, some_topics, min_size=1)
alike = st.builds(lambda members, asked: dict.fromkeys(members, asked), st.sets(ids, min_size=1), some_topics)
names = st.sampled_from(sorted(ASSIGNORS))


def assign(
    name: str, asked: dict[str, frozenset[bytes]], counts: dict[bytes, int], former: dict[str, Any] | None = None
) -> Assigned:
    members = {each: Subscriber(None, topics, (former or {}).get(each, {})) for each, topics in asked.items()}
    return ASSIGNORS[name].assign(members, counts)


def sizes(assigned: Assigned) -> list[int]:
    return [sum(map(len, share.values())) for share in assigned.values()]


def moved(former: Assigned, later: Assigned) -> int:
    """Partitions that somebody had and does not have any more."""
    return sum(
        len(partitions - later.get(member_id, {}).get(topic_id, frozenset()))
        for member_id, share in former.items()
        for topic_id, partitions in share.items()
    )


@given(names, st.one_of(mixed, alike), counts, counts)
def test_every_partition_goes_to_one_of_its_subscribers(
    name: str, asked: dict[str, frozenset[bytes]], before: dict[bytes, int], counts: dict[bytes, int]
) -> None:
    """Whatever was assigned before, of topics that were larger or smaller then."""
    assigned = assign(name, asked, counts, assign(name, asked, before))
    owners: dict[tuple[bytes, int], str] = {}
    for member_id, share in assigned.items():
        for topic_id, partitions in share.items():
            assert topic_id in asked[member_id]
            for index in partitions:
                assert owners.setdefault((topic_id, index), member_id) == member_id
    wanted = {topic_id for topics in asked.values() for topic_id in topics}
    assert set(owners) == {(topic_id, index) for topic_id in wanted for index in range(counts[topic_id])}


@given(names, st.one_of(mixed, alike), counts, st.randoms(use_true_random=False))
def test_the_order_of_the_members_makes_no_difference(
    name: str, asked: dict[str, frozenset[bytes]], counts: dict[bytes, int], random: Any
) -> None:
    shuffled = [*asked]
    random.shuffle(shuffled)
    assert assign(name, {each: asked[each] for each in shuffled}, counts) == assign(name, asked, counts)


@given(names, st.one_of(mixed, alike), counts)
def test_nothing_moves_where_nothing_changes(
    name: str, asked: dict[str, frozenset[bytes]], counts: dict[bytes, int]
) -> None:
    first = assign(name, asked, counts)
    assert assign(name, asked, counts, first) == first


@given(alike, counts)
def test_uniform_is_even_to_one_partition(asked: dict[str, frozenset[bytes]], counts: dict[bytes, int]) -> None:
    assert max(sizes(assign("uniform", asked, counts))) - min(sizes(assign("uniform", asked, counts))) <= 1


@given(mixed, counts, mixed)
@settings(max_examples=60)
def test_uniform_leaves_no_partition_with_who_has_two_more_than_another_subscriber(
    asked: dict[str, frozenset[bytes]], counts: dict[bytes, int], before: dict[str, frozenset[bytes]]
) -> None:
    assigned = assign("uniform", asked, counts, assign("uniform", before, counts))
    size = dict(zip(assigned, sizes(assigned), strict=True))
    for owner, share in assigned.items():
        for topic_id in share:
            assert all(size[owner] - size[each] < 2 for each, topics in asked.items() if topic_id in topics)


@given(alike, counts, ids)
def test_uniform_moves_no_more_than_a_newcomer_or_a_leaver_calls_for(
    asked: dict[str, frozenset[bytes]], counts: dict[bytes, int], other: str
) -> None:
    first = assign("uniform", asked, counts)
    topics = next(iter(asked.values()))
    if other not in asked:
        second = assign("uniform", {**asked, other: topics}, counts, first)
        assert moved(first, second) == sum(map(len, second[other].values()))
    elif len(asked) > 1:
        second = assign("uniform", {each: topics for each in asked if each != other}, counts, first)
        assert moved(first, second) == sum(map(len, first[other].values()))


@given(alike, st.integers(1, 12), st.none() | ids)
def test_range_cuts_topics_of_one_size_in_the_same_places(
    asked: dict[str, frozenset[bytes]], count: int, newcomer: str | None
) -> None:
    counts = dict.fromkeys(topic_ids, count)
    assigned = assign("range", asked, counts)
    if newcomer is not None:
        topics = next(iter(asked.values()))
        assigned = assign("range", {**asked, newcomer: topics}, counts, assigned)
    for share in assigned.values():
        assert len({*share.values()}) <= 1
        for run in share.values():
            assert run == frozenset(range(min(run), max(run) + 1))
    assert max(sizes(assigned)) - min(sizes(assigned)) <= len(topic_ids)


def test_range_keeps_who_was_there_where_they_were() -> None:
    topic = topic_ids[0]
    former: dict[str, Assignment] = {"z": {topic: frozenset({0, 1})}, "y": {topic: frozenset({2, 3})}}
    asked = dict.fromkeys(("a", "y", "z"), frozenset({topic}))
    assigned = assign("range", asked, {topic: 4}, former)
    assert assigned["z"][topic] == {0, 1}
    assert assigned["y"][topic] == {2}
    assert assigned["a"][topic] == {3}
