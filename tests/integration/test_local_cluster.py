"""`tailrace serve --brokers 3`: one command, three processes, and what becomes of them."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

pytestmark = pytest.mark.integration
READY = re.compile(r"tailrace ready: 127\.0\.0\.1:(\d+) node=(\d+) cluster=(\S+)\n")


class Command:
    """Its ready lines are read as they come; `ports` are by node id."""

    def __init__(self, data_dir: Path, *options: str) -> None:
        self.process = subprocess.Popen(
            [
                *(sys.executable, "-m", "broker.cli", "serve", "--brokers", "3"),
                *("--data-dir", str(data_dir), "--listen", "127.0.0.1:0", *options),
            ],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.ports: dict[int, int] = {}

    def line(self) -> str:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if found := READY.fullmatch(line):
            self.ports[int(found[2])] = int(found[1])
        return line

    def errors_until(self, words: str) -> str:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            if words in line:
                return line
        raise AssertionError(f"{words!r} was not said")


@pytest.fixture
def command(tmp_path: Path) -> Iterator[Command]:
    command = Command(tmp_path / "data")
    yield command
    command.process.kill()  # its brokers end with it
    command.process.communicate()


@pytest.mark.timeout(60)
def test_three_brokers_serve_one_that_is_killed_comes_back_and_all_stop_together(command: Command) -> None:
    lines = [command.line() for _ in range(4)]
    assert sorted(command.ports) == [1, 2, 3]
    addresses = ",".join(f"127.0.0.1:{command.ports[node_id]}" for node_id in (1, 2, 3))
    cluster = lines[0].rpartition("cluster=")[2]
    assert lines[3] == f"tailrace cluster ready: {addresses} brokers=3 cluster={cluster}"

    os.kill(broker_pids(command)[1], signal.SIGKILL)
    told = command.errors_until("tailrace: broker")
    assert "was killed by SIGKILL; started again in 1 s" in told
    assert READY.fullmatch(command.line())

    os.kill(broker_pids(command)[0], signal.SIGTERM)
    assert "was stopped; the others go on" in command.errors_until("tailrace: broker")
    assert len(broker_pids(command)) == 2

    command.process.send_signal(signal.SIGTERM)
    assert command.process.wait(30) == 0


@pytest.mark.timeout(60)
def test_brokers_stop_when_their_supervisor_is_gone(command: Command) -> None:
    for _ in range(4):
        command.line()
    command.process.kill()
    assert command.process.stderr is not None
    command.process.stderr.read()  # ends when the last process that writes there has ended
    for port in command.ports.values():
        with socket.socket() as probe:
            assert probe.connect_ex(("127.0.0.1", port)) != 0


@pytest.mark.timeout(60)
def test_a_broker_that_cannot_start_ends_the_whole(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        first = taken.getsockname()[1] - 1
        command = Command(tmp_path / "data", "--listen", f"127.0.0.1:{first}")
        _, errors = command.process.communicate(timeout=30)
    assert command.process.returncode == 1
    assert "cannot listen on" in errors
    assert "before all were ready: the others are stopped" in errors


def broker_pids(command: Command) -> list[int]:
    """In the order of their starts."""
    children = Path(f"/proc/{command.process.pid}/task/{command.process.pid}/children").read_text()
    return sorted(map(int, children.split()))
