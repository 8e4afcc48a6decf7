"""A broker that was paused beyond its lease, and replaced meanwhile, acknowledges nothing that is lost.

The short form of `fencing_drill`, which has more ways to be away.
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
def test_who_is_paused_and_replaced_acknowledges_nothing_that_is_lost(
    tmp_path: Path, postgres_server: PostgresServer, seaweedfs: SeaweedFs, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    run(["pause"], "file", 1, tmp_path, Servers(postgres_server, seaweedfs), SEED)
