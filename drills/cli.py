"""`tailrace drill list` and `tailrace drill run NAME`.

Exit codes: 0 every promise was kept, 1 one was broken or the drill could not go on, 2 called wrongly, 130 interrupted.
"""

from __future__ import annotations

import json as json_format
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from drills.client.view import Address
    from drills.drill import Drill, Options
    from drills.report import Report

app = typer.Typer(name="drill", help="Try what happens when brokers die, stop, move.", no_args_is_help=True)

INTERRUPTED = 130
WALS, DATABASES, STORES = ("file", "object"), ("sqlite", "postgresql"), ("local", "s3")


@app.command("list")
def list_drills(json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """List the drills and what each of them promises."""
    from drills.scenarios import DRILLS

    if json:
        rows = [
            {
                "name": drill.name,
                "summary": drill.summary,
                "promises": drill.promises,
                "on_a_running_cluster": not drill.needs_processes,
            }
            for drill in DRILLS.values()
        ]
        print(json_format.dumps(rows, indent=2))
        return
    for drill in DRILLS.values():
        print(f"{drill.name:20} {drill.summary}")
        print(f"{'':20} promise: {drill.promises}{'' if drill.needs_processes else ' (also with --bootstrap)'}")


@app.command("run")
def run_drill(
    name: Annotated[str, typer.Argument(metavar="NAME", help="One of `tailrace drill list`, or `all`.")],
    bootstrap: Annotated[
        str | None, typer.Option(metavar="HOST:PORT", help="Run it on this cluster instead of one of its own.")
    ] = None,
    wal: Annotated[str, typer.Option(metavar="W", help="Write-ahead log: file or object.")] = "file",
    metadata: Annotated[str, typer.Option(metavar="M", help="Database: sqlite or postgresql.")] = "sqlite",
    objects: Annotated[str, typer.Option(metavar="O", help="Object store: local or s3.")] = "local",
    seed: Annotated[int, typer.Option(metavar="S", help="Who is hit, and when; counts up from run to run.")] = 1,
    runs: Annotated[int, typer.Option(metavar="N", min=1, help="How often; the worst one counts.")] = 1,
    times: Annotated[
        int, typer.Option(metavar="N", min=1, help="How often in each run, to the same cluster; the worst one counts.")
    ] = 1,
    held: Annotated[str, typer.Option(metavar="SIZE", help="Old data where a drill needs it: 256M, 2G.")] = "256M",
    pace: Annotated[float, typer.Option(metavar="F", min=0.1, help="Factor of all waiting times: 0.3 is short.")] = 1.0,
    json: Annotated[Path | None, typer.Option(metavar="FILE", help="Write all figures here.")] = None,
    picture: Annotated[Path | None, typer.Option(metavar="FILE", help="Draw the worst run here (SVG).")] = None,
    keep: Annotated[bool, typer.Option("--keep", help="Keep the directory of the cluster, or the topic.")] = False,
) -> None:
    """Run a drill; exit with 1 if it breaks a promise."""
    from drills.cluster import Setup
    from drills.drill import Options
    from drills.scenarios import DRILLS

    drills = list(DRILLS.values()) if name == "all" else [DRILLS[name]] if name in DRILLS else []
    if not drills:
        raise typer.BadParameter(f"{name!r} is no drill (see tailrace drill list)", param_hint="NAME")
    for option, value, known in (("wal", wal, WALS), ("metadata", metadata, DATABASES), ("objects", objects, STORES)):
        if value not in known:
            raise typer.BadParameter(f"{value!r} is not one of {', '.join(known)}", param_hint=f"--{option}")
    addresses = _addresses(bootstrap)
    options = Options(
        setup=Setup(wal=wal, metadata=metadata, objects=objects),
        bootstrap=addresses,
        seed=seed,
        held=_size(held),
        keep=keep,
        pace=pace,
        times=times,
    )
    chosen = [drill for drill in drills if _fits(drill, options, alone=name != "all")]
    reports = _run_all(chosen, options, runs)
    _leave(reports, json, picture)
    raise typer.Exit(0 if all(report.passed for report in reports) else 1)


def _addresses(bootstrap: str | None) -> list[Address] | None:
    from drills.client.view import parse_addresses

    if bootstrap is None:
        return None
    try:
        return parse_addresses(bootstrap)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--bootstrap") from None


def _size(text: str) -> int:
    units = {"K": 1_000, "M": 1_000_000, "G": 1_000_000_000}
    number = text[:-1] if text[-1:].upper() in units else text
    if not number.isascii() or not number.isdigit() or not int(number):
        raise typer.BadParameter(f"{text!r} is not a size like 256M", param_hint="--held")
    return int(number) * units.get(text[-1:].upper(), 1)


def _fits(drill: Drill, options: Options, *, alone: bool) -> bool:
    """Whether it can be run so. One that was asked for by its name and cannot is a wrong call."""
    reason = None
    if options.bootstrap is not None and drill.needs_processes:
        reason = "it starts and ends brokers, so it needs a cluster of its own (no --bootstrap)"
    elif drill.objects not in (None, options.setup.objects):
        reason = f"it needs --objects {drill.objects}"
    elif options.times > 1 and not drill.repeatable:
        reason = "it leaves the cluster changed, so it cannot be done to it again (--runs instead of --times)"
    if reason is not None and alone:
        raise typer.BadParameter(f"{drill.name}: {reason}", param_hint="NAME")
    return reason is None


def _run_all(drills: list[Drill], options: Options, runs: int) -> list[Report]:
    from dataclasses import replace

    from drills.execute import Interrupted, execute

    reports = []
    for drill in drills:
        print(f"{drill.name}: {drill.summary}\npromise: {drill.promises}", flush=True)
        for number in range(runs):
            try:
                report = execute(drill, replace(options, seed=options.seed + number))
            except Interrupted:
                print("tailrace: interrupted", file=sys.stderr)
                raise typer.Exit(INTERRUPTED) from None
            reports.append(report)
            print(f"{drill.name}: {'passed' if report.passed else 'FAILED'}", flush=True)
    return reports


def _leave(reports: list[Report], json: Path | None, picture: Path | None) -> None:
    from drills.picture import draw
    from drills.report import worst_of

    if len(reports) > 1:
        for report in reports:
            word = "passed" if report.passed else "FAILED"
            print(f"{report.drill:20} seed {report.seed:<6} longest gap {report.longest_gap_s:6.2f} s  {word}")
    if json is not None:
        told = {"passed": all(report.passed for report in reports), "runs": [report.to_json() for report in reports]}
        json.write_text(json_format.dumps(told, indent=1))
    if picture is not None and reports:
        picture.write_text(draw(worst_of(reports)))
