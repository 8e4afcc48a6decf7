"""UpdateFeatures (57): for kafka-features. Feature levels are constants of this software (`broker.cluster.features`).

v0-v2. v1 adds the kind of upgrade and validate_only (KIP-584, KIP-778); v2 leaves out the results per feature, because
updates are made all or none (KIP-1022).

So a level that is set already is no error, as with Kafka. Every other one is refused with INVALID_UPDATE_VERSION and
with Kafka's reason, where Kafka has one.
"""

from __future__ import annotations

from broker.cluster.features import FEATURES, Feature
from broker.request import RequestContext
from broker.services import Services
from protocol.api_keys import ApiKey
from protocol.errors import ErrorCode
from protocol.messages.update_features import (
    FeatureUpdateKey,
    UpdatableFeatureResult,
    UpdateFeaturesRequest,
    UpdateFeaturesResponse,
)

API_KEY = ApiKey.UPDATE_FEATURES
MIN_VERSION = 0
MAX_VERSION = 2

_UPGRADE, _SAFE_DOWNGRADE, _UNSAFE_DOWNGRADE = 1, 2, 3
_UPGRADE_TYPES_SINCE = 1
_RESULTS_UNTIL = 1
_BY_NAME = {each.name: each for each in FEATURES}


def handle(services: Services, ctx: RequestContext, request: UpdateFeaturesRequest) -> UpdateFeaturesResponse:
    response = UpdateFeaturesResponse(throttle_time_ms=ctx.throttle_time_ms, error_message=None)
    for update in request.feature_updates:
        problem = _problem(services.node_id, update, ctx.api_version)
        if problem is not None:
            response.error_code = ErrorCode.INVALID_UPDATE_VERSION
            response.error_message = (
                "The update failed for all features since the following feature had an error: "
                f"Invalid update version {update.max_version_level} for feature {update.feature}. {problem}"
            )
            return response
    if ctx.api_version <= _RESULTS_UNTIL:
        response.results = [
            UpdatableFeatureResult(feature=each.feature, error_message=None) for each in request.feature_updates
        ]
    return response


def _problem(node_id: int, update: FeatureUpdateKey, version: int) -> str | None:
    """Why this level cannot be set; None if it is set."""
    feature = _BY_NAME.get(update.feature)
    if feature is None:
        return f"Broker {node_id} does not support this feature."
    upgrade_type = update.upgrade_type
    if version < _UPGRADE_TYPES_SINCE:
        upgrade_type = _SAFE_DOWNGRADE if update.allow_downgrade else _UPGRADE
    if upgrade_type not in (_UPGRADE, _SAFE_DOWNGRADE, _UNSAFE_DOWNGRADE):
        return "The controller does not support the given upgrade type."
    level = update.max_version_level
    if level < 0:
        return "A feature version cannot be less than 0."
    if not feature.min_level <= level <= feature.max_level:
        return f"Broker {node_id} only supports versions {feature.min_level}-{feature.max_level}"
    return _change_problem(feature, level, upgrade_type)


def _change_problem(feature: Feature, level: int, upgrade_type: int) -> str | None:
    if level == feature.finalized_level:
        return None
    if level < feature.finalized_level and upgrade_type == _UPGRADE:
        return (
            "Can't downgrade the version of this feature without setting the upgrade type to either safe or unsafe "
            "downgrade."
        )
    if level > feature.finalized_level and upgrade_type != _UPGRADE:
        return "Can't downgrade to a newer version."
    return f"This version of tailrace always works with {feature.finalized_level}."
