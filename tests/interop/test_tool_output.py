"""Kafka's tools print what they print against Apache Kafka: groups, transactions, features, coordinators' records."""

from __future__ import annotations

from pathlib import Path

import pytest

from .brokers import a_broker
from .tool_story import CONFIGS
from .tools_scenario import GOLDEN, record

pytestmark = [pytest.mark.interop, pytest.mark.timeout(240)]


def test_tools_print_what_they_print_against_kafka(tmp_path: Path) -> None:
    with a_broker(tmp_path, CONFIGS) as broker:
        assert record(broker.address) == GOLDEN.read_text().split("\n")
