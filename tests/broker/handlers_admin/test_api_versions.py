from __future__ import annotations

from typing import Any

import pytest

from broker.handlers import api_versions
from broker.request import RequestContext
from protocol.codec import decode_response, encode_response
from protocol.messages.api_versions import ApiVersionsRequest
from protocol.private_keys import PRIVATE_KEYS_START


def ask(version: int) -> Any:
    ctx = RequestContext(api_versions.API_KEY, version, 1, "test", 1, "127.0.0.1")
    request = ApiVersionsRequest(client_software_name="test", client_software_version="1.0")
    services: Any = None
    response = api_versions.handle(services, ctx, request)
    frame = b"".join(encode_response(api_versions.API_KEY, version, 1, response))
    return decode_response(api_versions.API_KEY, version, frame[4:])[1]


def test_feature_levels_are_told_from_version_3_on() -> None:
    response = ask(4)
    assert {each.name: (each.min_version, each.max_version) for each in response.supported_features} == {
        "group.version": (0, 1),
        "transaction.version": (0, 2),
    }
    assert {each.name: (each.min_version_level, each.max_version_level) for each in response.finalized_features} == {
        "group.version": (1, 1),
        "transaction.version": (2, 2),
    }
    assert response.finalized_features_epoch >= 0
    assert ask(2).finalized_features == []


def test_version_3_is_not_told_of_supported_features_that_begin_with_level_0() -> None:
    """Clients of that version refuse them (KAFKA-17011); what is finalized they take."""
    response = ask(3)
    assert response.supported_features == []
    assert {each.name for each in response.finalized_features} == {"group.version", "transaction.version"}


@pytest.mark.parametrize("version", range(5))
def test_every_version_lists_produce_from_0(version: int) -> None:
    assert next(each.min_version for each in ask(version).api_keys if each.api_key == 0) == 0


def test_apis_of_our_own_are_not_listed() -> None:
    assert max(each.api_key for each in ask(4).api_keys) < PRIVATE_KEYS_START
