"""The settings of the transaction coordinator. None of them changes while a broker runs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from broker.config.broker_config import BrokerConfig


@dataclass(frozen=True, slots=True)
class TransactionConfig:
    timeout_max_ms: int = 900_000
    abort_check_interval_ms: int = 10_000
    """Between two searches for transactions that are over their time."""
    id_expiration_ms: int = 7 * 24 * 3600 * 1000
    id_expiration_check_interval_ms: int = 3600 * 1000

    @staticmethod
    def from_broker(config: BrokerConfig) -> TransactionConfig:
        return TransactionConfig(
            timeout_max_ms=config.transaction_max_timeout_ms,
            abort_check_interval_ms=config.transaction_abort_timed_out_transaction_cleanup_interval_ms,
            id_expiration_ms=config.transactional_id_expiration_ms,
            id_expiration_check_interval_ms=config.transaction_remove_expired_transaction_cleanup_interval_ms,
        )
