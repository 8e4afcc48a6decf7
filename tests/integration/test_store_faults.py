"""Short forms of the drill of a failing object store."""

from __future__ import annotations

from pathlib import Path

import pytest

from .store_fault_drill import run

pytestmark = pytest.mark.integration


@pytest.mark.timeout(120)
@pytest.mark.parametrize(
    "rules",
    ["* error p=0.3; * delay=0.3 p=0.3; put lost p=0.1; get torn p=0.1; get flipped p=0.05", "* down"],
    ids=["errors, delays, lost answers, torn and damaged reads", "down"],
)
def test_a_failing_store_loses_nothing_and_ends_no_broker(tmp_path: Path, rules: str) -> None:
    verdict = run(tmp_path, rules, seconds=4.0)
    assert verdict.after > 0
