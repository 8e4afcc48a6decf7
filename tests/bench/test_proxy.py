"""What stands between a process and its server: it passes everything on, until it is told not to."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator

import pytest

from bench.proxy import Proxy

PIECE = b"x" * 10_000


@pytest.fixture
def echo_port() -> Iterator[int]:
    """A server that sends back what it gets."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def echo(connection: socket.socket) -> None:
            with connection:
                while piece := connection.recv(65_536):
                    connection.sendall(piece)

        def accept() -> None:
            try:
                while True:
                    threading.Thread(target=echo, args=(server.accept()[0],), daemon=True).start()
            except OSError:
                return  # the test is over

        threading.Thread(target=accept, daemon=True).start()
        yield server.getsockname()[1]


def connect(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), timeout=10)


def exchange(connection: socket.socket, data: bytes = PIECE) -> bytes:
    connection.sendall(data)
    return take(connection, len(data))


def take(connection: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size and (piece := connection.recv(size - len(data))):
        data += piece
    return data


def test_everything_comes_through_and_what_went_to_the_server_is_counted(echo_port: int) -> None:
    with Proxy(echo_port) as proxy, connect(proxy.port) as client:
        assert exchange(client) == PIECE
        assert proxy.passed == len(PIECE)
        client.shutdown(socket.SHUT_WR)
        assert client.recv(1) == b"", "the end of the one is the end of the other"


def test_while_it_is_cut_nothing_arrives_and_then_what_was_held_does(echo_port: int) -> None:
    with Proxy(echo_port) as proxy, connect(proxy.port) as client:
        assert exchange(client) == PIECE
        proxy.cut()
        client.sendall(b"held")
        client.settimeout(0.1)
        with pytest.raises(TimeoutError):
            client.recv(1)
        client.settimeout(10)
        with connect(proxy.port) as another:
            another.sendall(b"new")
            proxy.heal()
            assert take(client, 4) == b"held"
            assert take(another, 3) == b"new"


def test_when_it_refuses_connections_end_and_there_are_no_new_ones_until_it_is_healed(echo_port: int) -> None:
    with Proxy(echo_port) as proxy, connect(proxy.port) as client:
        assert exchange(client) == PIECE
        proxy.refuse()
        assert client.recv(1) == b""
        with pytest.raises(ConnectionRefusedError):
            connect(proxy.port)
        proxy.heal()
        with connect(proxy.port) as again:
            assert exchange(again) == PIECE


def test_connections_share_its_rate_to_the_server(echo_port: int) -> None:
    with Proxy(echo_port, rate=100_000) as proxy, connect(proxy.port) as one, connect(proxy.port) as two:
        began = time.monotonic()
        one.sendall(PIECE)
        two.sendall(PIECE)
        assert (take(one, len(PIECE)), take(two, len(PIECE))) == (PIECE, PIECE)
        assert time.monotonic() - began > 0.19
