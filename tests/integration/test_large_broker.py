"""A short form of the drill of a large broker. Its figures count on a quiet machine only."""

from __future__ import annotations

from pathlib import Path

import pytest

from .scale_drill import RESIDENT_MAX_MB, Plan, run

pytestmark = pytest.mark.integration


@pytest.mark.timeout(120)
def test_a_broker_on_a_filled_store_opens_serves_shares_and_is_taken_over_from(tmp_path: Path) -> None:
    verdict = run(tmp_path, Plan(partitions=100, objects=1000, seconds=0.3))
    assert verdict.opened_mb < RESIDENT_MAX_MB
