"""Credentials for S3, found as boto3 finds them: the environment, then profiles and roles.

Keys in the environment come first there too, and do not change: then botocore, which takes 10 MB, is not loaded.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

LIFETIME = timedelta(minutes=30)
"""After which the store asks again. What expires sooner is renewed by botocore before it is given out."""


class Found(NamedTuple):
    """`provider` is called by the store when it needs credentials."""

    provider: Callable[[], dict[str, Any]]
    region: str | None


def find_credentials(region: str | None) -> Found | None:
    """None if there are none. `region` is the one that is wanted, if one is."""
    region = region or os.environ.get("AWS_DEFAULT_REGION") or os.environ.get("AWS_REGION")
    key, secret = os.environ.get("AWS_ACCESS_KEY_ID"), os.environ.get("AWS_SECRET_ACCESS_KEY")
    if key and secret and region:
        token = os.environ.get("AWS_SESSION_TOKEN") or os.environ.get("AWS_SECURITY_TOKEN")
        return Found(lambda: _as_given(key, secret, token), region)
    from botocore.session import Session

    session = Session()
    credentials = session.get_credentials()
    if credentials is None:
        return None

    def renewed() -> dict[str, Any]:
        now = credentials.get_frozen_credentials()
        return _as_given(now.access_key, now.secret_key, now.token)

    return Found(renewed, region or session.get_config_variable("region"))


def _as_given(key: str, secret: str, token: str | None) -> dict[str, Any]:
    return {
        "access_key_id": key,
        "secret_access_key": secret,
        "token": token,
        "expires_at": datetime.now(UTC) + LIFETIME,
    }
