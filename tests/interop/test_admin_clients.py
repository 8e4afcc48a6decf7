"""The admin clients of every library: topics, configs, groups, deletion of records."""

from __future__ import annotations

import pytest

from .admin import create_topic, produce
from .clients import CLIENTS, Client, record

pytestmark = pytest.mark.interop


def test_an_admin_client_does_its_work(bootstrap: str, topic: str, client: Client) -> None:
    create_topic(bootstrap, topic, partitions=1)
    group = f"{topic}-g"
    produce(bootstrap, topic, [record(b"k", b"v", 1_700_000_000_000, partition=0) for _ in range(30)])
    CLIENTS[0].consume(bootstrap, topic, group, 30)
    assert client.run("admin", bootstrap, topic, group) == [
        {
            "partitions": 3,
            "retention": "3600000",
            "altered": "5000",
            "group": "Empty",
            "group_listed": True,
            "low": 10,
            "listed": True,
            "gone": True,
        }
    ]
