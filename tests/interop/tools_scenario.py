"""What Kafka's tools print after one and the same story of groups and transactions, whichever broker tells it.

`record(address)` plays the story (groups of both protocols, alive and empty; transactions committed, aborted, open,
hanging), runs the tools and returns what they printed, without what differs from run to run: ids that a broker or a
client makes up, times, the widths of columns, the order of rows. The golden file beside this one is Apache Kafka's own
transcript. By hand, the transcript of a tailrace beside the golden one, or a new golden one:

    python -m tests.interop.tools_scenario
    TAILRACE_INTEROP_AGAINST=kafka python -m tests.interop.tools_scenario --write
"""

from __future__ import annotations

import argparse
import difflib
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .brokers import a_broker
from .clients import java_program
from .tool_story import CONFIGS, ORDERS, PARCELS, PAYMENTS, play
from .tool_transcript import Names, readable

GOLDEN = Path(__file__).with_name("tools-4.3.1.txt")
TOOLS = {
    "kafka-consumer-groups": "org.apache.kafka.tools.consumer.group.ConsumerGroupCommand",
    "kafka-groups": "org.apache.kafka.tools.GroupsCommand",
    "kafka-transactions": "org.apache.kafka.tools.TransactionsCommand",
    "kafka-features": "org.apache.kafka.tools.FeatureCommand",
    "kafka-console-consumer": "org.apache.kafka.tools.consumer.ConsoleConsumer",
    "kafka-producer-perf-test": "org.apache.kafka.tools.ProducerPerformance",
}


class Shell:
    """Kafka's tools, one after the other in one Java process."""

    def __init__(self, address: str) -> None:
        self.address = address
        self._process = subprocess.Popen(
            java_program("ToolShell", "off"), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def run(self, tool: str, *arguments: object) -> dict[str, Any]:
        """`code`, `out` and `err`."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        given = ["--bootstrap-server", self.address, *map(str, arguments)]
        self._process.stdin.write(json.dumps({"tool": TOOLS[tool], "arguments": given}) + "\n")
        self._process.stdin.flush()
        answer: dict[str, Any] = json.loads(self._process.stdout.readline())
        return answer

    def close(self) -> None:
        self._process.kill()
        self._process.wait()


def commands() -> Iterator[tuple[str, ...]]:
    """The tools in order, each with its arguments."""
    groups, transactions = "kafka-consumer-groups", "kafka-transactions"
    names = ("classic-live", "classic-gone", "consumer-live", "consumer-gone", "by-hand", "in-transaction")
    yield "kafka-features", "describe"
    yield transactions, "list"
    yield transactions, "list", "--duration-filter", "600000"
    for name in ("txn-committed", "txn-aborted", "txn-offsets", "txn-open", "txn-idle", "txn-unknown"):
        yield transactions, "describe", "--transactional-id", name
    for topic, partition in ((ORDERS, "0"), (PAYMENTS, "1"), (PARCELS, "0")):
        yield transactions, "describe-producers", "--topic", topic, "--partition", partition
    hanging = (transactions, "find-hanging", "--broker-id", "1")
    yield hanging
    yield transactions, "abort", "--topic", PAYMENTS, "--partition", "1", "--start-offset", "5"
    yield hanging
    yield transactions, "describe-producers", "--topic", PAYMENTS, "--partition", "1"
    yield transactions, "abort", "--topic", PAYMENTS, "--partition", "1", "--start-offset", "5"
    yield groups, "--list"
    yield groups, "--list", "--state"
    yield groups, "--list", "--state", "empty"
    yield groups, "--list", "--type"
    yield groups, "--list", "--type", "consumer"
    yield groups, "--list", "--type", "classic", "--state", "stable"
    yield "kafka-groups", "--list"
    yield "kafka-groups", "--list", "--group-type", "consumer"
    for name in (*names, "no-such-group"):
        for what in ("--offsets", "--members", "--state"):
            yield groups, "--describe", "--group", name, what
            yield groups, "--describe", "--group", name, what, "--verbose"
    yield groups, "--describe", "--all-groups", "--state"
    for name in ("classic-gone", "consumer-gone"):
        reset = (groups, "--reset-offsets", "--group", name, "--topic")
        yield *reset, ORDERS, "--to-earliest", "--dry-run"
        yield *reset, f"{ORDERS}:0,2", "--shift-by", "-2", "--execute"
        yield *reset, ORDERS, "--to-datetime", "2023-11-14T22:13:20.015", "--execute"
        yield *reset, f"{ORDERS}:1", "--to-offset", "999", "--execute"
        yield groups, "--describe", "--group", name, "--offsets"
    for name in ("classic-live", "consumer-live"):
        yield groups, "--reset-offsets", "--group", name, "--topic", ORDERS, "--to-latest", "--execute"
        yield groups, "--delete-offsets", "--group", name, "--topic", ORDERS
        yield groups, "--delete-offsets", "--group", name, "--topic", PAYMENTS
        yield groups, "--delete", "--group", name
    for name in ("classic-gone", "consumer-gone", "by-hand"):
        yield groups, "--delete-offsets", "--group", name, "--topic", f"{ORDERS}:0"
        yield groups, "--describe", "--group", name, "--offsets"
    for name in ("classic-gone", "consumer-gone", "in-transaction", "no-such-group"):
        yield groups, "--delete", "--group", name
    yield groups, "--list", "--state"
    for topic, formatter in (
        ("__consumer_offsets", "OffsetsMessageFormatter"),
        ("__consumer_offsets", "GroupMetadataMessageFormatter"),
        ("__transaction_state", "TransactionLogMessageFormatter"),
    ):
        yield (
            *("kafka-console-consumer", "--topic", topic, "--from-beginning", "--timeout-ms", "5000"),
            *("--formatter", f"org.apache.kafka.tools.consumer.{formatter}"),
        )


@contextmanager
def a_shell(address: str) -> Iterator[Shell]:
    shell = Shell(address)
    try:
        yield shell
    finally:
        shell.close()


def record(address: str) -> list[str]:
    """The transcript: the story is played, then every tool is run."""
    names, transcript = Names(), []
    with a_shell(address) as shell, play(address):
        shell.run(
            *("kafka-producer-perf-test", "--topic", PARCELS, "--num-records", 5, "--record-size", 10),
            *("--throughput", "-1", "--transactional-id", "txn-java", "--transaction-duration-ms", 60_000),
        )
        for command in commands():
            answer = shell.run(*command)
            if command == ("kafka-transactions", "list"):
                names.learn(answer["out"])
            transcript += [f"$ {' '.join(command)}", *readable(command, answer, names), ""]
    return transcript


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--write", action="store_true", help="make what was printed the golden transcript")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="tailrace-tools-") as folder, a_broker(Path(folder), CONFIGS) as broker:
        transcript = record(broker.address)
    if options.write:
        GOLDEN.write_text("\n".join(transcript))
        return
    golden = GOLDEN.read_text().split("\n")
    difference = list(difflib.unified_diff(golden, transcript, "Apache Kafka 4.3.1", "this broker", lineterm="", n=3))
    print("\n".join(difference) or "the same")
    sys.exit(bool(difference))


if __name__ == "__main__":
    main()
