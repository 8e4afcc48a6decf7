"""A real broker process for tests, benchmarks and drills.

`BrokerProcess` runs `python -m broker.cli serve` on a free loopback port, waits for its ready line and knows what the
process costs. A restart keeps the port and the data dir, so clients find the broker where it was.

    with BrokerProcess(tmp_path / "data") as broker:
        produce_to(broker.address)
        broker.kill()
        broker.start()
"""

from __future__ import annotations

import os
import re
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType

from bench.process_stats import MeasuredProcess

READY = re.compile(r"^tailrace ready: (\S+):(\d+) node=(\d+) cluster=(\S+)$")
START_TIMEOUT_S = 20.0
STOP_TIMEOUT_S = 20.0
_REPOSITORY = Path(__file__).parents[1]


class BrokerFailed(Exception):
    """The process ended, or did not get ready in time. Carries what it wrote to standard error."""


class BrokerProcess(MeasuredProcess):
    """One broker; `args` are further flags of `tailrace serve`, `env` further environment variables, `configs` broker
    configs by Kafka's names."""

    def __init__(
        self,
        data_dir: Path,
        *,
        node_id: int = 1,
        port: int = 0,
        args: Sequence[str] = (),
        env: Mapping[str, str] | None = None,
        configs: Mapping[str, str] | None = None,
    ) -> None:
        self.data_dir = data_dir
        self.node_id = node_id
        self.host = "127.0.0.1"
        self.port = port
        self.args = list(args)
        in_env = {f"TAILRACE_BROKER_{key.upper().replace('.', '_')}": value for key, value in (configs or {}).items()}
        self.env = {**(env or {}), **in_env}
        self.cluster_id = ""
        self.log_path = data_dir.with_name(f"{data_dir.name}-{node_id}.log")
        self.start_seconds = 0.0
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> str:
        return f"{self.host}:{self.port}"

    @property
    def pid(self) -> int:
        return self._running().pid

    @property
    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def returncode(self) -> int | None:
        """None while it runs."""
        return self._process.poll() if self._process is not None else None

    def start(self, timeout_s: float = START_TIMEOUT_S) -> BrokerProcess:
        """Start and wait for the ready line. Raises BrokerFailed with the process's last words."""
        started_at = time.monotonic()
        self.spawn()
        line = self._read_line(started_at + timeout_s)
        match = READY.match(line)
        if match is None:
            self.kill()
            raise BrokerFailed(f"no ready line (got {line!r}):\n{self.log()[-4000:]}")
        self.port = int(match[2])
        self.cluster_id = match[4]
        self.start_seconds = time.monotonic() - started_at
        return self

    def spawn(self) -> None:
        """Start without waiting for anything."""
        self.data_dir.parent.mkdir(parents=True, exist_ok=True)
        with self.log_path.open("ab") as log:
            self._process = subprocess.Popen(
                [
                    *(sys.executable, "-m", "broker.cli", "serve"),
                    *("--node-id", str(self.node_id)),
                    *("--listen", self.address),
                    *("--data-dir", str(self.data_dir)),
                    *self.args,
                ],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                env={**os.environ, **self.env},
                cwd=_REPOSITORY,
            )

    def kill(self) -> None:
        """SIGKILL, and wait until it is gone. Fine to call when it is gone already."""
        self.end(signal.SIGKILL)

    def terminate(self, timeout_s: float = STOP_TIMEOUT_S) -> int:
        """SIGTERM, and wait; returns the exit code. Raises subprocess.TimeoutExpired."""
        return self.end(signal.SIGTERM, timeout_s)

    def restart(self) -> BrokerProcess:
        """Graceful stop, then start on the same port and data."""
        self.terminate()
        return self.start()

    def pause(self) -> None:
        os.kill(self.pid, signal.SIGSTOP)

    def resume(self) -> None:
        os.kill(self.pid, signal.SIGCONT)

    def log(self) -> str:
        """Everything written to standard error, over restarts."""
        return self.log_path.read_text(errors="replace") if self.log_path.exists() else ""

    def __enter__(self) -> BrokerProcess:
        return self if self._process is not None else self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            raise BrokerFailed("the broker was not started")
        return self._process

    def _read_line(self, deadline: float) -> str:
        stdout = self._running().stdout
        assert stdout is not None
        line = b""
        with selectors.DefaultSelector() as selector:
            selector.register(stdout, selectors.EVENT_READ)
            while not line.endswith(b"\n") and selector.select(max(deadline - time.monotonic(), 0)):
                piece = os.read(stdout.fileno(), 4096)
                if not piece:
                    break
                line += piece
        return line.decode().rstrip("\n")

    def end(self, signal_number: signal.Signals, timeout_s: float = STOP_TIMEOUT_S) -> int:
        """Send a signal and wait; returns the exit code. Fine to call when it is gone already."""
        process = self._running()
        if process.poll() is None:
            process.send_signal(signal_number)
            if signal_number is signal.SIGKILL:
                process.send_signal(signal.SIGCONT)
            process.wait(timeout_s)
        if process.stdout is not None:
            process.stdout.close()
        return process.returncode
