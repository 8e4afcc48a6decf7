"""`tailrace brokers`: what it prints of what the brokers say."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator

import pytest

from broker.cli import brokers
from broker.cli.errors import CommandError
from protocol.messages.describe_balance import BalancedBroker, DescribeBalanceResponse, PartitionMove

BOOTSTRAP = "127.0.0.1:9092"
Say = Callable[..., None]


def broker(node_id: int, state: str = "active", partition_count: int = 3) -> BalancedBroker:
    return BalancedBroker(
        node_id=node_id, host="h", port=9090 + node_id, rack=None, state=state, partition_count=partition_count
    )


@pytest.fixture
def say(monkeypatch: pytest.MonkeyPatch) -> Say:
    """What the brokers answer from now on, one after the other; the last answer stays."""

    def answers(*pictures: DescribeBalanceResponse | CommandError) -> None:
        left: Iterator[DescribeBalanceResponse | CommandError] = iter(pictures)
        last = [pictures[0]]

        def picture(bootstrap: str) -> DescribeBalanceResponse:
            last[0] = next(left, last[0])
            if isinstance(last[0], CommandError):
                raise last[0]
            return last[0]

        monkeypatch.setattr(brokers, "_picture", picture)

    monkeypatch.setattr(brokers, "_alter", lambda *_: None)
    monkeypatch.setattr(brokers, "_POLL_INTERVAL_S", 0.0)
    return answers


def of(*listed: BalancedBroker) -> DescribeBalanceResponse:
    return DescribeBalanceResponse(enabled=True, brokers=list(listed))


def test_a_broker_that_did_not_say_what_it_does_has_dashes(say: Say, capsys: pytest.CaptureFixture[str]) -> None:
    busy = broker(1)
    busy.rack, busy.bytes_in, busy.bytes_out, busy.requests, busy.cpu = "a", 2.5e6, 1e7, 900.4, 0.5
    say(of(busy, broker(2, "failed", 0)))
    brokers.list_brokers(BOOTSTRAP)
    assert capsys.readouterr().out.splitlines() == [
        "1\th:9091\ta\tactive\t3\t2.5 MB/s\t10.0 MB/s\t900/s\t0.50",
        "2\th:9092\t-\tfailed\t0\t-\t-\t-\t-",
    ]
    brokers.list_brokers(BOOTSTRAP, json=True)
    first, second = json.loads(capsys.readouterr().out)
    assert (first["bytes_in"], first["cpu"], second["bytes_in"]) == (2_500_000, 0.5, None)


def test_a_plan_says_what_moves_and_what_is_next_or_that_nothing_does(
    say: Say, capsys: pytest.CaptureFixture[str]
) -> None:
    picture = of(broker(1))
    say(picture)
    brokers.plan(BOOTSTRAP)
    assert capsys.readouterr().out == "nothing moves, and nothing needs to\n"
    picture.moving = [PartitionMove(topic_name="t", partition_index=0, source_id=1, target_id=2, reason="why")]
    picture.planned = [PartitionMove(topic_name="t", partition_index=1, source_id=1, target_id=2, reason="so")]
    picture.enabled = False
    brokers.plan(BOOTSTRAP)
    captured = capsys.readouterr()
    assert captured.out == "moving\tt\t0\t1\t2\twhy\nplanned\tt\t1\t1\t2\tso\n"
    assert "balancing is off" in captured.err


def test_a_drain_tells_how_much_is_left_and_survives_a_moment_without_answer(
    say: Say, capsys: pytest.CaptureFixture[str]
) -> None:
    say(
        of(broker(1), broker(2)),
        of(broker(1), broker(2, "draining", 3)),
        CommandError("no broker reachable"),
        of(broker(1), broker(2, "draining", 1)),
        of(broker(1), broker(2, "drained", 0)),
    )
    brokers.drain(2, BOOTSTRAP, wait=True, timeout=10)
    assert capsys.readouterr().out.splitlines() == [
        "broker 2: 3 partitions left",
        "broker 2: 1 partition left",
        "broker 2 leads nothing: it can be stopped",
    ]


def test_a_drain_that_does_not_come_to_an_end_in_time_fails_and_goes_on(say: Say) -> None:
    say(of(broker(1), broker(2, "draining", 2)))
    with pytest.raises(CommandError, match="still leads 2 partitions after 0 s; it goes on"):
        brokers.drain(2, BOOTSTRAP, wait=True, timeout=0)


@pytest.mark.parametrize(
    ("node_id", "others", "words"),
    [
        (2, [broker(1, "drained", 0)], "no other broker is active"),
        (2, [], "no other broker is active"),
        (9, [broker(1)], "no broker 9; `tailrace brokers list` shows what there is"),
    ],
)
def test_a_drain_that_cannot_be_is_refused(say: Say, node_id: int, others: list[BalancedBroker], words: str) -> None:
    say(of(broker(2), *others))
    with pytest.raises(CommandError, match=words):
        brokers.drain(node_id, BOOTSTRAP, wait=True, timeout=1)
