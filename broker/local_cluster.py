"""`serve --brokers N`: N brokers on one machine, one process each, under a supervisor that forks them.

The settings are those of one broker; each of the N gets its share of them (`broker_settings`): node ids and ports count
up from the given ones, the data of node K lies in `node-K` of the data dir, objects and metadata are common to all. So
the directory of a single broker can be served by several later on, and the other way round.

Everything is imported once, then the brokers are forked, before there is any thread or event loop: three of them start
in little more time than one, and share the memory of the code. The supervisor itself has neither, so that it can fork
again at any time. It prints the ready line of each broker, and one more when all serve:

    tailrace cluster ready: 127.0.0.1:9092,127.0.0.1:9093,127.0.0.1:9094 brokers=3 cluster=ID

SIGTERM and SIGINT stop all of them. A broker that ends before all have served ends the whole; later, one that fails
or is killed is started again, one that was stopped (exit code 0) is not. When the supervisor dies, however that
happens, the brokers stop: their lifeline, a pipe, ends.
"""

from __future__ import annotations

import gc
import os
import re
import selectors
import signal
import sys
import time
import traceback
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import NoReturn

from broker import app
from broker.settings import NODE_ID_MAX, Address, Settings, SettingsError

RESTART_MIN_S, RESTART_MAX_S = 1.0, 30.0
"""Pauses before a broker that ended is started again; they double as long as it ends soon after its start."""
STEADY_S = 60.0
"""A broker that ran this long is started again after the shortest pause."""
_STOPS = (signal.SIGTERM, signal.SIGINT)
_READY = re.compile(r"tailrace ready: (\S+) node=(\d+) cluster=(\S+)")


def broker_settings(settings: Settings) -> list[Settings]:
    """The settings of each broker. Raises SettingsError."""
    last_port = settings.listen.port + settings.brokers - 1
    if settings.node_id + settings.brokers - 1 > NODE_ID_MAX or last_port > 65535:
        raise SettingsError(f"--brokers: {settings.brokers} of them have no room above --node-id and --listen")
    return [_share(settings, number) for number in range(settings.brokers)]


def _share(settings: Settings, number: int) -> Settings:
    node_id = settings.node_id + number
    return replace(
        settings,
        node_id=node_id,
        listen=_counted(settings.listen, number),
        advertised=_counted(settings.advertised, number) if settings.advertised is not None else None,
        data_dir=settings.data_dir / f"node-{node_id}",
        objects=settings.objects_url,
        metadata=settings.metadata_url,
        wal=_below(settings.wal, f"node-{node_id}") if settings.wal is not None else None,
    )


def _counted(address: Address, number: int) -> Address:
    """A port of 0 stands for a free one, at each broker."""
    return Address(address.host, address.port + number if address.port else 0)


def _below(url: str, name: str) -> str:
    address, question_mark, query = url.partition("?")
    return f"{address.rstrip('/')}/{name}{question_mark}{query}"


def run(settings: Settings) -> int:
    """Serve until a signal; returns the exit code: 0 if all brokers stopped as they should."""
    try:
        nodes = {each.node_id: Node(each) for each in broker_settings(settings)}
    except SettingsError as error:
        print(f"tailrace: {error}", file=sys.stderr)
        return 2
    _import_all(settings)
    gc.freeze()
    return Supervisor(nodes).run()


def _import_all(settings: Settings) -> None:
    """What a broker imports while it starts, but for the client of object stores: it is native and may have threads."""
    with suppress(ImportError):
        import uvloop  # noqa: F401
    if settings.metadata_url.startswith("sqlite"):
        import s3stream.catalog.sqlite
    else:
        import s3stream.catalog.postgres  # noqa: F401


@dataclass(slots=True)
class Node:
    """One broker as its supervisor knows it; times are of the monotonic clock."""

    settings: Settings
    pid: int | None = None
    address: str = ""
    """Of its ready line; empty as long as it has not served."""
    started_at: float = 0.0
    pause_s: float = 0.0
    restart_at: float | None = None


