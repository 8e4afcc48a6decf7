"""A run's results for people and for programs: a table, and JSON with all samples, the machine and the versions."""

from __future__ import annotations

import json
import os
import platform
import re
import subprocess
import time
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from bench.figures import KAFKA, STUB, TAILRACE, Results, Row, Verdict


@dataclass(frozen=True, slots=True)
class Machine:
    """Where and when figures were made: without it they mean nothing."""

    date: str
    minutes: float
    rounds: int
    """Of the scenario with the most."""
    quick: bool
    cores: int
    memory_gib: float
    system: str
    python: str
    tailrace: str
    kafka: str
    java: str


def machine(libs: Path | None, *, minutes: float, rounds: int, quick: bool) -> Machine:
    return Machine(
        date=time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
        minutes=round(minutes, 1),
        rounds=rounds,
        quick=quick,
        cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 0,
        memory_gib=round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        system=f"{platform.system()} {platform.release()} {platform.machine()}",
        python=platform.python_version(),
        tailrace=_tailrace_version(),
        kafka=_kafka_version(libs),
        java=_java_version(),
    )


def table(results: Results, about: Machine) -> str:
    """Fixed width, one figure a line, then every target's verdict, then what was not measured."""
    rows = list(results.rows())
    others = [system for system in _systems(rows) if system not in (TAILRACE, STUB)]
    titles = max((len(row.figure.title) for row in rows), default=0)
    lines = [
        f"{about.date}, {about.cores} cores, {about.memory_gib} GiB, {about.system}, Python {about.python}, "
        f"tailrace {about.tailrace}, Apache Kafka {about.kafka}, {about.minutes:g} minutes, up to {about.rounds} rounds"
        + (", quick: noisy" if about.quick else ""),
        "",
        f"{'':14} {'':{titles}} {'unit':>10} {TAILRACE:>10} "
        + " ".join(f"{system:>10}" for system in others)
        + f" {'ratio':>7} {'target':>9}          spread",
    ]
    for row in rows:
        target = str(row.figure.target) if row.figure.target is not None else ""
        lines.append(
            f"{row.figure.key:14} {row.figure.title:{titles}} {row.figure.unit:>10} "
            f"{number(row.medians.get(TAILRACE)):>10} "
            + " ".join(f"{number(row.medians.get(system)):>10}" for system in others)
            + f" {number(row.ratio):>7} {target:>9} {row.verdict.value:>8}"
            + (f" {row.spreads[TAILRACE]:6.0%}" if TAILRACE in row.spreads else "")
        )
    lines += ["", *verdicts(results)]
    lines += [f"note: {note}" for note in results.notes]
    return "\n".join(lines)


def verdicts(results: Results) -> list[str]:
    """A line for every target: what came out, what was wanted, how far apart rounds were."""
    rows = [row for row in results.rows() if row.verdict is not Verdict.UNKNOWN]
    unmeasured = results.unmeasured()
    met = sum(row.verdict is Verdict.MET for row in rows)
    told = [f"{met} targets met, {len(rows) - met} not met, {len(unmeasured)} not measured"]
    for row in rows:
        times = "x" if row.figure.target is not None and row.figure.target.against is not None else row.figure.unit
        spreads = ", ".join(f"{system} {spread:.0%}" for system, spread in row.spreads.items()) or "unknown"
        told.append(
            f"  {row.verdict.value:8} {row.figure.key:14} {number(row.compared)} {times} "
            f"(target {row.figure.target}; spread {spreads})"
        )
    return told + [f"  {'?':8} {each.key:14} not measured (target {each.target})" for each in unmeasured]


def as_json(results: Results, about: Machine) -> str:
    return json.dumps(
        {
            "machine": asdict(about),
            "figures": [
                {
                    "key": row.figure.key,
                    "title": row.figure.title,
                    "unit": row.figure.unit,
                    "target": str(row.figure.target) if row.figure.target is not None else None,
                    "target_is_ratio": row.figure.target is not None and row.figure.target.against is not None,
                    "medians": row.medians,
                    "ratio": row.ratio,
                    "spreads": row.spreads,
                    "verdict": row.verdict.name.lower(),
                    "samples": results.samples[row.figure.key],
                }
                for row in results.rows()
            ],
            "not_measured": [figure.key for figure in results.unmeasured()],
            "notes": results.notes,
        },
        indent=2,
    )


def number(value: float | None) -> str:
    """Three significant digits, or a whole number from 100 on."""
    if value is None:
        return "-"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _systems(rows: list[Row]) -> list[str]:
    """In the order: tailrace, Kafka, then the others as they came."""
    found = dict.fromkeys(system for row in rows for system in row.medians)
    first = [system for system in (TAILRACE, KAFKA) if system in found]
    return first + [system for system in found if system not in first]


def _tailrace_version() -> str:
    try:
        return version("tailrace")
    except PackageNotFoundError:
        return "from source"


def _kafka_version(libs: Path | None) -> str:
    for jar in libs.glob("kafka-clients-*.jar") if libs is not None else ():
        return jar.stem.removeprefix("kafka-clients-")
    return "-"


def _java_version() -> str:
    try:
        told = subprocess.run(["java", "-version"], capture_output=True, text=True, timeout=30).stderr
    except (OSError, subprocess.TimeoutExpired):
        return "-"
    found = re.search(r'version "([^"]+)"', told)
    return found[1] if found else "-"
