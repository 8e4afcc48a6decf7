"""The benchmark's scenarios; one module each, in the order in which they run."""

from __future__ import annotations

from bench.scenarios import consume, failover, partitions, produce, replicated, starts, steady, workloads
from bench.scenarios.api import Scenario

ALL: tuple[Scenario, ...] = (
    starts.SCENARIO,
    produce.SCENARIO,
    consume.SCENARIO,
    steady.SCENARIO,
    workloads.SCENARIO,
    replicated.SCENARIO,
    failover.SCENARIO,
    partitions.SCENARIO,
)
