"""Ports of 127.0.0.1 that nothing listens on, for servers that cannot be told to pick one themselves."""

from __future__ import annotations

import socket
from contextlib import ExitStack


def free_ports(count: int) -> list[int]:
    """All held at once, so that they differ. Another process may take one before it is used."""
    with ExitStack() as held:
        ports = []
        for _ in range(count):
            taken = held.enter_context(socket.socket())
            taken.bind(("127.0.0.1", 0))
            ports.append(taken.getsockname()[1])
        return ports


def free_port() -> int:
    return free_ports(1)[0]
