"""Copies in transactions are made exactly once although instances and the broker are killed, with each client."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from .drill import Plan, run

pytestmark = pytest.mark.integration


@pytest.mark.timeout(300)
@pytest.mark.parametrize("client", ["confluent", "franz"])
def test_every_input_is_copied_exactly_once_through_kills(client: str, tmp_path: Path) -> None:
    plan = Plan(random.randrange(1 << 32), client, kills=3)
    print(plan)
    print(run(plan, tmp_path))


@pytest.mark.timeout(300)
@pytest.mark.parametrize("client", ["confluent", "java"])
def test_the_same_in_groups_of_the_consumer_protocol(client: str, tmp_path: Path) -> None:
    plan = Plan(random.randrange(1 << 32), client, kills=3, settings={"group.protocol": "consumer"})
    print(plan)
    print(run(plan, tmp_path))
