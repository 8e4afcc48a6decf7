"""Where the keys of S3 come from."""

from __future__ import annotations

import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

from s3stream.objectstore.s3_credentials import find_credentials


@pytest.fixture(autouse=True)
def no_credentials(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("ACCESS_KEY_ID", "SECRET_ACCESS_KEY", "SESSION_TOKEN", "PROFILE", "REGION", "DEFAULT_REGION"):
        monkeypatch.delenv(f"AWS_{name}", raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))


def test_keys_of_the_environment_are_taken_without_botocore() -> None:
    program = (
        "import sys; from s3stream.objectstore.s3_credentials import find_credentials; "
        "given = find_credentials('eu-west-1').provider(); print(given['access_key_id'], given['token'], "
        "'botocore' in sys.modules)"
    )
    env = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_SESSION_TOKEN": "token"}
    done = subprocess.run([sys.executable, "-c", program], env=env, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["key", "token", "False"]


def test_keys_and_region_of_a_profile(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "credentials").write_text("[mine]\naws_access_key_id = key\naws_secret_access_key = secret\n")
    (tmp_path / "config").write_text("[profile mine]\nregion = eu-north-1\n")
    monkeypatch.setenv("AWS_PROFILE", "mine")
    found = find_credentials(None)
    assert found is not None
    assert found.region == "eu-north-1"
    given = found.provider()
    assert (given["access_key_id"], given["secret_access_key"], given["token"]) == ("key", "secret", None)
    assert given["expires_at"] > datetime.now(UTC)
    wanted = find_credentials("us-west-2")
    assert wanted is not None
    assert wanted.region == "us-west-2"


def test_no_credentials_are_none() -> None:
    assert find_credentials("us-east-1") is None
