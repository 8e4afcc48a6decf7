"""What the commands on a stopped store share: the options of `serve`, one line for an error, progress."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Coroutine, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from broker.cli.errors import CommandError

if TYPE_CHECKING:
    from broker.settings import Settings

PROGRESS_S = 1.0
PROGRESS_PIPED_S = 30.0


def _option(metavar: str, text: str) -> typer.models.OptionInfo:
    option: typer.models.OptionInfo = typer.Option(metavar=metavar, help=text, show_default=False)
    return option


Config = Annotated[str | None, _option("FILE", "TOML file with settings, as for serve.")]
NodeId = Annotated[str | None, _option("N", "Id of the broker whose log is at --wal. Default: 1.")]
DataDir = Annotated[str | None, _option("DIR", "Directory of the broker. Default: ./data.")]
Objects = Annotated[str | None, _option("URL", "Object store. Default: in the data dir.")]
Metadata = Annotated[str | None, _option("URL", "Metadata database. Default: SQLite in the data dir.")]
Wal = Annotated[str | None, _option("URL", "Write-ahead log. Default: in the data dir.")]


def settings_of(config: str | None, flags: Mapping[str, str | None]) -> Settings:
    """Raises CommandError."""
    from broker.settings import SettingsError, load_settings

    try:
        return load_settings(flags, os.environ, Path(config) if config is not None else None)
    except SettingsError as error:
        raise CommandError(str(error), exit_code=2) from None


def run(command: Coroutine[Any, Any, int]) -> NoReturn:
    """Run to the end and exit with what it returns; what can be expected to go wrong is one line."""
    import asyncio

    from broker.log_setup import configure_logging
    from broker.stopped_store import StoreInUse
    from s3stream.api import StorageError
    from s3stream.catalog.api import CatalogError
    from wal.api import WalError

    configure_logging("error")
    try:
        raise typer.Exit(asyncio.run(command))
    except (CatalogError, StorageError, StoreInUse, WalError) as error:
        raise CommandError(str(error)) from None


def progress_line() -> Callable[[str, int], None]:
    """Tells how far it is on standard error, seldom."""
    is_terminal = sys.stderr.isatty()
    interval_s = PROGRESS_S if is_terminal else PROGRESS_PIPED_S
    last = time.monotonic()

    def progress(what: str, count: int) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last >= interval_s:
            last = now
            before, after = ("\r\033[K", "\r") if is_terminal else ("", "\n")
            print(f"{before}{what}: {count}", end=after, file=sys.stderr, flush=True)

    return progress
