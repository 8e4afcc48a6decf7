"""`make bench`: tailrace beside Apache Kafka, every aim of the project measured in one run.

    python -m bench [--quick] [--only NAME ...] [--kafka-libs DIR] [--also NAME=HOST:PORT] [--json FILE] [--html FILE]

Systems take turns within each scenario, several rounds; figures are medians, compared by ratio within the run. The exit
code is 0 if everything was measured, whatever the targets say; 1 if a scenario could not be run; 2 if called wrongly.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import sys
import tempfile
import time
from pathlib import Path

from bench.figures import Results
from bench.html_report import html_page
from bench.kafka_process import KafkaFailed, find_libs
from bench.report import as_json, machine, table
from bench.scenarios import ALL
from bench.scenarios.api import Scenario
from bench.systems import Run, Running

ROUNDS, QUICK_ROUNDS = 5, 1
QUICK_SCALE = 0.1


def main() -> None:
    options = _parser().parse_args()
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)  # that a broker is not there yet, or is killed, is no news
    chosen = [each for each in ALL if (each.name in options.only if options.only else each.quick or not options.quick)]
    results = Results()
    libs: Path | None = None
    try:
        libs = find_libs(options.kafka_libs)
    except KafkaFailed as error:
        if options.kafka_libs is not None:
            print(f"bench: {error}", file=sys.stderr)
            raise SystemExit(2) from None
        results.notes.append(f"without Apache Kafka and its tools: {error}")
        print(f"bench: {results.notes[-1]}", file=sys.stderr)
    failed = False
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="tailrace-bench-", ignore_cleanup_errors=True) as folder:
        run = Run(
            libs=libs,
            folder=Path(folder),
            results=results,
            rounds=options.rounds or (QUICK_ROUNDS if options.quick else ROUNDS),
            scale=QUICK_SCALE if options.quick else 1.0,
            also=options.also,
        )
        for number, scenario in enumerate(chosen, 1):
            minutes = (time.monotonic() - began) / 60
            run.say(f"[{number}/{len(chosen)}, {minutes:.0f} min] {scenario.name}: {scenario.title}")
            failed |= not _ran(run, scenario)
    about = machine(libs, minutes=(time.monotonic() - began) / 60, rounds=run.rounds, quick=options.quick)
    print(table(results, about))
    if options.json:
        options.json.write_text(as_json(results, about))
    if options.html:
        options.html.write_text(html_page(results, about))
    raise SystemExit(1 if failed else 0)


def _ran(run: Run, scenario: Scenario) -> bool:
    """A scenario that fails is told of, and the others go on."""
    run.results.declare(scenario.figures)
    if scenario.needs_tools and run.libs is None:
        run.results.notes.append(f"{scenario.name}: not run, it needs Java and Apache Kafka's tools")
        return True
    try:
        scenario.run(run)
    except Exception as error:
        reason = f"{type(error).__name__}: {error}".strip().splitlines()[0]
        run.results.notes.append(f"{scenario.name}: failed: {reason}")
        run.say(f"  {scenario.name} failed: {reason}")
        return False
    return True


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="bench", description="tailrace beside Apache Kafka: throughput, CPU, latency, memory, failover"
    )
    parser.add_argument("--quick", action="store_true", help="short loads, one round: under 3 minutes, and noisy")
    parser.add_argument(
        "--only", nargs="+", default=[], choices=[each.name for each in ALL], metavar="NAME", help="these scenarios"
    )
    parser.add_argument("--rounds", type=_positive, help=f"rounds of each scenario (default: {ROUNDS})")
    parser.add_argument("--kafka-libs", metavar="DIR", help="Apache Kafka's jars (default: $KAFKA_HOME/libs)")
    parser.add_argument(
        "--also",
        action="append",
        default=[],
        type=_running,
        metavar="NAME=HOST:PORT",
        help="a broker that runs already, to be loaded as well; may be repeated",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all samples, the machine and versions")
    parser.add_argument("--html", type=Path, metavar="FILE", help="write a report with charts, one file")
    return parser


def _positive(text: str) -> int:
    with contextlib.suppress(ValueError):
        if int(text) > 0:
            return int(text)
    raise argparse.ArgumentTypeError(f"{text!r} is not a number of rounds")


def _running(text: str) -> Running:
    name, equals, address = text.partition("=")
    if not (name and equals and ":" in address):
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=HOST:PORT")
    return Running(name, address)


if __name__ == "__main__":
    main()
