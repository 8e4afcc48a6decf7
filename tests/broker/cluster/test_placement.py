from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from broker.cluster.placement import place_leaders, replicas_by_ring


def test_equals_are_taken_in_rotation() -> None:
    assert place_leaders(4, [1, 2, 3], {}, 0) == [1, 2, 3, 1]
    assert place_leaders(4, [1, 2, 3], {}, 1) == [2, 3, 1, 2]


def test_the_least_loaded_fills_first() -> None:
    assert place_leaders(4, [1, 2], {1: 10, 2: 7}, 0) == [2, 2, 2, 1]


@given(
    st.integers(0, 200),
    st.lists(st.integers(0, 50), min_size=1, max_size=8, unique=True).map(sorted),
    st.dictionaries(st.integers(0, 50), st.integers(0, 30)),
    st.integers(0, 100),
)
def test_no_broker_gets_a_partition_while_another_one_is_less_loaded(
    count: int, nodes: list[int], loads: dict[int, int], first: int
) -> None:
    leaders = place_leaders(count, nodes, loads, first)
    assert len(leaders) == count
    after = Counter({node: loads.get(node, 0) for node in nodes})
    for leader in leaders:
        assert after[leader] == min(after.values())
        after[leader] += 1


def test_replicas_are_the_leader_and_the_alive_brokers_after_it() -> None:
    alive = dict.fromkeys((1, 2, 3))
    assert replicas_by_ring(2, alive, 3) == [2, 3, 1]
    assert replicas_by_ring(2, alive, 2) == [2, 3]
    assert replicas_by_ring(3, alive, 1) == [3]
    assert replicas_by_ring(1, {1: None}, 3) == [1]


def test_a_replica_list_has_one_broker_of_each_rack_before_a_second_one_of_any() -> None:
    racks = {1: "a", 2: "a", 3: "b", 4: "b", 5: "c", 6: None}
    assert replicas_by_ring(1, racks, 3) == [1, 3, 5]
    assert replicas_by_ring(4, racks, 4) == [4, 5, 6, 1]
    assert replicas_by_ring(1, racks, 9) == [1, 3, 5, 6, 2, 4]
