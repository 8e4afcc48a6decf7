"""Consumers of one group that come and go: nothing is missed, and commits hold."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest

from .admin import create_topic
from .clients import Client, RunningConsumer, record

pytestmark = pytest.mark.interop
BASE_TIME = 1_700_000_000_000


def numbered(first: int, count: int) -> list[dict[str, Any]]:
    return [record(b"k", f"{i}".encode(), BASE_TIME + i, partition=i % 4) for i in range(first, first + count)]


def values(records: list[dict[str, Any]]) -> list[str]:
    return sorted(each["v"] for each in records)


def test_a_group_goes_on_from_its_commit(bootstrap: str, topic: str, client: Client) -> None:
    create_topic(bootstrap, topic, partitions=4)
    group = f"{topic}-g"
    sent, more = numbered(0, 100), numbered(100, 40)
    client.produce(bootstrap, topic, sent)
    assert values(client.consume(bootstrap, topic, group, 100)) == values(sent)
    client.produce(bootstrap, topic, more)
    assert values(client.consume(bootstrap, topic, group, 40)) == values(more)


def produce_until(send: Callable[[], None], done: Callable[[], bool], timeout_s: float = 45) -> None:
    deadline = time.monotonic() + timeout_s
    while not done():
        assert time.monotonic() < deadline, "the group did not settle"
        send()


def test_members_come_and_go_and_nothing_is_missed(bootstrap: str, topic: str, client: Client) -> None:
    create_topic(bootstrap, topic, partitions=4)
    group = f"{topic}-g"
    sent: list[dict[str, Any]] = []

    def send() -> None:
        batch = numbered(len(sent), 40)
        client.produce(bootstrap, topic, batch)
        sent.extend(batch)

    def partitions(running: RunningConsumer, since: int = 0) -> set[int]:
        return {each["p"] for each in running.records[since:]}

    with client.consuming(bootstrap, topic, group) as first, client.consuming(bootstrap, topic, group) as second:
        produce_until(send, lambda: bool(first.records) and bool(second.records))
        kept = second.leave()
        before = len(first.records)
        produce_until(send, lambda: partitions(first, before) == {0, 1, 2, 3})
        with client.consuming(bootstrap, topic, group) as third:
            produce_until(send, lambda: bool(third.records))
            third.kill()
            before = len(first.records)
            # the killed member's partitions come back once its session has run out
            produce_until(send, lambda: partitions(first, before) == {0, 1, 2, 3})
            wanted = {each["v"] for each in sent}
            deadline = time.monotonic() + 45
            while not wanted <= {each["v"] for each in (*first.records, *kept, *third.records)}:
                assert time.monotonic() < deadline, "records are missing"
                time.sleep(0.05)
            first.leave()
