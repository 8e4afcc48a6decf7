"""kcat, the tool that most people try first."""

from __future__ import annotations

import json
import subprocess

import pytest

from .clients import need

pytestmark = pytest.mark.interop


def kcat(bootstrap: str, *arguments: str, stdin: str = "") -> str:
    done = subprocess.run(
        [need("kcat"), "-b", bootstrap, *arguments], input=stdin, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_produce_creates_the_topic_and_consume_reads_it(bootstrap: str, topic: str) -> None:
    lines = [f"k{i}:value {i}" for i in range(100)]
    kcat(bootstrap, "-P", "-t", topic, "-K:", "-H", "origin=kcat", "-z", "snappy", stdin="\n".join(lines) + "\n")
    out = kcat(bootstrap, "-C", "-t", topic, "-o", "beginning", "-e", "-q", "-f", "%k:%s %h\n")
    assert sorted(out.splitlines()) == sorted(f"{line} origin=kcat" for line in lines)


def test_metadata_listing_names_topics_and_brokers(bootstrap: str, topic: str) -> None:
    kcat(bootstrap, "-P", "-t", topic, stdin="x\n")
    told = json.loads(kcat(bootstrap, "-L", "-J"))
    assert bootstrap in {broker["name"] for broker in told["brokers"]}
    mine = next(each for each in told["topics"] if each["topic"] == topic)
    assert all(part["leader"] == told["brokers"][0]["id"] for part in mine["partitions"])


def test_group_consumer_commits(bootstrap: str, topic: str) -> None:
    kcat(bootstrap, "-P", "-t", topic, stdin="a\nb\nc\n")
    settings = ("-X", "auto.offset.reset=earliest", "-G", f"{topic}-g", topic)
    assert kcat(bootstrap, "-c", "3", "-q", *settings).split() == ["a", "b", "c"]
    kcat(bootstrap, "-P", "-t", topic, stdin="d\n")
    assert kcat(bootstrap, "-c", "1", "-q", *settings).split() == ["d"]


def test_query_by_time(bootstrap: str, topic: str) -> None:
    kcat(bootstrap, "-P", "-t", topic, "-p", "0", stdin="a\nb\n")
    assert "offset 0" in kcat(bootstrap, "-Q", "-t", f"{topic}:0:1000")
