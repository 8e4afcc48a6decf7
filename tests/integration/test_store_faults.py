"""A short form of the drill of a failing object store."""

from __future__ import annotations

from pathlib import Path

import pytest

from .store_fault_drill import run

pytestmark = pytest.mark.integration

RULES = """
* down for=1.5
* error p=0.3 from=1.5
* delay=0.3 p=0.3 from=1.5
put lost p=0.1 from=1.5
get torn p=0.1 from=1.5
get flipped p=0.05 from=1.5
"""


@pytest.mark.timeout(120)
def test_a_store_that_is_down_and_then_fails_now_and_then_loses_nothing_and_ends_no_broker(tmp_path: Path) -> None:
    verdict = run(tmp_path, RULES, seconds=3.0)
    assert verdict.after > 0
