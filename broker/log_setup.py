"""Logging of a broker process: one line per event on standard error, above one level."""

from __future__ import annotations

import logging
import sys
from typing import Any

import structlog

_ORDER = ["timestamp", "level", "event"]


def configure_logging(level: str, broker: int | None = None) -> None:
    """Coloured on a terminal, `key=value` otherwise. `level` is one of `settings.LOG_LEVELS`.

    Where several brokers write to one standard error, `broker` stands in each line.
    """

    def say_which(_logger: Any, _method: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
        event["broker"] = broker
        return event

    structlog.configure(
        processors=[
            *([] if broker is None else [say_which]),
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            *(
                [structlog.dev.ConsoleRenderer()]
                if sys.stderr.isatty()
                else [
                    structlog.processors.format_exc_info,
                    structlog.processors.LogfmtRenderer(
                        key_order=_ORDER if broker is None else [*_ORDER, "broker"], bool_as_flag=False
                    ),
                ]
            ),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level.upper()]),
        logger_factory=structlog.WriteLoggerFactory(file=sys.stderr),
        cache_logger_on_first_use=True,
    )
