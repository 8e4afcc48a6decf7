"""A short form of the drill of a large compacted topic."""

from __future__ import annotations

from pathlib import Path

import pytest

from .compacted_drill import Plan, run

pytestmark = pytest.mark.integration


@pytest.mark.timeout(120)
def test_a_compacted_topic_ends_with_the_last_value_of_each_key_and_is_cheap_to_rewrite(tmp_path: Path) -> None:
    plan = Plan(20_000, 500, partitions=2, lag_ms=1_000, retention_ms=3_000, backoff_ms=200)
    verdict = run(tmp_path, plan)
    assert 0 < verdict.left < plan.keys