class Supervisor:
    def __init__(self, nodes: Mapping[int, Node]) -> None:
        self._nodes = nodes
        self._lines_end, self._lines = os.pipe()
        self._lifeline, self._lifeline_end = os.pipe()
        self._wakeup, self._wakeup_end = os.pipe()
        self._unfinished = b""
        self._all_served = False
        self._stopping = False
        self._exit_code = 0

    def run(self) -> int:
        for end in (self._lines_end, self._wakeup, self._wakeup_end):
            os.set_blocking(end, False)
        signal.set_wakeup_fd(self._wakeup_end)
        for number in (*_STOPS, signal.SIGCHLD):
            signal.signal(number, self._signalled)
        for node in self._nodes.values():
            if not self._stopping:
                self._start(node)
        with selectors.DefaultSelector() as selector:
            for end in (self._lines_end, self._wakeup):
                selector.register(end, selectors.EVENT_READ)
            while any(node.pid is not None or node.restart_at is not None for node in self._nodes.values()):
                for key, _ in selector.select(self._pause()):
                    self._pass_on(_read(key.fd)) if key.fd == self._lines_end else _read(key.fd)
                self._collect()
                self._start_again()
        return self._exit_code

    def _signalled(self, number: int, _frame: object) -> None:
        if number != signal.SIGCHLD:
            self._stop()

    def _stop(self) -> None:
        if self._stopping:
            return
        self._stopping = True
        for node in self._nodes.values():
            node.restart_at = None
            if node.pid is not None:
                os.kill(node.pid, signal.SIGTERM)

    # -- brokers that start -----------------------------------------------------------------------------------------
    def _start(self, node: Node) -> None:
        node.started_at = time.monotonic()
        signal.pthread_sigmask(signal.SIG_BLOCK, _STOPS)
        pid = os.fork()
        if pid == 0:
            self._become(node.settings)
        node.pid = pid
        node.restart_at = None
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _STOPS)

    def _become(self, settings: Settings) -> NoReturn:
        """The forked process: nothing of the supervisor goes on in it but its ends of two pipes."""
        code = 1
        try:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            # a terminal's Ctrl-C comes to all at once; it is the supervisor's to act on
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _STOPS)
            for end in (self._lines_end, self._lifeline_end, self._wakeup, self._wakeup_end):
                os.close(end)
            code = app.run(settings, announce=self._announce, lifeline=self._lifeline)
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)

    def _announce(self, line: str) -> None:
        os.write(self._lines, f"{line}\n".encode())

    # -- what brokers say -------------------------------------------------------------------------------------------
    def _pass_on(self, data: bytes) -> None:
        *lines, self._unfinished = (self._unfinished + data).split(b"\n")
        for line in map(bytes.decode, lines):
            print(line, flush=True)
            if found := _READY.match(line):
                self._nodes[int(found[2])].address = found[1]
                self._check_whether_all_serve(cluster_id=found[3])

    def _check_whether_all_serve(self, cluster_id: str) -> None:
        addresses = [node.address for node in self._nodes.values()]
        if all(addresses) and not self._all_served:
            self._all_served = True
            print(
                f"tailrace cluster ready: {','.join(addresses)} brokers={len(addresses)} cluster={cluster_id}",
                flush=True,
            )

    # -- brokers that end -------------------------------------------------------------------------------------------
    def _collect(self) -> None:
        by_pid = {node.pid: node for node in self._nodes.values() if node.pid is not None}
        for pid, node in by_pid.items():
            found, status = os.waitpid(pid, os.WNOHANG)
            if found:
                node.pid = None
                self._ended(node, pid, os.waitstatus_to_exitcode(status))

    def _ended(self, node: Node, pid: int, code: int) -> None:
        name = f"broker {node.settings.node_id} (pid {pid})"
        how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
        if self._stopping:
            if code not in (0, -signal.SIGTERM):
                print(f"tailrace: {name} {how}", file=sys.stderr)
                self._exit_code = 1
        elif not self._all_served:
            print(f"tailrace: {name} {how} before all were ready: the others are stopped", file=sys.stderr)
            self._exit_code = 1
            self._stop()
        elif code == 0:
            print(f"tailrace: {name} was stopped; the others go on", file=sys.stderr)
        else:
            now = time.monotonic()
            soon = now - node.started_at < STEADY_S
            node.pause_s = min(max(2 * node.pause_s, RESTART_MIN_S), RESTART_MAX_S) if soon else RESTART_MIN_S
            node.restart_at = now + node.pause_s
            print(f"tailrace: {name} {how}; started again in {node.pause_s:.0f} s", file=sys.stderr)

    def _start_again(self) -> None:
        now = time.monotonic()
        for node in self._nodes.values():
            if node.restart_at is not None and node.restart_at <= now and not self._stopping:
                self._start(node)

    def _pause(self) -> float | None:
        due = [node.restart_at for node in self._nodes.values() if node.restart_at is not None]
        return max(min(due) - time.monotonic(), 0.0) if due else None


def _read(end: int) -> bytes:
    try:
        return os.read(end, 65_536)
    except BlockingIOError:
        return b""
