"""The drill of a failing object store: watched clients, faults by rule for a time, and the checker's verdict.

By hand, as long as one likes (`s3stream.objectstore.faults` says what rules look like):

    python -m tests.integration.store_fault_drill --seconds 300 --rules '* error p=0.3; * delay=2 p=0.3'
    python -m tests.integration.store_fault_drill --seconds 60 --rules '* down'
"""

from __future__ import annotations

import argparse
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from bench.broker_process import BrokerProcess
from bench.history import Outcome, check

from .load import (
    WatchedConsumer,
    WatchedProducer,
    history_of,
    read_log,
    wait_until_acknowledged,
    wait_until_drained,
)

TOPICS = {"t": 4}
LIMITS = {
    "TAILRACE_STORAGE_BLOCK_SIZE": "200000",
    "TAILRACE_STORAGE_PRESSURE_LOW_SIZE": "1000000",
    "TAILRACE_STORAGE_PRESSURE_HIGH_SIZE": "1500000",
    "TAILRACE_STORAGE_UNUPLOADED_SIZE_MAX": "2000000",
    "TAILRACE_STORAGE_CACHE_SIZE_MAX": "4000000",
}
"""Small, so that the load reaches them, and reads go to the store."""
GIVEN_UP_MS = 300_000


@dataclass(frozen=True, slots=True)
class Verdict:
    """Records acknowledged before, during and in the five seconds after the faults."""

    before: int
    during: int
    after: int
    sent: int
    longest_gap_s: float
    """Without an acknowledgement, while there were faults."""


def run(directory: Path, rules: str, seconds: float, seed: int = 1, rate_per_s: int = 500) -> Verdict:
    """Raises AssertionError with the violations."""
    rules_file = directory / "rules"
    objects = f"faulty+{(directory / 'objects').as_uri()}?faults=@{quote(str(rules_file))}&seed={seed}"
    with BrokerProcess(directory / "data", args=["--objects", objects], env=LIMITS) as broker:
        admin = AdminClient({"bootstrap.servers": broker.address})
        admin.create_topics([NewTopic("t", TOPICS["t"], 1)])["t"].result(30)
        config = {"message.timeout.ms": GIVEN_UP_MS}
        producers = [WatchedProducer(broker.address, TOPICS, f"p{n}", rate_per_s, config) for n in range(2)]
        consumer = WatchedConsumer(broker.address, TOPICS, "g", "c0")
        for client in (*producers, consumer):
            client.start()
        wait_until_acknowledged(producers, 200)

        def acknowledged() -> int:
            return sum(producer.acknowledged for producer in producers)

        before = acknowledged()
        rules_file.write_text(rules)
        began = last_ack = time.monotonic()
        count, longest_gap_s = before, 0.0
        while time.monotonic() - began < seconds:
            time.sleep(0.05)
            assert broker.returncode is None, broker.log()[-2000:]
            if (now := acknowledged()) != count:
                longest_gap_s = max(longest_gap_s, time.monotonic() - last_ack)
                count, last_ack = now, time.monotonic()
        longest_gap_s = max(longest_gap_s, time.monotonic() - last_ack)
        during = acknowledged() - before
        rules_file.unlink()
        wait_until_acknowledged(producers, 500)
        after = acknowledged() - before - during
        for producer in producers:
            producer.stop()
            assert producer.errors == []
        wait_until_drained(broker.address, TOPICS, "g")
        consumer.stop()
        history = history_of("t", producers, [consumer], read_log(broker.address, "t", TOPICS["t"]), drained=True)
        assert check(history) == []
        assert all(send.outcome is Outcome.ACKNOWLEDGED for send in history.sends)
        assert broker.terminate() == 0
        log = broker.log()
        assert "FAILS ON PURPOSE" in log
        assert "Traceback" not in log
    return Verdict(before, during, after, len(history.sends), longest_gap_s)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rules", required=True)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--rate", type=int, default=500, help="records a second of each of two producers")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        print(run(Path(directory), arguments.rules, arguments.seconds, arguments.seed, arguments.rate))


if __name__ == "__main__":
    main()
