"""Giving up a lost log: nothing without the flag, and exactly what was listed with it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from broker.cli.unclean import _give_up
from s3stream.catalog import open_catalog
from s3stream.catalog.api import Catalog, NewObject, NewTopic, StreamRange


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/catalog.db"


@pytest.fixture
async def catalog(url: str) -> AsyncIterator[Catalog]:
    opened = await open_catalog(url)
    yield opened
    await opened.close()


async def lose(catalog: Catalog, *, lease_ms: int = 0) -> None:
    """Broker 1 leads t-0 and t-1, has uploaded 5 records of t-0, and is gone if its lease is over."""
    broker = await catalog.register_broker(1, "h", 1, None, "file:///gone", lease_ms, uuid4())
    topic = await catalog.create_topic(NewTopic("t", [1, 1], {}))
    streams = [p.log_stream_id for p in topic.partitions]
    opened = await catalog.open_streams(1, broker.epoch, streams)
    [(object_id, _)] = await catalog.prepare_objects(1, broker.epoch, 1)
    uploaded = StreamRange(streams[0], 0, 5, 10, 0)
    added = [NewObject(object_id, 10, (uploaded,))]
    await catalog.commit_objects(1, broker.epoch, added, {streams[0]: opened[0].epoch})


def listed(capsys: pytest.CaptureFixture[str]) -> tuple[list[dict[str, Any]], str]:
    printed = capsys.readouterr()
    return json.loads(printed.out), printed.err


async def test_what_would_be_lost_is_listed_and_stays_as_it_is(
    catalog: Catalog, url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    await lose(catalog)
    assert await _give_up(url, 1, False, True) == 1
    rows, verdict = listed(capsys)
    assert [(row["topic"], row["partition"], row["lost_from_offset"]) for row in rows] == [("t", 0, 5), ("t", 1, 0)]
    assert all(row["given_up"] is None and row["last_upload"] for row in rows)
    assert "--accept-loss" in verdict
    assert len(await catalog.lost_tails(1)) == 2


async def test_with_the_flag_exactly_that_is_given_up_and_stays_on_record(
    catalog: Catalog, url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    await lose(catalog)
    for _ in range(2):
        assert await _give_up(url, 1, True, True) == 0
        rows, verdict = listed(capsys)
        assert [(row["partition"], row["lost_from_offset"]) for row in rows] == [(0, 5), (1, 0)]
        assert all(row["given_up"] for row in rows)
        assert "nothing of broker 1 waits for its log" in verdict
    heir = await catalog.register_broker(2, "h", 2, None, "file:///2", 60_000, uuid4())
    assert await catalog.claim_partitions(2, heir.epoch) == 2


async def test_of_a_broker_that_lives_nothing_is_given_up(
    catalog: Catalog, url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    await lose(catalog, lease_ms=60_000)
    assert await _give_up(url, 1, True, True) == 0
    rows, verdict = listed(capsys)
    assert rows == []
    assert "broker 1 is alive" in verdict


def test_a_database_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    command = ["brokers", "give-up", "1", "--metadata", f"sqlite:///{tmp_path}/nothing.db"]
    done = subprocess.run(
        [sys.executable, "-m", "broker.cli", *command], capture_output=True, text=True, timeout=30, check=False
    )
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("tailrace: ")
