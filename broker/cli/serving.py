"""`tailrace serve`: from its options to a running broker."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NoReturn

from broker.cli.errors import CommandError

OPTIONS = (
    "config",
    "brokers",
    "node_id",
    "listen",
    "advertised",
    "rack",
    "data_dir",
    "objects",
    "metadata",
    "wal",
    "log_level",
)
_FLAGS = {f"--{name.replace('_', '-')}": name for name in OPTIONS}


def plain_options(arguments: Sequence[str]) -> dict[str, str] | None:
    """The options of a call `serve [--option VALUE]...`, if it is nothing but that: no help, no mistake."""
    if not arguments or arguments[0] != "serve":
        return None
    options: dict[str, str] = {}
    rest = iter(arguments[1:])
    for argument in rest:
        flag, equals, value = argument.partition("=")
        given = value if equals else next(rest, None)
        name = _FLAGS.get(flag)
        if name is None or given is None or (not equals and given.startswith("-")):
            return None
        options[name] = given
    return options


def serve(options: Mapping[str, str | None]) -> NoReturn:
    """Run a broker, or several, to their end and exit. Raises CommandError for settings that cannot be used."""
    from broker.settings import SettingsError, load_settings

    flags = dict.fromkeys(OPTIONS) | dict(options)
    config = flags.pop("config")
    try:
        settings = load_settings(flags, os.environ, Path(config) if config is not None else None)
    except SettingsError as error:
        raise CommandError(str(error), exit_code=2) from None

    # structlog loads rich where it finds it, for tracebacks in colours: 5 MB and 0.1 s of every start
    sys.modules.setdefault("rich", None)  # type: ignore[arg-type]
    if settings.brokers > 1:
        from broker.local_cluster import run
    else:
        from broker.app import run

    sys.exit(run(settings))
