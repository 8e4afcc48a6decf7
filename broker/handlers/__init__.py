"""The APIs that this broker serves: one module each, listed here and nowhere else.

A handler module has the constants `API_KEY`, `MIN_VERSION` and `MAX_VERSION` and
`handle(services, ctx, request)`; see `broker.request` for what it may return. ApiVersions answers from this list.
"""

from __future__ import annotations

from types import ModuleType

from broker.handlers import (
    api_versions,
)

MODULES: tuple[ModuleType, ...] = (
    # keep in order of API key
    api_versions,
)
