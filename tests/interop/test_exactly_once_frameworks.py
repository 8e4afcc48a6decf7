"""Kafka Streams and Connect with exactly-once, while they and the broker are killed."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from . import connect_drill, streams_drill

pytestmark = [pytest.mark.interop, pytest.mark.timeout(240)]


def test_streams_totals_are_right_after_kills(tmp_path: Path) -> None:
    plan = streams_drill.Plan(random.randrange(1 << 32), kills=2)
    print(plan)
    print(streams_drill.run(plan, tmp_path))


def test_a_connect_source_writes_every_line_once(tmp_path: Path) -> None:
    plan = connect_drill.Plan(random.randrange(1 << 32), kills=2)
    print(plan)
    print(connect_drill.run(plan, tmp_path))
