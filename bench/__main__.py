"""`make bench`: tailrace beside Apache Kafka, every aim of the project measured in one run.

    python -m bench [--quick] [--only NAME ...] [--kafka-libs DIR] [--also NAME=HOST:PORT] [--json FILE] [--html FILE]
    python -m bench --plan
    python -m bench --compare FIRST.json SECOND.json

Systems take turns within each scenario, several rounds; figures are medians, compared by ratio within the run. The exit
code is 0 if everything was measured, whatever the targets say; 1 if a scenario could not be run, or if two runs that
are compared differ; 2 if called wrongly.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from bench.comparison import TOLERANCE, NotComparable, compare
from bench.figures import Results
from bench.html_report import html_page
from bench.kafka_process import KafkaFailed, find_libs
from bench.plan import QUICK_SCALE, Step, describe, plan
from bench.report import as_json, machine, table
from bench.scenarios import ALL
from bench.systems import Run, Running


def main() -> None:
    options = _parser().parse_args()
    if options.compare:
        _compare(*options.compare)
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)  # that a broker is not there yet, or is killed, is no news
    results = Results()
    libs = _find_libs(options.kafka_libs, results)
    with tempfile.TemporaryDirectory(prefix="tailrace-bench-", ignore_cleanup_errors=True) as folder:
        run = Run(libs, Path(folder), results, scale=QUICK_SCALE if options.quick else 1.0, also=options.also)
        steps = plan(
            run,
            [each for each in ALL if (each.name in options.only if options.only else each.quick or not options.quick)],
            quick=options.quick,
            rounds=options.rounds,
            bounded=not options.only and options.rounds is None,
        )
        run.say(describe(steps))
        if options.plan:
            raise SystemExit(0)
        began = time.monotonic()

        def save() -> str:
            minutes, rounds = (time.monotonic() - began) / 60, max(step.rounds for step in steps)
            about = machine(libs, minutes=minutes, rounds=rounds, quick=options.quick)
            if options.json:
                options.json.write_text(as_json(results, about))
            if options.html:
                options.html.write_text(html_page(results, about))
            return table(results, about)

        whole = measure(run, steps, save)
        print(save())
    raise SystemExit(0 if whole else 1)


def measure(run: Run, steps: Sequence[Step], save: Callable[[], object]) -> bool:
    """Every scenario in its turn, `save` after each. False if one could not be run: it is told of, and the others go
    on. Who interrupts it keeps what was measured."""
    whole = True
    began = time.monotonic()
    for number, step in enumerate(steps, 1):
        minutes = (time.monotonic() - began) / 60
        run.say(f"[{number}/{len(steps)}, {minutes:.0f} min] {step.scenario.name}: {step.scenario.title}")
        try:
            whole &= _ran(run, step)
        except KeyboardInterrupt:
            run.results.notes.append(f"interrupted during {step.scenario.name}")
            return False
        save()
    return whole


def _ran(run: Run, step: Step) -> bool:
    scenario = step.scenario
    run.results.declare(scenario.figures)
    if scenario.needs_tools and run.libs is None:
        run.results.notes.append(f"{scenario.name}: not run, it needs Java and Apache Kafka's tools")
        return True
    now = time.monotonic()
    ends_at = None if step.limit_s is None else now + step.limit_s
    try:
        scenario.run(replace(run, rounds=step.rounds, scenario=scenario.name, ends_at=ends_at))
    except Exception as error:
        reason = f"{type(error).__name__}: {error}".strip().splitlines()[0]
        run.results.notes.append(f"{scenario.name}: failed: {reason}")
        run.say(f"  {scenario.name} failed: {reason}")
        return False
    run.say(f"  {scenario.name} took {time.monotonic() - now:.0f} s, {step.seconds:.0f} s were planned")
    return True


def _find_libs(given: str | None, results: Results) -> Path | None:
    """Ends the process if jars were named and are not there; without any it is noted."""
    try:
        return find_libs(given)
    except KafkaFailed as error:
        if given is not None:
            print(f"bench: {error}", file=sys.stderr)
            raise SystemExit(2) from None
        results.notes.append(f"without Apache Kafka and its tools: {error}")
        print(f"bench: {results.notes[-1]}", file=sys.stderr)
        return None


def _compare(first: Path, second: Path) -> None:
    try:
        compared = compare(*(json.loads(file.read_text()) for file in (first, second)))
    except (OSError, ValueError, NotComparable) as error:
        print(f"bench: cannot compare: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    print(compared.text)
    raise SystemExit(0 if compared.agrees else 1)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="bench", description="tailrace beside Apache Kafka: throughput, CPU, latency, memory, failover"
    )
    parser.add_argument("--quick", action="store_true", help="short loads, one round: under 3 minutes, and noisy")
    parser.add_argument(
        "--only", nargs="+", default=[], choices=[each.name for each in ALL], metavar="NAME", help="these scenarios"
    )
    parser.add_argument("--rounds", type=_positive, help="rounds of each scenario (default: see --plan)")
    parser.add_argument("--plan", action="store_true", help="show how long it would take, and end")
    parser.add_argument("--kafka-libs", metavar="DIR", help="Apache Kafka's jars (default: $KAFKA_HOME/libs)")
    parser.add_argument(
        "--also",
        action="append",
        default=[],
        type=_running,
        metavar="NAME=HOST:PORT",
        help="a broker that runs already, to be loaded as well; may be repeated",
    )
    parser.add_argument("--json", type=_new_file, metavar="FILE", help="write all samples, the machine and versions")
    parser.add_argument("--html", type=_new_file, metavar="FILE", help="write a report with charts, one file")
    parser.add_argument(
        "--compare",
        nargs=2,
        type=Path,
        metavar=("FIRST", "SECOND"),
        help=f"do ratios with a target agree within {TOLERANCE:.0%} in two files of --json? exit code 1 if not",
    )
    return parser


def _positive(text: str) -> int:
    with contextlib.suppress(ValueError):
        if int(text) > 0:
            return int(text)
    raise argparse.ArgumentTypeError(f"{text!r} is not a number of rounds")


def _new_file(text: str) -> Path:
    """To be written at the end: what is wrong with it is told at the start."""
    try:
        with Path(text).open("a"):
            return Path(text)
    except OSError as error:
        raise argparse.ArgumentTypeError(f"{text!r} cannot be written: {error.strerror}") from None


def _running(text: str) -> Running:
    name, equals, address = text.partition("=")
    if not (name and equals and ":" in address):
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=HOST:PORT")
    return Running(name, address)


if __name__ == "__main__":
    main()
