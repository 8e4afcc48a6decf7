"""A short form of the soak: all its traffic and faults, with intervals that are a tenth as long."""

from __future__ import annotations

import pytest

from .soak.run import Plan, Soak

pytestmark = pytest.mark.integration


@pytest.mark.timeout(120)
def test_mixed_traffic_with_retention_compaction_and_faults_keeps_what_the_model_says() -> None:
    lines: list[str] = []
    plan = Plan(8.0, partitions=40, rate=150, objects="local", metadata="sqlite", scale=0.06)
    soak = Soak(plan, lines.append)
    assert soak.run() == [], "\n".join(lines)
    assert soak.counts["records read"] > 0
    assert soak.counts["logged: removed unneeded objects"] > 0
