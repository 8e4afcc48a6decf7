"""`tailrace fsck`: what is wrong with a stopped store, and mending it.

Exit codes: 0 nothing is wrong (any more), 1 something is, or it could not be looked at, 2 called wrongly.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated

import typer

from broker.cli import stores

if TYPE_CHECKING:
    from broker.settings import Settings
    from broker.stopped_store import StoppedStore
    from s3stream.fsck.checking import Checker, Depth
    from s3stream.fsck.findings import Report

SHOWN_OF_KIND = 50
"""Problems of one kind that are printed without --all."""


def fsck(
    config: stores.Config = None,
    data_dir: stores.DataDir = None,
    objects: stores.Objects = None,
    metadata: stores.Metadata = None,
    wal: stores.Wal = None,
    indexes: Annotated[bool, typer.Option("--indexes", help="Read the index of every object too.")] = False,
    blocks: Annotated[bool, typer.Option("--blocks", help="Read everything in every object too.")] = False,
    repair: Annotated[bool, typer.Option("--repair", help="Mend what can be mended, then look again.")] = False,
    everything: Annotated[bool, typer.Option("--all", help=f"Print more than {SHOWN_OF_KIND} of a kind.")] = False,
) -> None:
    """Check a stopped store: bucket against metadata against write-ahead logs. Changes nothing without --repair.

    The quick form reads no objects; --indexes and --blocks find damage inside of them. Exit code 0: nothing is wrong,
    1: what is wrong is listed, with the topics, partitions and offsets that it means.
    """
    from s3stream.fsck.checking import Depth

    flags = {"data_dir": data_dir, "objects": objects, "metadata": metadata, "wal": wal}
    settings = stores.settings_of(config, flags)
    stores.run(_fsck(settings, Depth(indexes or blocks, blocks), repair, sys.maxsize if everything else SHOWN_OF_KIND))


async def _fsck(settings: Settings, depth: Depth, repair: bool, shown: int) -> int:
    from broker.stopped_store import stopped_store

    async with stopped_store(settings, _say, for_writing=repair) as opened:
        progress = stores.progress_line()
        checker = _checker(opened, depth, progress)
        report = await checker.run()
        show(report, shown)
        if repair and report.problems:
            report = await _repair(opened, checker, report, depth, progress)
            show(report, shown)
        return 1 if report.problems else 0


async def _repair(
    opened: StoppedStore, checker: Checker, report: Report, depth: Depth, progress: Callable[[str, int], None]
) -> Report:
    from broker.stopped_store import filling
    from s3stream.fsck.repairing import Repairer

    repairer = Repairer(opened.database, opened.store, checker, report, filling)
    await repairer.run()
    print("repaired:" if repairer.done else "nothing of this can be repaired here")
    for line in repairer.done:
        print(f"  {line}")
    return await _checker(opened, depth, progress).run()


def _checker(opened: StoppedStore, depth: Depth, progress: Callable[[str, int], None]) -> Checker:
    from s3stream.fsck.checking import Checker

    return Checker(opened.database, opened.store, opened.cluster_id, opened.logs, depth, progress)


def show(report: Report, shown: int) -> None:
    """By kind, each with what it means."""
    from s3stream.fsck.findings import MEANINGS

    for kind, meaning in MEANINGS.items():
        found = list(report.of(kind))
        if not found:
            continue
        print(f"{kind}: {meaning}")
        for finding in found[:shown]:
            data = f"; {'; '.join(map(str, finding.data))}" if finding.data else ""
            print(f"  {finding.subject}: {finding.detail}{data}")
        if len(found) > shown:
            print(f"  and {len(found) - shown} more (--all)")
    for note in report.notes:
        print(f"note: {note}")
    size = f"{report.object_count} objects, {report.object_size} bytes, {report.stream_count} streams"
    print(f"{len(report.problems)} problems in {size}" if report.problems else f"clean: {size}")


def _say(line: str) -> None:
    print(f"tailrace: {line}", file=sys.stderr)
