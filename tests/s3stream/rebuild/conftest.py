"""A real PostgreSQL for what is marked `integration`."""

from tests.integration.postgres import postgres_server, postgres_url

__all__ = ["postgres_server", "postgres_url"]
