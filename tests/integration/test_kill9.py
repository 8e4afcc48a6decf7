"""`kill -9` under load: nothing acknowledged is lost, doubled or moved, and consumers go on from their commits."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from .kill_drill import SMALL_BLOCKS, Plan, run

pytestmark = pytest.mark.integration


@pytest.mark.timeout(300)
def test_ten_kills_under_load_keep_every_promise(tmp_path: Path) -> None:
    plan = Plan(random.randrange(1 << 32), kills=10)
    print(plan)
    print(run(plan, tmp_path))


@pytest.mark.timeout(300)
def test_kills_amid_uploads_and_starts_keep_every_promise(tmp_path: Path) -> None:
    plan = Plan(random.randrange(1 << 32), kills=3, when="startup", env=SMALL_BLOCKS)
    print(plan)
    print(run(plan, tmp_path))
