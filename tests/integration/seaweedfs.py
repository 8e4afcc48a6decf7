"""A real S3 server for tests.

* `seaweedfs` (session): one server for all; see `bench.seaweedfs_process`.
* `s3_url` (function): a store URL with a prefix of its own; AWS_* variables are set to the server's key.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from bench.seaweedfs_process import ENVIRONMENT, SeaweedFs, weed_binary


@pytest.fixture(scope="session")
def seaweedfs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SeaweedFs]:
    try:
        weed_binary()
    except RuntimeError as error:
        pytest.skip(str(error))
    server = SeaweedFs(tmp_path_factory.mktemp("seaweedfs"))
    server.start()
    yield server
    server.stop()


@pytest.fixture
def s3_url(seaweedfs: SeaweedFs, monkeypatch: pytest.MonkeyPatch) -> str:
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    return seaweedfs.fresh_url()
