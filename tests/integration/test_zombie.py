"""A broker that was paused or cut off beyond its lease, and replaced meanwhile, acknowledges nothing that is lost.

The short form of `fencing_drill`, whose scenarios they are.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.postgres_process import PostgresServer
from bench.seaweedfs_process import ENVIRONMENT, SeaweedFs

from .fencing_drill import Servers, run

pytestmark = pytest.mark.integration
SEED = 5


@pytest.mark.timeout(180)
@pytest.mark.parametrize(("wal", "scenario"), [("file", "pause"), ("object", "database_for_good")])
def test_who_is_replaced_acknowledges_nothing_that_is_lost(
    wal: str,
    scenario: str,
    tmp_path: Path,
    postgres_server: PostgresServer,
    seaweedfs: SeaweedFs,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    run([scenario], wal, 1, tmp_path, Servers(postgres_server, seaweedfs), SEED)
