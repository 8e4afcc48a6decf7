"""The drivers' line format, for those written in Python: see README.md beside this file."""

from __future__ import annotations

import base64
import json
import sys
import threading
from collections.abc import Iterable, Iterator
from typing import Any


def pack(data: bytes | bytearray | memoryview | None) -> str | None:
    return None if data is None else base64.b64encode(data).decode()


def unpack(text: str | None) -> bytes | None:
    return None if text is None else base64.b64decode(text)


def record_of(line: str | bytes) -> dict[str, Any]:
    """A record with its key, value and headers as bytes."""
    record: dict[str, Any] = json.loads(line)
    record["k"], record["v"] = unpack(record["k"]), unpack(record["v"])
    record["h"] = [(name, unpack(value)) for name, value in record.get("h", [])]
    return record


def read_records() -> Iterator[dict[str, Any]]:
    """Those of standard input."""
    return map(record_of, sys.stdin)


def settings(arguments: Iterable[str]) -> dict[str, str]:
    """The trailing NAME=VALUE arguments of a command."""
    return dict(argument.split("=", 1) for argument in arguments)


def write(**fields: Any) -> None:
    sys.stdout.write(json.dumps(fields) + "\n")
    sys.stdout.flush()


def write_record(
    partition: int,
    offset: int,
    timestamp: int,
    key: bytes | None,
    value: bytes | None,
    headers: Iterable[tuple[str, bytes | None]],
) -> None:
    write(p=partition, o=offset, t=timestamp, k=pack(key), v=pack(value), h=[[n, pack(v)] for n, v in headers])


def stop_when_stdin_closes() -> threading.Event:
    """An event that is set once whoever started this driver closes its standard input."""
    closed = threading.Event()

    def wait() -> None:
        while sys.stdin.readline():
            pass
        closed.set()

    threading.Thread(target=wait, daemon=True).start()
    return closed
