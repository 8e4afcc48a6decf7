from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from broker.cluster.placement import place_leaders, replicas


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
    assert replicas(2, [1, 2, 3], 3) == [2, 3, 1]
    assert replicas(2, [1, 2, 3], 2) == [2, 3]
    assert replicas(3, [1, 2, 3], 1) == [3]
    assert replicas(1, [1], 3) == [1]
