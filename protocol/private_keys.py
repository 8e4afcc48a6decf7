"""Keys of the APIs that only tailrace has: between its brokers, and for its command line.

They speak Kafka's protocol with definitions of our own, which stand beside the generated ones in `protocol.messages`
and keep to their conventions. ApiVersions does not list them. Every response has an `error_code`, and a version that is
not served is answered with UNSUPPORTED_VERSION in the layout of version 0, so that brokers and tools of different
releases understand each other so far.
"""

from __future__ import annotations

from enum import IntEnum

from protocol.api_keys import BROKER_APIS, ApiKey

PRIVATE_KEYS_START = 20_000
"""Far above what Kafka gives out."""


class PrivateApiKey(IntEnum):
    """Each has a module of its snake-case name in `protocol.messages`."""

    DESCRIBE_LOAD = 20_000
    DESCRIBE_BALANCE = 20_001
    ANNOUNCE_LEADERSHIP = 20_002
    DESCRIBE_STORAGE = 20_003


def is_private(api_key: int) -> bool:
    return api_key >= PRIVATE_KEYS_START


def api_name(api_key: int) -> str | None:
    """In upper case; None if no broker has such an API."""
    if api_key in BROKER_APIS:
        return ApiKey(api_key).name
    try:
        return PrivateApiKey(api_key).name
    except ValueError:
        return None
