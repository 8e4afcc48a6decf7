"""The APIs that this broker serves: one module each, listed here and nowhere else.

A handler module has the constants `API_KEY`, `MIN_VERSION` and `MAX_VERSION` and
`handle(services, ctx, request)`; see `broker.request` for what it may return. ApiVersions answers from this list.
"""

from __future__ import annotations

from types import ModuleType

from broker.handlers import (
    alter_configs,
    api_versions,
    create_partitions,
    create_topics,
    delete_topics,
    describe_cluster,
    describe_configs,
    describe_log_dirs,
    describe_topic_partitions,
    incremental_alter_configs,
    list_config_resources,
    metadata,
)

MODULES: tuple[ModuleType, ...] = (
    # keep in order of API key
    metadata,
    api_versions,
    create_topics,
    delete_topics,
    describe_configs,
    alter_configs,
    describe_log_dirs,
    create_partitions,
    incremental_alter_configs,
    describe_cluster,
    list_config_resources,
    describe_topic_partitions,
)
