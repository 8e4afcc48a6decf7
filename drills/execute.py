"""Runs one drill in an event loop of its own, and ends it cleanly on Ctrl-C and SIGTERM."""

from __future__ import annotations

import asyncio
import signal

from drills.drill import Drill, Options
from drills.report import Report
from drills.run import Run


class Interrupted(Exception):
    """A signal ended the drill; nothing of it is left."""


def execute(drill: Drill, options: Options) -> Report:
    """Raises Interrupted."""
    with asyncio.Runner() as runner:
        return runner.run(_execute(drill, options))


async def _execute(drill: Drill, options: Options) -> Report:
    running = asyncio.create_task(Run(drill, options, _tell).execute(), name=drill.name)

    def interrupt() -> None:
        if not running.cancelling():
            running.cancel()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, interrupt)
    try:
        return await running
    except asyncio.CancelledError:
        raise Interrupted from None


def _tell(line: str) -> None:
    print(line, flush=True)
