from __future__ import annotations

import random

import pytest

from s3stream.catalog.api import SetObject
from s3stream.compaction.plan import KIB, MIB, Limits, count_settled, deepest, plan_merge, plan_sets

LIMITS = Limits()
DAY_MS = 86_400_000


def set_object(object_id: int, generation: int = 0, first: int = 1, last: int = 100, age_ms: int = 0) -> SetObject:
    return SetObject(object_id, f"k{object_id}", 1000, 1, generation, first, last, age_ms)


def merge_all(sizes: list[int], limits: Limits = LIMITS) -> tuple[list[int], int]:
    """What is left when nothing is due any more, and the bytes that were rewritten for it."""
    written = 0
    while (found := plan_merge(sizes, [True] * len(sizes), limits)) is not None:
        first, stop = found
        merged = sum(sizes[first:stop])
        assert stop - first >= 2
        assert merged <= limits.target_size
        sizes = [*sizes[:first], merged, *sizes[stop:]]
        written += merged
    return sizes, written


@pytest.mark.parametrize("size", [100, 3 * KIB, 100 * KIB, MIB, 3 * MIB])
def test_ranges_of_one_size_become_few_and_large_ones_at_little_cost(size: int) -> None:
    count = 500
    left, written = merge_all([size] * count)
    total = count * size
    assert len(left) < LIMITS.run_count_max + 2 * total // LIMITS.target_size
    assert written <= total * len(LIMITS.tiers)
    assert sum(left) == total


def test_the_number_of_ranges_is_bounded_by_the_bytes_whatever_their_sizes() -> None:
    for seed in range(30):
        rng = random.Random(seed)
        sizes: list[int] = []
        written = 0
        for _ in range(400):
            sizes.append(rng.choice((rng.randrange(1, 1000), rng.randrange(MIB), rng.randrange(20 * MIB))))
            sizes, more = merge_all(sizes)
            written += more
        large = sum(size >= LIMITS.tiers[-1][0] for size in sizes)
        assert len(sizes) < LIMITS.run_count_max * (large + 1)
        assert written <= sum(sizes) * len(LIMITS.tiers)


def test_what_is_shared_or_large_is_left_alone() -> None:
    sizes = [MIB] * 20
    assert plan_merge(sizes, [False] * 20, LIMITS) is None
    assert plan_merge(sizes, [i != 3 for i in range(20)], LIMITS) == (4, 20)
    assert plan_merge([LIMITS.tiers[-1][0]] * 99, [True] * 99, LIMITS) is None


def test_set_objects_of_a_generation_are_due_when_enough_of_them_hold_one_stream() -> None:
    sets = [set_object(i) for i in range(LIMITS.fan_in)]
    assert plan_sets(sets[1:], LIMITS, DAY_MS) is None
    plan = plan_sets(sets, LIMITS, DAY_MS)
    assert plan is not None
    assert (len(plan.sources), plan.generation, plan.split_all) == (LIMITS.fan_in, 1, False)
    mixed = [set_object(i, generation=i % 2) for i in range(LIMITS.fan_in)]
    assert plan_sets(mixed, LIMITS, DAY_MS) is None


def test_set_objects_of_different_streams_do_not_count_together() -> None:
    apart = [set_object(i, 1, 10 * i, 10 * i + 9) for i in range(3 * LIMITS.fan_in)]
    assert plan_sets(apart, LIMITS, DAY_MS) is None
    assert deepest(apart) == (1, 0)
    touching = [set_object(i, 1, 10 * i, 10 * i + 10) for i in range(3)]
    assert deepest(touching) == (2, 10)


def test_the_last_generation_and_what_came_of_age_is_split_altogether() -> None:
    last = [set_object(i, LIMITS.generation_max) for i in range(LIMITS.fan_in)]
    plan = plan_sets(last, LIMITS, DAY_MS)
    assert plan is not None
    assert plan.split_all
    plan = plan_sets([set_object(1), set_object(2, age_ms=DAY_MS)], LIMITS, DAY_MS)
    assert plan is not None
    assert plan.split_all
    assert [each.object_id for each in plan.sources] == [2]


def test_a_backlog_makes_it_more_urgent_and_takes_a_bounded_part_at_once() -> None:
    plan = plan_sets([set_object(i) for i in range(100)], LIMITS, DAY_MS)
    assert plan is not None
    assert plan.urgency == 10.0
    assert [each.object_id for each in plan.sources] == list(range(LIMITS.sources_max))


def test_what_may_yet_be_merged_is_not_settled() -> None:
    large = LIMITS.tiers[-1][0]
    assert count_settled([], [], LIMITS) == 0
    assert count_settled([1, 2, 3], [True] * 3, LIMITS) == 0
    assert count_settled([1, large, 3, large, 1, 1], [True] * 6, LIMITS) == 4
    assert count_settled([1, large, 3, large, 1, 1], [True, True, False, True, True, True], LIMITS) == 2
