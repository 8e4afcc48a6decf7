"""The server-side assignors, by name."""

from __future__ import annotations

from broker.coordinator.group.consumer.assignors.api import Assignor
from broker.coordinator.group.consumer.assignors.ranges import RangeAssignor
from broker.coordinator.group.consumer.assignors.uniform import UniformAssignor

ASSIGNORS: dict[str, Assignor] = {each.name: each for each in (UniformAssignor(), RangeAssignor())}
