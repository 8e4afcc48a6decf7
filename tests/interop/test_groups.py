"""Consumers of one group that come and go: nothing is missed, and commits hold."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import pytest

from .admin import create_topic, produce
from .clients import CLIENTS, Client, RunningConsumer, Settings, record

pytestmark = pytest.mark.interop
BASE_TIME = 1_700_000_000_000


def numbered(first: int, count: int) -> list[dict[str, Any]]:
    return [record(b"k", f"{i}".encode(), BASE_TIME + i, partition=i % 4) for i in range(first, first + count)]


def values(records: list[dict[str, Any]]) -> list[str]:
    return sorted(each["v"] for each in records)


def named(name: str) -> Client:
    client = next(each for each in CLIENTS if each.name == name)
    client.driver()
    return client


def test_a_group_goes_on_from_its_commit(bootstrap: str, topic: str, client: Client) -> None:
    create_topic(bootstrap, topic, partitions=4)
    group = f"{topic}-g"
    sent, more = numbered(0, 100), numbered(100, 40)
    client.produce(bootstrap, topic, sent)
    assert values(client.consume(bootstrap, topic, group, 100)) == values(sent)
    client.produce(bootstrap, topic, more)
    assert values(client.consume(bootstrap, topic, group, 40)) == values(more)


def wait_until(done: Callable[[], bool], timeout_s: float = 45) -> None:
    deadline = time.monotonic() + timeout_s
    while not done():
        assert time.monotonic() < deadline, "records are missing"
        time.sleep(0.05)


def produce_until(send: Callable[[], None], done: Callable[[], bool], timeout_s: float = 45) -> None:
    deadline = time.monotonic() + timeout_s
    while not done():
        assert time.monotonic() < deadline, "the group did not settle"
        send()
        time.sleep(0.2)


def test_members_come_and_go_and_nothing_is_missed(bootstrap: str, topic: str, client: Client) -> None:
    come_and_go(bootstrap, topic, client)


@pytest.mark.parametrize("name", ["confluent-kafka", "java"])
def test_members_come_and_go_under_cooperative_assignment(bootstrap: str, topic: str, name: str) -> None:
    """franz-go does so by default."""
    client = named(name)
    strategy = "org.apache.kafka.clients.consumer.CooperativeStickyAssignor" if name == "java" else "cooperative-sticky"
    come_and_go(bootstrap, topic, client, [f"partition.assignment.strategy={strategy}"])


@pytest.mark.parametrize("name", ["confluent-kafka", "java"])
def test_a_static_member_that_comes_back_keeps_its_partitions(bootstrap: str, topic: str, name: str) -> None:
    """While its session lasts its death moves nothing, and it is let in again without a rebalance."""
    client = named(name)
    create_topic(bootstrap, topic, partitions=4)
    group = f"{topic}-g"
    sent: list[dict[str, Any]] = []

    def send() -> None:
        batch = numbered(len(sent), 40)
        produce(bootstrap, topic, batch)
        sent.extend(batch)

    def member(instance: str) -> AbstractContextManager[RunningConsumer]:
        settings = [f"group.instance.id={instance}", "session.timeout.ms=60000"]
        return client.consuming(bootstrap, topic, group, settings=settings)

    def newest(running: RunningConsumer) -> list[dict[str, Any]]:
        """What it has of the batch that was sent last."""
        wanted = {each["v"] for each in sent[-40:]}
        return [each for each in running.records if each["v"] in wanted]

    with member("one") as one, member("two") as two:
        produce_until(send, lambda: bool(one.records) and bool(two.records))
        send()
        wait_until(lambda: len(newest(one)) + len(newest(two)) == 40)
        kept = {each["p"] for each in newest(two)}
        one.kill()
        with member("one") as again:
            produce_until(send, lambda: bool(again.records))
            send()
            wait_until(lambda: len(newest(again)) + len(newest(two)) == 40)
            assert {each["p"] for each in newest(two)} == kept
            assert {each["p"] for each in again.records} == {0, 1, 2, 3} - kept


def come_and_go(bootstrap: str, topic: str, client: Client, settings: Settings = ()) -> None:
    """Two members, one leaves, another comes and is killed: every record is read by one of them."""
    create_topic(bootstrap, topic, partitions=4)
    group = f"{topic}-g"
    sent: list[dict[str, Any]] = []

    def send() -> None:
        batch = numbered(len(sent), 40)
        produce(bootstrap, topic, batch)
        sent.extend(batch)

    def partitions(running: RunningConsumer, since: int = 0) -> set[int]:
        return {each["p"] for each in running.records[since:]}

    def member() -> AbstractContextManager[RunningConsumer]:
        return client.consuming(bootstrap, topic, group, settings=settings)

    with member() as first, member() as second:
        produce_until(send, lambda: bool(first.records) and bool(second.records))
        kept = second.leave()
        before = len(first.records)
        produce_until(send, lambda: partitions(first, before) == {0, 1, 2, 3})
        with member() as third:
            produce_until(send, lambda: bool(third.records))
            third.kill()
            before = len(first.records)
            # the killed member's partitions come back once its session has run out
            produce_until(send, lambda: partitions(first, before) == {0, 1, 2, 3})
            wanted = {each["v"] for each in sent}
            wait_until(lambda: wanted <= {each["v"] for each in (*first.records, *kept, *third.records)})
            first.leave()
